"""Client.enqueue: a Task and options in, a TaskInfo out."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self, Unpack

from aioasynq.client.batcher import Batcher
from aioasynq.client.results import Results
from aioasynq.compose import Composed, compose, task_info
from aioasynq.errors import AioasynqError
from aioasynq.keys import check_queue_name
from aioasynq.options import EMPTY, Options, OptionsDict
from aioasynq.rdb.base import OPERATION_TIMEOUT
from aioasynq.rdb.rdb import RDB, open_rdb
from aioasynq.task import DEFAULT_QUEUE, Task, TaskInfo

if TYPE_CHECKING:
    from aioasynq.rdb.connection import AnyRedis

MAX_PAYLOAD = 10_000_000  #: bytes, headers included; Redis's own limit is 512 MB


class Client:
    """Puts tasks into queues.

    For example::

        async with Client("redis://localhost:6379/0") as client:
            await client.enqueue(Task("email:welcome", b"42"), process_in=60)

    Concurrent calls share a round trip. A client belongs to the event loop, thread and process it was first used in.

    Args:
        redis: a URL, a ``redis.asyncio`` client (never closed here), an :class:`RDB`, or None for the URL in
            ``AIOASYNQ_REDIS_URL``.
        max_payload: bytes a payload may have, headers included.
        operation_timeout: seconds a call to Redis may take, repeats after a lost connection included.
    """

    def __init__(
        self,
        redis: str | AnyRedis | RDB | None = None,
        *,
        max_payload: int = MAX_PAYLOAD,
        operation_timeout: float = OPERATION_TIMEOUT,
    ) -> None:
        if max_payload < 0:
            raise ValueError(f"max_payload must be a number of bytes, 0 or more, got {max_payload!r}")
        if not 0 < operation_timeout <= 50:
            raise ValueError(f"operation_timeout must be more than 0 and at most 50 seconds, got {operation_timeout!r}")
        self._rdb = open_rdb(redis, operation_timeout=operation_timeout)
        self._patience = operation_timeout
        self._max_payload = max_payload
        self._batcher: Batcher | None = None
        self._results: Results | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._closed = False

    async def enqueue(self, task: Task, **options: Unpack[OptionsDict]) -> TaskInfo:
        """Store *task*, and return what is known of it, once Redis has it.

        Options: ``queue``, ``max_retry``, ``task_id``, ``timeout``, ``deadline``, ``unique``, ``process_at``,
        ``process_in``, ``retention``, ``group``, ``headers``; see :class:`~aioasynq.options.OptionsDict`. Durations are
        seconds or a ``timedelta``, moments aware ``datetime`` or unix seconds. What is given here wins over the task.

        If the caller is cancelled before the task was sent, it is withdrawn; after that it stands.

        Raises:
            TaskIDConflictError: the queue holds a task with this id already.
            DuplicateTaskError: a task with the same type and payload holds the unique lock.
            BrokerError: Redis did not take it in time; ``maybe_done`` tells whether it may be stored all the same.
            ValueError, TypeError: an argument is wrong; nothing was sent.
        """
        batcher = self._ready()
        composed = self._compose(task, Options.of(**options) if options else EMPTY, time.time())
        if batcher.full:
            await batcher.wait_for_room()
        answers = batcher.answers(1)
        batcher.add(composed, answers)
        info = _info(composed)  # while Redis is at work
        [refusal] = await answers.all
        if refusal is not None:
            raise refusal
        return info

    async def enqueue_many(
        self, tasks: Iterable[Task], **options: Unpack[OptionsDict]
    ) -> list[TaskInfo | AioasynqError]:
        """Store many tasks in as few calls as possible; options given here are common to all.

        Every task is checked before the first is sent. A cancelled caller withdraws what was not sent yet.

        Returns:
            For each task, in order, its TaskInfo, or the error why it was not stored (or may not have been).

        Raises:
            ValueError, TypeError: one of the tasks or options is wrong; nothing was sent.
        """
        if isinstance(tasks, Task):
            raise TypeError(f"tasks must be a list of tasks or another iterable, got one task: {tasks!r}")
        batcher = self._ready()
        common = Options.of(**options) if options else EMPTY
        now = time.time()
        work = [self._compose(task, common, now) for task in tasks]
        if not work:
            return []
        answers = batcher.answers(len(work))
        try:
            for index, composed in enumerate(work):
                if batcher.full:
                    await batcher.wait_for_room()
                batcher.add(composed, answers, index)
            infos: list[TaskInfo | AioasynqError] = [_info(composed) for composed in work]  # while Redis is at work
            refusals = await answers.all
        except BaseException:  # cancelled, or Redis is silent
            answers.all.cancel()
            raise
        for index, refusal in enumerate(refusals):
            if isinstance(refusal, AioasynqError):
                infos[index] = refusal
            elif refusal is not None:
                raise refusal
        return infos

    async def result(
        self, task: TaskInfo | str, *, queue: str | None = None, timeout: float | None = None, raw: bool = False
    ) -> Any:
        """Wait until a task has ended, and return what its handler returned.

        Results are kept for as long as the ``retention`` of the task, which it needs for that.

        Args:
            task: what :meth:`enqueue` returned, or an id.
            queue: of an id; ``default`` if not given.
            timeout: seconds to wait at most; None waits as long as it takes.
            raw: return the bytes that are stored. Else JSON is decoded, and only what is none comes as bytes.

        Raises:
            TaskFailedError: the task has failed for good; with the text of its last error.
            TaskNotFoundError: there is no such task, or none any more: it was deleted, or its retention is over.
            TimeoutError: it has not ended in time.
            BrokerError: Redis does not answer.
            ValueError, TypeError: an argument is wrong, or the task has no retention.
        """
        self._ready()
        queue, task_id = _whose(task, queue)
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be a number of seconds, 0 or more, or None, got {timeout!r}")
        if self._results is None:
            self._results = Results(self._rdb)
        try:
            async with asyncio.timeout(timeout):
                return await self._results.wait(queue, task_id, raw=raw)
        except TimeoutError:
            raise TimeoutError(f"task {task_id!r} in queue {queue!r} has not ended within {timeout:g} s") from None

    async def ping(self) -> None:
        """Ask Redis for a sign of life.

        Raises:
            BrokerError: there is none.
        """
        self._ready()
        await self._rdb.ping()

    async def aclose(self) -> None:
        """Let what was enqueued be sent, then close; a client that was handed in stays open."""
        self._closed = True
        try:
            if self._batcher is not None:
                await self._batcher.drain()
            if self._results is not None:
                await self._results.close()
        finally:
            await self._rdb.aclose()

    def __repr__(self) -> str:
        return f"<Client {self._rdb.address}{', closed' if self._closed else ''}>"

    async def __aenter__(self) -> Self:
        self._ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _compose(self, task: Task, options: Options, now: float) -> Composed:
        composed = compose(task, options, now)
        size = composed.msg.size
        if size > self._max_payload:
            what = "payload and headers" if composed.msg.headers else "payload"
            limit = f"{self._max_payload:,} bytes (max_payload)"
            raise ValueError(f"{what} must have at most {limit}, got {size:,} for task {task.type!r}")
        return composed

    def _ready(self) -> Batcher:
        """The batcher of this loop.

        Raises:
            RuntimeError: the client is closed, or belongs to another loop, thread or process.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop and self._batcher is not None and not self._closed and self._pid == os.getpid():
            return self._batcher
        if self._pid != os.getpid():
            raise RuntimeError("this client was made before a fork; make one in each process")
        if self._closed:
            raise RuntimeError("this client is closed; make a new one")
        if self._batcher is not None:
            raise RuntimeError("this client belongs to another event loop or thread; make one in each")
        self._loop = loop
        self._batcher = Batcher(self._rdb, uuid.uuid4().hex, self._patience)
        return self._batcher


def _info(composed: Composed) -> TaskInfo:
    return task_info(composed.msg, composed.state, composed.next_process_at)


def _whose(task: TaskInfo | str, queue: str | None) -> tuple[str, str]:
    """Queue and id of a task that somebody waits for."""
    if isinstance(task, str):
        name = DEFAULT_QUEUE if queue is None else queue
        check_queue_name(name)
        return name, task
    if not isinstance(task, TaskInfo):
        raise TypeError(f"task must be what enqueue returned, or an id, got {task!r}")
    if queue is not None:
        raise ValueError(f"queue is for an id; what enqueue returned names its own, {task.queue!r}, got {queue!r}")
    if not task.retention:
        raise ValueError(
            f"task {task.id!r} ({task.type}) has no retention, so its result is not kept: enqueue it with retention=…"
        )
    return task.queue, task.id
