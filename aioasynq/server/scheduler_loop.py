"""Scheduler loop: CheckAndEnqueue. Due scheduled and retried tasks become pending, on time."""

from __future__ import annotations

import asyncio
import logging
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


class SchedulerLoop:
    """Moves what is due, and announces it.

    Args:
        announce: called with the queue in which tasks have become pending.
    """

    def __init__(self, rdb: RDB, queues: Sequence[str], contact: Contact, announce: Callable[[str], None]) -> None:
        self._rdb = rdb
        self._queues = queues
        self._contact = contact
        self._announce = announce
        self._until = 0.0  # monotonic seconds
        self._nap = Nap()

    def due_in(self, seconds: float) -> None:
        """A task that this server wrote is due in so many seconds: do not sleep longer."""
        if time.monotonic() + seconds < self._until:
            self._until = time.monotonic() + seconds
            self._nap.wake()

    async def run(self) -> None:
        """Sleep until the next task is due, at most a second; then move what is due. Until cancelled."""
        while True:
            self._until = time.monotonic() + LONGEST_SLEEP
            if not await self._look(*self._queues):
                for queue in self._queues:  # Redis refuses one of them; the others go on
                    await self._look(queue)
            await self._sleep()

    async def _look(self, *queues: str) -> bool:
        """Move what is due in these queues. False when Redis refused, so that some may not have been looked at."""
        try:
            for queue, due in (await self._rdb.next_due(*queues)).items():
                self._until = min(self._until, time.monotonic() + max(0.0, due))
                if due <= 0:
                    await self._move(queue)
        except BrokerError as exc:
            self._until = time.monotonic() + max(self._contact.lost(exc), 0.2)  # also when it refuses what is due
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

    async def _sleep(self) -> None:
        while (left := self._until - time.monotonic()) > 0:
            if not await self._nap.sleep(left):
                break  # in time, though the event loop's timers may be a moment early
        await asyncio.sleep(0)
