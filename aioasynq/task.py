"""Task: what is enqueued and what a handler gets. TaskInfo: what is known about one that lies in Redis."""

from __future__ import annotations

import reprlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias, Unpack

from aioasynq.options import EMPTY, Options, OptionsDict, check_headers, check_type

DEFAULT_QUEUE = "default"
DEFAULT_MAX_RETRY = 25

Payload: TypeAlias = bytes | bytearray | memoryview | str
ResultWriter: TypeAlias = Callable[[bytes], Awaitable[int]]


class TaskState(StrEnum):
    """Where a task is on its way, in asynq's words."""

    ACTIVE = "active"  #: a worker has it
    PENDING = "pending"  #: ready to be processed
    SCHEDULED = "scheduled"  #: to be processed later
    RETRY = "retry"  #: failed, to be processed again later
    ARCHIVED = "archived"  #: failed for good, kept for people to look at
    COMPLETED = "completed"  #: succeeded, kept until its retention is over
    AGGREGATING = "aggregating"  #: waits in its group


class Task:
    """A piece of work: a type, which picks the handler, and a payload.

    Args:
        type: picks the handler; must not be blank.
        payload: bytes, or text that is sent as UTF-8. None is no payload, which asynq tells apart from an empty one
            only in the lock of a unique task.
        options: queue, max_retry, … (:class:`~aioasynq.options.OptionsDict`), which the ones given at enqueue win over.

    Raises:
        TypeError: *payload* is neither bytes nor text, or there is no such option.
        ValueError: *type* is blank, or an option's value is none it can have.
    """

    __slots__ = ("_write_result", "headers", "id", "max_retry", "options", "queue", "raw_payload", "retried", "type")

    type: str
    raw_payload: bytes | None  #: None where there is no payload
    headers: dict[str, str]
    options: Options  #: the task's own, without headers, which are in :attr:`headers`
    id: str  #: empty when it was not received and has no ``task_id`` of its own
    queue: str
    retried: int  #: failures so far
    max_retry: int
    _write_result: ResultWriter | None

    def __init__(
        self,
        type: str,  # noqa: A002 - what asynq calls it
        payload: Payload | None = None,
        **options: Unpack[OptionsDict],
    ) -> None:
        self.type = check_type(type)
        self.raw_payload = payload if payload is None or isinstance(payload, bytes) else _to_bytes("payload", payload)
        self._write_result = None
        self.retried = 0
        if not options:
            self.headers = {}
            self.options = EMPTY
            self.id = ""
            self.queue = DEFAULT_QUEUE
            self.max_retry = DEFAULT_MAX_RETRY
            return
        headers = options.pop("headers", None)
        self.headers = {} if headers is None else check_headers(headers)
        self._set_options(Options.of(**options))

    @classmethod
    def received(
        cls,
        type: str,  # noqa: A002 - what asynq calls it
        payload: bytes | None,
        headers: dict[str, str],
        *,
        id: str,  # noqa: A002 - what asynq calls it
        queue: str,
        retried: int,
        max_retry: int,
        write_result: ResultWriter | None,
    ) -> Task:
        """A task as a handler gets it. Nothing is checked or copied: it comes from a message."""
        task = _new(cls)
        task.type = type
        task.raw_payload = payload
        task.headers = headers
        task.options = EMPTY
        task.id = id
        task.queue = queue
        task.retried = retried
        task.max_retry = max_retry
        task._write_result = write_result  # noqa: SLF001 - an instance of this class
        return task

    @classmethod
    def prepared(cls, type: str, payload: bytes | None, headers: dict[str, str], options: Options) -> Task:  # noqa: A002
        """A task of parts that were checked before. *options* carry no headers; nothing is copied."""
        task = _new(cls)
        task.type = type
        task.raw_payload = payload
        task.headers = headers
        task.retried = 0
        task._write_result = None  # noqa: SLF001 - an instance of this class
        task._set_options(options)  # noqa: SLF001 - as above
        return task

    @property
    def payload(self) -> bytes:
        """The payload; empty when there is none."""
        return self.raw_payload or b""

    async def write_result(self, data: Payload) -> int:
        """Store *data* as the task's result, in place of what was stored before; text is stored as UTF-8.

        Returns the number of bytes. The result is kept as long as the task is: its retention, once it has succeeded.

        Raises:
            RuntimeError: this is not a task that a handler got.
            TypeError: *data* is neither bytes nor text.
            BrokerError: Redis did not take it.
        """
        if self._write_result is None:
            raise RuntimeError(f"task {self.type!r} is not being processed: only a handler's task can write a result")
        return await self._write_result(_to_bytes("data", data))

    def _set_options(self, options: Options) -> None:
        self.options = options
        self.id = options.task_id or ""
        self.queue = options.queue or DEFAULT_QUEUE
        self.max_retry = DEFAULT_MAX_RETRY if options.max_retry is None else options.max_retry

    def __repr__(self) -> str:
        name = f" {self.id}" if self.id else ""
        return f"<Task {self.type!r}{name} in {self.queue!r}, {len(self.payload)} bytes>"


_new = object.__new__


def _to_bytes(name: str, data: object) -> bytes:
    if isinstance(data, str):
        try:
            return data.encode()
        except UnicodeEncodeError as exc:  # a lone surrogate
            raise ValueError(f"{name} must be bytes or valid Unicode text: {exc}") from None
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"{name} must be bytes, bytearray, memoryview or str, got {reprlib.repr(data)}")


@dataclass(slots=True, kw_only=True)
class TaskInfo:
    """What is known about a task in Redis, at one moment."""

    id: str
    queue: str
    type: str
    payload: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    state: TaskState
    max_retry: int = 0
    retried: int = 0  #: failures so far
    last_err: str = ""  #: what the last failure said; empty: none yet
    last_failed_at: datetime | None = None
    timeout: float = 0.0  #: seconds one attempt may take; 0: not set
    deadline: datetime | None = None
    next_process_at: datetime | None = None  #: None where no time is set, as for a task in a group
    retention: float = 0.0  #: seconds it is kept once it has succeeded; 0: not at all
    completed_at: datetime | None = None
    group: str | None = None
    result: bytes | None = None
    is_orphaned: bool = False  #: active, but the worker that had it is gone
