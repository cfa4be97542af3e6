"""Batcher: what concurrent enqueues share.

What arrives while a call is under way goes together in the next; a lone enqueue is one round trip with no added wait.
Each caller gets its own answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from aioasynq.errors import BrokerError
from aioasynq.rdb.base import MAX_BATCH, MAX_BATCH_BYTES, Receipt, Receipts
from aioasynq.rdb.lifecycle import Scheduled, ScheduledUnique, Unique
from aioasynq.rdb.pipe import SLOWEST

if TYPE_CHECKING:
    from aioasynq.compose import Composed
    from aioasynq.errors import TaskError
    from aioasynq.rdb.rdb import RDB

MAX_WAITING = 10_000  #: tasks that wait to be sent; past that, enqueue itself waits
GRACE = 0.25  #: seconds for the call under way to say itself why it failed
MAX_WAITING_BYTES = 64 << 20  #: bytes of payloads and headers that wait to be sent

Answer: TypeAlias = "asyncio.Future[TaskError | None]"
_Entry: TypeAlias = "tuple[Composed, Answer, float]"  # the last: when it came, by the loop's clock
Write: TypeAlias = Callable[[Sequence[Any], Receipt], Coroutine[Any, Any, "list[TaskError | None]"]]


class _Lane:
    """Tasks on one route to one queue: a call at a time, each with its receipt."""

    __slots__ = ("alive", "allowance", "item", "receipts", "sent", "task", "timer", "waiting", "write")

    def __init__(self, receipts: Receipts, write: Write, item: Callable[[Composed], object]) -> None:
        self.receipts = receipts
        self.write = write
        self.item = item
        self.waiting: deque[_Entry] = deque()
        self.sent: list[_Entry] = []
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.allowance = 0.0  #: seconds that what was sent may take on a slow link, beyond what any call may
        self.alive = 0.0  #: when Redis last answered, by the loop's clock


class Batcher:
    """Gathers the enqueues of one client on one event loop.

    Args:
        name: makes its receipts its own.
        patience: seconds a task may wait while Redis answers nothing.
    """

    def __init__(self, rdb: RDB, name: str, patience: float) -> None:
        self._rdb = rdb
        self._name = name
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._alive = 0.0
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
        """Wait until there is room for one more task.

        Raises:
            BrokerError: Redis has answered nothing for as long as a task may wait.
        """
        began = self._loop.time()
        self._pressed += 1
        try:
            while self.full:
                end = max(began, self._alive) + self._patience
                if self._loop.time() >= end:
                    raise BrokerError(f"{self._count:,} tasks wait to be enqueued; {self._silence()}")
                try:
                    async with asyncio.timeout_at(end), self._room:
                        await self._room.wait_for(lambda: not self.full)
                except TimeoutError:
                    continue  # perhaps it has answered meanwhile
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
        answer: Answer = self._loop.create_future()
        now = self._loop.time()
        lane.waiting.append((composed, answer, now))
        self._count += 1
        self._bytes += composed.msg.size
        if lane.task is None:
            # Nobody but us holds this task, so no cancellation from outside can tear a write.
            lane.task = self._loop.create_task(self._empty(lane), name="aioasynq enqueue")
        if lane.timer is None:
            lane.timer = self._loop.call_later(self._patience + GRACE, self._look_at, lane)
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
                batch = lane.sent = self._take(lane.waiting)
                if not batch:
                    continue
                lane.allowance = sum(composed.msg.size for composed, _, _ in batch) / SLOWEST
                try:
                    answers = await lane.write([lane.item(composed) for composed, _, _ in batch], lane.receipts.next())
                except Exception as exc:  # noqa: BLE001 - goes to those who wait for an answer
                    if isinstance(exc, BrokerError) and exc.answered:
                        self._alive = lane.alive = self._loop.time()
                    for _, answer, _ in batch:
                        if not answer.done():
                            answer.set_exception(exc)
                    self._expire(lane, str(exc))
                else:
                    self._alive = lane.alive = self._loop.time()
                    for (_, answer, _), refusal in zip(batch, answers, strict=True):
                        if not answer.done():
                            answer.set_result(refusal)
                lane.sent = []
                if self._pressed:
                    async with self._room:
                        self._room.notify_all()
        finally:
            lane.task = None

    def _look_at(self, lane: _Lane) -> None:
        """The timer of a lane: is anybody left who waits too long?"""
        lane.timer = None
        self._expire(lane, f"enqueue failed: {self._silence()}")
        left = [
            max(came, lane.alive) + lane.allowance
            for _, answer, came in (*lane.sent, *lane.waiting)
            if not answer.done()
        ]
        if left:
            lane.timer = self._loop.call_at(min(left) + self._patience + GRACE, self._look_at, lane)

    def _expire(self, lane: _Lane, why: str) -> None:
        """Answer those that have waited too long while Redis was silent; what was sent goes on all the same."""
        now = self._loop.time()
        for entries, maybe_done in ((lane.sent, True), (lane.waiting, False)):
            for _, answer, came in entries:
                if max(came, lane.alive) + self._patience + lane.allowance > now:
                    break  # the rest came later
                if not answer.done():
                    answer.set_exception(BrokerError(why, maybe_done=maybe_done))

    def _silence(self) -> str:
        why = f"no answer from {self._rdb.address} within {self._patience:g} s"
        return why + self._rdb.hint(why)

    def _take(self, waiting: deque[_Entry]) -> list[_Entry]:
        """The next tasks that fit into one call, without those whose callers do not wait for them any more."""
        batch: list[_Entry] = []
        size = 0
        while waiting and len(batch) < MAX_BATCH:
            composed, answer, _ = entry = waiting[0]
            length = composed.msg.size
            if not answer.done():
                size += length
                if batch and size > MAX_BATCH_BYTES:
                    break
                batch.append(entry)
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
