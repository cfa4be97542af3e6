"""Recover loop: tasks whose lease ran out are retried or archived, and queues are put in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from aioasynq.errors import BrokerError
from aioasynq.logs import clean
from aioasynq.rdb.base import MAX_BATCH
from aioasynq.rdb.lifecycle import Failed, Killed
from aioasynq.server.outcome import recovered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioasynq.rdb.rdb import RDB
    from aioasynq.rdb.upkeep import Expired
    from aioasynq.server.config import Config
    from aioasynq.server.contact import Contact

log = logging.getLogger(__name__)

INTERVAL = 5.0  #: seconds between two runs
OUR_SLACK = 2.0  #: seconds after its end that a lease of ours is given up
THEIR_SLACK = 30.0  #: the same for Go's, which are written and judged by clocks that may differ
AFTER_CONTACT = 2.0  #: seconds, and a heartbeat: after an outage live owners extend first


class Recovery:
    """Takes back what dead workers held."""

    def __init__(self, rdb: RDB, config: Config, contact: Contact) -> None:
        self._rdb = rdb
        self._config = config
        self._contact = contact
        self._queues: Sequence[str] = tuple(config.queues)

    async def step(self) -> None:
        """One run. Each task is treated alone: what is wrong with one keeps no other from being recovered."""
        if not self._contact.there or time.monotonic() < self._contact.since + self._config.beat + AFTER_CONTACT:
            await self._rdb.ping()
            return
        for queue in self._queues:
            try:
                expired, _ = await asyncio.gather(
                    self._rdb.list_lease_expired(queue, ours=OUR_SLACK, theirs=THEIR_SLACK), self._repair(queue)
                )
                await self._recover(expired)
            except BrokerError as exc:
                if not exc.answered:
                    raise
                self._contact.lost(exc)  # Redis refuses this queue; the others are recovered

    async def _repair(self, queue: str) -> None:
        repaired = await self._rdb.repair(queue)
        self._contact.counts.repaired += len(repaired.strays) + len(repaired.adopted)
        for _, task_id in repaired.strays:
            log.warning("entry %s was taken off the active tasks of queue %s: no such task runs", clean(task_id), queue)
        for _, task_id in repaired.adopted:
            log.warning(
                "task %s of queue %s was active and nobody watched over it; it will be recovered", clean(task_id), queue
            )

    async def take_back(self, server: str) -> None:
        """Recover at once what a server held that is known to be dead, by its name; its leases do not matter."""
        for queue in self._queues:
            owned = await self._rdb.list_owned(queue, server=server)
            for i in range(0, len(owned), MAX_BATCH):
                await self._recover(owned[i : i + MAX_BATCH])

    async def _recover(self, lost: Sequence[Expired]) -> None:
        """Retry or archive tasks of one queue."""
        by_kind: defaultdict[type, list[Any]] = defaultdict(list)
        for expired in lost:
            result = recovered(expired.leased, expired.owner, expired.recovered)
            by_kind[type(result)].append(result)
        if failed := by_kind[Failed]:
            self._report(failed, await self._rdb.retry(failed))
        if killed := by_kind[Killed]:
            self._report(
                killed,
                await self._rdb.kill(
                    killed, max_size=self._config.max_archive, max_age=int(self._config.archive_days * 86400)
                ),
            )

    def _report(self, items: Sequence[Failed | Killed], answers: Sequence[bool]) -> None:
        for item, taken in zip(items, answers, strict=True):
            if taken:
                self._contact.counts.recovered += 1
                what = "will run again" if isinstance(item, Failed) else "was archived"
                log.warning("task %s of queue %s %s: %s", item.leased.shown, item.leased.queue, what, item.error)
