"""The parts of a running scheduler: one task an entry that sees to its firings, and a heartbeat that tells of all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from contextvars import Context
from typing import TYPE_CHECKING

from aioasynq.compose import task_info
from aioasynq.errors import BrokerError, DuplicateTaskError, TaskError, TaskIDConflictError
from aioasynq.logs import clean
from aioasynq.message import SchedulerEnqueueEvent
from aioasynq.observer import Sending
from aioasynq.rdb.periodic import Answer
from aioasynq.scheduler.clock import RedisClock
from aioasynq.scheduler.entry import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioasynq.compose import Composed
    from aioasynq.observer import Observer
    from aioasynq.rdb.rdb import RDB
    from aioasynq.scheduler.entry import Entry
    from aioasynq.scheduler.hooks import Hooks
    from aioasynq.server.contact import Contact

log = logging.getLogger(__name__)

LONGEST_SLEEP = 3600.0  #: seconds
MARGIN = 0.001  #: seconds after a firing is due, so that Redis agrees that it is
RECALLS = 64  #: entries whose last firing is asked for at once; thousands would hold the loop up
AFTER_A_BUG = 1.0  #: seconds
FIRING_LIMIT = 6.0  #: seconds that firings under way may take at the end: a call to Redis takes 5
END_LIMIT = 2.0  #: seconds that the last calls to Redis may take


class Engine:
    """A scheduler at work.

    Args:
        scheduler_id: ``host:pid:uuid``.
        beat: seconds between two heartbeats.
        entries: by id, as they are at any time.
        observers: told of what is enqueued.
    """

    def __init__(
        self,
        rdb: RDB,
        contact: Contact,
        hooks: Hooks,
        scheduler_id: str,
        beat: float,
        entries: Mapping[str, Entry],
        observers: Sequence[Observer],
    ) -> None:
        self.rdb = rdb
        self.clock = RedisClock(self._on_jump)
        self._contact = contact
        self._hooks = hooks
        self._id = scheduler_id
        self._beat_interval = beat
        self._entries = entries
        self._observers = observers
        self._attending: set[asyncio.Task[None]] = set()
        self._own: list[Entry] = []  # of this scheduler alone
        self._recalls = asyncio.Semaphore(RECALLS)
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self._has_begun = False
        self._told = False
        self._heart: asyncio.Task[None] | None = None
        for entry in entries.values():
            entry.cursor = self.clock.now()

    async def run(self) -> None:
        """Work until :meth:`finish` is through."""
        if self._contact.there:
            await self._ask_the_time()
        self._has_begun = True
        for entry in self._entries.values():
            self.begin(entry)
        if not self._over.is_set():
            self._heart = asyncio.get_running_loop().create_task(self._beat(), name="aioasynq scheduler heartbeat")
        await self._over.wait()

    def begin(self, entry: Entry) -> None:
        """See to the firings of an entry, once this scheduler has begun."""
        if not self._has_begun:
            return
        if not entry.shared:
            self._own.append(entry)
        attending = asyncio.get_running_loop().create_task(self._attend(entry), name=f"aioasynq entry {entry.id}")
        self._attending.add(attending)
        attending.add_done_callback(self._attending.discard)
        self.tell()

    def tell(self) -> None:
        """The entries have changed: tell of them now."""
        self._news.set()

    async def finish(self) -> None:
        """Let firings under way end, and take back what was told."""
        for entry in self._entries.values():
            entry.end()
        if self._attending:
            limit = FIRING_LIMIT if self._contact.there else END_LIMIT
            _, late = await asyncio.wait(self._attending, timeout=limit)
            for attending in late:
                attending.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._over.set()
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.gather(self._heart, return_exceptions=True)
        try:
            async with asyncio.timeout(END_LIMIT):
                await self.rdb.settled()  # or a heartbeat on its way would tell it once more
                await self.rdb.clear_scheduler_entries(self._id)
                for entry in self._own:
                    await self.rdb.clear_scheduler_history(entry.id)
                    await self.rdb.forget_fired(entry.queue, entry.id)
        except (BrokerError, TimeoutError) as exc:
            if self._told:
                why = str(exc) or "no answer in time"
                log.warning("what scheduler %s told of its entries was not taken back, and runs out: %s", self._id, why)
            self.rdb.abort()
        await self.rdb.aclose()

    # ── firing ──

    async def _attend(self, entry: Entry) -> None:
        try:
            while not entry.is_over:
                try:
                    await self._see_to(entry)
                except Exception:
                    log.exception("periodic task %r failed by a bug; it goes on", entry.task.type)
                    await self._rest(entry, AFTER_A_BUG)
        finally:
            self._given_up(entry)

    async def _see_to(self, entry: Entry) -> None:
        """What is due now; then sleep until there is more."""
        if not entry.is_recalled and self._contact.there:
            async with self._recalls:
                if self._contact.there and not entry.is_over:  # perhaps no more
                    await self._recall(entry)
        moments, missed = entry.due(self.clock.now())
        if missed:
            entry.seen_to(missed[-1])  # they come before the others
            await self._missed(entry, missed)
        for moment in moments:
            if entry.is_over or not await self._fire(entry, moment):
                return
            entry.seen_to(moment)
        upcoming = entry.next()
        wait = LONGEST_SLEEP if upcoming is None else upcoming + MARGIN - self.clock.now()
        if wait > 0:
            await self._rest(entry, min(wait, LONGEST_SLEEP))

    async def _recall(self, entry: Entry) -> None:
        """Ask Redis when the entry was fired last. Where it has to be known, the next firing asks again."""
        try:
            entry.recall(await self.rdb.last_fired(entry.queue, entry.id) if entry.shared else None)
        except BrokerError as exc:
            self._contact.lost(exc)

    async def _fire(self, entry: Entry, moment: int) -> bool:
        """See to one firing; False when it has to be tried again."""
        if entry.begun != moment:
            self._given_up(entry)
            entry.begun = moment
            await self._hooks.before(entry.task, entry.options)
        try:
            if not entry.is_recalled and entry.catch_up != "skip":
                entry.recall(await self.rdb.last_fired(entry.queue, entry.id))
                return False  # perhaps there are others before it
            composed = self._composed(entry, moment)
            fired = await self.rdb.fire(
                composed, entry.id, moment, claimant=entry.claimant, keep=entry.remember(moment)
            )
        except BrokerError as exc:
            pause = self._contact.lost(exc)
            entry.error = exc
            await self._failed(entry, [*entry.due(self.clock.now()).moments, moment])
            await self._rest(entry, pause)
            return False
        self._contact.made()
        entry.error = None
        if fired.answer is Answer.EARLY or not self.clock.is_known:
            self.clock.heard(fired.now)
        if fired.answer is Answer.EARLY:
            return False
        entry.last = max(fired.last, 0 if fired.answer is Answer.CLAIMED else moment)
        await self._fired(entry, composed, fired.answer, fired.now)
        return True

    def _composed(self, entry: Entry, moment: int) -> Composed:
        """The task of a firing, which observers may add headers to; the same one when that is tried again."""
        composed = entry.composed(moment, self.clock.now())
        if self._observers and entry.sending is None:
            # In a context of its own, not that of whoever registered the entry: his trace has long ended.
            entry.sending = Context().run(Sending, self._observers, [composed.msg], address=self.rdb.address)
        return composed

    def _given_up(self, entry: Entry) -> None:
        """The firing under way, if there is one, is not tried again."""
        if entry.error is not None:
            entry.sent(entry.error)
        entry.sending = None

    async def _fired(self, entry: Entry, composed: Composed, answer: Answer, now: float) -> None:
        msg = composed.msg
        if answer is Answer.CLAIMED:
            entry.sending = None  # another scheduler sends it, and tells of that
            return
        if answer is not Answer.STORED:
            kind: type[TaskError] = DuplicateTaskError if answer is Answer.DUPLICATE else TaskIDConflictError
            error = kind(msg.queue, msg.id)
            log.debug("periodic task %r: %s", msg.type, error)
            entry.sent(error)
            await self._hooks.failed(entry.task, entry.options, error)
            return
        entry.sent(None)
        log.debug("periodic task %r: %s is in queue %s", msg.type, msg.id, msg.queue)
        try:
            await self.rdb.record_scheduler_enqueue_event(
                entry.id, SchedulerEnqueueEvent(task_id=msg.id, enqueue_time=int(now * 1e6) * 1000)
            )
        except BrokerError as exc:
            log.warning("task %s is enqueued, but not in the history of its entry: %s", clean(msg.id), exc)
        await self._hooks.after(task_info(msg, composed.state, composed.next_process_at))

    async def _missed(self, entry: Entry, moments: Sequence[int]) -> None:
        first, last = shown(moments[0]), shown(moments[-1])
        which = f"firing of {first} was" if len(moments) == 1 else f"{len(moments)} firings from {first} to {last} were"
        log.warning("periodic task %r at %r: %s missed", entry.task.type, entry.spec, which)
        await self._failed(entry, moments)
        self._given_up(entry)

    async def _failed(self, entry: Entry, moments: Sequence[int]) -> None:
        """Tell of each firing that is due and could not be enqueued, once, though it is tried again."""
        if entry.error is None:  # nothing is wrong with Redis: this process has stood still
            return
        for moment in sorted(set(moments)):
            if moment > entry.told:
                entry.told = moment
                await self._hooks.failed(entry.task, entry.options, entry.error)

    async def _rest(self, entry: Entry, seconds: float) -> None:
        entry.wake.clear()
        if entry.is_over:
            return
        try:
            async with asyncio.timeout(seconds):
                await entry.wake.wait()
        except TimeoutError:
            return

    def _on_jump(self, seconds: float, is_first: bool) -> None:  # noqa: FBT001 - a callback
        if not is_first:
            log.info("Redis's clock and this machine's differ by %+.3f s more than before", seconds)
        now, turned_back = self.clock.now(), 0
        for entry in self._entries.values():
            if is_first and entry.cursor != entry.last:  # it was reckoned by this machine's clock
                entry.cursor += seconds
            turned_back += entry.turn_back(now)
            entry.wake.set()
        if turned_back:
            log.warning("Redis's clock has been put back; %d entries are due again as it says", turned_back)

    # ── telling ──

    async def _beat(self) -> None:
        while True:
            self._news.clear()
            pause = self._beat_interval
            try:
                await self.clock.ask(self.rdb)
                await self._tell()
            except BrokerError as exc:
                pause = min(pause, self._contact.lost(exc))
            except Exception:
                log.exception("a heartbeat of scheduler %s failed by a bug; it goes on", self._id)
            else:
                self._contact.made()
                for entry in self._entries.values():
                    if not entry.is_recalled:
                        entry.wake.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()

    async def _tell(self) -> None:
        ttl = max(1, math.ceil(self._beat_interval * 2))
        records = [entry.record() for entry in self._entries.values()]
        self._told = True  # perhaps, from here on
        await self.rdb.write_scheduler_entries(self._id, records, ttl=ttl)

    async def _ask_the_time(self) -> None:
        try:
            await self.clock.ask(self.rdb)
        except BrokerError as exc:
            self._contact.lost(exc)
