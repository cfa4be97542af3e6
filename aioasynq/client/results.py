"""Results: waits until tasks have ended, and watches how far they are.

A Python server tells whoever waits, over a channel of the queue; it looks whether anybody does. A Go server tells
nobody, and what is told may be missed, so a waiter also looks for itself now and then.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec

from aioasynq.errors import BrokerError, TaskFailedError, TaskNotFoundError
from aioasynq.rdb.failures import FAILURES
from aioasynq.task import Progress, TaskState

if TYPE_CHECKING:
    from aioasynq.rdb.rdb import RDB

log = logging.getLogger(__name__)

FIRST_LOOK, LONGEST_LOOK = 0.1, 1.0  #: seconds between two looks, growing from the first to the second
LISTEN_LIMIT = 1.0  #: seconds that the first look waits until what is told would be heard
TOLD_FOR = 60  #: seconds that servers tell of ends after somebody has said that he waits
SILENCE = 5.0  #: seconds without news after which a listener sees whether it is still needed
RECONNECT = 1.0  #: seconds between two tries to listen

_decode = msgspec.json.Decoder().decode


class Results:
    """Those who wait for the ends of tasks, on one event loop."""

    def __init__(self, rdb: RDB) -> None:
        self._rdb = rdb
        self._waiting: defaultdict[str, dict[str, list[asyncio.Event]]] = defaultdict(dict)  # by queue, by id
        self._listeners: dict[str, _Listener] = {}

    async def wait(self, queue: str, task_id: str, *, raw: bool) -> Any:
        """What the handler of a task returned, once it has.

        Raises:
            TaskFailedError: it has failed for good.
            TaskNotFoundError: there is no such task, or none any more.
            BrokerError: Redis does not answer.
        """
        with self._told(queue, task_id) as told:
            await self._until_heard(queue)
            pause = FIRST_LOOK
            while True:
                told.clear()
                end = await self._rdb.read_end(queue, task_id)
                if end is None:
                    raise TaskNotFoundError(queue, task_id)
                if end.state == TaskState.COMPLETED:
                    return value_of(end.result, raw=raw)
                if end.state == TaskState.ARCHIVED:
                    raise TaskFailedError(queue, task_id, end.error)
                await _until(told, pause)
                pause = min(2 * pause, LONGEST_LOOK)

    async def watch(self, queue: str, task_id: str, *, is_known: bool) -> AsyncGenerator[Progress]:
        """How far a task is, each time that has changed, until it has ended.

        Raises:
            TaskNotFoundError: there is no such task, although it is not *is_known* that there was one.
            BrokerError: Redis does not answer.
        """
        with self._told(queue, task_id) as told:
            await self._until_heard(queue)
            seen: Progress | None = None
            pause = FIRST_LOOK
            while True:
                told.clear()
                step = await self._rdb.read_step(queue, task_id)
                if step is None:
                    if is_known:
                        return
                    raise TaskNotFoundError(queue, task_id)
                is_known = True
                if step.progress is not None and step.progress != seen:
                    seen = step.progress
                    pause = FIRST_LOOK
                    yield seen
                if step.state in {TaskState.COMPLETED, TaskState.ARCHIVED}:
                    return
                await _until(told, pause)
                pause = min(2 * pause, LONGEST_LOOK)

    async def close(self) -> None:
        """Listen no more."""
        tasks = [listener.task for listener in self._listeners.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @contextmanager
    def _told(self, queue: str, task_id: str) -> Generator[asyncio.Event]:
        """An event that is set whenever something is told of a task."""
        told = asyncio.Event()
        self._waiting[queue].setdefault(task_id, []).append(told)
        try:
            yield told
        finally:
            others = self._waiting[queue][task_id]
            others.remove(told)
            if not others:
                del self._waiting[queue][task_id]

    async def _until_heard(self, queue: str) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LISTEN_LIMIT):
                await self._listen(queue).wait()

    def _listen(self, queue: str) -> asyncio.Event:
        listener = self._listeners.get(queue)
        if listener is None:
            listener = self._listeners[queue] = _Listener(self._rdb, queue, self._waiting[queue])
            listener.task.add_done_callback(lambda _: self._listeners.pop(queue, None))
        return listener.heard


class _Listener:
    """Hears of tasks of one queue that have ended or got on, as long as somebody waits."""

    def __init__(self, rdb: RDB, queue: str, waiting: dict[str, list[asyncio.Event]]) -> None:
        self._rdb = rdb
        self._queue = queue
        self._waiting = waiting
        self.heard = asyncio.Event()  #: set while what is told is heard
        self.task = asyncio.get_running_loop().create_task(self._run(), name="aioasynq results")

    async def _run(self) -> None:
        while self._waiting:
            pubsub = self._rdb.pubsub()
            try:
                await pubsub.subscribe(self._rdb.ends_channel(self._queue))
                await self._hear(pubsub)
            except (*FAILURES, BrokerError) as exc:
                log.debug("ends of tasks of queue %s are looked for only: %s", self._queue, exc)
            finally:
                self.heard.clear()
                with suppress(*FAILURES, RuntimeError):
                    await pubsub.aclose()
            if self._waiting:
                await asyncio.sleep(RECONNECT)

    async def _hear(self, pubsub: Any) -> None:
        said = 0.0
        loop = asyncio.get_running_loop()
        await pubsub.get_message(timeout=LISTEN_LIMIT)  # that of the subscription
        while self._waiting:
            if loop.time() >= said:
                await self._rdb.await_ends(self._queue, TOLD_FOR)
                said = loop.time() + TOLD_FOR / 2
                self.heard.set()
            message = await pubsub.get_message(timeout=SILENCE)
            if message is not None and isinstance(message["data"], bytes):
                for told in self._waiting.get(message["data"].decode("utf-8", "surrogateescape"), ()):
                    told.set()


async def _until(told: asyncio.Event, limit: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(limit):
            await told.wait()


def value_of(result: bytes | None, *, raw: bool) -> Any:
    """What a handler returned, of what is stored of it: JSON is decoded, unless *raw*, and bytes stay bytes."""
    if raw or result is None:
        return result
    try:
        return _decode(result)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return result
