"""From a URL, a client or nothing to a redis.asyncio client, and to connections of one's own.

Our own clients open a few connections and repeat nothing by themselves: each operation repeats itself, with a receipt.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import inspect
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import redis.asyncio as aioredis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError, RedisClusterException

from aioasynq.rdb import tls
from aioasynq.rdb.sentinel import Masters, follows_master
from aioasynq.rdb.url import DEFAULT_URL, URL_VARIABLE, AnyRedis, RedisOptions, address_of, open_url

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from redis.asyncio.connection import AbstractConnection

#: What leads to Redis: the first argument of Client, Server and their like, where that is no RDB.
ToRedis: TypeAlias = "str | RedisOptions | AnyRedis"

REFRESH_TIMEOUT = 1.0  #: seconds that a look at which node of a Cluster holds what may take
# What redis-py puts into a pool's arguments for its own use, tied to that pool.
_POOL_BOUND = {
    "event_dispatcher",
    "maint_notifications_pool_handler",
    "oss_cluster_maint_notifications_handler",
    "orig_host_address",
    "orig_socket_timeout",
    "orig_socket_connect_timeout",
}
# The same for the nodes of a Cluster.
_CLUSTER_BOUND = {"redis_connect_func", "response_callbacks"}


@dataclass(frozen=True, slots=True)
class Link:
    """A client, whose it is, and how to make another like it."""

    client: AnyRedis
    owned: bool  #: opened here, so closed here
    address: str  #: for people: where it leads, without the password
    again: Callable[[], AnyRedis]  #: a second client of the same kind, to be closed by whoever asked


def open_link(redis: ToRedis | None = None) -> Link:
    """Make sense of the first argument of Client, Server and their like.

    Args:
        redis: a URL (``redis://``, ``rediss://``, ``unix://``, ``redis-sentinel://host:port,host:port/service``,
            ``redis-cluster://host:port,host:port``), :class:`RedisOptions`, a client of ``redis.asyncio``, or None for
            the URL in the environment variable ``AIOASYNQ_REDIS_URL``, else ``redis://localhost:6379/0``.

    Raises:
        ValueError: the URL or a certificate cannot be read, or the client decodes its replies.
        TypeError: it is none of these.
    """
    options = redis if isinstance(redis, RedisOptions) else None
    if isinstance(redis, str):
        return _link_to(redis, None)
    if options is not None and options.url is not None:
        return _link_to(options.url, options)
    if redis is None or options is not None:
        try:
            return _link_to(os.environ.get(URL_VARIABLE) or DEFAULT_URL, options)
        except ValueError as exc:
            raise ValueError(f"{exc} (from the environment variable {URL_VARIABLE})") from None
    if isinstance(redis, aioredis.Redis | RedisCluster):
        if redis.get_encoder().decode_responses:
            raise ValueError("redis must be a client with decode_responses=False, since payloads are bytes")
        encoding = redis.get_encoder().encoding
        if codecs.lookup(encoding).name != "utf-8":
            raise ValueError(f"redis must be a client with encoding='utf-8', as Go reads and writes, got {encoding!r}")
        given = redis
        return Link(given, False, address_of(given), lambda: _twin(given))
    kind = type(redis)  # not its repr, which may have a password in it
    raise TypeError(f"redis must be a URL, a redis.asyncio client or None, got {kind.__module__}.{kind.__qualname__}")


def _link_to(url: str, options: RedisOptions | None) -> Link:
    client, address = open_url(url, options)
    return Link(client, True, address, lambda: open_url(url, options)[0])


def hint(address: str, why: str) -> str:
    """What may be behind the failure *why* of a Redis that has answered nothing yet, to be added to a text; or ""."""
    if address.startswith("rediss://") and "Error" not in why:
        # To a Redis without TLS the handshake is half a command, and it waits for the rest.
        return " (if the port does not speak TLS, the URL has to begin with redis://)"
    if address.startswith("redis://") and ("closed by server" in why or "reset by peer" in why):
        return " (if the port speaks TLS, the URL has to begin with rediss://)"
    return tls.hint(why)


def _twin(client: AnyRedis) -> AnyRedis:
    if isinstance(client, RedisCluster):
        # Among them is what redis-py made of its arguments, such as a connection class of `ssl`.
        known = inspect.signature(RedisCluster.__init__).parameters.keys() - _POOL_BOUND - _CLUSTER_BOUND
        kwargs = {k: v for k, v in client.connection_kwargs.items() if k in known}
        kwargs["ssl"] = issubclass(client.connection_kwargs["connection_class"], aioredis.SSLConnection)
        nodes = [ClusterNode(node.host, node.port) for node in client.nodes_manager.startup_nodes.values()]
        return RedisCluster(startup_nodes=nodes, **kwargs)
    pool = client.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        return _sentinel_twin(pool)
    kwargs = {k: v for k, v in pool.connection_kwargs.items() if k not in _POOL_BOUND}
    twin: aioredis.ConnectionPool = aioredis.ConnectionPool(pool.connection_class, max_connections=4, **kwargs)
    return aioredis.Redis.from_pool(twin)


class _ClosingPool(SentinelConnectionPool):
    """One that has its Sentinels for itself, and ends the connections to them with its own."""

    def __init__(self, service: str, manager: Sentinel, **kwargs: Any) -> None:
        super().__init__(service, manager, **kwargs)  # type: ignore[no-untyped-call]  # redis-py's
        self._known = [*manager.sentinels]  # its own list may lose one when two ask at the same moment

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 - as in redis-py
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for known in self._known:
                await known.aclose()


def _sentinel_twin(pool: SentinelConnectionPool) -> aioredis.Redis:
    """The same with Sentinels of its own, whose connections belong to no other event loop."""
    manager = pool.sentinel_manager
    places = [known.connection_pool.connection_kwargs for known in manager.sentinels]
    sentinels = Sentinel(
        [(place["host"], place["port"]) for place in places],
        min_other_sentinels=manager.min_other_sentinels,
        sentinel_kwargs=manager.sentinel_kwargs,
    )
    kwargs = {k: v for k, v in pool.connection_kwargs.items() if k not in _POOL_BOUND | {"connection_pool"}}
    twin = _ClosingPool(
        pool.service_name,
        sentinels,
        connection_class=pool.connection_class,
        is_master=pool.is_master,
        check_connection=pool.check_connection,
        **kwargs,
    )
    return aioredis.Redis.from_pool(twin)


def masters_of(client: AnyRedis) -> Masters | None:
    """The Sentinels of a client that was made from their URL."""
    if isinstance(client, RedisCluster):
        return None
    masters = client.connection_pool.connection_kwargs.get("masters")
    return masters if isinstance(masters, Masters) else None


def is_led_to_master(client: AnyRedis) -> bool:
    """Whether a connection that meets a replica will lead to the master when it is made anew."""
    return not isinstance(client, RedisCluster) and follows_master(client.connection_pool.connection_class)


async def refresh(client: RedisCluster, suspect: str = "") -> None:
    """Learn anew which node of a Cluster holds what, and ask the one that holds the key *suspect* last.

    redis-py does so by itself when a connection breaks, but not for connections that others opened, nor when a node is
    silent for longer than its caller waits.

    Raises:
        what FAILURES lists: no node can tell.
    """
    manager = client.nodes_manager
    known = manager.startup_nodes
    try:
        node = client.get_node_from_key(suspect) if suspect else None
    except RedisClusterException:  # nobody is known to hold it
        node = None
    if node is not None and node.name in known:
        known[node.name] = known.pop(node.name)
    async with asyncio.timeout(REFRESH_TIMEOUT):
        with passing():
            await manager.initialize()


@contextlib.contextmanager
def passing() -> Generator[None]:
    """Take for a broken connection what redis-py 5 raises when two calls learn at once which node holds what."""
    try:
        yield
    except RuntimeError as exc:
        if "during iteration" not in str(exc):
            raise
        raise RedisConnectionError(f"the nodes of the Cluster were learned anew meanwhile: {exc}") from exc


async def close(client: AnyRedis) -> None:
    """Close a client with all its connections.

    Of a Cluster that redis-py never got to know it closes none by itself, though :func:`refresh` may have opened some.
    """
    await client.aclose()
    if isinstance(client, RedisCluster):
        for nodes in ("startup_nodes", "nodes_cache"):
            await client.nodes_manager.aclose(nodes)


def subscriber_of(client: AnyRedis) -> aioredis.Redis:
    """A client that can subscribe; on a Cluster one of a node drawn by chance.

    A Cluster hands on what is published to all its nodes, and only later versions of redis-py subscribe to a Cluster.
    """
    if not isinstance(client, RedisCluster):
        return client
    node = random.choice(client.get_nodes() or list(client.nodes_manager.startup_nodes.values()))
    kwargs = {k: v for k, v in node.connection_kwargs.items() if k not in _POOL_BOUND | _CLUSTER_BOUND}
    pool: aioredis.ConnectionPool = aioredis.ConnectionPool(node.connection_class, **kwargs)
    return aioredis.Redis.from_pool(pool)


async def connection_for(client: AnyRedis, key: str) -> tuple[AbstractConnection, ClusterNode | None]:
    """A connection of one's own, not yet open, to the node that holds *key*; on a Cluster also that node.

    It has no timeout of its own: whoever waits on it says for how long.
    """
    if isinstance(client, RedisCluster):
        with passing():
            await client.initialize()
        node = client.get_node_from_key(key)
        if node is None:
            raise ConnectionError(f"no node of the Cluster holds {key!r}")
        connection: AbstractConnection = node.connection_class(**node.connection_kwargs)
    else:
        node = None
        connection = client.connection_pool.make_connection()
    connection.socket_timeout = None
    return connection, node
