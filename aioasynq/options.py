"""What can be said about a task when it is enqueued: one value, checked before Redis is touched.

A duration is a number of seconds or a ``timedelta``. A moment is an aware ``datetime`` or a number of unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypedDict, Unpack

from aioasynq import keys

MAX_DURATION: Final = 9_223_372_036  #: seconds (292 years): the longest duration asynq can hold
MAX_MOMENT: Final = 253_402_300_799  #: unix seconds: the last second of the year 9999, the end of ``datetime``
MAX_RETRY: Final = 2**31 - 1  #: retries are a 32-bit number on the wire

Duration = float | timedelta
Moment = float | datetime


class OptionsDict(TypedDict, total=False):
    """The options by name; None says the same as leaving one out."""

    max_retry: int | None  #: how often it may be retried; 0: never. Default 25
    queue: str | None  #: Default "default"
    task_id: str | None  #: unique within the queue. Default a random UUID
    timeout: Duration | None  #: how long an attempt may take, a fraction of a second counts as a whole one; 0: not set
    deadline: Moment | None  #: when it has to be over, whatever attempt it is at, in whole seconds (cut); 0: not set
    unique: Duration | None  #: how long no second task with this queue, type and payload is taken, at least 1 s (cut)
    process_at: Moment | None  #: not to be started earlier
    process_in: Duration | None  #: not to be started earlier; counted from the moment it is enqueued
    retention: Duration | None  #: how long it is kept once it has succeeded, in whole seconds (cut); 0: not at all
    group: str | None  #: wait in this group, to be aggregated with others into one task
    headers: Mapping[str, str] | None  #: text that travels with the task


class Options(NamedTuple):
    """Options as they were given: durations in seconds, moments in unix seconds, None where nothing was said.

    :meth:`of` makes and checks one; the constructor itself checks nothing.
    """

    max_retry: int | None = None
    queue: str | None = None
    task_id: str | None = None
    timeout: float | None = None
    deadline: float | None = None
    unique: float | None = None
    process_at: float | None = None
    process_in: float | None = None
    retention: float | None = None
    group: str | None = None
    headers: dict[str, str] | None = None

    @classmethod
    def of(cls, **options: Unpack[OptionsDict]) -> Options:
        """Check *options* and make one value of them.

        Raises:
            TypeError: there is no such option, or a name or header is not a string.
            ValueError: an option's value is none it can have; the text names both.
        """
        if not options:
            return EMPTY
        checked: dict[str, Any] = {}
        for name, value in options.items():
            check = _CHECKS.get(name)
            if check is None:
                raise unknown_option(name, cls._fields)
            if value is not None:
                checked[name] = check(name, value)
        if "process_at" in checked and "process_in" in checked:
            raise ValueError(
                "process_at and process_in exclude each other, "
                f"got process_at={options.get('process_at')!r} and process_in={options.get('process_in')!r}"
            )
        return cls(**checked) if checked else EMPTY

    def over(self, defaults: Options) -> Options:
        """These options, and those of *defaults* for what these say nothing about.

        ``process_at`` and ``process_in`` say the same thing in two ways: one here beats both there. Headers are merged.
        """
        if self is EMPTY:
            return defaults
        if defaults is EMPTY:
            return self
        merged = [mine if mine is not None else theirs for mine, theirs in zip(self, defaults, strict=True)]
        if self.process_at is not None:
            merged[_PROCESS_IN] = None
        elif self.process_in is not None:
            merged[_PROCESS_AT] = None
        if self.headers and defaults.headers:
            merged[_HEADERS] = {**defaults.headers, **self.headers}
        return Options._make(merged)


EMPTY: Final = Options()  #: nothing said about anything

_PROCESS_AT = Options._fields.index("process_at")
_PROCESS_IN = Options._fields.index("process_in")
_HEADERS = Options._fields.index("headers")

OF_HANDLERS: Final = ("retry", "dont_retry", "middleware", "executor", "codec")  #: options where a task is handled

#: What other queues call an option, and what it is called here.
_ELSEWHERE: Final = {
    "countdown": "process_in",
    "delay": "process_in",
    "_defer_by": "process_in",
    "eta": "process_at",
    "_defer_until": "process_at",
    "expires": "deadline",
    "_expires": "deadline",
    "max_tries": "max_retry, one less",
    "retries": "max_retry",
    "time_limit": "timeout",
    "job_timeout": "timeout",
    "job_id": "task_id",
    "_job_id": "task_id",
    "_queue_name": "queue",
    "keep_result": "retention",
    "result_expires": "retention",
    "result_ttl": "retention",
    "autoretry_for": "dont_retry, which says the opposite: all else is retried",
    "retry_backoff": "retry=Exponential(...)",
    "bind": "a first parameter annotated Task or Context",
}


def unknown_option(name: str, known: Iterable[str]) -> TypeError:
    """What is said of an option *name* of a task that is none of *known*."""
    options = list(known)
    if name in OF_HANDLERS and name not in options:
        hint = f" here, for it belongs to the handler: @mux.task(..., {name}=...)"
    else:
        hint = meant(name, options, _ELSEWHERE)
    return TypeError(f"unknown option {name!r}{hint}; the options are {', '.join(options)}")


def meant(name: str, known: Iterable[str], elsewhere: Mapping[str, str] = MappingProxyType({})) -> str:
    """Words, to be added to an error, on what *name* was perhaps meant to be; none where nobody can tell.

    Args:
        known: the names that there are.
        elsewhere: names that other queues use, and what each is called here.
    """
    near = get_close_matches(name.lower(), known, 1, 0.7)
    found = elsewhere.get(name) or (near[0] if near else "")
    return f" (did you mean {found}?)" if found else ""


def check_type(type: str) -> str:  # noqa: A002 - the name users give it
    """Hand back *type*, which can be a task's.

    Raises:
        ValueError: *type* is no string, is empty or blank, or is not valid Unicode.
    """
    if not isinstance(type, str):
        raise ValueError(f"task type must be a str, got {type!r}")  # noqa: TRY004 - one error for every wrong type name
    if not type or type.isspace():
        raise ValueError(f"task type must contain one or more characters that are not blank, got {type!r}")
    return type if type.isascii() else _unicode("task type", type)


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Copy *headers*, whose names and values can travel with a task.

    Raises:
        TypeError: *headers* is no mapping, or a name or value in it is no string.
        ValueError: a name or value in it is not valid Unicode.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping of str to str, got {headers!r}")
    copy: dict[Any, Any] = dict(headers)
    for name, value in copy.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"headers must be a mapping of str to str, got {name!r}: {value!r}")
        _unicode("headers", name)
        _unicode("headers", value)
    return copy


def seconds_of(name: str, value: float | timedelta) -> float:
    """A duration in seconds, for what is no option of a task.

    Raises:
        TypeError: *value* is neither a number nor a timedelta.
        ValueError: it is negative, or not finite.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise TypeError(f"{name} must be seconds or a timedelta, got {value!r}")
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{name} must be 0 or more seconds, got {value!r}")
    return float(seconds)


