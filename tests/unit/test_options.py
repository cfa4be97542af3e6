"""Options: what is accepted and as what it is kept, what is refused and how, which of two wins."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from aioasynq.options import EMPTY, MAX_DURATION, MAX_MOMENT, OF_HANDLERS, Options, OptionsDict, check_type
from aioasynq.typed.options import TaskTypeOptions

NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)

KEPT = {
    "none is not set": ("queue", None, None),
    "92: max_retry": ("max_retry", 3, 3),
    "92: max_retry 0 is never": ("max_retry", 0, 0),
    "the highest max_retry": ("max_retry", 2**31 - 1, 2**31 - 1),
    "92: a queue": ("queue", "low", "low"),
    "a queue is kept as it is": ("queue", " Low:1 ", " Low:1 "),
    "95: a task id": ("task_id", " x ", " x "),
    "a group": ("group", "müller", "müller"),
    "92: timeout in seconds": ("timeout", 20, 20.0),
    "timeout as a timedelta": ("timeout", timedelta(minutes=2, milliseconds=500), 120.5),
    "timeout 0 is kept, so that it can win over another": ("timeout", 0, 0.0),
    "the longest duration": ("retention", MAX_DURATION, float(MAX_DURATION)),
    "92: deadline as a datetime": ("deadline", NEW_YEAR, NEW_YEAR.timestamp()),
    "deadline elsewhere": (
        "deadline",
        NEW_YEAR.astimezone(timezone(timedelta(hours=5, minutes=30))),
        NEW_YEAR.timestamp(),
    ),
    "deadline in unix seconds": ("deadline", 1_800_000_000.25, 1_800_000_000.25),
    "the last moment": ("process_at", MAX_MOMENT, float(MAX_MOMENT)),
    "unique at its least": ("unique", 1, 1.0),
    "91: process_in": ("process_in", timedelta(hours=1), 3600.0),
    "91: process_in 0": ("process_in", 0, 0.0),
    "retention": ("retention", 0.5, 0.5),
    "99: no headers": ("headers", {}, {}),
    "99: headers": ("headers", {"a": "1", "ä": ""}, {"a": "1", "ä": ""}),
}


@pytest.mark.rows(92, 99)
@pytest.mark.parametrize(("name", "value", "kept"), KEPT.values(), ids=KEPT)
def test_a_value_is_kept_as(name, value, kept):
    options = Options.of(**{name: value})
    assert getattr(options, name) == kept
    assert type(getattr(options, name)) is type(kept)
    assert options == Options(**{name: kept})


REFUSED = {
    "96: empty queue": ("queue", ""),
    "96: blank queue": ("queue", " \t"),
    "queue with an opening brace": ("queue", "a{b"),
    "queue with a closing brace": ("queue", "a}b"),
    "queue with a lone surrogate": ("queue", "\ud800"),
    "96: empty id": ("task_id", ""),
    "96: blank id": ("task_id", "\n "),
    "id with a lone surrogate": ("task_id", "\udfff"),
    "empty group": ("group", ""),
    "blank group": ("group", "  "),
    "92: negative max_retry, which Go makes 0": ("max_retry", -1),
    "max_retry beyond 32 bits": ("max_retry", 2**31),
    "max_retry that is a bool": ("max_retry", True),
    "max_retry with a fraction": ("max_retry", 2.5),
    "max_retry as text": ("max_retry", "3"),
    "96: unique under a second": ("unique", 0.999),
    "96: unique 0": ("unique", 0),
    "unique as a short timedelta": ("unique", timedelta(milliseconds=999)),
    **{
        f"{name} {label}": (name, value)
        for name in ("timeout", "process_in", "retention", "unique")
        for label, value in {
            "negative": -1,
            "negative timedelta": timedelta(seconds=-1),
            "infinite": math.inf,
            "not a number": math.nan,
            "bool": True,
            "text": "30",
            "too long": MAX_DURATION + 1,
            "larger than any float": 10**400,
            "a moment": NEW_YEAR,
        }.items()
    },
    **{
        f"{name} {label}": (name, value)
        for name in ("deadline", "process_at")
        for label, value in {
            "naive": datetime(2027, 1, 1),  # noqa: DTZ001 - that is the point
            "negative": -0.5,
            "before 1970": datetime(1969, 12, 31, tzinfo=UTC),
            "infinite": math.inf,
            "not a number": math.nan,
            "bool": False,
            "text": "tomorrow",
            "too far": MAX_MOMENT + 1,
            "larger than any float": 10**400,
            "a duration": timedelta(hours=1),
        }.items()
    },
    "header with a lone surrogate": ("headers", {"a": "\ud800"}),
    "header name with a lone surrogate": ("headers", {"\ud800": "a"}),
}


@pytest.mark.rows(96)
@pytest.mark.parametrize(("name", "value"), REFUSED.values(), ids=REFUSED)
def test_a_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must ") as refused:
        Options.of(**{name: value})
    assert name == "headers" or repr(value) in str(refused.value)


WRONG_KIND = {
    "queue": ("queue", 1),
    "queue in bytes": ("queue", b"low"),
    "task_id": ("task_id", 42),
    "group": ("group", ["a"]),
    "headers that are no mapping": ("headers", [("a", "b")]),
    "header value": ("headers", {"a": 1}),
    "header name": ("headers", {b"a": "1"}),
}


@pytest.mark.parametrize(("name", "value"), WRONG_KIND.values(), ids=WRONG_KIND)
def test_text_must_be_text(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must "):
        Options.of(**{name: value})


@pytest.mark.parametrize("value", [1, None])
def test_an_unknown_option_is_refused_with_the_known_ones(value):
    with pytest.raises(TypeError, match=r"unknown option 'color'; the options are max_retry, queue, .*headers$"):
        Options.of(color=value)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


MEANT = {
    "a letter too many": ("max_retries", " (did you mean max_retry?)"),
    "capitals": ("TIMEOUT", " (did you mean timeout?)"),
    "celery's": ("countdown", " (did you mean process_in?)"),
    "arq's": ("_job_id", " (did you mean task_id?)"),
    "counted in another way": ("max_tries", " (did you mean max_retry, one less?)"),
    "one of the handler": ("codec", " here, for it belongs to the handler: @mux.task(..., codec=...)"),
    "one of the handler that is like another": (
        "retry",
        " here, for it belongs to the handler: @mux.task(..., retry=...)",
    ),
}


@pytest.mark.parametrize(("name", "hint"), MEANT.values(), ids=MEANT)
def test_an_unknown_option_that_means_another(name, hint):
    with pytest.raises(TypeError, match=f"^{re.escape(f'unknown option {name!r}{hint}; the options are max_retry')}"):
        Options.of(**dict[str, Any]({name: 1}))


def test_all_options_of_a_handler_are_known_as_such():
    assert set(OF_HANDLERS) == set(TaskTypeOptions.__annotations__) - set(OptionsDict.__annotations__)


def test_a_moment_and_a_delay_exclude_each_other():
    text = re.escape(f"process_at and process_in exclude each other, got process_at={NEW_YEAR!r} and process_in=5")
    with pytest.raises(ValueError, match=text):
        Options.of(process_at=NEW_YEAR, process_in=5)
    assert Options.of(process_at=NEW_YEAR, process_in=None).process_in is None


def test_nothing_said_is_always_the_same():
    assert Options.of() is EMPTY
    assert Options.of(queue=None, headers=None) is EMPTY
    assert set(EMPTY) == {None}


def test_options_cannot_be_changed():
    with pytest.raises(AttributeError):
        EMPTY.queue = "low"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_the_typed_names_are_the_fields():
    assert tuple(OptionsDict.__annotations__) == Options._fields


@pytest.mark.rows(99)
def test_headers_are_copied():
    """Row 99."""
    headers = {"a": "1"}
    options = Options.of(headers=headers)
    headers["b"] = "2"
    assert options.headers == {"a": "1"}


OVER = {
    "97: the call's over the task's": ({"queue": "low"}, {"queue": "high", "max_retry": 3}, ("low", 3)),
    "97: the task's where the call's say nothing": ({}, {"queue": "high"}, ("high", None)),
    "97: the call's alone": ({"queue": "low"}, {}, ("low", None)),
    "max_retry 0 is something said": ({"max_retry": 0}, {"max_retry": 3}, (None, 0)),
}


@pytest.mark.rows(97)
@pytest.mark.parametrize(("mine", "defaults", "expected"), OVER.values(), ids=OVER)
def test_over(mine, defaults, expected):
    merged = Options.of(**mine).over(Options.of(**defaults))
    assert (merged.queue, merged.max_retry) == expected


TIMES = {
    "92: a moment beats a delay": ({"process_at": 10}, {"process_in": 5}, (10.0, None)),
    "92: a delay beats a moment": ({"process_in": 5}, {"process_at": 10}, (None, 5.0)),
    "a delay of 0 beats a moment": ({"process_in": 0}, {"process_at": 10}, (None, 0.0)),
    "the same kind": ({"process_in": 1}, {"process_in": 5}, (None, 1.0)),
    "one only": ({"queue": "q"}, {"process_at": 10}, (10.0, None)),
}


@pytest.mark.rows(92)
@pytest.mark.parametrize(("mine", "defaults", "expected"), TIMES.values(), ids=TIMES)
def test_times_are_one_slot(mine, defaults, expected):
    merged = Options.of(**mine).over(Options.of(**defaults))
    assert (merged.process_at, merged.process_in) == expected


def test_headers_are_merged():
    mine, defaults = Options.of(headers={"a": "1", "b": "1"}), Options.of(headers={"b": "2", "c": "2"})
    assert mine.over(defaults).headers == {"a": "1", "b": "1", "c": "2"}
    assert mine.over(Options.of(queue="q")).headers == {"a": "1", "b": "1"}
    assert (mine.headers, defaults.headers) == ({"a": "1", "b": "1"}, {"b": "2", "c": "2"})


@pytest.mark.parametrize("type_", ["a", " image: ", "größe", "a{b}"])
def test_a_type_is_kept_as_it_is(type_):
    assert check_type(type_) == type_


@pytest.mark.rows(96)
@pytest.mark.parametrize("type_", ["", " \t\n", "\ud800", None, 5, b"a"], ids=repr)
def test_a_type_is_refused(type_):
    """Row 96."""
    with pytest.raises(ValueError, match=r"^task type must ") as refused:
        check_type(type_)
    assert repr(type_) in str(refused.value)
