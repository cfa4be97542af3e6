"""A task queue for asyncio on Redis that shares its queues with Go asynq."""

from __future__ import annotations

from aioasynq._version import __version__
from aioasynq.client import Client
from aioasynq.context import current_task
from aioasynq.errors import (
    AioasynqError,
    BrokerError,
    BrokerRefusedError,
    DuplicateTaskError,
    HandlerNotFoundError,
    LeaseExpiredError,
    MessageDecodeError,
    PayloadError,
    QueueError,
    QueueNotEmptyError,
    QueueNotFoundError,
    RetryAfter,
    RevokeTask,
    ServerStateError,
    SkipRetry,
    TaskCancelledError,
    TaskDeadlineError,
    TaskError,
    TaskFailedError,
    TaskIDConflictError,
    TaskNotFoundError,
    TaskTimeoutError,
)
from aioasynq.mux import ServeMux
from aioasynq.rdb.rdb import RDB
from aioasynq.server import Config, Server
from aioasynq.task import Task, TaskInfo, TaskState

__all__ = [
    "RDB",
    "AioasynqError",
    "BrokerError",
    "BrokerRefusedError",
    "Client",
    "Config",
    "DuplicateTaskError",
    "HandlerNotFoundError",
    "LeaseExpiredError",
    "MessageDecodeError",
    "PayloadError",
    "QueueError",
    "QueueNotEmptyError",
    "QueueNotFoundError",
    "RetryAfter",
    "RevokeTask",
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
    "TaskTimeoutError",
    "__version__",
    "current_task",
]
