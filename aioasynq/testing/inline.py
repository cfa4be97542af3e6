"""InlineClient: handlers run where tasks are enqueued, without Redis, and get what they would get from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import copy_context
from typing import Any, Self, Unpack

import msgspec

from aioasynq.client import Client
from aioasynq.client.client import check_retention, whose
from aioasynq.client.results import value_of
from aioasynq.codecs import to_plain
from aioasynq.compose import Composed, compose, task_info
from aioasynq.context import CURRENT, STATE
from aioasynq.errors import (
    AioasynqError,
    DuplicateTaskError,
    TaskCancelledError,
    TaskDeadlineError,
    TaskFailedError,
    TaskIDConflictError,
    TaskNotFoundError,
    TaskTimeoutError,
)
from aioasynq.hooks import EnqueueHook, enqueue_hooks, tell
from aioasynq.message import DEFAULT_TIMEOUT, TaskMessage
from aioasynq.mux import ServeMux
from aioasynq.options import EMPTY, Options, OptionsDict
from aioasynq.proto.codec import decode_task, encode_task
from aioasynq.rdb.lifecycle import Failed, Killed, Leased
from aioasynq.server import Config
from aioasynq.server.lifespan import check_state
from aioasynq.server.outcome import Outcome, error_text
from aioasynq.server.verdict import verdict
from aioasynq.task import Progress, Task, TaskInfo, TaskState
from aioasynq.testing.enqueued import Remembers

NOWHERE = "redis://inline.invalid:6379/0"  #: never asked for
MAX_TRIES = 100  #: of one task: a handler may ask for any number by RetryAfter

_encode = msgspec.json.Encoder(enc_hook=to_plain).encode


class InlineClient(Remembers, Client):
    """A Client without Redis, for tests: a handler runs where its task is enqueued, before ``enqueue`` returns.

    All else is as in production: tasks and options are checked, the message is encoded and decoded, the payload is
    validated by the handler, middleware and hooks are called, timeouts and retries count, results are encoded. Nothing
    is waited for: scheduled tasks and retries run at once.

    Args:
        mux: the handlers.
        state: what the lifespan of the server would have yielded.
        raises: raise what a handler raised, at its first try, where the task was enqueued. False: as in production it
            is tried again, and goes to the archive in the end; ``enqueue`` returns what became of it.
        on_enqueue: as of :class:`~aioasynq.Client`.
        options: of a client, as ``max_payload``.

    Raises:
        TypeError: *mux* is no ServeMux.
    """

    def __init__(
        self,
        mux: ServeMux,
        *,
        state: Any = None,
        raises: bool = True,
        on_enqueue: EnqueueHook | Iterable[EnqueueHook] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(mux, ServeMux):
            raise TypeError(f"mux must be a ServeMux, got {mux!r}")
        super().__init__(NOWHERE, on_enqueue=enqueue_hooks(on_enqueue), **options)
        self.enqueued = []
        self._mux = mux
        self._state = state
        self._raises = raises
        self._config = Config()
        self._ended: dict[tuple[str, str], TaskInfo] = {}  # those that are kept: with a retention, or archived
        self._running: set[tuple[str, str]] = set()
        self._locks: set[str] = set()

    async def enqueue(self, task: Task, **options: Unpack[OptionsDict]) -> TaskInfo:
        """Run the handler of *task*, and return what became of it: ``completed`` or ``archived``.

        Raises:
            TaskIDConflictError, DuplicateTaskError: of a task that runs, or is kept, as in production.
            ValueError, TypeError: an argument is wrong, or the task is for a group, of which there are none here.
            ServerStateError: its handler takes a ``Context[State]``, and *state* is none; a server would not start.
            BaseException: whatever its handler raised, unless ``raises=False``.
        """
        self._check_open()
        composed = compose(task, Options.of(**options) if options else EMPTY, time.time())
        return await self._process(task, self._checked(composed))

    async def enqueue_many(
        self, tasks: Iterable[Task], **options: Unpack[OptionsDict]
    ) -> list[TaskInfo | AioasynqError]:
        """The same one after another; every task is checked before the first one runs.

        Returns:
            For each task its TaskInfo, or the error why it was not taken.
        """
        if isinstance(tasks, Task):
            raise TypeError(f"tasks must be a list of tasks or another iterable, got one task: {tasks!r}")
        self._check_open()
        common, now = Options.of(**options) if options else EMPTY, time.time()
        work = [(task, self._checked(compose(task, common, now))) for task in tasks]
        infos: list[TaskInfo | AioasynqError] = []
        for task, composed in work:
            try:
                infos.append(await self._process(task, composed))
            except (TaskIDConflictError, DuplicateTaskError) as exc:
                infos.append(exc)
        return infos

    async def result(
        self, task: TaskInfo | str, *, queue: str | None = None, timeout: float | None = None, raw: bool = False
    ) -> Any:
        """What a handler returned, as ``Client.result`` returns it; *timeout* is for nothing here."""
        self._check_open()
        del timeout
        queue, task_id = whose(task, queue)
        check_retention(task)
        ended = self._ended.get((queue, task_id))
        if ended is None:
            raise TaskNotFoundError(queue, task_id)
        if ended.state is TaskState.ARCHIVED:
            raise TaskFailedError(queue, task_id, ended.last_err)
        return value_of(ended.result, raw=raw)

    def watch(self, task: TaskInfo | str, *, queue: str | None = None) -> AsyncGenerator[Progress]:
        """How far a task had come when it ended, if its handler said so, and it is kept."""
        self._check_open()
        queue, task_id = whose(task, queue)
        return self._last_step(queue, task_id, is_known=not isinstance(task, str))

    async def _last_step(self, queue: str, task_id: str, *, is_known: bool) -> AsyncGenerator[Progress]:
        ended = self._ended.get((queue, task_id))
        if ended is None and not is_known:
            raise TaskNotFoundError(queue, task_id)
        if ended is not None and ended.progress is not None:
            yield ended.progress

    async def ping(self) -> None:
        """There is no Redis to ask."""
        self._check_open()

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    def __repr__(self) -> str:
        return f"<InlineClient of {self._mux!r}{', closed' if self._closed else ''}>"

    # ── a task ──

    async def _process(self, task: Task, composed: Composed) -> TaskInfo:
        msg = decode_task(encode_task(composed.msg))
        key = (msg.queue, msg.id)
        if key in self._running or key in self._ended:
            raise TaskIDConflictError(*key)
        if msg.unique_key in self._locks:
            raise DuplicateTaskError(*key)
        stored = task_info(msg, composed.state, composed.next_process_at)
        self.enqueued.append(stored)
        if self._hooks:
            await tell("on_enqueue", self._hooks, task, stored)
        self._running.add(key)
        if msg.unique_key:
            self._locks.add(msg.unique_key)
        try:
            steps: list[Progress] = []
            ended = await self._try(msg, steps)
        finally:
            self._running.discard(key)
            self._locks.discard(msg.unique_key)
        ended = msgspec.structs.replace(ended, progress=steps[-1] if steps else None)
        if ended.state is TaskState.ARCHIVED or ended.retention:
            self._ended[key] = ended
        return ended

    async def _try(self, msg: TaskMessage, steps: list[Progress]) -> TaskInfo:
        """Try it until it has ended."""
        ends = self._mux.ends(msg.type)
        for _ in range(MAX_TRIES):
            msg = decode_task(encode_task(msg))  # as the next server would find it
            leased = Leased(msg.queue, msg.id, msg, "")
            written: list[bytes] = []
            now = time.time()
            ends_at = msg.effective_deadline(now)
            task = _received(msg, ends_at, written.append, steps.append)
            value, error = await self._run(msg, task, ends_at - now)
            result: Outcome
            if error is None:
                try:
                    data = _stored(msg, value)
                except TypeError as exc:
                    error, result = exc, Killed(leased, str(exc))
                else:
                    await tell("on_success", ends.hooks.success, task, value)
                    return self._completed(msg, written[-1] if data is None and written else data)
            else:
                result = verdict(leased, task, error, ends, self._config)
            is_failure = isinstance(result, Killed) or (isinstance(result, Failed) and result.is_failure)
            if is_failure:
                await tell("on_failure", ends.hooks.failure, task, error)
                msg.error_msg, msg.last_failed_at = error_text(error), int(time.time())
                if self._raises:
                    raise error
            if isinstance(result, Killed):
                await tell("on_archive", ends.hooks.archive, task, error)
                return task_info(msg, TaskState.ARCHIVED)
            if not isinstance(result, Failed):  # revoked
                return self._completed(msg, None)
            await tell("on_retry", ends.hooks.retry, task, error, result.delay)
            msg.retried += is_failure
        raise RuntimeError(f"task {msg.id!r} ({msg.type}) asked for more than {MAX_TRIES} tries, one after another")

    async def _run(self, msg: TaskMessage, task: Task, left: float) -> tuple[Any, BaseException | None]:
        """Call the handler, as a server does: in an asyncio task and a context of its own, for a limited time."""
        context = copy_context()
        context.run(CURRENT.set, task)
        context.run(STATE.set, self._state)
        if left <= 0 and msg.deadline:
            return None, TaskDeadlineError()  # its handler is not called
        running = asyncio.get_running_loop().create_task(self._call(task), context=context)
        try:
            await asyncio.wait({running}, timeout=max(0.0, left))
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait({running})
            raise
        if not running.done():
            running.cancel()
            await asyncio.wait({running})
            by_deadline = bool(msg.deadline) and task._ends >= msg.deadline  # noqa: SLF001 - as a server has it
            return None, TaskDeadlineError() if by_deadline else TaskTimeoutError(msg.timeout or DEFAULT_TIMEOUT)
        if running.cancelled():
            return None, TaskCancelledError()
        error = running.exception()
        return (None, error) if error is not None else (running.result(), None)

    async def _call(self, task: Task) -> Any:
        hooks = self._mux.ends(task.type).hooks
        if hooks.start:
            await tell("on_start", hooks.start, task)
        return await self._mux(task)

    def _completed(self, msg: TaskMessage, result: bytes | None) -> TaskInfo:
        msg.completed_at = int(time.time())
        return task_info(msg, TaskState.COMPLETED, result=result if msg.retention else None)

    def _checked(self, composed: Composed) -> Composed:
        self._size(composed)
        if composed.msg.group_key:
            raise ValueError(
                f"group must not be given to an InlineClient, where no groups wait: use run_until_idle; "
                f"got {composed.msg.group_key!r}"
            )
        for pattern, task_type in self._mux.task_types():
            if pattern == composed.msg.type:
                there = f"this is the state: {self._state!r}; give another one by InlineClient(mux, state=...)"
                check_state(pattern, task_type, self._state, there)
        return composed

    def _check_open(self) -> None:
        self._refuse_fork()
        if self._closed:
            raise RuntimeError("this client is closed; make a new one")

    def _opens_twin(self) -> Callable[[], AbstractAsyncContextManager[Client]]:
        @asynccontextmanager
        async def itself() -> AsyncGenerator[Client]:
            yield self

        return itself


def _received(
    msg: TaskMessage, ends: float, write: Callable[[bytes], object], step: Callable[[Progress], object]
) -> Task:
    async def write_result(data: bytes) -> int:
        write(data)
        return len(data)

    return Task.received(
        msg.type,
        msg.payload,
        msg.headers,
        id=msg.id,
        queue=msg.queue,
        retried=msg.retried,
        max_retry=msg.retry,
        write_result=write_result,
        ends=ends,
        note_progress=lambda _, said: step(said),
    )


def _stored(msg: TaskMessage, value: Any) -> bytes | None:
    """What is stored of what a handler returned.

    Raises:
        TypeError: it cannot be; a server archives the task with this text.
    """
    if not msg.retention or value is None or isinstance(value, bytes):
        return value if msg.retention else None
    try:
        return _encode(value)
    except BaseException as exc:  # a hook of the value's class may raise anything
        kind = type(value).__name__
        raise TypeError(
            f"the result of the handler, of class {kind}, cannot be stored as JSON: {error_text(exc)}"
        ) from exc
