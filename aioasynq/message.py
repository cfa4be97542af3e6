"""Records as they are stored in Redis: tasks, servers, workers, scheduler entries.

All times of servers, workers and schedulers are unix time in nanoseconds; those of a task are in whole seconds, as
asynq stores them. Records are msgspec structs: one is made with each task, for a fifth of what a dataclass costs.
"""

from __future__ import annotations

from msgspec import Struct, field

GO_ZERO_TIME = -62135596800 * 10**9  #: Go's zero time (the start of year 1) in unix nanoseconds; it stands for "never"
DEFAULT_TIMEOUT = 1800  #: seconds a task may run when it has neither timeout nor deadline


class TaskMessage(Struct, kw_only=True, gc=False):
    """A task as it lies in its hash."""

    type: str
    payload: bytes | None = None  #: no bytes (``b""``) are stored like no payload, and read back as None
    id: str
    queue: str
    retry: int = 0  #: how often it may be retried
    retried: int = 0  #: failures counted so far
    error_msg: str = ""  #: what the last failure said
    timeout: int = 0  #: seconds one attempt may take; 0: not set
    deadline: int = 0  #: unix seconds after which it must not run; 0: not set
    unique_key: str = ""  #: full name of its uniqueness lock; empty: not unique
    last_failed_at: int = 0  #: unix seconds; 0: never
    retention: int = 0  #: seconds to keep it once it has succeeded; 0: delete it at once
    completed_at: int = 0  #: unix seconds; 0: not completed
    group_key: str = ""  #: name of its group; empty: none
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """About how many bytes it has: those of the payload and of the headers."""
        size = len(self.payload) if self.payload else 0
        for name, value in self.headers.items():
            size += len(name) + len(value)
        return size

    def effective_deadline(self, now: float) -> float:
        """When an attempt that starts at *now* has to be over; both are unix seconds.

        The timeout starts anew with each attempt, the deadline does not. With both the earlier one counts, in whole
        seconds as in asynq; with neither an attempt may take :data:`DEFAULT_TIMEOUT`.
        """
        if self.timeout and self.deadline:
            return min(int(now) + self.timeout, self.deadline)
        if self.deadline:
            return self.deadline
        return now + (self.timeout or DEFAULT_TIMEOUT)


class ServerInfo(Struct, kw_only=True, gc=False):
    """What a server says about itself."""

    host: str = ""
    pid: int = 0
    server_id: str = ""
    concurrency: int = 0
    queues: dict[str, int] = field(default_factory=dict)  #: weights or priorities by queue, as they were configured
    strict_priority: bool = False
    status: str = ""  #: new, active, stopped or closed
    start_time: int = GO_ZERO_TIME  #: unix nanoseconds
    active_worker_count: int = 0  #: tasks it is running


class WorkerInfo(Struct, kw_only=True, gc=False):
    """A task that a server is running."""

    host: str = ""
    pid: int = 0
    server_id: str = ""
    task_id: str = ""
    task_type: str = ""
    task_payload: bytes = b""
    queue: str = ""
    start_time: int = GO_ZERO_TIME  #: unix nanoseconds
    deadline: int = GO_ZERO_TIME  #: unix nanoseconds


class SchedulerEntry(Struct, kw_only=True, gc=False):
    """A periodic task of a scheduler."""

    id: str = ""
    spec: str = ""  #: cron expression or ``@every 30s``
    task_type: str = ""
    task_payload: bytes = b""
    enqueue_options: list[str] = field(default_factory=list)  #: in Go's spelling, such as ``MaxRetry(3)``
    next_enqueue_time: int = GO_ZERO_TIME  #: unix nanoseconds
    prev_enqueue_time: int = GO_ZERO_TIME  #: unix nanoseconds


class SchedulerEnqueueEvent(Struct, kw_only=True, gc=False):
    """A task that a scheduler enqueued."""

    task_id: str = ""
    enqueue_time: int = GO_ZERO_TIME  #: unix nanoseconds
