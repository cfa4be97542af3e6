"""What both directions are tested with: the ways into a queue and the ends of a task."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

Options = dict[str, Any]


class Route(NamedTuple):
    """A way into a queue: what is said at enqueue, and the state that the task is in then."""

    options: Callable[[], Options]  #: called when the task is enqueued: moments are counted from then
    state: str


ROUTES: dict[str, Route] = {
    "at once": Route(dict, "pending"),
    "at once, unique": Route(lambda: {"unique": 60}, "pending"),
    "in the past": Route(lambda: {"process_at": time.time() - 60}, "pending"),
    "in a second": Route(lambda: {"process_in": 1}, "scheduled"),
    "at a time": Route(lambda: {"process_at": time.time() + 1.2}, "scheduled"),
    "in a second, unique": Route(lambda: {"process_in": 1, "unique": 60}, "scheduled"),
    "at a time, unique": Route(lambda: {"process_at": time.time() + 1.2, "unique": 60}, "scheduled"),
}

#: asynq makes a delayed task pending when it is due, whatever its group. Ours joins its group where we find it due.
DELAYED_GROUP = Route(lambda: {"group": "g", "process_in": 1}, "scheduled")

GROUP_ROUTES: dict[str, Route] = {
    "in a group": Route(lambda: {"group": "g"}, "aggregating"),
    "in a group, unique": Route(lambda: {"group": "g", "unique": 60}, "aggregating"),
}

OPTIONS: dict[str, Callable[[], Options]] = {
    "defaults": dict,
    "an id": lambda: {"task_id": "Kö{1}: x"},
    "no payload": lambda: {"payload": None},
    "an empty payload": lambda: {"payload": b""},
    "a large payload": lambda: {"payload": bytes(range(256)) * 1000},
    "headers": lambda: {"headers": {"trace": "abc", "empty": "", "Ü": "日本"}},
    "no retry": lambda: {"max_retry": 0},
    "many retries": lambda: {"max_retry": 2**31 - 1},
    "a timeout": lambda: {"timeout": 90},
    "a deadline": lambda: {"deadline": int(time.time()) + 60},
    "a timeout and a deadline": lambda: {"timeout": 90, "deadline": int(time.time()) + 60},
    "retention": lambda: {"retention": 86400},
    "of the task": lambda: {"defaults": {"max_retry": 7, "timeout": 5}},
    "the call wins": lambda: {"defaults": {"max_retry": 7, "timeout": 5}, "max_retry": 8},
    "all": lambda: {
        "task_id": "x",
        "headers": {"a": "b"},
        "max_retry": 3,
        "timeout": 90,
        "deadline": int(time.time()) + 60,
        "retention": 60,
        "unique": 60,
    },
}


class End(NamedTuple):
    """How a task ends: its type and options, what becomes of it, and what can be seen of it then."""

    type: str
    options: Callable[[], Options]
    as_: str
    seen: Options | None  #: None: nothing is left of it
    go_error: str | None = None  #: its last error where Go worked; by default the one in *seen*
    python_error: str | None = None  #: the same for Python


_FAILED = {"last_err": "boom"}

ENDS: dict[str, End] = {
    "success": End("ok", dict, "done", None),
    "success, kept": End(
        "ok", lambda: {"retention": 60}, "completed", {"state": "completed", "last_err": "", "result": None}
    ),
    "a result": End(
        "result",
        lambda: {"retention": 60, "payload": b"\x00r\xff"},
        "completed",
        {"state": "completed", "result": b"\x00r\xff"},
    ),
    "a failure": End("fail", dict, "retry", {"state": "retry", "retried": 1, "last_err": "boom"}),
    "a failure with a text": End(
        "fail", lambda: {"payload": "größer als 日本"}, "retry", {"retried": 1, "last_err": "größer als 日本"}
    ),
    "the last failure": End("fail", lambda: {"max_retry": 0}, "archived", {"state": "archived", **_FAILED}),
    "a failure that does not count": End("soft", dict, "retry", {"state": "retry", "retried": 0, "last_err": "soft"}),
    "skip retry": End(
        "skip", dict, "archived", {"state": "archived", "retried": 0}, "boom: skip retry for the task", "boom"
    ),
    "revoke": End("revoke", lambda: {"retention": 60}, "done", None),
    "an unknown type": End(
        "email:send",
        dict,
        "retry",
        {"state": "retry", "retried": 1, "last_err": 'handler not found for task "email:send"'},
    ),
    "a timeout": End(
        "block",
        lambda: {"timeout": 1},
        "retry",
        {"state": "retry", "retried": 1},
        "context deadline exceeded",
        "task timed out after 1 s",
    ),
    "a deadline": End(
        "block",
        lambda: {"deadline": int(time.time()) + 2},
        "retry",
        {"state": "retry", "retried": 1},
        "context deadline exceeded",
        "task deadline exceeded",
    ),
    "a deadline that is over": End(
        "ok",
        lambda: {"deadline": int(time.time()) - 2},
        "retry",
        {"state": "retry", "retried": 1},
        "context deadline exceeded",
        "task deadline exceeded",
    ),
}
