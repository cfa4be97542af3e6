"""Fetcher: asks for as many tasks as there are free consumers, and waits for work without polling.

Each queue is either awake, so that it is asked for tasks, or asleep: found empty, and watched by a waiting connection,
or looked at once a second. A batch grows with success (1, 2, 4, …) and falls back to 1 when its queue runs dry, so that
few tasks spread over many workers and many come in large batches.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from typing import TYPE_CHECKING

from aioasynq.errors import BrokerError
from aioasynq.logs import clean
from aioasynq.queues import draw, in_priority_order
from aioasynq.rdb.lifecycle import Batch, Killed, Leased
from aioasynq.rdb.receipts import Receipts
from aioasynq.rdb.waiting import LONGEST_WAIT, Ride, WaitingConnection
from aioasynq.server.distance import Distance
from aioasynq.server.outcome import Requeued

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioasynq.rdb.rdb import RDB
    from aioasynq.server.config import Config
    from aioasynq.server.consumer import Consumers
    from aioasynq.server.contact import Contact
    from aioasynq.server.settler import Settler

log = logging.getLogger(__name__)

MAX_FETCH = 128  #: tasks in one fetch
GROWTH = 4  #: times as many tasks a fetch is for, after one that has brought all it was for; the first is for one
MIN_ROUND = 4  #: tasks in a fetch, where as many places are free, however few there are in all
MAX_WAITS = 4  #: queues that are waited for; the others are looked at
MAX_RANK = 2  #: idle servers that wait for a queue; the others look, or every push would wake them all
LOOK_INTERVAL = 1.0  #: seconds between two looks at a queue that is not waited for
_RANK_LIFE = 4.0  #: seconds a rank is believed
_RANK_TTL = 8.0  #: seconds a server that says no more stays in line


class _Queue:
    """What the fetcher knows of one queue."""

    __slots__ = (
        "awake",
        "ending",
        "fetches",
        "last_task",
        "limit",
        "name",
        "rank",
        "rank_until",
        "ride",
        "ride_receipts",
        "riding",
        "timer",
        "waiter",
        "waiting",
    )

    def __init__(self, name: str, server: str, waiting: WaitingConnection) -> None:
        self.name = name
        self.awake = True
        self.limit = 1
        self.fetches = Receipts(f"{server}:fetch")
        self.ride: Ride | None = None  #: one that took nothing
        self.ride_receipts = Receipts(f"{server}:ride")
        self.waiting = waiting
        self.waiter: asyncio.Task[None] | None = None
        self.riding = False  #: a ride is out, and a place is kept for what it may bring
        self.ending: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.rank = 0
        self.rank_until = 0.0
        self.last_task = 0.0


class Fetcher:
    """Brings tasks to consumers.

    Args:
        name: ``host:pid:server id``; tokens of owners and callers of receipts begin with it.
        since: when this server began, so that those that stand in line are sorted by age.
        on_due: told of each queue that was found empty by a wait in how many seconds its next delayed task is due, inf
            when there is none.
    """

    def __init__(
        self,
        rdb: RDB,
        config: Config,
        contact: Contact,
        consumers: Consumers,
        settler: Settler,
        name: str,
        since: float,
        on_due: Callable[[str, float], None],
    ) -> None:
        self._rdb = rdb
        self._config = config
        self._contact = contact
        self._consumers = consumers
        self._settler = settler
        self._name = name
        self._on_due = on_due
        self._in_line = f"{since:017.6f}:{name}"
        self._weights = config.weights
        self._queues = {queue: _Queue(queue, name, WaitingConnection(rdb, queue)) for queue in self._weights}
        self._order = in_priority_order(self._weights)
        self._half = math.ceil(config.concurrency / 2)
        self._few = max(MIN_ROUND, math.ceil(config.concurrency / 5))
        self._are_quick = False  #: hardly a handler was left running when the last fetch was answered
        self._distance = Distance()
        self._fetch_number = 0
        self._wake = asyncio.Event()
        self._stopping = False
        self._random = random.Random()

    # ── what others tell ──

    def wake(self) -> None:
        """A place may have become free."""
        self._wake.set()

    def announce(self, queue: str) -> None:
        """Tasks were put into *queue*."""
        state = self._queues[queue]
        if state.waiter is None:  # else the waiting connection tells
            self._awaken(state)

    async def run(self) -> None:
        """Fetch until stopped. Not to be cancelled: what a fetch brings must reach a consumer."""
        while not self._stopping:
            places = self._places()
            awake = [state for state in self._queues.values() if state.awake]
            if awake and places > 0:
                self._watch(places, rides=False)  # what sleeps is heard of although others have work
                await self._round(places, awake)
                continue
            if awake and self._riding():
                self._end_rides()  # places are kept for queues that sleep while others have work
            self._watch(places)
            await self._wake.wait()
            self._wake.clear()
        await self._end_waits()

    def stop(self) -> None:
        """Fetch no more. :meth:`run` returns once every wait has ended."""
        self._stopping = True
        self._wake.set()

    async def abort(self) -> None:
        """Leave what waits to itself, as if the process died; for the very end, when Redis does not answer."""
        tasks = [task for state in self._queues.values() for task in (state.waiter, state.ending) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for state in self._queues.values():
            await state.waiting.close()

    # ── asking ──

    def _places(self) -> int:
        """Free consumers, less those kept for rides. None while more outcomes wait to be written than consumers are.

        As many as these are no reason to wait: where several queues have tasks, the outcomes of two fetches are often
        under way at once. Then one place stays free, so that what runs and what waits to be written are together fewer
        than twice the concurrency: a crash makes no more tasks run again.
        """
        concurrency, pressing = self._config.concurrency, self._settler.pressing
        if pressing > concurrency:
            return 0
        return concurrency - (pressing == concurrency) - self._consumers.busy - self._riding()

    def _riding(self) -> int:
        return sum(state.riding for state in self._queues.values())

    async def _round(self, places: int, awake: list[_Queue]) -> None:
        """Ask once: a queue for each place, drawn by weight and chance.

        When Redis is near, a round is for one queue, so that no fetch waits for one of another, and not for all places.
        Where handlers are quick it is for half of them, so that these run while Redis gets the tasks of others ready.
        Where they take their time it is for a fifth: those that begin together end together, and the more they are,
        the longer they wait for each other's calls.
        """
        is_near = self._distance.is_near
        if is_near:
            places = min(places, self._half if self._are_quick else self._few)
        if self._config.strict_priority:
            await self._strict_round(places)
        elif len(awake) == 1:
            await self._fetch(awake[0], places)
        elif is_near:
            (state,) = self._random.choices(awake, [self._weights[state.name] for state in awake])
            await self._fetch(state, places)
        else:
            counts = draw({state.name: self._weights[state.name] for state in awake}, places, self._random)
            await asyncio.gather(*(self._fetch(self._queues[queue], count) for queue, count in counts.items() if count))

    async def _strict_round(self, places: int) -> None:
        """Ask in order of priority; a lower queue gets a place only when the higher ones are empty."""
        for queue in self._order:
            state = self._queues[queue]
            if state.waiting.armed and not state.awake:
                continue  # watched, and nothing has come
            if state.timer is not None:
                continue  # paused, or looked at only now and then
            await self._fetch(state, places)
            if state.awake or self._stopping:
                return
            places = min(places, self._places())
            if places <= 0:
                return

    async def _fetch(self, state: _Queue, places: int) -> None:
        """Ask one queue for tasks; what is wrong with it keeps no other from being asked."""
        if self._settler.refused(state.name) >= self._config.concurrency:
            self._sleep(state)
            self._look_later(state)
            return
        count = min(places, state.limit)
        asked, cpu = time.monotonic(), time.thread_time()
        try:
            batch = await self._until_answered(state, count)
        except BrokerError as exc:
            self._sleep(state)
            self._look_later(state, self._contact.lost(exc))
            return
        self._contact.made()
        now = time.monotonic()
        self._distance.answered(now - asked - (time.thread_time() - cpu), now)
        self._are_quick = self._consumers.busy <= self._few
        if batch.paused:
            self._sleep(state)
            self._look_later(state)
        elif batch.dry:
            self._sleep(state)
        elif len(batch.tasks) >= count:
            state.limit = min(state.limit * GROWTH, MAX_FETCH)
        await self._deal(state, batch, asked)

    async def _until_answered(self, state: _Queue, count: int) -> Batch:
        """Ask once; if the answer is lost, repeat that very call until it is answered, for it may have taken tasks."""
        receipt, owner, again = state.fetches.next(), self._token(), False
        while True:
            try:
                return await self._rdb.dequeue(
                    state.name, count=count, owner=owner, lease=self._config.lease, receipt=receipt, again=again
                )
            except BrokerError as exc:
                if not exc.maybe_done and not again:
                    raise
                again = True
                if self._stopping and not self._contact.there:
                    raise  # the lease decides
                await self._pause(self._contact.lost(exc))

    async def _deal(self, state: _Queue, batch: Batch, asked: float) -> None:
        """Give tasks to consumers; *asked* is when they were asked for, monotonic seconds."""
        counts = self._contact.counts
        counts.repaired += len(batch.strays)
        counts.undecodable += len(batch.broken)
        for queue, stray in batch.strays:
            log.warning("entry %s was taken off queue %s: there is no such task waiting there", clean(stray), queue)
        for leased in batch.broken:
            log.error("task %s of queue %s goes to the archive: %s", leased.shown, leased.queue, leased.error)
            self._settler.add(Killed(leased, leased.error))
        if self._stopping:
            for leased in reversed(batch.tasks):  # the last one given back runs first
                self._settler.add(Requeued(leased))
            return
        if batch.tasks:
            state.last_task = time.monotonic()
            late = state.last_task - asked > self._config.lease * 0.8
            for leased in await self._still_ours(batch.tasks) if late else batch.tasks:
                self._consumers.start(leased)

    async def _still_ours(self, tasks: list[Leased]) -> list[Leased]:
        """Those of a late answer that nobody has recovered meanwhile, say because this process had been frozen."""
        try:
            answers = await self._rdb.extend_lease(tasks, lease=self._config.lease)
        except BrokerError as exc:
            self._contact.lost(exc)
            return []  # the lease decides
        return [leased for leased, ours in zip(tasks, answers, strict=True) if ours]

    def _token(self) -> str:
        self._fetch_number += 1
        return f"{self._name}:{self._fetch_number}"

    # ── asleep and awake ──

    def _sleep(self, state: _Queue) -> None:
        state.awake = False
        state.limit = 1

    def _awaken(self, state: _Queue) -> None:
        if state.timer is not None:
            state.timer.cancel()
            state.timer = None
        state.awake = True
        self._wake.set()

    def _look_later(self, state: _Queue, delay: float | None = None) -> None:
        """Awaken a queue later. One that is awake is asked anyway, and with a timer a strict round would pass it by."""
        if not state.awake and state.timer is None and not self._stopping:
            if delay is None:
                delay = LOOK_INTERVAL * random.uniform(0.9, 1.1)
            state.timer = asyncio.get_running_loop().call_later(delay, self._awaken, state)

    async def _pause(self, seconds: float) -> None:
        """Sleep, unless we are told to stop."""
        end = time.monotonic() + seconds
        while not self._stopping and (left := end - time.monotonic()) > 0:
            self._wake.clear()
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                break
        self._wake.set()

    # ── waiting ──

    def _watch(self, places: int, *, rides: bool = True) -> None:
        """See to it that every sleeping queue is waited for or looked at, while there is a place for its tasks."""
        if places <= 0:
            return
        asleep = [s for s in self._queues.values() if not s.awake and s.waiter is None and s.timer is None]
        if not asleep:
            return
        waited = sum(s.waiter is not None for s in self._queues.values())
        if self._config.strict_priority:
            asleep.sort(key=lambda s: self._order.index(s.name))
        else:
            asleep.sort(key=lambda s: s.last_task, reverse=True)
        for state in asleep:
            if waited >= MAX_WAITS or (state.rank >= MAX_RANK and time.monotonic() < state.rank_until):
                self._look_later(state)
                if state.waiting.is_open:  # only the queues that are waited for cost a connection
                    state.ending = asyncio.get_running_loop().create_task(self._hang_up(state))
                continue
            waited += 1
            state.riding = rides and self._may_ride(state, places)
            places -= state.riding
            state.waiter = asyncio.get_running_loop().create_task(self._wait(state), name=f"aioasynq wait {state.name}")

    def _may_ride(self, state: _Queue, places: int) -> bool:
        """May a dequeue go along with the wait? Only when a place can be kept for it and the others are not starved."""
        everyone = len(self._queues)
        if self._config.strict_priority:
            return state.name == self._order[0] and (everyone == 1 or places >= 2)
        return places >= 1 and self._config.concurrency >= everyone and (places >= 2 or everyone == 1)

    async def _wait(self, state: _Queue) -> None:
        """Wait for one queue, and wake it. Not to be cancelled: a ride may hold a task."""
        then: Callable[[_Queue], None] = self._look_later
        end = time.monotonic() + LONGEST_WAIT - LOOK_INTERVAL
        try:
            if await self._rank(state) < MAX_RANK and not self._stopping:
                then = await self._wait_in_line(state)
                # With a ride a wait is short, and most bring nothing: then the next one begins at once.
                while then == self._keep_asleep and self._may_wait_on(state) and time.monotonic() < end:
                    then = await self._wait_in_line(state)
        except BrokerError as exc:  # the rank could not be had
            await self._pause(self._contact.lost(exc))
            then = self._awaken
        finally:
            state.riding = False
            state.waiter = None
            then(state)
            self._wake.set()

    def _may_wait_on(self, state: _Queue) -> bool:
        """Is there still a place for a ride?"""
        return state.riding and state.ending is None and not self._stopping

    async def _wait_in_line(self, state: _Queue) -> Callable[[_Queue], None]:
        """Wait on the queue's connection, and say what is to become of the queue.

        A wait with a ride ends after a second, for an empty queue then says what is due next: one answer does for two.
        """
        ride = self._ride(state) if state.riding else None
        asked = time.monotonic()
        batch: Batch | None = None
        try:
            came, batch = await state.waiting.wait(LONGEST_WAIT if ride is None else LOOK_INTERVAL, ride)
        except BrokerError as exc:
            pause = self._contact.lost(exc)
            if ride is not None and exc.maybe_done:
                batch = await self._ask_after(state, ride)
            if batch is None or not (
                batch.tasks or batch.broken
            ):  # or a wait that is refused would be asked for at once
                await self._pause(max(pause, 0.2))
            came = True
        else:
            self._contact.made()
        if batch is not None:
            if batch.tasks:
                state.limit = 2
            elif batch.due is not None:
                state.ride = ride
                self._on_due(state.name, batch.due)
            await self._deal(state, batch, asked)
            if batch.paused:
                return self._look_later
        return self._awaken if came else self._keep_asleep

    def _keep_asleep(self, state: _Queue) -> None:
        """Nothing came; the next watch waits again."""

    def _ride(self, state: _Queue) -> Ride:
        """One that took nothing left nothing in Redis, neither owner nor receipt: it is made again as it was."""
        ride, state.ride = state.ride, None
        return ride or Ride(self._token(), self._config.lease, state.ride_receipts.next())

    async def _ask_after(self, state: _Queue, ride: Ride) -> Batch | None:
        """Ask after a ride whose answer was lost, until it is known whether it took a task."""
        while True:
            try:
                batch = await self._rdb.dequeue(
                    state.name, count=1, owner=ride.owner, lease=ride.lease, receipt=ride.receipt, again=True
                )
            except BrokerError as exc:
                if self._stopping or exc.answered:
                    return None  # the lease decides
                await self._pause(self._contact.lost(exc))
            else:
                self._contact.made()
                return batch

    async def _rank(self, state: _Queue) -> int:
        if time.monotonic() >= state.rank_until:
            state.rank = await self._rdb.wait_rank(state.name, self._in_line, ttl=_RANK_TTL)
            state.rank_until = time.monotonic() + _RANK_LIFE
        return state.rank

    def _end_rides(self) -> None:
        for state in self._queues.values():
            if state.riding and state.ending is None:
                state.ending = asyncio.get_running_loop().create_task(self._end_ride(state))

    async def _end_ride(self, state: _Queue) -> None:
        try:
            while state.riding and not self._stopping and state.waiting.may_unblock:
                await state.waiting.unblock()
                await asyncio.sleep(0.02)  # a wait that had not begun on the server is ended by the next call
        finally:
            state.ending = None

    async def _hang_up(self, state: _Queue) -> None:
        await state.waiting.close()
        state.ending = None

    async def _end_waits(self) -> None:
        for state in self._queues.values():
            if state.timer is not None:
                state.timer.cancel()
        while waiters := [task for state in self._queues.values() for task in (state.waiter, state.ending) if task]:
            await asyncio.gather(*(state.waiting.unblock() for state in self._queues.values() if state.waiter))
            await asyncio.wait(waiters, timeout=0.02)
        for state in self._queues.values():
            await state.waiting.close()
            if state.rank_until:
                try:
                    await self._rdb.leave_line(state.name, self._in_line)
                except BrokerError:
                    return  # our place in line runs out by itself
