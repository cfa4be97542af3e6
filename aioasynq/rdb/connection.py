"""From a URL, a client or nothing to a redis.asyncio client, and to connections of one's own.

Our own clients open a few connections and repeat nothing by themselves: each operation repeats itself, with a receipt.
"""

from __future__ import annotations

import codecs
import inspect
import os
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote, urlsplit

import redis.asyncio as aioredis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis.asyncio.connection import AbstractConnection

URL_VARIABLE = "AIOASYNQ_REDIS_URL"
MAX_CONNECTIONS = 8  #: of a client opened from a URL; calls past that wait for a free one
CONNECT_TIMEOUT = 2.0  #: seconds to open a connection

AnyRedis: TypeAlias = "aioredis.Redis | RedisCluster"

_ESCAPES = "in a password a slash is written %2F and a # %23"
_SCHEMES = ("redis", "rediss", "unix", "redis-cluster")
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


def open_link(redis: str | AnyRedis | None = None) -> Link:
    """Make sense of the first argument of Client, Server and their like.

    Args:
        redis: a URL (``redis://``, ``rediss://``, ``unix://``, ``redis-cluster://host:port,host:port``), a client of
            ``redis.asyncio``, or None for the URL in the environment variable ``AIOASYNQ_REDIS_URL``, else
            ``redis://localhost:6379/0``.

    Raises:
        ValueError: the URL cannot be read, or the client decodes its replies.
        TypeError: it is neither.
    """
    if redis is None:
        found = os.environ.get(URL_VARIABLE)
        try:
            return open_link(found or "redis://localhost:6379/0")
        except ValueError as exc:
            raise ValueError(f"{exc} (from the environment variable {URL_VARIABLE})") from None
    if isinstance(redis, str):
        url = redis
        client, address = _from_url(url)
        return Link(client, True, address, lambda: _from_url(url)[0])
    if isinstance(redis, aioredis.Redis | RedisCluster):
        if redis.get_encoder().decode_responses:
            raise ValueError("redis must be a client with decode_responses=False, since payloads are bytes")
        encoding = redis.get_encoder().encoding
        if codecs.lookup(encoding).name != "utf-8":
            raise ValueError(f"redis must be a client with encoding='utf-8', as Go reads and writes, got {encoding!r}")
        given = redis
        return Link(given, False, _address_of(given), lambda: _twin(given))
    kind = type(redis)  # not its repr, which may have a password in it
    raise TypeError(f"redis must be a URL, a redis.asyncio client or None, got {kind.__module__}.{kind.__qualname__}")


def _from_url(url: str) -> tuple[AnyRedis, str]:
    if any("\ud800" <= letter <= "\udfff" for letter in url):  # else an error that carries the password says so, late
        raise ValueError(f"redis must be valid Unicode text, got {_without_password(url)!r}")
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may have the password in it
        raise ValueError(
            f"redis must be a URL like redis://localhost:6379/0, got {_without_password(url)!r}: "
            "what is no plain letter or digit in a password is written as percent codes, a bracket as %5B or %5D"
        ) from None
    if parts.scheme not in _SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise ValueError(f"redis must be a URL that begins with one of {known}; got {_without_password(url)!r}")
    if parts.scheme == "redis-cluster":
        return _cluster_from_url(url)
    if parts.scheme == "unix" and not parts.path:
        raise ValueError(f"redis must name a socket, as in unix:///path/to/redis.sock, got {_without_password(url)!r}")
    in_path = "@" in parts.path and (parts.scheme != "unix" or (parts.netloc != "" and "@" not in parts.netloc))
    if parts.fragment or in_path:  # the rest of a password that was not escaped
        # What urllib takes for a port may be the half of a password that has a slash in it.
        port = "" if re.fullmatch(r".*:\d*|[^:]*", parts.netloc) else "its port is no number; "
        raise ValueError(
            f"redis must be a URL like redis://localhost:6379/0, got {_without_password(url)!r}: {port}{_ESCAPES}"
        )
    if parts.scheme != "unix" and not re.fullmatch(r"/?|/\d+/?", parts.path):
        raise ValueError(
            f"redis must name its database by a number, as in redis://localhost:6379/0, got {_without_password(url)!r}"
        )
    try:
        pool: aioredis.BlockingConnectionPool = aioredis.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=None,  # the operation's own timeout ends the wait for a free connection
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,  # the operation's own timeout again: one clock is cheaper than three
            socket_connect_timeout=CONNECT_TIMEOUT,
            health_check_interval=0,
        )
        pool.connection_class(**pool.connection_kwargs)  # so that an option it does not know is told here
    except (ValueError, TypeError) as exc:
        why = f"its port is no number; {_ESCAPES}" if "Port could" in str(exc) else exc
        raise ValueError(
            f"redis must be a URL like redis://localhost:6379/0, got {_without_password(url)!r}: {why}"
        ) from None
    client = aioredis.Redis.from_pool(pool)
    return client, _address_of(client)


