"""``--burst``: work until the queues are empty of what can run now."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from aioasynq.errors import BrokerError

if TYPE_CHECKING:
    from aioasynq.rdb.rdb import RDB
    from aioasynq.server import Server

log = logging.getLogger(__name__)

EVERY = 0.25  #: seconds between two looks
SAY_EVERY = 5.0  #: seconds between two words on how many are left


class Left(msgspec.Struct, tag=True, frozen=True):
    """What a worker saw at one moment."""

    pending: int  #: in its queues, but for those that are paused
    due: int  #: queues in which a scheduled or retried task is about to become pending
    running: int  #: its own
    processed: int  #: tries it had ended before it looked
    is_known: bool = True  #: it has started, and Redis has answered

    @property
    def is_nothing(self) -> bool:
        """Whether nothing was left."""
        return self.is_known and not (self.pending or self.due or self.running)


async def look(server: Server, rdb: RDB) -> Left:
    """What *server* has left to do."""
    queues = tuple(server.config.queues)
    processed = server.counts.processed
    if server.status == "new":
        return Left(0, 0, 0, processed, is_known=False)
    try:
        # In the direction in which tasks move, so that none slips past: due, pending, then ours. A task that is ours
        # before its handler runs, or after, is seen in Redis only.
        due = sum(seconds <= 0 for seconds in (await rdb.next_due(*queues)).values())
        pending = sum([await rdb.count(queue, "pending") for queue in queues if not await rdb.is_paused(queue)])
        owned = 0 if server.running else len(await rdb.list_owned(*queues, server=server.name))
    except BrokerError as exc:
        log.debug("burst: %s", exc)
        return Left(0, 0, server.running, processed, is_known=False)
    return Left(pending, due, server.running or owned or _aggregations(server), processed)


def _aggregations(server: Server) -> int:
    """Groups that are being made one task."""
    engine = server._engine  # noqa: SLF001 - nobody else needs to know
    return 0 if engine is None else len(engine.aggregator._working)  # noqa: SLF001 - as above


async def until_empty(ask: Callable[[], Awaitable[Mapping[int, Left | None]]]) -> None:
    """Return when nothing is left; *ask* says what each process has, None where one did not answer.

    They look at different moments, so a task may slip from one that has yet to look to one that has. Nothing is left
    when two rounds saw nothing, and no handler has ended in between.
    """
    say_at = time.monotonic() + SAY_EVERY
    before: Mapping[int, Left | None] = {}
    while True:
        now = await ask()
        nothing = bool(now) and all(left is not None and left.is_nothing for left in now.values())
        if nothing and now == before:
            log.info("burst: nothing is left to do now")
            return
        before = now
        if nothing:
            continue
        known = [left for left in now.values() if left is not None and left.is_known]
        if known and time.monotonic() >= say_at:
            say_at = time.monotonic() + SAY_EVERY
            pending, running = max(left.pending for left in known), sum(left.running for left in known)
            log.info("burst: %d pending and %d running are left", pending, running)
        await asyncio.sleep(EVERY)
