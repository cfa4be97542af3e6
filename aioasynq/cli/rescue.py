"""What a dead child held goes back at once, instead of when its leases end."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from aioasynq.errors import AioasynqError
from aioasynq.message import ServerInfo
from aioasynq.rdb.rdb import RDB
from aioasynq.server import Config
from aioasynq.server.contact import Contact
from aioasynq.server.recover_loop import Recovery

if TYPE_CHECKING:
    from aioasynq.cli.line import Hello

log = logging.getLogger(__name__)

AGAIN = (0.0, 0.5, 2.0)  #: seconds from look to look: what the dead child had sent may be read only after the first
PAUSE = 0.5  #: seconds between two tries to reach Redis
LIMIT = 5.0  #: seconds that rescues may hold up the end of a command
PATIENCE = 30.0  #: seconds after which a rescue is left to other servers; its leases have ended by then


async def rescue(dead: Hello) -> None:
    """Retry or archive what a child held that has died, as when its leases had ended."""
    if dead.redis is None:
        log.warning("what %s held runs again when its leases end: its Redis is known to the program only", dead.name)
        return
    host, pid, server_id = dead.name.rsplit(":", 2)
    config = Config(queues=dead.queues, max_archive=dead.max_archive, archive_days=dead.archive_days)
    end = time.monotonic() + PATIENCE
    async with RDB(dead.redis) as rdb:
        recovery = Recovery(rdb, config, Contact(rdb.address))
        for look in AGAIN:
            await asyncio.sleep(look)
            while True:
                try:
                    await recovery.take_back(dead.name)
                    await rdb.clear_process_info(ServerInfo(host=host, pid=int(pid), server_id=server_id))
                    break
                except AioasynqError as exc:
                    if time.monotonic() > end:
                        log.warning("what %s held runs again when its leases end: %s", dead.name, exc)
                        return
                    await asyncio.sleep(PAUSE)
