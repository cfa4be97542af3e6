"""Health loop: tells the user's callback whether Redis answers."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING

from aioasynq.errors import BrokerError

if TYPE_CHECKING:
    from aioasynq.rdb.rdb import RDB
    from aioasynq.server.config import HealthCheck

log = logging.getLogger(__name__)


async def health_loop(rdb: RDB, check: HealthCheck, interval: float) -> None:
    """Ping Redis every *interval* seconds and call *check* with None, or with the error."""
    while True:
        await asyncio.sleep(interval)
        error: BrokerError | None = None
        try:
            await rdb.ping()
        except BrokerError as exc:
            error = exc
        try:
            answer = check(error)
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            log.exception("health_check failed")
