"""Scheduler loop: CheckAndEnqueue. Due scheduled and retried tasks become pending, on time."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aioasynq.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioasynq.rdb.rdb import RDB
    from aioasynq.server.contact import Contact

log = logging.getLogger(__name__)

LONGEST_SLEEP = 1.0  #: seconds; a task scheduled meanwhile may be due earlier than the earliest that was seen


async def scheduler_loop(rdb: RDB, queues: Sequence[str], contact: Contact, announce: Callable[[str], None]) -> None:
    """Sleep until the next task is due, at most a second; then move what is due and announce it."""
    while True:
        pause = LONGEST_SLEEP
        try:
            for queue, due in (await rdb.next_due(*queues)).items():
                if due > 0:
                    pause = min(pause, due)
                    continue
                forwarded = await rdb.check_and_enqueue(queue)
                for _, stray in forwarded.strays:
                    log.warning("entry %s was taken off queue %s: no such task was due there", stray, queue)
                if forwarded.moved:
                    announce(queue)
                    pause = 0.0  # more may be due by now
        except BrokerError as exc:
            pause = max(contact.lost(exc), 0.2)
        else:
            contact.made()
        await asyncio.sleep(pause)
