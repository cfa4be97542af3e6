"""Cancel loop: listens for ids of tasks to cancel, and cancels those that run here."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from redis.exceptions import NoPermissionError, RedisError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioasynq.rdb.rdb import RDB

from aioasynq import keys

log = logging.getLogger(__name__)

RECONNECT = 1.0  #: seconds between two tries to subscribe
SILENCE = 30.0  #: seconds without a message after which the connection is tried with a PING


async def cancel_loop(rdb: RDB, cancel: Callable[[str], None]) -> None:
    """Call *cancel* with each id that arrives, until cancelled; subscribe anew whenever the connection breaks."""
    refused = ""
    while True:
        pubsub = rdb.pubsub()
        try:
            await pubsub.subscribe(keys.CANCEL)
            while True:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=SILENCE)
                if message is None:
                    await pubsub.ping()
                elif isinstance(task_id := message["data"], bytes):
                    cancel(task_id.decode("utf-8", "replace"))
        except NoPermissionError as exc:
            if refused != str(exc):  # told once
                refused = str(exc)
                log.warning("Redis refuses: cancelations of tasks are not heard: %s; trying again", exc)
        except (RedisError, OSError, TimeoutError) as exc:
            log.debug("listening for cancelations was interrupted: %s", exc)
        finally:
            await _close(pubsub)
        await asyncio.sleep(RECONNECT)


async def _close(pubsub: object) -> None:
    try:
        await pubsub.aclose()  # type: ignore[attr-defined]
    except (RedisError, OSError, TimeoutError, RuntimeError) as exc:
        log.debug("closing the subscription failed: %s", exc)
