"""Settler: writes outcomes to Redis, all that have gathered in one call.

There is no timer: a lone outcome is written at once; what arrives while a call is under way goes together in the next.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from aioasynq.errors import BrokerError
from aioasynq.rdb.base import MAX_BATCH, MAX_BATCH_BYTES
from aioasynq.rdb.lifecycle import Completed, Failed, Killed, Leased
from aioasynq.rdb.receipts import Receipt, Receipts
from aioasynq.server.outcome import Done, Outcome, Requeued, error_text

if TYPE_CHECKING:
    from aioasynq.rdb.rdb import RDB
    from aioasynq.server.config import Config
    from aioasynq.server.contact import Contact
    from aioasynq.server.running import Running

log = logging.getLogger(__name__)

TOO_LARGE_TRIES = 10  #: times in a row that Redis may hang up on a large outcome before that is taken for its answer

Write = Callable[[Sequence[Any], Receipt], Coroutine[Any, Any, list[bool]]]


class _TooLargeError(Exception):
    """Redis takes no call of this size."""

    def __str__(self) -> str:
        return f"too large for Redis ({self.args[0]})"


class _Waiting(Struct, eq=False, gc=False):
    outcome: Outcome
    running: Running | None
    size: int


class _Lane:
    """Outcomes of one kind for one queue: a call at a time, each with its receipt."""

    __slots__ = ("queue", "receipts", "task", "waiting", "write")

    def __init__(self, queue: str, receipts: Receipts, write: Write) -> None:
        self.queue = queue
        self.receipts = receipts
        self.write = write
        self.waiting: deque[_Waiting] = deque()
        self.task: asyncio.Task[None] | None = None


class Settler:
    """Takes outcomes and writes them, trying as long as the process lives.

    Args:
        name: of the server; callers of receipts are named after it.
        on_settled: called with what was held, and whether it was still ours, once Redis has answered.
        on_unpressed: called when outcomes were written, and when those of a queue press no more for Redis refuses them.
        on_retry: called with the seconds until the next try of a task that was written.
    """

    def __init__(
        self,
        rdb: RDB,
        config: Config,
        contact: Contact,
        name: str,
        on_settled: Callable[[Running, bool], None],
        on_unpressed: Callable[[], None],
        on_retry: Callable[[float], None],
    ) -> None:
        self._rdb = rdb
        self._config = config
        self._contact = contact
        self._name = name
        self._on_settled = on_settled
        self._on_unpressed = on_unpressed
        self._on_retry = on_retry
        self._lanes: dict[tuple[str, type[Outcome]], _Lane] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.unsettled = 0  #: outcomes not written yet, those under way included
        self.of_queue: Counter[str] = Counter()  #: the same by queue
        self._refused: Counter[_Lane] = Counter()  #: calls that Redis refuses, by lane
        self._big: set[asyncio.Task[None]] = set()
        self._stopped = False

    def add(self, outcome: Outcome, running: Running | None = None) -> None:
        """Take an outcome; it is written as soon as the call under way is over."""
        if self._stopped:
            log.error("an outcome came after the end and is not written; its lease decides: %s", outcome.leased.shown)
            return
        queue, kind = outcome.leased.queue, type(outcome)
        lane = self._lanes.get((queue, kind))
        if lane is None:
            lane = self._open_lane(queue, kind)
        self.unsettled += 1
        self.of_queue[queue] += 1
        waiting = _Waiting(outcome, running, 0 if kind is Done else _size(outcome))
        if waiting.size > MAX_BATCH_BYTES:
            self._idle.clear()
            # Redis may not take it at all, and then it must hold up no other.
            task = asyncio.get_running_loop().create_task(self._big_one(lane, waiting))
            self._big.add(task)
            task.add_done_callback(self._big.discard)
            return
        lane.waiting.append(waiting)
        if lane.task is None:
            self._idle.clear()
            # Nobody but us holds this task, so no cancellation from outside can tear a write.
            lane.task = asyncio.get_running_loop().create_task(
                self._empty(lane), name=f"aioasynq settle {kind.__name__}"
            )

    @property
    def pressing(self) -> int:
        """Outcomes not written yet, without those of queues that Redis refuses: these keep no other queue waiting."""
        if not self._refused:
            return self.unsettled
        return self.unsettled - sum(self.of_queue[queue] for queue in {lane.queue for lane in self._refused})

    def refused(self, queue: str) -> int:
        """Outcomes of a queue that are not written yet because Redis refuses them."""
        return self.of_queue[queue] if any(lane.queue == queue for lane in self._refused) else 0

    async def drain(self, limit: float) -> int:
        """Wait until all is written, at most *limit* seconds; how many outcomes are left."""
        try:
            async with asyncio.timeout(limit):
                await self._idle.wait()
        except TimeoutError:
            pass
        return self.unsettled

    async def stop(self) -> None:
        """Give up what is left; its leases decide."""
        self._stopped = True
        tasks = [*self._big, *(lane.task for lane in self._lanes.values() if lane.task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _open_lane(self, queue: str, kind: type[Outcome]) -> _Lane:
        rdb, config = self._rdb, self._config
        writes: dict[type[Outcome], Write] = {
            Done: lambda items, receipt: rdb.done([item.leased for item in items], receipt=receipt),
            Requeued: self._requeue,
            Completed: lambda items, receipt: rdb.mark_as_complete(items, receipt=receipt),
            Failed: lambda items, receipt: rdb.retry(items, receipt=receipt),
            Killed: lambda items, receipt: rdb.kill(
                items,
                receipt=receipt,
                max_size=config.max_archive,
                max_age=int(config.archive_days * 86400),
            ),
        }
        lane = _Lane(queue, Receipts(f"{self._name}:{kind.__name__.lower()}"), writes[kind])
        self._lanes[queue, kind] = lane
        return lane

    async def _requeue(self, items: Sequence[Requeued], receipt: Receipt) -> list[bool]:
        """Give tasks back so that the one handed over last runs first: each goes before those given back earlier."""
        answers = await self._rdb.requeue([item.leased for item in reversed(items)], receipt=receipt)
        return answers[::-1]

    async def _empty(self, lane: _Lane) -> None:
        try:
            await asyncio.sleep(0)  # so that the fetch for the places that are free now is written first
            while lane.waiting:
                batch = _take(lane.waiting)
                try:
                    answers = await self._until_answered(lane, lane.write, batch, lane.receipts.next())
                except Exception:
                    log.exception("%d outcomes could not be written together; each goes alone", len(batch))
                    answers = [await self._alone(lane, waiting, lane.receipts.next()) for waiting in batch]
                self._written(batch, answers)
        finally:
            lane.task = None
            if self.unsettled == 0:
                self._idle.set()

    async def _big_one(self, lane: _Lane, waiting: _Waiting) -> None:
        try:
            answer = await self._alone(lane, waiting, _only_one())
            self._written([waiting], [answer])
        finally:
            if self.unsettled == 0:
                self._idle.set()

    def _written(self, batch: Sequence[_Waiting], answers: Sequence[bool]) -> None:
        self.unsettled -= len(batch)
        self.of_queue[batch[0].outcome.leased.queue] -= len(batch)
        for waiting, still_ours in zip(batch, answers, strict=True):
            if isinstance(waiting.outcome, Failed) and still_ours:
                self._on_retry(waiting.outcome.delay)
            if waiting.running is not None:
                self._on_settled(waiting.running, still_ours)
        self._on_unpressed()

    async def _until_answered(
        self, lane: _Lane, write: Write, batch: Sequence[_Waiting], receipt: Receipt
    ) -> list[bool]:
        items = [waiting.outcome for waiting in batch]
        tries, is_refused = 0, False
        try:
            while True:
                try:
                    answers = await write(items, receipt)
                except BrokerError as exc:
                    if exc.answered and not is_refused:
                        is_refused = True
                        self._refused[lane] += 1
                        self._on_unpressed()
                    tries = tries + 1 if await self._hangs_up(exc, items) else 0
                    if tries >= TOO_LARGE_TRIES or (tries and "Protocol error" in str(exc)):
                        raise _TooLargeError(str(exc)) from exc
                    await asyncio.sleep(self._contact.lost(exc))
                else:
                    self._contact.made()
                    return answers
        finally:
            if is_refused:
                self._refused[lane] -= 1
                self._refused = +self._refused  # without lanes that have none

    async def _hangs_up(self, error: BrokerError, items: Sequence[Outcome]) -> bool:
        """May Redis have hung up on this call because of its size, though it answers others? It seldom says so."""
        if len(items) > 1 or _size(items[0]) <= MAX_BATCH_BYTES:  # no Redis can be told to take less
            return False
        if "Protocol error" in str(error):
            return True
        if not error.maybe_done or error.answered or "no answer in time" in str(error):
            return False
        try:
            await self._rdb.ping(timeout=0.5)
        except BrokerError:
            return False  # it is away
        return True

    async def _alone(self, lane: _Lane, waiting: _Waiting, receipt: Receipt) -> bool:
        """Write one outcome that could not go with others; one that cannot be written sends its task to the archive."""
        try:
            return (await self._until_answered(lane, lane.write, [waiting], receipt))[0]
        except Exception as exc:
            leased = waiting.outcome.leased
            log.exception(
                "the outcome of task %s of queue %s cannot be written; archiving it", leased.shown, leased.queue
            )
            bare = Leased(leased.queue, leased.id, None, leased.guard)
            killed = _Waiting(Killed(bare, f"outcome could not be written: {error_text(exc)}"), None, 0)
            kill = self._lanes.get((leased.queue, Killed)) or self._open_lane(leased.queue, Killed)
            return (await self._until_answered(kill, kill.write, [killed], _only_one()))[0]


def _take(waiting: deque[_Waiting]) -> list[_Waiting]:
    """The next outcomes that fit into one call."""
    batch: list[_Waiting] = []
    size = 0
    while waiting and len(batch) < MAX_BATCH:
        size += waiting[0].size
        if batch and size > MAX_BATCH_BYTES:
            break
        batch.append(waiting.popleft())
    return batch


def _only_one() -> Receipt:
    return Receipt(uuid.uuid4().hex, 1)


def _size(outcome: Outcome) -> int:
    """About how many bytes it takes to write it."""
    if isinstance(outcome, (Done, Requeued)):
        return 0
    msg = outcome.leased.msg
    size = msg.size if msg is not None else 0
    if isinstance(outcome, Completed):
        return size + len(outcome.result or b"")
    return size + len(outcome.error)
