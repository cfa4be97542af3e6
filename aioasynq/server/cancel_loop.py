"""Cancel loop: listens for ids of tasks to cancel, and cancels those that run here."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from redis.exceptions import NoPermissionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.client import PubSub

    from aioasynq.rdb.rdb import RDB

from aioasynq import keys
from aioasynq.rdb.failures import FAILURES

log = logging.getLogger(__name__)

RECONNECT = 1.0  #: seconds between two tries to subscribe
SILENCE = 10.0  #: seconds without a message after which the connection is tried with a PING
PING_LIMIT = 5.0  #: seconds its answer may take


async def cancel_loop(rdb: RDB, cancel: Callable[[str], None]) -> None:
    """Call *cancel* with each id that arrives, until cancelled; subscribe anew whenever the connection breaks."""
    refused = ""
    while True:
        pubsub = rdb.pubsub()
        try:
            await pubsub.subscribe(keys.CANCEL)
            await _hear(pubsub, cancel)
        except NoPermissionError as exc:
            if refused != str(exc):  # told once
                refused = str(exc)
                log.warning("Redis refuses: cancelations of tasks are not heard: %s; trying again", exc)
        except FAILURES as exc:
            log.debug("listening for cancelations was interrupted: %s", exc)
        finally:
            await _close(pubsub)
        await asyncio.sleep(RECONNECT)


async def _hear(pubsub: PubSub, cancel: Callable[[str], None]) -> None:
    asked = False
    while True:
        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=PING_LIMIT if asked else SILENCE)
        if message is None:
            if asked:  # the server, or the way to it, died without a word
                raise TimeoutError(f"no answer to PING within {PING_LIMIT:g} s")
            await pubsub.ping()
            asked = True
            continue
        asked = False
        if message["type"] == "message" and isinstance(task_id := message["data"], bytes):
            cancel(task_id.decode("utf-8", "replace"))


async def _close(pubsub: object) -> None:
    try:
        await pubsub.aclose()  # type: ignore[attr-defined]
    except (*FAILURES, RuntimeError) as exc:
        log.debug("closing the subscription failed: %s", exc)
