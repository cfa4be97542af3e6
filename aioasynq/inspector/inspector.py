"""Inspector: all its parts in one class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from aioasynq.inspector.bulk import Bulk
from aioasynq.inspector.explain import Explain
from aioasynq.inspector.migrate import Migrate
from aioasynq.inspector.queues import Queues
from aioasynq.inspector.tasks import Tasks
from aioasynq.rdb.base import OPERATION_TIMEOUT
from aioasynq.rdb.rdb import RDB, open_rdb

if TYPE_CHECKING:
    from aioasynq.rdb.connection import ToRedis


class Inspector(Queues, Tasks, Bulk, Explain, Migrate):
    """Sees and changes queues and tasks, whoever put them there and works on them, Python or Go.

    For example::

        async with Inspector("redis://localhost:6379/0") as inspector:
            for queue in await inspector.queues():
                print(await inspector.get_queue_info(queue))

    The names are those of asynq's Inspector.

    Args:
        redis: a URL, a ``redis.asyncio`` client (never closed here), an :class:`RDB`, or None for the URL in
            ``AIOASYNQ_REDIS_URL``.
        operation_timeout: seconds a call to Redis may take, repeats after a lost connection included.
    """

    def __init__(self, redis: ToRedis | RDB | None = None, *, operation_timeout: float = OPERATION_TIMEOUT) -> None:
        if not 0 < operation_timeout <= 50:
            raise ValueError(f"operation_timeout must be more than 0 and at most 50 seconds, got {operation_timeout!r}")
        self._rdb = open_rdb(redis, operation_timeout=operation_timeout)

    async def aclose(self) -> None:
        """Close its connections; a client that was handed in stays open."""
        await self._rdb.aclose()

    def __repr__(self) -> str:
        return f"<Inspector {self._rdb.address}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
