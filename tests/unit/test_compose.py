"""From a task and options to what is stored: every rule of the client that needs no Redis."""

from __future__ import annotations

import os
import threading
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from aioasynq.compose import Composed, compose, new_id, task_info
from aioasynq.message import TaskMessage
from aioasynq.mux import ServeMux
from aioasynq.options import EMPTY, MAX_MOMENT, Options
from aioasynq.task import Task, TaskState

NOW = 1_700_000_000.25


def composed(task: Task | None = None, **options: Any) -> Composed:
    return compose(task or Task("t", b"p"), Options.of(**options), NOW)


@pytest.mark.rows(93)
def test_defaults():
    """Row 93."""
    got = composed()
    assert uuid.UUID(got.msg.id).version == 4
    assert got == Composed(
        TaskMessage(type="t", payload=b"p", id=got.msg.id, queue="default", retry=25, timeout=1800),
        "enqueue",
        "",
        0,
        TaskState.PENDING,
        NOW,
    )


MESSAGES = {
    "92: max_retry": ({"max_retry": 3}, {"retry": 3}),
    "92: max_retry 0": ({"max_retry": 0}, {"retry": 0}),
    "92: queue": ({"queue": "low"}, {"queue": "low"}),
    "92: timeout only": ({"timeout": 20}, {"timeout": 20, "deadline": 0}),
    "92: deadline only": ({"deadline": 1_800_000_000.9}, {"timeout": 0, "deadline": 1_800_000_000}),
    "92: both": ({"timeout": 20, "deadline": 1_800_000_000}, {"timeout": 20, "deadline": 1_800_000_000}),
    "92: several": (
        {"process_in": 60, "max_retry": 1, "queue": "low", "timeout": 5},
        {"retry": 1, "queue": "low", "timeout": 5},
    ),
    "timeout 0 is not set": ({"timeout": 0}, {"timeout": 1800, "deadline": 0}),
    "deadline 0 is not set": ({"deadline": 0}, {"timeout": 1800, "deadline": 0}),
    "timeout 0 beside a deadline": (
        {"timeout": 0, "deadline": 1_800_000_000},
        {"timeout": 0, "deadline": 1_800_000_000},
    ),
    "a timeout under a second is one": ({"timeout": 0.001}, {"timeout": 1}),
    "a fraction of a timeout is a second": ({"timeout": 2.5}, {"timeout": 3}),
    "retention is cut": ({"retention": 3600.9}, {"retention": 3600}),
    "retention under a second is none": ({"retention": 0.9}, {"retention": 0}),
    "95: task_id": ({"task_id": "x"}, {"id": "x"}),
    "group": ({"group": "g"}, {"group_key": "g"}),
    "99: headers": ({"headers": {"a": "1"}}, {"headers": {"a": "1"}}),
    "99: empty headers": ({"headers": {}}, {"headers": {}}),
}


@pytest.mark.rows(92, 95, 99)
@pytest.mark.parametrize(("options", "fields"), MESSAGES.values(), ids=MESSAGES)
def test_message(options, fields):
    msg = composed(**options).msg
    default: dict[str, Any] = {
        "type": "t",
        "payload": b"p",
        "id": msg.id,
        "queue": "default",
        "retry": 25,
        "timeout": 1800,
    }
    assert msg == TaskMessage(**{**default, **fields})


ROUTES = {
    "at once": ({}, ("enqueue", "", TaskState.PENDING, NOW)),
    "90: process_at in the past": ({"process_at": NOW - 1}, ("enqueue", "", TaskState.PENDING, NOW)),
    "90: process_at now": ({"process_at": NOW}, ("enqueue", "", TaskState.PENDING, NOW)),
    "90: process_at in the future": (
        {"process_at": datetime.fromtimestamp(NOW + 3600, UTC)},
        ("schedule", "1700003600.250", TaskState.SCHEDULED, NOW + 3600),
    ),
    "90: process_at just after now": (
        {"process_at": NOW + 0.001},
        ("schedule", "1700000000.251", TaskState.SCHEDULED, NOW + 0.001),
    ),
    "91: process_in 0": ({"process_in": 0}, ("enqueue", "", TaskState.PENDING, NOW)),
    "91: process_in 1 h": ({"process_in": 3600}, ("schedule", "+3600.000", TaskState.SCHEDULED, NOW + 3600)),
    "process_in with a fraction": ({"process_in": 12.5}, ("schedule", "+12.500", TaskState.SCHEDULED, NOW + 12.5)),
    "process_in under a millisecond": (
        {"process_in": 1e-6},
        ("schedule", "+0.001", TaskState.SCHEDULED, NOW + 1e-6),
    ),
    "94: group": ({"group": "g"}, ("add_to_group", "", TaskState.AGGREGATING, None)),
    "94: group, later": (
        {"group": "g", "process_in": 60},
        ("schedule", "+60.000", TaskState.SCHEDULED, NOW + 60),
    ),
    "94: group, process_at in the past": (
        {"group": "g", "process_at": NOW - 60},
        ("add_to_group", "", TaskState.AGGREGATING, None),
    ),
}


