"""Client.enqueue: a Task and options in, a TaskInfo out."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack

from aioasynq.client.batcher import Answers, Batcher
from aioasynq.client.portal import Portal, is_in_loop
from aioasynq.client.results import Results
from aioasynq.compose import Composed, compose, task_info
from aioasynq.errors import AioasynqError
from aioasynq.hooks import EnqueueHook, enqueue_hooks, tell
from aioasynq.keys import check_queue_name
from aioasynq.observer import Observer, Sending, check_observers
from aioasynq.options import EMPTY, Options, OptionsDict
from aioasynq.rdb.base import MAX_BATCH, OPERATION_TIMEOUT
from aioasynq.rdb.rdb import RDB, open_rdb
from aioasynq.rdb.started import Copies
from aioasynq.task import DEFAULT_QUEUE, Progress, Task, TaskInfo

if TYPE_CHECKING:
    from aioasynq.rdb.connection import ToRedis

WAIT_TIMEOUT = 1.0  #: seconds that replicas are waited for
MAX_REPLICAS = 100
MAX_PAYLOAD = 10_000_000  #: bytes, headers included; Redis's own limit is 512 MB


class Client:
    """Puts tasks into queues.

    For example::

        async with Client("redis://localhost:6379/0") as client:
            await client.enqueue(Task("email:welcome", b"42"), process_in=60)

    Concurrent calls share a round trip. A client belongs to the event loop, thread and process it was first used in;
    :meth:`enqueue_sync` and its like are for code without a loop, and may be called from any thread::

        with Client() as client:
            client.enqueue_sync(Task("email:welcome", b"42"))

    Args:
        redis: a URL, a ``redis.asyncio`` client (never closed here), an :class:`RDB`, or None for the URL in
            ``AIOASYNQ_REDIS_URL``.
        max_payload: bytes a payload may have, headers included.
        operation_timeout: seconds a call to Redis may take, repeats after a lost connection included.
        on_enqueue: called with a task and its TaskInfo once Redis has it, before :meth:`enqueue` returns; one function
            or a list, plain or async. What it raises is logged: the task is there.
        observers: told of what is enqueued, for traces and metrics; :mod:`aioasynq.otel` has one.
        wait_replicas: replicas that have to have a task before :meth:`enqueue` returns; 0 waits for none.
        wait_timeout: seconds they are waited for, less than *operation_timeout*.
    """

    def __init__(
        self,
        redis: ToRedis | RDB | None = None,
        *,
        max_payload: int = MAX_PAYLOAD,
        operation_timeout: float = OPERATION_TIMEOUT,
        on_enqueue: EnqueueHook | Iterable[EnqueueHook] | None = None,
        observers: Sequence[Observer] = (),
        wait_replicas: int = 0,
        wait_timeout: float = WAIT_TIMEOUT,
    ) -> None:
        if max_payload < 0:
            raise ValueError(f"max_payload must be a number of bytes, 0 or more, got {max_payload!r}")
        if not 0 < operation_timeout <= 50:
            raise ValueError(f"operation_timeout must be more than 0 and at most 50 seconds, got {operation_timeout!r}")
        _check_wait(wait_replicas, wait_timeout, operation_timeout)
        self._hooks = enqueue_hooks(on_enqueue)
        self._rdb = open_rdb(redis, operation_timeout=operation_timeout)
        self._store = self._rdb  #: to put tasks into queues
        if wait_replicas:
            self._store = self._rdb.view(copies=Copies(wait_replicas, wait_timeout))
        self._observers = check_observers(observers)
        self._max_payload = max_payload
        self._patience = operation_timeout
        self._opens = partial(  # one like this
            _twin,
            self._rdb,
            max_payload=max_payload,
            operation_timeout=operation_timeout,
            on_enqueue=self._hooks,
            observers=self._observers,
            wait_replicas=wait_replicas,
            wait_timeout=wait_timeout,
        )
        self._batcher: Batcher | None = None
        self._results: Results | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._closed = False
        self._portal: Portal[Client] | None = None
        self._portal_lock = threading.Lock()

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
            NotReplicatedError: it is stored, but too few replicas have it (``wait_replicas`` of the client).
            ValueError, TypeError: an argument is wrong; nothing was sent.
        """
        batcher = self._ready()
        composed = compose(task, Options.of(**options) if options else EMPTY, time.time())
        size = self._size(composed)
        sending = self._observe([composed]) if self._observers else None
        try:
            if batcher.full:
                await batcher.wait_for_room()
            answer = batcher.answer()
            batcher.add(composed, size, answer)
            info = _info(composed)  # while Redis is at work
            refusal = await answer.all
        except BaseException as exc:
            if sending is not None:
                sending.sent(exc)
            raise
        if sending is not None:
            sending.sent(refusal)
        if refusal is not None:
            raise refusal
        if self._hooks:
            await tell("on_enqueue", self._hooks, task, info)
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
        tasks = list(tasks)
        work = [compose(task, common, now) for task in tasks]
        sizes = [self._size(composed) for composed in work]
        if not work:
            return []
        sending = self._observe(work) if self._observers else None
        answers = batcher.answers(len(work))
        try:
            await _hand_over(batcher, work, sizes, answers)
            infos: list[TaskInfo | AioasynqError] = [_info(composed) for composed in work]  # while Redis is at work
            refusals = await answers.all
        except BaseException as exc:  # cancelled, or Redis is silent
            answers.all.cancel()
            if sending is not None:
                sending.sent(exc)
            raise
        if sending is not None:
            sending.sent(refusals)
        for index, refusal in enumerate(refusals):
            if isinstance(refusal, AioasynqError):
                infos[index] = refusal
            elif refusal is not None:
                raise refusal
        if self._hooks:
            await self._tell(tasks, infos)
        return infos

    async def _tell(self, tasks: Iterable[Task], infos: Iterable[TaskInfo | AioasynqError]) -> None:
        for task, info in zip(tasks, infos, strict=True):
            if isinstance(info, TaskInfo):
                await tell("on_enqueue", self._hooks, task, info)

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
        queue, task_id = whose(task, queue)
        check_retention(task)
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be a number of seconds, 0 or more, or None, got {timeout!r}")
        try:
            async with asyncio.timeout(timeout):
                return await self._waits().wait(queue, task_id, raw=raw)
        except TimeoutError:
            raise TimeoutError(f"task {task_id!r} in queue {queue!r} has not ended within {timeout:g} s") from None

    def watch(self, task: TaskInfo | str, *, queue: str | None = None) -> AsyncGenerator[Progress]:
        """How far a task is, each time its handler has said so, until it has ended; for ``async for``.

        First comes what was said last, if anything was. Steps may be left out, the last one is not, unless the task is
        gone with it, as one without ``retention`` is. A task that waits for its next try has not ended. How it ended,
        :meth:`result` says.

        Args:
            task: what :meth:`enqueue` returned, or an id.
            queue: of an id; ``default`` if not given.

        Raises:
            TaskNotFoundError: there is no task with this id. One that :meth:`enqueue` returned has ended then.
            BrokerError: Redis does not answer.
            ValueError, TypeError: an argument is wrong.
        """
        self._ready()
        queue, task_id = whose(task, queue)
        return self._waits().watch(queue, task_id, is_known=not isinstance(task, str))

    def _waits(self) -> Results:
        if self._results is None:
            self._results = Results(self._rdb)
        return self._results

    async def ping(self) -> None:
        """Ask Redis for a sign of life.

        Raises:
            BrokerError: there is none.
        """
        self._ready()
        await self._rdb.ping()

    # ── without a loop ──

    def enqueue_sync(self, task: Task, **options: Unpack[OptionsDict]) -> TaskInfo:
        """As :meth:`enqueue`, for code without an event loop: it waits for Redis. Safe from any thread.

        Calls of all threads share one connection and its round trips, in a thread that the first call starts. Hooks
        run there.

        Raises:
            RuntimeError: there is an event loop in this thread, which this would block; the client is closed, or was
                made before a fork.
            AioasynqError, ValueError, TypeError: as :meth:`enqueue`.
        """
        return self._open_portal("enqueue").call(lambda client: client.enqueue(task, **options))

    def enqueue_many_sync(
        self, tasks: Iterable[Task], **options: Unpack[OptionsDict]
    ) -> list[TaskInfo | AioasynqError]:
        """As :meth:`enqueue_many`, for code without an event loop; see :meth:`enqueue_sync`."""
        if not isinstance(tasks, Task):
            tasks = list(tasks)  # here: an iterator of the caller's may not be fit for another thread
        return self._open_portal("enqueue_many").call(lambda client: client.enqueue_many(tasks, **options))

    def result_sync(
        self, task: TaskInfo | str, *, queue: str | None = None, timeout: float | None = None, raw: bool = False
    ) -> Any:
        """As :meth:`result`, for code without an event loop; see :meth:`enqueue_sync`.

        Raises:
            RuntimeError: as :meth:`enqueue_sync`; or the client was closed meanwhile.
        """
        portal = self._open_portal("result")
        return portal.call(lambda client: client.result(task, queue=queue, timeout=timeout, raw=raw), waits=True)

    def submit(self, task: Task, **options: Unpack[OptionsDict]) -> Future[TaskInfo]:
        """As :meth:`enqueue_sync`, but wait for nothing: for code that does not know in which loop it runs, if any.

        ``await asyncio.wrap_future(client.submit(task))`` works in any loop, also in many that come and go.
        """
        return self._open_portal(None).submit(lambda client: client.enqueue(task, **options))

    def close(self) -> None:
        """As :meth:`aclose`, for code without an event loop.

        Raises:
            RuntimeError: the client was used in an event loop, where it has to be closed.
        """
        self._refuse_fork()
        if self._batcher is not None:
            raise RuntimeError("this client was used in an event loop: close it there, by await client.aclose()")
        with self._portal_lock:
            self._closed = True
            portal = self._portal
        if portal is not None:
            portal.close()

    def _open_portal(self, blocks: str | None) -> Portal[Client]:
        """The way to a client like this one, in a thread of its own.

        Raises:
            RuntimeError: it would block a loop, is closed, or belongs to another process.
        """
        self._refuse_fork()
        if blocks is not None and is_in_loop():
            raise RuntimeError(
                f"{blocks}_sync would block the event loop of this thread: await client.{blocks}(...) there"
            )
        with self._portal_lock:
            if self._closed:
                raise RuntimeError("this client is closed; make a new one")
            if self._portal is None:
                self._portal = Portal(self._opens_twin())
                # at exit, or when nobody has the client any more; so nothing there may know it
                weakref.finalize(self, self._portal.close)
            return self._portal

    def _opens_twin(self) -> Callable[[], AbstractAsyncContextManager[Client]]:
        return self._opens

    async def aclose(self) -> None:
        """Let what was enqueued be sent, then close; a client that was handed in stays open."""
        self._closed = True
        if self._portal is not None:
            await asyncio.to_thread(self._portal.close)
        try:
            if self._batcher is not None:
                await self._batcher.drain()
            if self._results is not None:
                await self._results.close()
        finally:
            if self._store is not self._rdb:
                await self._store.aclose()
            await self._rdb.aclose()

    def __repr__(self) -> str:
        return f"<Client {self._rdb.address}{', closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        self._refuse_fork()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self._ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _size(self, composed: Composed) -> int:
        """Its bytes, if those are not too many."""
        size = composed.msg.size
        if size > self._max_payload:
            what = "payload and headers" if composed.msg.headers else "payload"
            limit = f"{self._max_payload:,} bytes (max_payload)"
            raise ValueError(f"{what} must have at most {limit}, got {size:,} for task {composed.msg.type!r}")
        return size

    def _observe(self, work: list[Composed]) -> Sending:
        return Sending(self._observers, [composed.msg for composed in work], address=self._rdb.address)

    def _ready(self) -> Batcher:
        """The batcher of this loop.

        Raises:
            RuntimeError: the client is closed, or belongs to another loop, thread or process.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a forked process has none, whatever ran when it was forked
            self._refuse_fork()
            raise
        if loop is self._loop and self._batcher is not None and not self._closed:
            return self._batcher
        self._refuse_fork()
        if self._closed:
            raise RuntimeError("this client is closed; make a new one")
        if self._batcher is not None:
            raise RuntimeError(
                "this client belongs to another event loop or thread; make one in each, or call submit(...)"
            )
        self._loop = loop
        self._batcher = Batcher(self._store, uuid.uuid4().hex, self._patience)
        return self._batcher

    def _refuse_fork(self) -> None:
        if self._pid != os.getpid():
            raise RuntimeError("this client was made before a fork; make one in each process")


@asynccontextmanager
async def _twin(rdb: RDB, **settings: Any) -> AsyncGenerator[Client]:
    """A client with these settings, and connections of its own, in this loop."""
    async with rdb.twin() as twin, Client(twin, **settings) as client:
        yield client


async def _hand_over(batcher: Batcher, work: list[Composed], sizes: list[int], answers: Answers) -> None:
    worth, last = batcher.worth(len(work)), len(work) - 1
    for index, (composed, size) in enumerate(zip(work, sizes, strict=True)):
        if batcher.full:
            await batcher.wait_for_room()
        batcher.add(composed, size, answers, index, worth if index < last else 1)
        if index % MAX_BATCH == MAX_BATCH - 1:
            await asyncio.sleep(0)  # so that answers come in, and others have a turn


def _info(composed: Composed) -> TaskInfo:
    return task_info(composed.msg, composed.state, composed.next_process_at)


def _check_wait(replicas: int, seconds: float, operation_timeout: float) -> None:
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise TypeError(f"wait_replicas must be an int, got {replicas!r}")
    if not 0 <= replicas <= MAX_REPLICAS:
        raise ValueError(f"wait_replicas must be a number of replicas from 0 to {MAX_REPLICAS}, got {replicas!r}")
    if replicas and not 0 < seconds < operation_timeout:
        raise ValueError(
            f"wait_timeout must be more than 0 and less than operation_timeout, {operation_timeout:g} seconds, "
            f"got {seconds!r}"
        )


def whose(task: TaskInfo | str, queue: str | None) -> tuple[str, str]:
    """Queue and id of a task that somebody waits for."""
    if isinstance(task, str):
        name = DEFAULT_QUEUE if queue is None else queue
        check_queue_name(name)
        return name, task
    if not isinstance(task, TaskInfo):
        raise TypeError(f"task must be what enqueue returned, or an id, got {task!r}")
    if queue is not None:
        raise ValueError(f"queue is for an id; what enqueue returned names its own, {task.queue!r}, got {queue!r}")
    return task.queue, task.id


def check_retention(task: TaskInfo | str) -> None:
    """Refuse to wait for the result of a task that keeps none."""
    if isinstance(task, TaskInfo) and not task.retention:
        raise ValueError(
            f"task {task.id!r} ({task.type}) has no retention, so its result is not kept: enqueue it with retention=…"
        )
