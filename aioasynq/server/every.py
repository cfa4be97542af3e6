"""The one shape of a loop."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aioasynq.errors import BrokerError

if TYPE_CHECKING:
    from aioasynq.server.contact import Contact


log = logging.getLogger(__name__)


async def every(
    interval: float, step: Callable[[], Awaitable[object]], contact: Contact, *, first: float | None = None
) -> None:
    """Run *step* about every *interval* seconds until cancelled, the first time after *first*.

    Without Redis it goes on, and after a bug too: what one step met must not end all that the server does.
    """
    await asyncio.sleep(_about(interval if first is None else first))
    while True:
        try:
            await step()
        except BrokerError as exc:
            contact.lost(exc)
        except Exception:
            log.exception("a step failed by a bug; it is done again in %.0f s", interval)
        else:
            contact.made()
        await asyncio.sleep(_about(interval))


def _about(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # many servers must not knock at once