@pytest.mark.rows(90, 91, 94)
@pytest.mark.parametrize(("options", "expected"), ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize("unique", [False, True], ids=["plain", "unique"])
def test_route(options, expected, unique):
    got = composed(None, **options, **({"unique": 60} if unique else {}))
    route, *others = expected
    assert [got.route, got.when, got.state, got.next_process_at] == [route + "_unique" * unique, *others]
    assert bool(got.unique_ttl) == bool(got.msg.unique_key) == unique
    assert got.msg.group_key == options.get("group", "")


UNIQUE_TTLS = {
    "98: at once": ({"unique": 60}, 60),
    "cut to seconds": ({"unique": 1.9}, 1),
    "98: a delay is added": ({"unique": 60, "process_in": 3600}, 3660),
    "cut after adding": ({"unique": 1.5, "process_in": 1.5}, 3),
    "98: the time to a moment is added": ({"unique": 60, "process_at": NOW + 3600}, 3660),
    "a moment in the past takes nothing away": ({"unique": 60, "process_at": NOW - 3600}, 60),
    "in a group": ({"unique": 60, "group": "g"}, 60),
    "off": ({}, 0),
}


@pytest.mark.rows(98)
@pytest.mark.parametrize(("options", "ttl"), UNIQUE_TTLS.values(), ids=UNIQUE_TTLS)
def test_unique_ttl(options, ttl):
    assert composed(**options).unique_ttl == ttl


UNIQUE_KEYS = {
    "no payload": (None, "asynq:{q}:unique:u:t:"),
    "empty payload": (b"", "asynq:{q}:unique:u:t:d41d8cd98f00b204e9800998ecf8427e"),
    "empty text": ("", "asynq:{q}:unique:u:t:d41d8cd98f00b204e9800998ecf8427e"),
    "payload": (b"abc", "asynq:{q}:unique:u:t:900150983cd24fb0d6963f7d28e17f72"),
}


@pytest.mark.parametrize(("payload", "key"), UNIQUE_KEYS.values(), ids=UNIQUE_KEYS)
def test_unique_key(payload, key):
    task = Task("u:t", payload, headers={"a": "1"})
    assert composed(task, queue="q", unique=60, max_retry=1, task_id="x").msg.unique_key == key


@pytest.mark.rows(97)
def test_the_calls_options_win_over_the_tasks():
    """Rows 92 and 97."""
    task = Task("t", queue="low", max_retry=3, process_at=NOW + 60, timeout=10, headers={"a": "1", "b": "1"})
    got = composed(task, queue="high", process_in=5, headers={"b": "2"})
    assert (got.msg.queue, got.msg.retry, got.msg.timeout, got.when) == ("high", 3, 10, "+5.000")
    assert got.msg.headers == {"a": "1", "b": "2"}
    assert task.headers == {"a": "1", "b": "1"}


def test_a_call_may_take_back_what_a_task_says():
    task = Task("t", timeout=10, process_in=60)
    got = composed(task, timeout=0, process_in=0)
    assert (got.msg.timeout, got.route) == (1800, "enqueue")


@pytest.mark.rows(99)
@pytest.mark.parametrize("options", [{}, {"queue": "low"}], ids=["no options", "options"])
def test_headers_of_the_message_are_its_own(options):
    """Row 99."""
    task = Task("t", headers={"a": "1"})
    msg = composed(task, **options).msg
    task.headers["b"] = "2"
    assert msg.headers == {"a": "1"}


@pytest.mark.parametrize("options", [{}, {"queue": "low"}], ids=["no options", "options"])
def test_headers_that_were_added_later_are_checked(options):
    task = Task("t")
    task.headers["a"] = 1  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"^headers must be a mapping of str to str, got 'a': 1"):
        composed(task, **options)


