"""Batcher: what concurrent enqueues share.

What arrives while a call is under way goes together in the next; a lone enqueue is one round trip with no added wait.
Each caller gets its own answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from aioasynq.rdb.base import MAX_BATCH, MAX_BATCH_BYTES, Receipt, Receipts
from aioasynq.rdb.lifecycle import Scheduled, ScheduledUnique, Unique

if TYPE_CHECKING:
    from aioasynq.compose import Composed
    from aioasynq.errors import TaskError
    from aioasynq.rdb.rdb import RDB

MAX_WAITING = 10_000  #: tasks that wait to be sent; past that, enqueue itself waits
MAX_WAITING_BYTES = 64 << 20  #: bytes of payloads that wait to be sent

Answer: TypeAlias = "asyncio.Future[TaskError | None]"
Write: TypeAlias = Callable[[Sequence[Any], Receipt], Coroutine[Any, Any, "list[TaskError | None]"]]


class _Lane:
    """Tasks on one route to one queue: a call at a time, each with its receipt."""

    __slots__ = ("item", "receipts", "task", "waiting", "write")

    def __init__(self, receipts: Receipts, write: Write, item: Callable[[Composed], object]) -> None:
        self.receipts = receipts
        self.write = write
        self.item = item
        self.waiting: deque[tuple[Composed, Answer]] = deque()
        self.task: asyncio.Task[None] | None = None


class Batcher:
    """Gathers the enqueues of one client on one event loop. *name* makes its receipts its own."""

    def __init__(self, rdb: RDB, name: str) -> None:
        self._rdb = rdb
        self._name = name
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._count = 0
        self._bytes = 0
        self._room = asyncio.Condition()
        self._pressed = 0  # callers that wait for room

    @property
    def full(self) -> bool:
        """Whether the next enqueue has to wait."""
        return self._count >= MAX_WAITING or self._bytes >= MAX_WAITING_BYTES

    async def wait_for_room(self) -> None:
        """Wait until there is room for one more task."""
        self._pressed += 1
        try:
            async with self._room:
                await self._room.wait_for(lambda: not self.full)
        finally:
            self._pressed -= 1

    def add(self, composed: Composed) -> Answer:
        """Take a task; its answer is None, or why it was not stored, or a BrokerError raised.

        Cancelling the answer withdraws the task if it was not sent yet; one that was sent stands.
        """
        key = (composed.msg.queue, composed.route)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = self._open_lane(*key)
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()
        lane.waiting.append((composed, answer))
        self._count += 1
        self._bytes += len(composed.msg.payload or b"")
        if lane.task is None:
            # Nobody but us holds this task, so no cancellation from outside can tear a write.
            lane.task = loop.create_task(self._empty(lane), name="aioasynq enqueue")
        return answer

    async def drain(self) -> None:
        """Wait until all is sent and answered."""
        while tasks := [lane.task for lane in self._lanes.values() if lane.task is not None]:
            await asyncio.wait(tasks)

    def _open_lane(self, queue: str, route: str) -> _Lane:  # noqa: ARG002 - lanes are by queue, operations are not
        operation = getattr(self._rdb, route)
        return _Lane(
            Receipts(f"{self._name}:{route}"),
            lambda items, receipt: operation(items, receipt=receipt),
            _ITEMS[route],
        )

    async def _empty(self, lane: _Lane) -> None:
        try:
            while lane.waiting:
                batch = self._take(lane.waiting)
                if not batch:
                    continue
                try:
                    answers = await lane.write([lane.item(composed) for composed, _ in batch], lane.receipts.next())
                except Exception as exc:  # noqa: BLE001 - goes to those who wait for an answer
                    for _, answer in batch:
                        if not answer.done():
                            answer.set_exception(exc)
                else:
                    for (_, answer), refusal in zip(batch, answers, strict=True):
                        if not answer.done():
                            answer.set_result(refusal)
                if self._pressed:
                    async with self._room:
                        self._room.notify_all()
        finally:
            lane.task = None

    def _take(self, waiting: deque[tuple[Composed, Answer]]) -> list[tuple[Composed, Answer]]:
        """The next tasks that fit into one call, without those whose callers have withdrawn them."""
        batch: list[tuple[Composed, Answer]] = []
        size = 0
        while waiting and len(batch) < MAX_BATCH:
            composed, answer = waiting[0]
            length = len(composed.msg.payload or b"")
            if not answer.cancelled():
                size += length
                if batch and size > MAX_BATCH_BYTES:
                    break
                batch.append((composed, answer))
            waiting.popleft()
            self._count -= 1
            self._bytes -= length
        return batch


_ITEMS: dict[str, Callable[[Any], object]] = {
    "enqueue": lambda composed: composed.msg,
    "enqueue_unique": lambda composed: Unique(composed.msg, composed.unique_ttl),
    "schedule": lambda composed: Scheduled(composed.msg, composed.when),
    "schedule_unique": lambda composed: ScheduledUnique(composed.msg, composed.when, composed.unique_ttl),
    "add_to_group": lambda composed: composed.msg,
    "add_to_group_unique": lambda composed: Unique(composed.msg, composed.unique_ttl),
}
