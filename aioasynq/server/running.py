"""The tasks a server holds: consumers and settler write it, the loops and the heartbeat's thread read it."""

from __future__ import annotations

import asyncio
import time
from enum import Enum
from typing import TYPE_CHECKING

from msgspec import Struct

from aioasynq.logs import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from aioasynq.message import TaskMessage
    from aioasynq.observer import Processing
    from aioasynq.rdb.lifecycle import Leased
    from aioasynq.task import Task

NAMED = 5  #: tasks that one line of the log names


class Why(Enum):
    """Why a handler is being ended."""

    TIMEOUT = "timeout"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    LOST = "lost"  #: the task is somebody else's by now
    SHUTDOWN = "shutdown"


class Running(Struct, eq=False):
    """One task we hold: its handler runs, or its outcome is not written yet."""

    leased: Leased
    msg: TaskMessage
    began: float  #: unix seconds
    deadline: float  #: unix seconds
    ends: float  #: the same by a clock that nobody sets, monotonic seconds
    credit: float  #: time the loop had stood still when it began, seconds
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    handed: Task | None = None  #: what its handler got
    started: bool = False  #: its handler has been entered
    ended: bool = False  #: its handler has returned, or was left to itself
    abandoned: bool = False  #: its handler did not end when it should; what it returns is thrown away
    why: Why | None = None
    processing: Processing | None = None  #: where observers are told of it; None: there is none


class Pulse:
    """Whether the event loop moves, and for how long in all it has stood still.

    The loop beats it; the heartbeat's thread looks. A handler that blocks the loop takes time from all others, so
    their timeouts are extended by what they lost. Without tasks it beats slowly: an idle process is left to sleep.
    """

    INTERVAL = 0.5  #: seconds between two beats
    IDLE_INTERVAL = 5.0  #: the same while no task is held
    SLACK = 0.5  #: seconds a beat may be late before that counts as standing still

    def __init__(self, held: Held) -> None:
        self._held = held
        self._interval = self.INTERVAL
        self.last = time.monotonic()
        self.lost = 0.0  #: seconds the loop has stood still, in all
        self._timer: asyncio.TimerHandle | None = None
        self._on_beat: Callable[[], None] | None = None

    def tell(self, on_beat: Callable[[], None]) -> None:
        """Call *on_beat* with each beat."""
        self._on_beat = on_beat

    def start(self) -> None:
        """Begin to beat on the running loop."""
        self.last = time.monotonic()
        self._beat()

    def stop(self) -> None:
        """Beat no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def quicken(self) -> None:
        """A task begins: its time is watched closely."""
        if self._interval != self.INTERVAL:
            self.stop()
            self._beat(self.INTERVAL)

    def _beat(self, interval: float | None = None) -> None:
        self.look()
        self._interval = interval or (self.INTERVAL if self._held else self.IDLE_INTERVAL)
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._beat)
        if self._on_beat is not None:
            self._on_beat()

    def look(self) -> float:
        """Note the time since the last beat, and return the time lost in all. Called on the loop only."""
        now = time.monotonic()
        late = now - self.last - self._interval
        if late > self.SLACK:
            self.lost += late
        self.last = now
        return self.lost

    def standing(self) -> float:
        """Seconds the loop has stood still by now; for other threads."""
        return max(0.0, time.monotonic() - self.last - self._interval)


def named(some: Sequence[Running]) -> str:
    """A few of them for a line of the log: which they are, and of what type."""
    names = [f"{running.leased.shown} ({clean(running.msg.type)})" for running in some[:NAMED]]
    return ", ".join(names) + (f" and {len(some) - NAMED} more" if len(some) > NAMED else "")


class Held:
    """All tasks we hold."""

    def __init__(self) -> None:
        self._all: set[Running] = set()
        self.version = 0  #: changes with the set

    def add(self, running: Running) -> None:
        """Hold one more."""
        self._all.add(running)
        self.version += 1

    def discard(self, running: Running) -> None:
        """Hold it no longer."""
        self._all.discard(running)
        self.version += 1

    def snapshot(self) -> tuple[Running, ...]:
        """All of them now; safe from any thread, since a set is copied in one step."""
        return tuple(self._all.copy())

    def __iter__(self) -> Iterator[Running]:
        """All of them, for the loop, which must not change the set meanwhile."""
        return iter(self._all)

    def find(self, task_id: str) -> list[Running]:
        """Those with this id whose handler runs; more than one when several queues know the id."""
        return [running for running in self._all if running.leased.id == task_id and not running.ended]

    def __len__(self) -> int:
        return len(self._all)
