"""What a shutdown waits for, said while it waits."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from aioasynq.server.running import named

if TYPE_CHECKING:
    from aioasynq.server.running import Held

log = logging.getLogger(__name__)

FIRST = 0.3  #: seconds until it is worth a word
EVERY = 5.0  #: seconds between two words


async def tell_of_waiting(held: Held, limit: float) -> None:
    """Say which handlers still run, and how many of *limit* seconds they have left; until cancelled."""
    end = time.monotonic() + limit
    pause = FIRST
    while True:
        await asyncio.sleep(pause)
        pause = EVERY
        running = sorted((each for each in held.snapshot() if not each.ended), key=lambda each: each.began)
        if running and (left := end - time.monotonic()) > 0:
            log.info("waiting %.0f s more at most for running tasks: %d: %s", left, len(running), named(running))
