"""The one shape of a loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aioasynq.errors import BrokerError

if TYPE_CHECKING:
    from aioasynq.server.contact import Contact


async def every(
    interval: float, step: Callable[[], Awaitable[object]], contact: Contact, *, first: float | None = None
) -> None:
    """Run *step* about every *interval* seconds until cancelled, the first time after *first*; without Redis, go on.

    Any error but a BrokerError is a bug and ends the server.
    """
    await asyncio.sleep(_about(interval if first is None else first))
    while True:
        try:
            await step()
        except BrokerError as exc:
            contact.lost(exc)
        else:
            contact.made()
        await asyncio.sleep(_about(interval))


def _about(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # many servers must not knock at once