def test_a_received_task_can_be_enqueued_anew():
    received = Task.received("t", b"p", {"a": "1"}, id="x", queue="low", retried=2, max_retry=3, write_result=None)
    msg = composed(received).msg
    assert msg == TaskMessage(
        type="t", payload=b"p", id=msg.id, queue="default", retry=25, timeout=1800, headers={"a": "1"}
    )
    assert msg.id != "x"


mux = ServeMux()


@mux.task("typed")
async def typed() -> None: ...


@pytest.mark.rows(96)
@pytest.mark.parametrize("task", [None, "t", typed], ids=["96: None", "text", "a typed function itself"])
def test_only_a_task_is_taken(task):
    with pytest.raises(TypeError, match=r"^task must be a Task .*, got "):
        compose(task, EMPTY, NOW)


# Ids


def test_ids_are_random_uuids():
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    for text in ids:
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant, str(parsed)) == (4, uuid.RFC_4122, text)
    # each hexadecimal digit that is not fixed takes each of its values: 1000 draws miss one with a chance under 1e-24
    for place in range(36):
        digits = {text[place] for text in ids}
        assert len(digits) == {8: 1, 13: 1, 14: 1, 18: 1, 19: 4, 23: 1}.get(place, 16)


def test_threads_get_ids_of_their_own():
    ids: list[str] = []

    def draw() -> None:
        ids.extend([new_id() for _ in range(2000)])

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == len(ids) == 8000


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_gets_ids_of_its_own():
    new_id()  # so that some are in store
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, " ".join(new_id() for _ in range(70)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        theirs = set(pipe.read().split())
    os.waitpid(pid, 0)
    assert len(theirs) == 70
    assert theirs.isdisjoint(new_id() for _ in range(70))


# What users see


@pytest.mark.rows(92)
def test_info_of_a_composed_task():
    """Row 92: what is returned."""
    got = composed(queue="low", timeout=5, deadline=1_800_000_000, process_in=60, retention=10, headers={"a": "1"})
    info = task_info(got.msg, got.state, got.next_process_at)
    assert (info.id, info.queue, info.type, info.payload) == (got.msg.id, "low", "t", b"p")
    assert (info.state, info.max_retry, info.retried, info.headers) == (TaskState.SCHEDULED, 25, 0, {"a": "1"})
    assert (info.timeout, info.retention) == (5.0, 10.0)
    assert info.deadline == datetime.fromtimestamp(1_800_000_000, UTC)
    assert info.next_process_at == datetime.fromtimestamp(NOW + 60, UTC)
    assert (info.last_err, info.last_failed_at, info.completed_at) == ("", None, None)
    assert (info.group, info.result, info.is_orphaned) == (None, None, False)


def test_info_of_a_stored_message():
    msg = TaskMessage(
        type="t", payload=None, id="x", queue="q", retry=3, retried=1, error_msg="bad", last_failed_at=5,
        completed_at=6, group_key="g",
    )  # fmt: skip
    info = task_info(msg, TaskState.COMPLETED, result=b"r", is_orphaned=True)
    assert (info.payload, info.last_err, info.group, info.result, info.is_orphaned) == (b"", "bad", "g", b"r", True)
    assert (info.last_failed_at, info.completed_at) == (datetime.fromtimestamp(5, UTC), datetime.fromtimestamp(6, UTC))
    assert (info.deadline, info.next_process_at) == (None, None)


@pytest.mark.parametrize(("seconds", "shown"), [(2**63 - 1, MAX_MOMENT), (-(2**63), 0)], ids=["late", "early"])
def test_info_of_a_message_with_strange_times(seconds, shown):
    msg = TaskMessage(type="t", payload=None, id="x", queue="q", deadline=seconds)
    assert task_info(msg, TaskState.PENDING).deadline == datetime.fromtimestamp(shown, UTC)
