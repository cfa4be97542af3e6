"""Scheduler loop: CheckAndEnqueue. Due scheduled and retried tasks become pending, on time."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING

from aioasynq.errors import BrokerError
from aioasynq.logs import clean
from aioasynq.server.nap import Nap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioasynq.rdb.rdb import RDB
    from aioasynq.server.contact import Contact

log = logging.getLogger(__name__)

LONGEST_SLEEP = 1.0  #: seconds; others may schedule a task that is due before the earliest that was seen
EARLY = 0.002  #: seconds by which a timer of the event loop may be early
SEEN_FOR = 1.5  #: seconds for which a queue is left to whoever else looks at it, about once a second


class SchedulerLoop:
    """Moves what is due, and announces it.

    A queue that the fetcher waits for is looked at by that wait, which tells what it saw (:meth:`seen`): an idle
    process spends its time on being woken, so one answer a second does for both. The others are looked at here.

    Args:
        announce: called with the queue in which tasks have become pending.
    """

    def __init__(self, rdb: RDB, queues: Sequence[str], contact: Contact, announce: Callable[[str], None]) -> None:
        self._rdb = rdb
        self._contact = contact
        self._announce = announce
        self._look_at = dict.fromkeys(queues, 0.0)  # monotonic seconds
        self._own = math.inf  # monotonic seconds at which the earliest is due that this server wrote
        self._nap = Nap()

    def due_in(self, seconds: float) -> None:
        """A task that this server wrote is due in so many seconds: do not sleep longer."""
        self._own = min(self._own, time.monotonic() + seconds)
        self._nap.reset(self._left())

    def seen(self, queue: str, seconds: float) -> None:
        """Somebody has looked: the next task of *queue* is due in so many seconds."""
        self._look_at[queue] = time.monotonic() + min(seconds, SEEN_FOR)
        self._nap.reset(self._left())

    async def run(self) -> None:
        """Sleep until the next task is due, or a queue has to be looked at; then move what is due. Until cancelled."""
        while True:
            now = time.monotonic()
            soon = now + LONGEST_SLEEP  # one look is for all that would be looked at within that time
            if self._own <= now + EARLY:
                self._own = soon = math.inf  # some queue of ours
            queues = [queue for queue, moment in self._look_at.items() if moment <= soon]
            self._look_at |= dict.fromkeys(queues, now + LONGEST_SLEEP)
            if queues and not await self._look(*queues):
                for queue in queues:  # Redis refuses one of them; the others go on
                    await self._look(queue)
            left = self._left()
            await (self._nap.sleep(left) if left > 0 else asyncio.sleep(0))

    async def _look(self, *queues: str) -> bool:
        """Move what is due in these queues. False when Redis refused, so that some may not have been looked at."""
        try:
            for queue, due in (await self._rdb.next_due(*queues)).items():
                self._look_at[queue] = min(self._look_at[queue], time.monotonic() + max(0.0, due))
                if due <= 0:
                    await self._move(queue)
        except BrokerError as exc:
            later = time.monotonic() + max(self._contact.lost(exc), 0.2)  # also when it refuses what is due
            self._look_at |= dict.fromkeys(queues, later)
            if exc.answered:
                return len(queues) == 1
        else:
            self._contact.made()
        return True

    async def _move(self, queue: str) -> None:
        forwarded = await self._rdb.check_and_enqueue(queue)
        self._contact.counts.repaired += len(forwarded.strays)
        for _, stray in forwarded.strays:
            log.warning("entry %s was taken off queue %s: no such task was due there", clean(stray), queue)
        if forwarded.moved:
            self._announce(queue)

    def _left(self) -> float:
        return max(0.0, min(self._own, *self._look_at.values()) - time.monotonic())
