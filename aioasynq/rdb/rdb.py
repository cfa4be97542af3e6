"""RDB: all operations on Redis, in one class."""

from __future__ import annotations

import copy
import logging
import random
import re
from typing import TYPE_CHECKING, Any, Self

from redis.asyncio.cluster import RedisCluster

from aioasynq.errors import BrokerError, BrokerRefusedError
from aioasynq.rdb.connection import Link
from aioasynq.rdb.ends import Ends
from aioasynq.rdb.groups import Groups
from aioasynq.rdb.inspection import Inspection
from aioasynq.rdb.lifecycle import Lifecycle
from aioasynq.rdb.migration import Migration
from aioasynq.rdb.periodic import Periodic
from aioasynq.rdb.processes import Processes
from aioasynq.rdb.tokens import Tokens
from aioasynq.rdb.upkeep import Upkeep
from aioasynq.rdb.whole_queues import WholeQueues

if TYPE_CHECKING:
    from aioasynq.rdb.connection import ToRedis
    from aioasynq.rdb.started import Copies

log = logging.getLogger(__name__)

MIN_VERSION = (6, 2)


class RDB(Periodic, WholeQueues, Migration, Lifecycle, Groups, Ends, Upkeep, Inspection, Processes, Tokens):
    """Every atomic step a queue is made of, under the names of asynq's first RDB.

    Args:
        redis: a URL, :class:`~aioasynq.rdb.url.RedisOptions`, a ``redis.asyncio`` client (never closed here), or None
            for the URL in ``AIOASYNQ_REDIS_URL``.
        clock: unix seconds for tests; otherwise Redis's own clock counts.
        operation_timeout: seconds an operation may take, repeats included.

    An operation runs to its end even when its caller is cancelled. It repeats itself when a connection breaks, and a
    repeat is answered, not done twice.
    """

    def twin(self) -> RDB:
        """Another RDB of the same kind with connections of its own, for another thread or loop."""
        link = self._link
        twin = Link(link.again(), True, link.address, link.again)
        return RDB(twin, clock=self._clock, operation_timeout=self._timeout)

    def view(self, *, copies: Copies | None = None) -> RDB:
        """Another RDB on the same client, whose operations are its own: it is closed and given up by itself.

        Args:
            copies: what :meth:`start_to` stores has to be on replicas too. Only this view waits for them.
        """
        view = copy.copy(self)  # of the same class, should it be one's own
        view._begin(Link(self._link.client, False, self._link.address, self._link.again))  # noqa: SLF001 - it is one of us
        view._copies = copies  # noqa: SLF001 - as above
        view._unnamed = {}  # noqa: SLF001 - as above
        return view

    @property
    def max_connections(self) -> int:
        """How many connections the client may have; of a Cluster, to each node."""
        if isinstance(self._redis, RedisCluster):
            return int(self._redis.connection_kwargs.get("max_connections", 2**31))
        return self._redis.connection_pool.max_connections

    async def ping(self, *, timeout: float | None = None) -> None:
        """Ask Redis for a sign of life; in at most *timeout* seconds, else the usual limit.

        Raises:
            BrokerError: there is none.
        """
        await self._plain("PING", lambda: self.command("PING"), timeout=timeout)

    async def check_server(self, *, timeout: float | None = None) -> tuple[int, ...]:
        """Look whether this Redis will do, and return its version; in at most *timeout* seconds, else the usual limit.

        Raises:
            BrokerRefusedError: wrong password, missing permission, a Sentinel, or older than 6.2.
            BrokerError: it cannot be reached.
        """
        try:
            info = _parse_info(await self._plain("the first look", self._info, timeout=timeout))
        except BrokerRefusedError as exc:
            if "NOPERM" not in str(exc) and "no permissions" not in str(exc):
                raise
            await self.ping()  # INFO may be forbidden; the rest shows itself at the first script
            return ()
        if info.get("redis_mode") == "sentinel":
            raise BrokerRefusedError(
                f"{self.address} is a Sentinel; the URL has to be like redis-sentinel://host:port/service"
            )
        found = info.get("redis_version", "")
        version = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
        if version and version < MIN_VERSION:
            raise BrokerRefusedError(f"{self.address} is Redis {found}; version 6.2 or later is needed")
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            log.warning(
                "%s has maxmemory-policy %s: it may throw tasks away when memory is full; set it to noeviction",
                self.address,
                policy,
            )
        return version

    async def info(self) -> dict[str, str]:
        """What Redis says about itself (INFO), by name; of a Cluster, one node.

        Raises:
            BrokerError: it does not answer, or this user may not ask.
        """
        return _parse_info(await self._plain("INFO", self._info))

    async def _info(self) -> Any:
        target: dict[str, Any] = {}
        if isinstance(self._redis, RedisCluster):
            await self._redis.initialize()
            target = {"target_nodes": random.choice(self._redis.get_primaries())}  # as for TIME
        return await self._redis.execute_command("INFO", **target)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _parse_info(answer: Any) -> dict[str, str]:
    """INFO as a mapping: redis-py parses it, but names its types only loosely."""
    if isinstance(answer, dict):
        return {str(key): str(value) for key, value in answer.items()}
    raise BrokerError(f"INFO answered {type(answer).__name__}")


def open_rdb(redis: ToRedis | RDB | None, **kwargs: Any) -> RDB:
    """The RDB of a Client, Server or their like, theirs to close: an RDB that was handed in stays open."""
    return redis.view() if isinstance(redis, RDB) else RDB(redis, **kwargs)