_NUMBER: Final = (int, float)  # a tuple: `int | float` would be built anew at each check


def _unicode(name: str, text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate: neither Redis nor the message could take it
            raise ValueError(f"{name} must be valid Unicode text, got {text!r}") from None
    return text


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {value!r}")
    if not value or value.isspace():
        raise ValueError(f"{name} must contain one or more characters that are not blank, got {value!r}")
    return _unicode(name, value)


def _queue(_: str, value: Any) -> str:
    keys.check_queue_name(value)
    return str(value)


def _retries(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_RETRY:
        raise ValueError(f"{name} must be a whole number from 0 to {MAX_RETRY}, got {value!r}")
    return int(value)


def _duration(name: str, value: object, *, least: float = 0) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    # the comparison also refuses what is not finite, and whole numbers that no float can hold
    if not isinstance(seconds, _NUMBER) or isinstance(seconds, bool) or not least <= seconds <= MAX_DURATION:
        raise ValueError(f"{name} must be a timedelta or seconds from {least:g} to {MAX_DURATION}, got {value!r}")
    return float(seconds)


def _lock(name: str, value: object) -> float:
    return _duration(name, value, least=1)


def _moment(name: str, value: object) -> float:
    seconds: object = value
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"{name} must be a datetime with a time zone, such as datetime.now(UTC), got {value!r}")
        seconds = value.timestamp()
    if not isinstance(seconds, _NUMBER) or isinstance(seconds, bool) or not 0 <= seconds <= MAX_MOMENT:
        raise ValueError(f"{name} must be an aware datetime or unix seconds from 0 to {MAX_MOMENT}, got {value!r}")
    return float(seconds)


def _headers(_: str, value: Any) -> dict[str, str]:
    return check_headers(value)


_CHECKS: Final[dict[str, Callable[[str, Any], object]]] = {
    "max_retry": _retries,
    "queue": _queue,
    "task_id": _text,
    "timeout": _duration,
    "deadline": _moment,
    "unique": _lock,
    "process_at": _moment,
    "process_in": _duration,
    "retention": _duration,
    "group": _text,
    "headers": _headers,
}
