"""Task: what is enqueued and what a handler gets. TaskInfo: what is known about one that lies in Redis."""

from __future__ import annotations

import asyncio
import reprlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple, TypeAlias, Unpack

from msgspec import Struct, field

from aioasynq.options import EMPTY, MAX_MOMENT, Options, OptionsDict, check_headers, check_type

DEFAULT_QUEUE = "default"
DEFAULT_MAX_RETRY = 25

Payload: TypeAlias = bytes | bytearray | memoryview | str
ResultWriter: TypeAlias = Callable[[bytes], Awaitable[int]]

MAX_PROGRESS_TEXT = 1000  #: characters of what is said about a step


class Progress(NamedTuple):
    """How far a task is, as its handler said last."""

    fraction: float  #: 0 to 1
    text: str = ""  #: what it is at


ProgressSink: TypeAlias = Callable[["Task", Progress], object]
"""Takes note of a step of a task, from whatever thread, and returns at once."""


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

    __slots__ = (
        "_ends",
        "_note_progress",
        "_write_result",
        "headers",
        "id",
        "max_retry",
        "options",
        "queue",
        "raw_payload",
        "retried",
        "type",
    )

    type: str
    raw_payload: bytes | None  #: None where there is no payload
    headers: dict[str, str]
    options: Options  #: the task's own, without headers, which are in :attr:`headers`
    id: str  #: empty when it was not received and has no ``task_id`` of its own
    queue: str
    retried: int  #: failures so far
    max_retry: int
    _note_progress: ProgressSink | None
    _write_result: ResultWriter | None
    _ends: float  #: unix seconds; 0: it is not being processed

    def __init__(
        self,
        type: str,  # noqa: A002 - what asynq calls it
        payload: Payload | None = None,
        **options: Unpack[OptionsDict],
    ) -> None:
        self.type = check_type(type)
        self.raw_payload = payload if payload is None or isinstance(payload, bytes) else _to_bytes("payload", payload)
        self._note_progress = None
        self._write_result = None
        self._ends = 0.0
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
        ends: float = 0.0,
        note_progress: ProgressSink | None = None,
    ) -> Task:
        """A task as a handler gets it. Nothing is checked or copied: it comes from a message.

        *ends* is the unix second at which this attempt has to be over.
        """
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
        task._ends = ends  # noqa: SLF001 - as above
        task._note_progress = note_progress  # noqa: SLF001 - as above
        return task

    @classmethod
    def prepared(cls, type: str, payload: bytes | None, headers: dict[str, str], options: Options) -> Task:  # noqa: A002
        """A task of parts that were checked before. *options* carry no headers; nothing is copied."""
        task = _new(cls)
        task.type = type
        task.raw_payload = payload
        task.headers = headers
        task.retried = 0
        task._note_progress = None  # noqa: SLF001 - an instance of this class
        task._write_result = None  # noqa: SLF001 - as above
        task._ends = 0.0  # noqa: SLF001 - as above
        task._set_options(options)  # noqa: SLF001 - as above
        return task

    @property
    def payload(self) -> bytes:
        """The payload; empty when there is none."""
        return self.raw_payload or b""

    @property
    def deadline(self) -> datetime | None:
        """When this attempt has to be over, by its timeout or its deadline; None: it is not being processed."""
        return datetime.fromtimestamp(min(self._ends, MAX_MOMENT), UTC) if self._ends else None

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

    async def progress(self, fraction: float, text: str = "") -> None:
        """Say how far the task is, for :meth:`Client.watch` and whoever inspects it; gives others a turn of the loop.

        It is written in the background, at most four times a second; of what is said in between the last counts. When
        Redis does not take it, nothing happens: progress is for people who look.

        Args:
            fraction: 0 to 1.
            text: what it is at; at most 1,000 characters.

        Raises:
            RuntimeError: this is not a task that a handler got.
            TypeError, ValueError: an argument is wrong.
        """
        self.progress_sync(fraction, text)
        await asyncio.sleep(0)

    def progress_sync(self, fraction: float, text: str = "") -> None:
        """The same for a plain ``def``, in whatever thread or process it runs; returns at once."""
        if self._note_progress is None:
            raise RuntimeError(
                f"task {self.type!r} is not being processed: only a handler's task can tell its progress"
            )
        self._note_progress(self, _checked_progress(fraction, text))

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
    hint = ": json.dumps makes text of it" if isinstance(data, dict | list) else ""
    raise TypeError(f"{name} must be bytes, bytearray, memoryview or str, got {reprlib.repr(data)}{hint}")


def _checked_progress(fraction: object, text: object) -> Progress:
    if not isinstance(fraction, int | float) or isinstance(fraction, bool):
        raise TypeError(f"fraction must be a number from 0 to 1, got {reprlib.repr(fraction)}")
    if not 0 <= fraction <= 1:  # also what is not a number
        raise ValueError(f"fraction must be a number from 0 to 1, got {fraction!r}")
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, got {reprlib.repr(text)}")
    if len(text) > MAX_PROGRESS_TEXT:
        raise ValueError(f"text must have at most {MAX_PROGRESS_TEXT:,} characters, got {len(text):,}")
    _to_bytes("text", text)
    return Progress(float(fraction), text)


class TaskInfo(Struct, kw_only=True, gc=False):
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
    progress: Progress | None = None  #: what its handler said last, in this try or one before