def _cluster_from_url(url: str) -> tuple[RedisCluster, str]:
    parts = urlsplit(url)
    if parts.query:
        raise ValueError(
            "redis must be a URL without a query, as in redis-cluster://user:password@host:port,host:port, "
            f"got {_without_password(url)!r}"
        )
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    nodes: list[ClusterNode] = []
    for host in hosts.split(","):
        name, _, port = host.rpartition(":") if ":" in host else (host, "", "6379")
        if not name or not port.isdigit():
            raise ValueError(
                f"redis must name nodes as redis-cluster://host:port,host:port, got {_without_password(url)!r}"
            )
        nodes.append(ClusterNode(name, int(port)))
    client = RedisCluster(
        startup_nodes=nodes,
        username=unquote(username) or None,
        password=unquote(password) or None,
        protocol=2,
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=None,
    )
    return client, f"redis-cluster://{hosts}"


def hint(address: str, why: str) -> str:
    """What may be behind the failure *why* of a Redis that has answered nothing yet, to be added to a text; or ""."""
    if address.startswith("rediss://") and "Error" not in why:
        # To a Redis without TLS the handshake is half a command, and it waits for the rest.
        return " (if the port does not speak TLS, the URL has to begin with redis://)"
    if address.startswith("redis://") and ("closed by server" in why or "reset by peer" in why):
        return " (if the port speaks TLS, the URL has to begin with rediss://)"
    return ""


def _without_password(url: str) -> str:
    url = re.sub(r"(?<![^?&;#/])([^?&;#/=]*=)([^&;]*)", _masked, url)
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, separator, credentials = head.partition("://")
    return f"{scheme}{separator}{credentials.partition(':')[0]}:***@{tail}" if separator else f"***@{tail}"


def _masked(option: re.Match[str]) -> str:
    return f"{option[1]}***" if "pass" in unquote(option[1]).lower() else option[0]


def _address_of(client: AnyRedis) -> str:
    if isinstance(client, RedisCluster):
        nodes = ",".join(f"{node.host}:{node.port}" for node in client.nodes_manager.startup_nodes.values())
        return f"redis-cluster://{nodes}"
    kwargs: dict[str, Any] = client.connection_pool.connection_kwargs
    if "path" in kwargs:
        return f"unix://{kwargs['path']}?db={kwargs.get('db', 0)}"
    scheme = "rediss" if issubclass(client.connection_pool.connection_class, aioredis.SSLConnection) else "redis"
    return f"{scheme}://{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}/{kwargs.get('db', 0)}"


def _twin(client: AnyRedis) -> AnyRedis:
    if isinstance(client, RedisCluster):
        # Among them is what redis-py made of its arguments, such as a connection class of `ssl`.
        known = inspect.signature(RedisCluster.__init__).parameters.keys() - _POOL_BOUND - _CLUSTER_BOUND
        kwargs = {k: v for k, v in client.connection_kwargs.items() if k in known}
        kwargs["ssl"] = issubclass(client.connection_kwargs["connection_class"], aioredis.SSLConnection)
        nodes = [ClusterNode(node.host, node.port) for node in client.nodes_manager.startup_nodes.values()]
        return RedisCluster(startup_nodes=nodes, **kwargs)
    pool = client.connection_pool
    kwargs = {k: v for k, v in pool.connection_kwargs.items() if k not in _POOL_BOUND}
    twin: aioredis.ConnectionPool = aioredis.ConnectionPool(pool.connection_class, max_connections=4, **kwargs)
    return aioredis.Redis.from_pool(twin)


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
        await client.initialize()
        node = client.get_node_from_key(key)
        if node is None:
            raise ConnectionError(f"no node of the cluster holds {key!r}")
        connection: AbstractConnection = node.connection_class(**node.connection_kwargs)
    else:
        node = None
        connection = client.connection_pool.make_connection()
    connection.socket_timeout = None
    return connection, node
