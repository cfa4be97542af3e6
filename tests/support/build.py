"""What tables of states are made of: a fixed time, an owner, and messages."""

from __future__ import annotations

from typing import Any

from aioasynq import keys
from aioasynq.message import TaskMessage
from aioasynq.rdb.lifecycle import Leased

#: Far in the future, so that Redis, whose clock is the real one, keeps what is to expire then. Of a quarter of a
#: second, so that it shows what is rounded.
NOW = 4_000_000_000.25
NOW_S = int(NOW)
NOW_NS = f"{NOW * 1e9:.0f}"  #: as scripts reckon it, in floating point
DAY = keys.day(NOW)  #: 2096-10-02
IN_A_MINUTE = float(NOW_S + 61)  #: how a score a minute from now looks: far ones are whole seconds, rounded up
LEASE = NOW + 15  #: how leases of ours look: never a whole second
GO_LEASE = float(NOW_S + 30)  #: how Go's look
OWNER = "host:1:server:1"
QUEUE = "q"


class Clock:
    """A clock for RDB that stands still unless it is moved."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def message(task_id: str, queue: str = QUEUE, **fields: Any) -> TaskMessage:
    """An ordinary message."""
    ordinary: dict[str, Any] = {"type": "t", "payload": b"p", "id": task_id, "queue": queue, "retry": 25}
    return TaskMessage(**(ordinary | fields))


LOCK = keys.unique(QUEUE, "t", b"p")


def unique(task_id: str, queue: str = QUEUE, **fields: Any) -> TaskMessage:
    """A message of a task that holds a lock; all of one queue and payload compete for the same one."""
    msg = message(task_id, queue, **fields)
    msg.unique_key = keys.unique(queue, msg.type, msg.payload)
    return msg


def held(task_id: str, queue: str = QUEUE, *, guard: str = OWNER, msg: TaskMessage | None = None) -> Leased:
    """A task as whoever dequeued it holds it."""
    return Leased(queue, task_id, msg or message(task_id, queue), guard)


def counted(processed: int, failed: int = 0, day: str = DAY) -> dict[str, int]:
    """The counters after so many attempts on one day."""
    counters = {"processed": processed, f"processed:{day}": processed}
    return counters | {"failed": failed, f"failed:{day}": failed} if failed else counters
