"""A worker that has no parent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aioasynq.cli.banner import introduce, rows
from aioasynq.cli.burst import Left, look, until_empty

if TYPE_CHECKING:
    from aioasynq.cli.unknown import Unknown
    from aioasynq.rdb.rdb import RDB
    from aioasynq.server import Server

log = logging.getLogger(__name__)


class Alone:
    """This process, as somebody started it.

    Args:
        unknown: says which tasks have no handler.
        also: what there is to say besides when it begins.
        burst: end when nothing is left to do.
    """

    def __init__(self, unknown: Unknown, also: Mapping[str, str], *, burst: bool) -> None:
        self._unknown = unknown
        self._also = also
        self._burst = burst

    async def run(self, server: Server, rdb: RDB) -> None:
        """Run *server* until a signal ends it, or the end of the burst."""
        introduce({**rows(server, rdb), **self._also})
        async with self._unknown.looking(rdb, server.config.queues):
            ending = asyncio.get_running_loop().create_task(_end_when_empty(server, rdb)) if self._burst else None
            try:
                await server.run()
            finally:
                if ending is not None:
                    ending.cancel()
                    await asyncio.wait({ending})


async def _end_when_empty(server: Server, rdb: RDB) -> None:
    await until_empty(lambda: _ask(server, rdb))
    log.info("burst: %d tries, %d of them failed", server.counts.processed, server.counts.failed)
    await server.shutdown()


async def _ask(server: Server, rdb: RDB) -> dict[int, Left]:
    return {0: await look(server, rdb)}
