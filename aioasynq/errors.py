"""Every error a user can meet, in one tree.

AioasynqError
├── TaskError(queue, task_id)    TaskIDConflictError · DuplicateTaskError · TaskNotFoundError · TaskFailedError ·
│                                TaskStateError
├── QueueError(queue)            QueueNotFoundError · QueueNotEmptyError · QueueStateError
├── BrokerError(maybe_done)      Redis could not be reached, or answered nonsense
│   ├── BrokerRefusedError       Redis answered, and will go on refusing: wrong password, no permission, too old
│   └── NotReplicatedError       Redis has the task, and fewer replicas than were asked for
├── MigrationRefusedError        what asynq of 2020 left behind cannot be carried over now, or not from here
├── MessageDecodeError           bytes in a queue that are no message
├── HandlerNotFoundError         no handler is registered for a task type
├── PayloadError                 a payload does not fit the handler it was sent to
├── ChildTaskError               a handler that runs in a child process raised an error
├── ChildDiedError               the child process of a handler died, or could not be started
├── TokenNotFoundError           the task holds no token of a semaphore
├── LeaseExpiredError            the task belongs to somebody else by now
├── TaskTimeoutError · TaskDeadlineError · TaskCancelledError      why a handler was ended
├── EntryNotFoundError           a scheduler has no such entry
└── ServerStateError · SchedulerStateError      a server or a scheduler was started twice, or after its end

SkipRetry, RevokeTask, RetryAfter    raised by a handler to steer its own task

A wrong argument is a ``ValueError`` or ``TypeError`` that names the argument and the value.
"""

from __future__ import annotations

from datetime import timedelta

__all__ = [
    "AioasynqError",
    "BrokerError",
    "BrokerRefusedError",
    "ChildDiedError",
    "ChildTaskError",
    "DuplicateTaskError",
    "EntryNotFoundError",
    "HandlerNotFoundError",
    "LeaseExpiredError",
    "MessageDecodeError",
    "MigrationRefusedError",
    "NotReplicatedError",
    "PayloadError",
    "QueueError",
    "QueueNotEmptyError",
    "QueueNotFoundError",
    "QueueStateError",
    "RetryAfter",
    "RevokeTask",
    "SchedulerStateError",
    "ServerStateError",
    "SkipRetry",
    "TaskCancelledError",
    "TaskDeadlineError",
    "TaskError",
    "TaskFailedError",
    "TaskIDConflictError",
    "TaskNotFoundError",
    "TaskStateError",
    "TaskTimeoutError",
    "TokenNotFoundError",
]


class AioasynqError(Exception):
    """Base of every error this library raises about Redis, queues and tasks."""


class TaskError(AioasynqError):
    """Something is wrong with one task of one queue."""

    _text = "task {task_id!r} in queue {queue!r}"

    def __init__(self, queue: str, task_id: str) -> None:
        super().__init__(queue, task_id)
        self.queue = queue
        self.task_id = task_id

    def __str__(self) -> str:
        return self._text.format(queue=self.queue, task_id=self.task_id)


class TaskIDConflictError(TaskError):
    """The queue already holds a task with this id, in whatever state."""

    _text = "task id {task_id!r} conflicts with another task in queue {queue!r}"


class DuplicateTaskError(TaskError):
    """A task with the same queue, type and payload holds the uniqueness lock."""

    _text = (
        "task {task_id!r} not enqueued: a task with the same type and payload holds the unique lock in queue {queue!r}"
    )


class TaskNotFoundError(TaskError):
    """The queue holds no task with this id."""

    _text = "cannot find task {task_id!r} in queue {queue!r}"


class TaskFailedError(TaskError):
    """The task has failed for good; ``error`` is the text of its last error."""

    _text = "task {task_id!r} in queue {queue!r} failed: {error}"

    def __init__(self, queue: str, task_id: str, error: str) -> None:
        super().__init__(queue, task_id)
        self.args = (queue, task_id, error)
        self.error = error

    def __str__(self) -> str:
        return self._text.format(queue=self.queue, task_id=self.task_id, error=self.error)


class TaskStateError(TaskError):
    """The task is in a state, ``state``, in which this cannot be done to it; ``why`` says what."""

    _text = "task {task_id!r} in queue {queue!r}: {why}"

    def __init__(self, queue: str, task_id: str, state: str, why: str) -> None:
        super().__init__(queue, task_id)
        self.args = (queue, task_id, state, why)
        self.state = state
        self.why = why

    def __str__(self) -> str:
        return self._text.format(queue=self.queue, task_id=self.task_id, why=self.why)


class QueueError(AioasynqError):
    """Something is wrong with one queue."""

    _text = "queue {queue!r}"

    def __init__(self, queue: str) -> None:
        super().__init__(queue)
        self.queue = queue

    def __str__(self) -> str:
        return self._text.format(queue=self.queue)


class QueueNotFoundError(QueueError):
    """No task was ever enqueued to this queue, or the queue was removed."""

    _text = "queue {queue!r} does not exist"


class QueueNotEmptyError(QueueError):
    """The queue still holds tasks."""

    _text = "queue {queue!r} is not empty"


class QueueStateError(QueueError):
    """The queue is in a state in which this cannot be done to it; ``why`` says which."""

    _text = "queue {queue!r}: {why}"

    def __init__(self, queue: str, why: str) -> None:
        super().__init__(queue)
        self.args = (queue, why)
        self.why = why

    def __str__(self) -> str:
        return self._text.format(queue=self.queue, why=self.why)


