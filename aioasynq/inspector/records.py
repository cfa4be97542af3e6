"""What an Inspector answers, besides TaskInfo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from aioasynq.task import TaskInfo

Progress = Callable[[int, int], object]  #: called with how many tasks are done, and how many there were at the start


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueInfo:
    """The numbers of a queue at one moment."""

    queue: str
    memory_usage: int | None  #: bytes, estimated; None when it was not asked for
    latency: float  #: seconds that the next task has waited
    size: int  #: tasks in all states
    groups: int
    pending: int
    active: int
    scheduled: int
    retry: int
    archived: int
    completed: int
    aggregating: int
    processed: int  #: attempts today (UTC), those that failed among them
    failed: int
    processed_total: int
    failed_total: int
    paused: bool
    timestamp: datetime  #: when it was so, by Redis's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyStats:
    """What was done on one day."""

    queue: str
    processed: int  #: attempts, those that failed among them
    failed: int
    date: date  #: UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupInfo:
    """A group and how many tasks wait in it."""

    group: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """A task that a server runs."""

    task_id: str
    task_type: str
    task_payload: bytes  #: of ours at most its first 1,024 bytes
    queue: str
    started: datetime | None
    deadline: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """What a server said about itself within the last seconds."""

    id: str
    host: str
    pid: int
    concurrency: int  #: most tasks it runs at once
    queues: dict[str, int]  #: weights
    strict_priority: bool
    started: datetime | None
    patterns: list[str] | None  #: of the task types that it has handlers for; None: it does not tell, as Go's do not
    status: str  #: active, stopped (it takes no more tasks) or closed
    active_workers: list[WorkerStatus] = field(default_factory=list[WorkerStatus])


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerEntryInfo:
    """What a scheduler enqueues, and when."""

    id: str
    spec: str
    task_type: str
    task_payload: bytes
    options: list[str]  #: as Go writes them, such as ``Queue("low")``
    enqueue_options: dict[str, Any]  #: the same as arguments of ``Client.enqueue``; what cannot be read is left out
    next: datetime | None
    prev: datetime | None  #: None: not yet


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerEnqueueEventInfo:
    """That a scheduler enqueued a task."""

    task_id: str
    enqueued_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNode:
    """A node of a Cluster."""

    id: str
    addr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftInPlace:
    """What ``migrate`` left where it is."""

    place: str  #: the key in which it is
    reason: str
    data: bytes  #: its first 100 bytes; none when it is the whole key


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationReport:
    """What ``migrate`` did, or would do."""

    dry_run: bool
    tasks: dict[str, dict[str, int]]  #: how many were carried over, by queue and by the state they have there
    same: int  #: old copies that were removed because the task was there, just so
    counters: dict[str, int]  #: attempts that were added to the totals: ``processed``, and ``failed`` among them
    left: list[LeftInPlace]  #: the first 1,000
    left_total: int
    remaining: int  #: tasks that old clients added meanwhile: stop those, and run it again
    processes: list[str]  #: keys of the records of old processes that live

    @property
    def total(self) -> int:
        """How many tasks were carried over."""
        return sum(sum(states.values()) for states in self.tasks.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a task does not run; print it, or read its parts."""

    info: TaskInfo
    reasons: list[str]  #: sentences; the first is about where it is
    can_run: bool  #: nothing keeps the next free worker that comes to it

    def __str__(self) -> str:
        return "\n".join(self.reasons)
