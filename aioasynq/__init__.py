"""A task queue for asyncio on Redis that shares its queues with Go asynq."""

from __future__ import annotations

import importlib
import typing

from aioasynq._version import __version__

if typing.TYPE_CHECKING:
    from aioasynq.client import Client
    from aioasynq.context import Context, current_context, current_task
    from aioasynq.errors import (
        AioasynqError,
        BrokerError,
        BrokerRefusedError,
        ChildDiedError,
        ChildTaskError,
        DuplicateTaskError,
        EntryNotFoundError,
        HandlerNotFoundError,
        LeaseExpiredError,
        MessageDecodeError,
        MigrationRefusedError,
        NotReplicatedError,
        PayloadError,
        QueueError,
        QueueNotEmptyError,
        QueueNotFoundError,
        QueueStateError,
        RetryAfter,
        RevokeTask,
        SchedulerStateError,
        ServerStateError,
        SkipRetry,
        TaskCancelledError,
        TaskDeadlineError,
        TaskError,
        TaskFailedError,
        TaskIDConflictError,
        TaskNotFoundError,
        TaskStateError,
        TaskTimeoutError,
        TokenNotFoundError,
    )
    from aioasynq.inspector import Inspector
    from aioasynq.mux import ServeMux
    from aioasynq.rdb.rdb import RDB
    from aioasynq.rdb.url import RedisOptions
    from aioasynq.retry import Exponential
    from aioasynq.scheduler import PeriodicTaskConfig, PeriodicTaskManager, Scheduler
    from aioasynq.server import Config, Server
    from aioasynq.task import Progress, Task, TaskInfo, TaskState
    from aioasynq.typed import TaskType

__all__ = [
    "RDB",
    "AioasynqError",
    "BrokerError",
    "BrokerRefusedError",
    "ChildDiedError",
    "ChildTaskError",
    "Client",
    "Config",
    "Context",
    "DuplicateTaskError",
    "EntryNotFoundError",
    "Exponential",
    "HandlerNotFoundError",
    "Inspector",
    "LeaseExpiredError",
    "MessageDecodeError",
    "MigrationRefusedError",
    "NotReplicatedError",
    "PayloadError",
    "PeriodicTaskConfig",
    "PeriodicTaskManager",
    "Progress",
    "QueueError",
    "QueueNotEmptyError",
    "QueueNotFoundError",
    "QueueStateError",
    "RedisOptions",
    "RetryAfter",
    "RevokeTask",
    "Scheduler",
    "SchedulerStateError",
    "ServeMux",
    "Server",
    "ServerStateError",
    "SkipRetry",
    "Task",
    "TaskCancelledError",
    "TaskDeadlineError",
    "TaskError",
    "TaskFailedError",
    "TaskIDConflictError",
    "TaskInfo",
    "TaskNotFoundError",
    "TaskState",
    "TaskStateError",
    "TaskTimeoutError",
    "TaskType",
    "TokenNotFoundError",
    "__version__",
    "current_context",
    "current_task",
]

# Loaded when they are asked for: the pytest plugin is imported by every pytest near this package, and stays cheap.
_PLACES = {
    "AioasynqError": "errors",
    "BrokerError": "errors",
    "BrokerRefusedError": "errors",
    "ChildDiedError": "errors",
    "ChildTaskError": "errors",
    "Client": "client",
    "Config": "server",
    "Context": "context",
    "DuplicateTaskError": "errors",
    "EntryNotFoundError": "errors",
    "Exponential": "retry",
    "HandlerNotFoundError": "errors",
    "Inspector": "inspector",
    "LeaseExpiredError": "errors",
    "MessageDecodeError": "errors",
    "MigrationRefusedError": "errors",
    "NotReplicatedError": "errors",
    "PayloadError": "errors",
    "PeriodicTaskConfig": "scheduler",
    "PeriodicTaskManager": "scheduler",
    "Progress": "task",
    "QueueError": "errors",
    "QueueNotEmptyError": "errors",
    "QueueNotFoundError": "errors",
    "QueueStateError": "errors",
    "RDB": "rdb.rdb",
    "RedisOptions": "rdb.url",
    "RetryAfter": "errors",
    "RevokeTask": "errors",
    "Scheduler": "scheduler",
    "SchedulerStateError": "errors",
    "ServeMux": "mux",
    "Server": "server",
    "ServerStateError": "errors",
    "SkipRetry": "errors",
    "Task": "task",
    "TaskCancelledError": "errors",
    "TaskDeadlineError": "errors",
    "TaskError": "errors",
    "TaskFailedError": "errors",
    "TaskIDConflictError": "errors",
    "TaskInfo": "task",
    "TaskNotFoundError": "errors",
    "TaskState": "task",
    "TaskStateError": "errors",
    "TaskTimeoutError": "errors",
    "TaskType": "typed",
    "TokenNotFoundError": "errors",
    "current_context": "context",
    "current_task": "context",
}


if not typing.TYPE_CHECKING:  # a type checker would take any name for one that may be there

    def __getattr__(name: str) -> object:
        try:
            place = _PLACES[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        thing = globals()[name] = getattr(importlib.import_module(f"{__name__}.{place}"), name)
        return thing


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