class BrokerError(AioasynqError):
    """Redis could not be reached in time, or its answer made no sense.

    ``maybe_done`` is true when a write was under way and its reply never came: it may or may not have happened.
    ``answered`` is true when Redis did answer, with an error: its memory is full, it is a replica, a key is of a
    wrong kind.
    """

    def __init__(self, text: str, *, maybe_done: bool = False, answered: bool = False) -> None:
        super().__init__(text)
        self.maybe_done = maybe_done
        self.answered = answered


class BrokerRefusedError(BrokerError):
    """Redis answered and will go on refusing: a wrong password, a missing permission, another kind, an old version."""


class MigrationRefusedError(AioasynqError):
    """What asynq's layout of 2020 holds is not carried over: its processes live, or this is a Cluster.

    ``processes`` are the names (``host:pid``) of those that live.
    """

    def __init__(self, text: str, processes: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.processes = processes


class NotReplicatedError(BrokerError):
    """Redis has the task, and fewer replicas than ``wait_replicas`` asked for have it within ``wait_timeout``.

    ``maybe_done`` is true: the task runs unless a failover loses it. ``wanted`` and ``replicas`` tell how many.
    """

    def __init__(self, what: str, address: str, wanted: int, replicas: int, seconds: float) -> None:
        text = f"{what} on {address}: stored, but {replicas} of {wanted} replicas have it after {seconds:g} s"
        super().__init__(text, maybe_done=True, answered=True)
        self.args = (what, address, wanted, replicas, seconds)
        self.wanted = wanted
        self.replicas = replicas
        self._text = text

    def __str__(self) -> str:
        return self._text


class MessageDecodeError(AioasynqError):
    """Bytes that should be a message of asynq's format are not."""


class HandlerNotFoundError(AioasynqError):
    """No handler is registered for this task type."""

    def __init__(self, task_type: str) -> None:
        super().__init__(task_type)
        self.task_type = task_type

    def __str__(self) -> str:
        return f'handler not found for task "{self.task_type}"'


class PayloadError(AioasynqError):
    """A payload does not fit the typed handler it was sent to; no retry can change that, so the task is archived."""


class ChildTaskError(AioasynqError):
    """A handler in a child process raised an error, of which there is what it said.

    Args:
        text: what it said.
        kind: the name of its class.
        traceback: where it was raised, as text.
        kinds: ``module:name`` of its class and of those it is derived from.
    """

    def __init__(self, text: str, kind: str, traceback: str = "", kinds: frozenset[str] = frozenset()) -> None:
        super().__init__(text, kind)
        self.text = text
        self.kind = kind
        self.traceback = traceback
        self.kinds = kinds

    def __str__(self) -> str:
        return self.text or self.kind

    def is_a(self, kinds: tuple[type[BaseException], ...]) -> bool:
        """Was it an instance of one of these?"""
        return any(f"{kind.__module__}:{kind.__qualname__}" in self.kinds for kind in kinds)


class ChildDiedError(AioasynqError):
    """The child process in which a handler ran has died, or none could be started."""


class TokenNotFoundError(AioasynqError):
    """The task holds no token of this semaphore, or not any more: tokens end with the attempt they were taken in."""

    def __init__(self, scope: str, task_id: str) -> None:
        super().__init__(scope, task_id)
        self.scope = scope
        self.task_id = task_id

    def __str__(self) -> str:
        return f"no token of semaphore {self.scope!r} found for task {self.task_id!r}"


class LeaseExpiredError(AioasynqError):
    """The task's lease ran out, and another worker may have it by now; whatever this handler does is not recorded."""

    def __str__(self) -> str:
        return "task lease expired"


class TaskTimeoutError(AioasynqError):
    """The handler ran for longer than the task's timeout."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"task timed out after {self.seconds:g} s"


class TaskDeadlineError(AioasynqError):
    """The task's deadline passed before its handler ended."""

    def __str__(self) -> str:
        return "task deadline exceeded"


class TaskCancelledError(AioasynqError):
    """Somebody asked for the running task to be cancelled."""

    def __str__(self) -> str:
        return "task cancelled"


class ServerStateError(AioasynqError):
    """The server cannot do this in its present state, for example start twice."""


class SchedulerStateError(AioasynqError):
    """The scheduler cannot do this in its present state, for example start twice."""


class EntryNotFoundError(AioasynqError):
    """The scheduler has no entry with this id, ``entry_id``."""

    def __init__(self, entry_id: str) -> None:
        super().__init__(entry_id)
        self.entry_id = entry_id

    def __str__(self) -> str:
        return f"this scheduler has no entry {self.entry_id!r}"


class SkipRetry(Exception):  # noqa: N818 - asynq's name, and a verdict rather than an error
    """Raised by a handler: archive this task now, whatever retries are left."""


class RevokeTask(Exception):  # noqa: N818 - asynq's name, and a verdict rather than an error
    """Raised by a handler: forget this task; it is neither retried, archived nor kept."""


class RetryAfter(Exception):  # noqa: N818 - a verdict rather than an error
    """Raised by a handler: bring this task back after *delay*; that is no failure and costs no retry.

    Args:
        delay: seconds, or a ``timedelta``; not negative.
        reason: kept as the task's last error, for people who look.

    Raises:
        TypeError, ValueError: *delay* is no number and no ``timedelta``, or is negative.
    """

    def __init__(self, delay: float | timedelta, reason: str = "") -> None:
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
        if not isinstance(seconds, int | float) or isinstance(seconds, bool):
            raise TypeError(f"delay must be a number of seconds or a timedelta, got {delay!r}")
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"delay must be a number of seconds, 0 or more, got {delay!r}")
        seconds = float(seconds)
        super().__init__(seconds, reason)
        self.delay = seconds
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or f"retry after {self.delay:g} s"
