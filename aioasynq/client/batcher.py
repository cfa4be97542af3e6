"""Batcher: what concurrent enqueues share.

A lone enqueue is written at once. What arrives while it is under way goes together in the next call; where many arrive
they go in full batches, a few under way at a time, so that Redis works while the next ones are made. Each caller gets
its own answer.

Tasks for now go together whatever their queue, unless that is a Cluster's; what a queue does not take with others is
sent again with its own, so that nobody is told of another's trouble.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct

from aioasynq.client.busy_poll import BusyPoll
from aioasynq.errors import BrokerError, BrokerRefusedError
from aioasynq.rdb.base import MAX_BATCH, MAX_BATCH_BYTES
from aioasynq.rdb.pipe import SLOWEST
from aioasynq.rdb.receipts import StoringReceipts
from aioasynq.rdb.storing import STORED_ONE, AloneError, Scheduled, ScheduledUnique, Unique

if TYPE_CHECKING:
    from aioasynq.compose import Composed, Route
    from aioasynq.rdb.rdb import RDB
    from aioasynq.rdb.storing import StoredOrNot

MAX_WAITING = 10_000  #: tasks that wait to be sent; past that, enqueue itself waits
MAX_WAITING_BYTES = 64 << 20  #: bytes of payloads and headers that wait to be sent
GRACE = 0.25  #: seconds for the call under way to say itself why it failed
CALLS = 4  #: calls of a lane under way, at most MAX_BATCH_BYTES together
FULL = 24  #: tasks that are worth a call while another is under way: Redis works while the next ones are made

_NONE_YET = object()
# A task and its bytes, which of whose answers it has, and when it came, by the loop's clock.
_Entry: TypeAlias = "tuple[Composed, int, Answer | Answers, int, float]"


class Answer(Struct, eq=False):
    """The answer to a lone enqueue, as :class:`Answers` has those to many; await :attr:`all` for it."""

    all: asyncio.Future[Exception | None]

    def waits_for(self, _: int) -> bool:
        """Whether somebody still waits for it."""
        return not self.all.done()

    def give(self, _: int, answer: Exception | None) -> None:
        """Give an answer; the first one counts."""
        if not self.all.done():
            self.all.set_result(answer)


class Answers:
    """The answers to the tasks of one enqueue: None each, or why it was not stored.

    Await :attr:`all`. Cancelling it withdraws what was not sent yet; what was sent stands.
    """

    __slots__ = ("_left", "_one_by_one", "all")

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self._left = count
        self._one_by_one: list[Any] = [_NONE_YET] * count
        self.all: asyncio.Future[list[Exception | None]] = loop.create_future()

    def waits_for(self, index: int) -> bool:
        """Whether somebody still waits for that answer."""
        return self._one_by_one[index] is _NONE_YET and not self.all.done()

    def give(self, index: int, answer: Exception | None) -> None:
        """Give an answer; the first one counts."""
        if self._one_by_one[index] is _NONE_YET:
            self._one_by_one[index] = answer
            self._left -= 1
            if not self._left and not self.all.done():
                self.all.set_result(self._one_by_one)


class _Call(Struct, eq=False):
    """Tasks that were sent together."""

    batcher: Batcher
    lane: _Lane
    batch: list[_Entry]
    size: int
    receipts: StoringReceipts  #: each has one call under way at a time

    def on_answers(self, answers: StoredOrNot | BaseException) -> None:
        """Hand the answers to those who wait for them."""
        self.batcher._on_answers(self, answers)  # noqa: SLF001 - a part of it


class _Lane:
    """Tasks on one route to one queue, or to any when that is ""."""

    __slots__ = ("alive", "calls", "free", "is_due", "last", "queue", "route", "size", "timer", "waiting")

    def __init__(self, name: str, queue: str, route: Route) -> None:
        self.queue = queue
        self.route: Route = route
        self.waiting: deque[_Entry] = deque()
        self.calls: list[_Call] = []  #: under way, the first one sent first
        self.size = 0  #: bytes of those
        self.last = 1  #: how many tasks the last call had
        whose = route if queue else f"{route} any"  # both may have calls about one queue
        self.free = [StoringReceipts(f"{name}:{whose}:{number}") for number in range(CALLS)]
        self.is_due = False  #: it has its turn soon
        self.timer: asyncio.TimerHandle | None = None
        self.alive = 0.0  #: when Redis last answered, by the loop's clock

    @property
    def allowance(self) -> float:
        """Seconds that what was sent may take on a slow link, beyond what any call may."""
        return self.size / SLOWEST


class Batcher:
    """Gathers the enqueues of one client on one event loop.

    Args:
        name: makes its receipts its own.
        patience: seconds a task may wait while Redis answers nothing.

    Attributes:
        full: whether the next enqueue has to wait.
    """

    def __init__(self, rdb: RDB, name: str, patience: float) -> None:
        self._rdb = rdb
        self._name = name
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._busy_poll = BusyPoll(self._loop)
        self._alive = 0.0
        self._lanes: dict[tuple[str, Route], _Lane] = {}
        self._spans = rdb.spans_queues
        self.full = False
        self._count = 0
        self._bytes = 0
        self._room = asyncio.Event()
        self._answered: asyncio.Event | None = None  #: for whoever waits until all is answered

    async def wait_for_room(self) -> None:
        """Wait until there is room for one more task.

        Raises:
            BrokerError: Redis has answered nothing for as long as a task may wait.
        """
        began = self._loop.time()
        while self.full:
            end = max(began, self._alive) + self._patience
            if self._loop.time() >= end:
                raise BrokerError(f"{self._count:,} tasks wait to be enqueued; {self._silence()}")
            self._room.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._room.wait()
            except TimeoutError:
                continue  # perhaps it has answered meanwhile

    def answer(self) -> Answer:
        """Room for the answer to a lone task."""
        return Answer(self._loop.create_future())

    def answers(self, count: int) -> Answers:
        """Room for the answers to *count* tasks."""
        return Answers(count, self._loop)

    def add(self, composed: Composed, size: int, answers: Answer | Answers, index: int = 0, worth: int = FULL) -> None:
        """Take a task of *size* bytes; its answer, or a BrokerError in its place, goes to that place of *answers*.

        *worth* is how many tasks are worth a call while another is under way; 1 with the last of many.
        """
        now = self._loop.time()
        entry = (composed, size, answers, index, now)
        queue = "" if self._spans and composed.route == "enqueue" else composed.msg.queue
        lane = self._lanes.get((queue, composed.route))
        if lane is None or lane.timer is None:
            lane = self._lane(queue, composed.route, now)
        if lane.last == 1 and not lane.calls and not lane.is_due and type(answers) is Answer:  # lone, as the last was
            self._start(lane, [entry], size, now)
            if lane.calls:  # else it could not be sent
                self._busy_poll.begin(lane.calls[0])
            return
        self._let_wait(lane, entry)
        if len(lane.waiting) >= worth:
            self._send(lane, worth)
        elif not lane.calls:
            self._let_gather(lane)

    @staticmethod
    def worth(count: int) -> int:
        """How many of *count* tasks that come at once are worth a call, so that hardly any wait for an answer."""
        return max(FULL, min(MAX_BATCH, math.ceil(count / CALLS)))

    async def drain(self) -> None:
        """Wait until all is sent and answered."""
        while any(lane.calls or lane.waiting for lane in self._lanes.values()):
            if self._answered is None:
                self._answered = asyncio.Event()
            self._answered.clear()
            await self._answered.wait()

    def _lane(self, queue: str, route: Route, now: float) -> _Lane:
        """The one for these, with its timer set."""
        lane = self._lanes.get((queue, route))
        if lane is None:
            lane = self._lanes[queue, route] = _Lane(self._name, queue, route)
        if lane.timer is None:
            lane.timer = self._loop.call_at(now + self._patience + GRACE, self._look_at, lane)
        return lane

    def _let_wait(self, lane: _Lane, entry: _Entry) -> None:
        lane.waiting.append(entry)
        self._count += 1
        self._bytes += entry[1]
        self.full = self._count >= MAX_WAITING or self._bytes >= MAX_WAITING_BYTES

    def _let_go_alone(self, entry: _Entry) -> None:
        """Send a task again, with those of its queue only; Redis has just answered."""
        composed = entry[0]
        lane = self._lane(composed.msg.queue, composed.route, self._alive)
        lane.alive = self._alive
        self._let_wait(lane, entry)
        self._let_gather(lane)

    def _let_gather(self, lane: _Lane) -> None:
        """Send after all who are ready now have had their turn."""
        if not lane.is_due:
            lane.is_due = True
            self._loop.call_soon(self._turn, lane)

    def _turn(self, lane: _Lane) -> None:
        lane.is_due = False
        self._send(lane)

    def _send(self, lane: _Lane, worth: int = FULL) -> None:
        """Send what waits if no call is under way, and beside others only what is worth a call."""
        while lane.waiting and (not lane.calls or (lane.free and len(lane.waiting) >= worth and self._rdb.is_ordered)):
            batch, size = self._take(lane)
            if not batch:
                break
            self._start(lane, batch, size, self._loop.time())
        if not lane.calls and not lane.waiting and self._answered is not None:
            self._answered.set()  # all who waited have gone

    def _start(self, lane: _Lane, batch: list[_Entry], size: int, now: float) -> None:
        call = _Call(self, lane, batch, size, lane.free.pop())
        lane.calls.append(call)
        lane.size += size
        lane.last = len(batch)
        try:
            if lane.route == "enqueue" and len(batch) == 1:
                self._rdb.start_one(batch[0][0].msg, call.receipts.next(now), call.on_answers, now)
            else:
                self._rdb.start_to(*_operation(lane.route, batch), call.receipts.next(now), call.on_answers)
        except Exception as exc:  # noqa: BLE001 - goes to those who wait for an answer
            call.on_answers(exc)

    def _on_answers(self, call: _Call, answers: StoredOrNot | BaseException) -> None:
        self._busy_poll.answered(call)
        lane = call.lane
        lane.calls.remove(call)
        lane.size -= call.size
        lane.free.append(call.receipts)
        if answers is STORED_ONE:
            self._alive = lane.alive = self._loop.time()
            _, _, whose, index, _ = call.batch[0]
            whose.give(index, None)
        elif isinstance(answers, BaseException):
            self._on_failure(call, answers)
        else:
            self._alive = lane.alive = self._loop.time()
            for entry, answer in zip(call.batch, answers, strict=True):
                if type(answer) is AloneError:
                    self._let_go_alone(entry)
                else:
                    entry[2].give(entry[3], answer)
        if lane.waiting:
            self._let_gather(lane)
        if self._answered is not None:
            self._answered.set()

    def _on_failure(self, call: _Call, failed: BaseException) -> None:
        lane = call.lane
        if not isinstance(failed, Exception):  # given up, as if the process died
            for _, _, whose, _, _ in (*call.batch, *lane.waiting):
                whose.all.cancel()
            return
        if isinstance(failed, BrokerError) and failed.answered:
            self._alive = lane.alive = self._loop.time()
        if self._is_for_each(call, failed):
            self._spans = self._spans and not isinstance(failed, BrokerRefusedError)  # who may not use them all
            for entry in call.batch:
                self._let_go_alone(entry)
            return
        for _, _, whose, index, _ in call.batch:
            whose.give(index, failed)
        self._expire(lane, str(failed))

    def _is_for_each(self, call: _Call, failed: Exception) -> bool:
        """Whether Redis refused a call for what may be the fault of one of its queues, and has stored nothing."""
        if not isinstance(failed, BrokerError) or not failed.answered or failed.maybe_done:
            return False
        return len({entry[0].msg.queue for entry in call.batch}) > 1

    def _look_at(self, lane: _Lane) -> None:
        """The timer of a lane: is anybody left who waits too long?"""
        lane.timer = None
        self._expire(lane, f"enqueue failed: {self._silence()}")
        left = [
            max(came, lane.alive) + lane.allowance
            for entries in (*(call.batch for call in lane.calls), lane.waiting)
            for _, _, answers, index, came in entries
            if answers.waits_for(index)
        ]
        if left:
            lane.timer = self._loop.call_at(min(left) + self._patience + GRACE, self._look_at, lane)

    def _expire(self, lane: _Lane, why: str) -> None:
        """Answer those that have waited too long while Redis was silent; what was sent goes on all the same."""
        last = self._loop.time() - self._patience - lane.allowance
        if lane.alive > last:
            return
        for call in lane.calls:
            for _, _, answers, index, came in call.batch:
                if came <= last:
                    answers.give(index, BrokerError(why, maybe_done=True))
        for _, _, answers, index, came in lane.waiting:
            if came > last:
                break  # the rest came later
            answers.give(index, BrokerError(why, maybe_done=False))

    def _silence(self) -> str:
        why = f"no answer from {self._rdb.address} within {self._patience:g} s"
        return why + self._rdb.hint(why)

    def _take(self, lane: _Lane) -> tuple[list[_Entry], int]:
        """The next tasks that fit into one call, without those whose callers do not wait for them any more."""
        waiting, room = lane.waiting, MAX_BATCH_BYTES - lane.size
        batch: list[_Entry] = []
        size = gone = gone_size = 0
        while waiting and len(batch) < MAX_BATCH:
            entry = waiting[0]
            length = entry[1]
            if entry[2].waits_for(entry[3]):
                if size + length > room and (batch or lane.calls):
                    break
                size += length
                batch.append(entry)
            else:
                gone += 1
                gone_size += length
            waiting.popleft()
        self._count -= len(batch) + gone
        self._bytes -= size + gone_size
        self.full = self._count >= MAX_WAITING or self._bytes >= MAX_WAITING_BYTES
        if not self.full:
            self._room.set()
        return batch, size


def _operation(route: Route, batch: list[_Entry]) -> tuple[str, list[Any]]:
    """What stores a batch, and of what; tasks of several queues are put in order of these."""
    if route != "enqueue":
        item = _ITEMS[route]
        return route, [item(entry[0]) for entry in batch]
    msgs = [entry[0].msg for entry in batch]
    first = msgs[0].queue
    for msg in msgs:
        if msg.queue != first:
            batch.sort(key=_queue)
            return "enqueue_several", [entry[0].msg for entry in batch]
    return "enqueue", msgs


def _queue(entry: _Entry) -> str:
    return entry[0].msg.queue


_ITEMS: dict[str, Callable[[Any], object]] = {
    "enqueue_unique": lambda composed: Unique(composed.msg, composed.unique_ttl),
    "schedule": lambda composed: Scheduled(composed.msg, composed.when),
    "schedule_unique": lambda composed: ScheduledUnique(composed.msg, composed.when, composed.unique_ttl),
    "add_to_group": lambda composed: composed.msg,
    "add_to_group_unique": lambda composed: Unique(composed.msg, composed.unique_ttl),
}
