"""From a URL and what is given beside it to a client: one server, a socket, Sentinel, a Cluster; TLS or not."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, TypeAlias
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

import redis.asyncio as aioredis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from aioasynq.rdb import sentinel, tls
from aioasynq.rdb.driver import introduction

AnyRedis: TypeAlias = "aioredis.Redis | RedisCluster"

URL_VARIABLE = "AIOASYNQ_REDIS_URL"
DEFAULT_URL = "redis://localhost:6379/0"
MAX_CONNECTIONS = 8  #: of a client opened from a URL; calls past that wait for a free one
CONNECT_TIMEOUT = 2.0  #: seconds to open a connection

_ESCAPES = "in a password a slash is written %2F, a # %23 and a ? %3F"
_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis-socket",
    "redis-sentinel",
    "rediss-sentinel",
    "redis-cluster",
    "rediss-cluster",
)
_SENTINEL_EXAMPLE = "redis-sentinel://host:port,host:port/service"
_CLUSTER_EXAMPLE = "redis-cluster://host:port,host:port"


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """Where Redis is and how to get in, for what should not stand in a URL.

    For example::

        Client(RedisOptions("rediss://redis.example.com", password=secret, ssl_ca_certs="/etc/ssl/our-ca.pem"))

    What is given here wins over the URL.
    """

    url: str | None = None  #: as anywhere else; None: the one in ``AIOASYNQ_REDIS_URL``
    _: KW_ONLY
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None  #: of the Sentinels, which have users of their own
    sentinel_password: str | None = None
    ssl_ca_certs: str | os.PathLike[str] | None = (
        None  #: file or folder of trusted authorities (PEM); else the system's
    )
    ssl_certfile: str | os.PathLike[str] | None = None  #: certificate to show to Redis (PEM)
    ssl_keyfile: str | os.PathLike[str] | None = None  #: its key, unless that is in the same file
    ssl_password: str | None = None  #: of the key, when it is encrypted
    ssl_server_name: str | None = None  #: that the server's certificate has to be for, where that is not the host
    ssl_cert_reqs: str | None = None  #: ``required``, which is the default, ``optional`` or ``none``
    ssl_check_hostname: bool | None = None  #: False: any name in the certificate will do

    def __post_init__(self) -> None:
        """Check that secrets are text; the rest is checked with the URL.

        Raises:
            TypeError: naming the option.
        """
        for name in ("username", "password", "sentinel_username", "sentinel_password", "ssl_password"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name} must be a str, got {type(value).__name__}")
        if self.url is not None and not isinstance(self.url, str):
            raise TypeError(f"url must be a str, got {type(self.url).__name__}")

    def __repr__(self) -> str:
        given = [f"{name}={'***' if 'password' in name else repr(value)}" for name, value in self.given().items()]
        return f"RedisOptions({', '.join([repr(without_password(self.url)) if self.url else 'None', *given])})"

    def given(self) -> dict[str, Any]:
        """What was said beside the URL."""
        named = (field.name for field in fields(self) if field.name != "url")
        return {name: value for name in named if (value := getattr(self, name)) is not None}


def open_url(url: str, options: RedisOptions | None = None) -> tuple[AnyRedis, str]:
    """A client for *url*, and its address for people.

    Raises:
        ValueError: naming what is wrong, without a password.
    """
    try:
        return _open(url, {} if options is None else options.given())
    except UnicodeEncodeError:  # of a certificate's path, say
        raise ValueError(f"redis must be valid Unicode text, got {without_password(url)!r}") from None


def _open(url: str, given: Mapping[str, Any]) -> tuple[AnyRedis, str]:
    parts = _split(url)
    if "sentinel" not in parts.scheme:
        _refuse_beside(
            given, ("sentinel_username", "sentinel_password"), "a URL that begins with redis-sentinel://", url
        )
    if not parts.scheme.startswith("rediss"):
        _refuse_beside(given, tls.OPTIONS, "a URL that begins with rediss", url)
    if parts.scheme.endswith("-cluster"):
        return _open_cluster(url, parts, given)
    if parts.scheme.endswith("-sentinel"):
        return _open_sentinel(url, parts, given)
    if parts.scheme == "redis-socket":  # asynq's name of it
        url = "unix" + url.strip()[len("redis-socket") :]
        parts = urlsplit(url)
    return _open_server(url, parts, given)


def _split(url: str) -> SplitResult:
    if any("\ud800" <= letter <= "\udfff" for letter in url):  # else an error that carries the password says so, late
        raise ValueError(f"redis must be valid Unicode text, got {without_password(url)!r}")
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may have the password in it
        raise ValueError(
            f"redis must be a URL like {DEFAULT_URL}, got {without_password(url)!r}: "
            "what is no plain letter or digit in a password is written as percent codes, a bracket as %5B or %5D"
        ) from None
    if parts.scheme not in _SCHEMES or not re.match(r"[^:]*://", url.strip()):
        known, shown = ", ".join(f"{scheme}://" for scheme in _SCHEMES), without_password(url)
        meant = f" (perhaps redis://{shown})" if re.fullmatch(r"[\w.-]+(:\d+)?", url) else ""
        raise ValueError(f"redis must be a URL that begins with one of {known}; got {shown!r}{meant}")
    if "@" in re.sub(r"=[^&;]*", "", parts.query):  # in a name: it is the rest of a password
        raise ValueError(f"redis must be a URL like {DEFAULT_URL}, got {without_password(url)!r}: {_ESCAPES}")
    return parts


def _refuse_beside(given: Mapping[str, Any], names: tuple[str, ...], goes_with: str, url: str) -> None:
    for name in names:
        if name in given:
            raise ValueError(f"{name} goes with {goes_with}, got {without_password(url)!r}")


# ── one server ──


def _open_server(url: str, parts: SplitResult, given: Mapping[str, Any]) -> tuple[AnyRedis, str]:
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme == "unix" and (not parts.path or (host and "@" not in parts.path)):
        is_whole = host and "@" not in parts.query + parts.fragment  # else it is a part of a password
        why = f": {host!r} is no part of the path, which begins at the third slash" if is_whole else ""
        raise ValueError(
            f"redis must name a socket, as in unix:///path/to/redis.sock, got {without_password(url)!r}{why}"
        )
    in_path = "@" in parts.path and (parts.scheme != "unix" or (parts.netloc != "" and "@" not in parts.netloc))
    if parts.fragment or in_path:  # the rest of a password that was not escaped
        # What urllib takes for a port may be the half of a password that has a slash in it.
        port = "" if re.fullmatch(r".*:\d*|[^:]*", parts.netloc) else "its port is no number; "
        raise ValueError(f"redis must be a URL like {DEFAULT_URL}, got {without_password(url)!r}: {port}{_ESCAPES}")
    if parts.scheme != "unix" and not re.fullmatch(r"/?|/\d+/?", parts.path):
        socket = "; of a socket the URL is like unix:///path/to/redis.sock" if not host else ""
        raise ValueError(
            f"redis must name its database by a number, as in {DEFAULT_URL}, got {without_password(url)!r}{socket}"
        )
    if parts.scheme != "unix" and ("," in host or re.fullmatch(r".*:0+", host)):
        why = f"of several servers the URL is like {_CLUSTER_EXAMPLE} or {_SENTINEL_EXAMPLE}"
        raise ValueError(
            f"redis must be a URL like {DEFAULT_URL}, got {without_password(url)!r}: "
            f"{why if ',' in host else 'there is no port 0'}"
        )
    query, secure = _query(parts, given)
    try:
        kwargs: dict[str, Any] = {**parse_url(parts._replace(query=urlencode(query)).geturl())}
        kwargs.update({name: given[name] for name in ("username", "password") if name in given})
        if secure is not None:
            kwargs.update(connection_class=tls.TLSConnection, tls=secure)
        pool = _pool(kwargs)
    except (ValueError, TypeError, RedisError) as exc:
        raise ValueError(
            f"redis must be a URL like {DEFAULT_URL}, got {without_password(url)!r}: {_why(exc)}"
        ) from None
    client = aioredis.Redis.from_pool(pool)
    return client, address_of(client)


def _pool(kwargs: Mapping[str, Any]) -> aioredis.BlockingConnectionPool:
    defaults: dict[str, Any] = {
        "max_connections": MAX_CONNECTIONS,
        "timeout": None,  # the operation's own timeout ends the wait for a free connection
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,  # the operation's own timeout again: one clock is cheaper than three
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "health_check_interval": 0,
    }
    pool = aioredis.BlockingConnectionPool(**{**defaults, **introduction(kwargs), **kwargs})
    pool.connection_class(**pool.connection_kwargs)  # so that an option it does not know is told here
    return pool


def _why(exc: Exception) -> str:
    """What redis-py has against a URL, in words about the URL."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(exc))
    if unknown:
        return f"there is no option {unknown[1]!r} of a connection"
    return f"its port is no number; {_ESCAPES}" if "Port could" in str(exc) else str(exc)


def _query(parts: SplitResult, given: Mapping[str, Any]) -> tuple[dict[str, str], tls.TLS | None]:
    """The options behind a URL's question mark, and what they and *given* say of TLS."""
    query = dict(reversed(parse_qsl(parts.query, keep_blank_values=True)))  # of two the first, as redis-py has it
    said: dict[str, Any] = {}
    for name in tls.OPTIONS:
        if name in query:
            if not parts.scheme.startswith("rediss"):
                raise ValueError(
                    f"{name} goes with a URL that begins with rediss, got {without_password(parts.geturl())!r}"
                )
            said[name] = query.pop(name)
        if name in given:
            said[name] = given[name]
    return query, tls.make_tls(said) if parts.scheme.startswith("rediss") else None


# ── Sentinel ──


def _open_sentinel(url: str, parts: SplitResult, given: Mapping[str, Any]) -> tuple[AnyRedis, str]:
    username, password, sentinels = _nodes(url, parts, _SENTINEL_EXAMPLE, sentinel.PORT)
    query, secure = _query(parts, given)
    service, db, is_asynqs = _service(url, parts, query)
    sentinel_user = {"username": query.pop("sentinel_username", None), "password": query.pop("sentinel_password", None)}
    user = {"username": query.pop("username", None), "password": query.pop("password", None)}
    # As in asynq, the password before Sentinels is theirs, unless the service stands behind them.
    (sentinel_user if is_asynqs else user).update(
        {k: v for k, v in (("username", username), ("password", password)) if v}
    )
    for name in ("username", "password"):
        user[name] = given.get(name, user[name])
        sentinel_user[name] = given.get(f"sentinel_{name}", sentinel_user[name])
    kinds: tuple[type[Connection], type[Connection]] = (Connection, sentinel.MasterConnection)
    secured: dict[str, Any] = {}
    if secure is not None:
        kinds, secured = (tls.TLSConnection, sentinel.MasterTLSConnection), {"tls": secure}
    masters = sentinel.Masters(
        service, sentinels, {"protocol": 2, **introduction({}), **_some(sentinel_user), **secured}, kinds[0]
    )
    try:
        further = {**parse_url(f"redis://-/{db}?{urlencode(query)}")}
        further.pop("host", None)
        pool = _pool({**further, **_some(user), **secured, "connection_class": kinds[1], "masters": masters})
    except (ValueError, TypeError, RedisError) as exc:
        raise ValueError(
            f"redis must be a URL like {_SENTINEL_EXAMPLE}, got {without_password(url)!r}: {_why(exc)}"
        ) from None
    client = aioredis.Redis.from_pool(pool)
    return client, address_of(client)


def _service(url: str, parts: SplitResult, query: dict[str, str]) -> tuple[str, int, bool]:
    """Name of the master, database, and whether it was said in asynq's way, which is behind the question mark."""
    shown = without_password(url)
    found = re.fullmatch(r"/?|/([^/]+)(?:/(\d+)?/?)?", parts.path)
    if found is None:
        raise ValueError(
            f"redis must be a URL like {_SENTINEL_EXAMPLE}/0, got {shown!r}: behind the service is a number"
        )
    in_path, in_query = unquote(found[1] or ""), query.pop("master", "")
    if in_path and in_query:
        raise ValueError(f"redis must name its service once, as in {_SENTINEL_EXAMPLE}, got {shown!r}")
    if not (in_path or in_query):
        raise ValueError(
            f"redis must name the service that its Sentinels watch, as in {_SENTINEL_EXAMPLE}, got {shown!r}"
        )
    db = found[2] or query.pop("db", "") or "0"
    if not db.isdecimal():
        raise ValueError(f"redis must name its database by a number, as in {_SENTINEL_EXAMPLE}/0, got {shown!r}")
    return in_path or in_query, int(db), not in_path


# ── Cluster ──


def _open_cluster(url: str, parts: SplitResult, given: Mapping[str, Any]) -> tuple[AnyRedis, str]:
    username, password, nodes = _nodes(url, parts, _CLUSTER_EXAMPLE, 6379)
    if parts.path not in {"", "/", "/0"}:
        raise ValueError(
            f"redis must be a URL like {_CLUSTER_EXAMPLE}, got {without_password(url)!r}: a Cluster has one database"
        )
    query, secure = _query(parts, given)
    user = {
        "username": username,
        "password": password,
        **{k: query.pop(k) for k in ("username", "password") if k in query},
    }
    if query:
        raise ValueError(
            f"redis must be a URL like {_CLUSTER_EXAMPLE}, got {without_password(url)!r}: "
            f"there is no option {next(iter(query))!r} of a Cluster"
        )
    user.update({name: given[name] for name in ("username", "password") if name in given})
    client = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in nodes],
        **_some(user),
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=None,
        ssl=secure is not None,
        **introduction({}),
    )
    if secure is not None:
        _secure(client, secure)
    return client, address_of(client)


def _secure(client: RedisCluster, secure: tls.TLS) -> None:
    """Have the connections of a Cluster made our way: redis-py's client takes no name of the server, for example."""
    ours = {"connection_class": tls.TLSConnection, "tls": secure}
    manager = client.nodes_manager
    for kwargs in (client.connection_kwargs, manager.connection_kwargs):
        for name in [name for name in kwargs if name.startswith("ssl_")]:
            del kwargs[name]
        kwargs.update(ours)
    known = [(node.host, node.port) for node in manager.startup_nodes.values()]
    manager.startup_nodes = {
        node.name: node for node in (ClusterNode(host, port, **manager.connection_kwargs) for host, port in known)
    }


# ── what they share ──


def _nodes(url: str, parts: SplitResult, example: str, port: int) -> tuple[str, str, list[sentinel.Address]]:
    """User name, password and addresses of a URL that names several."""
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    nodes: list[sentinel.Address] = []
    for host in hosts.split(","):
        found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?", host)
        if found is None or int(found[2] or 1) not in range(1, 65536) or parts.fragment or "@" in parts.path:
            escapes = f": {_ESCAPES}" if parts.fragment or "@" in parts.path else ""
            raise ValueError(f"redis must name nodes as {example}, got {without_password(url)!r}{escapes}")
        nodes.append((found[1].strip("[]"), int(found[2] or port)))
    return unquote(username), unquote(password), nodes


def _some(options: Mapping[Any, str | None]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value}


def address_of(client: AnyRedis) -> str:
    """Where a client leads, for people: a URL without the password."""
    if isinstance(client, RedisCluster):
        nodes = ",".join(f"{_host(node.host)}:{node.port}" for node in client.nodes_manager.startup_nodes.values())
        s = "s" if tls.is_tls(client.connection_kwargs.get("connection_class", Connection)) else ""
        return f"redis{s}-cluster://{nodes}"
    pool: aioredis.ConnectionPool = client.connection_pool
    kwargs: dict[str, Any] = pool.connection_kwargs
    if "path" in kwargs:
        return f"unix://{kwargs['path']}?db={kwargs.get('db', 0)}"
    s = "s" if tls.is_tls(pool.connection_class) else ""
    db = kwargs.get("db", 0)
    if isinstance(masters := kwargs.get("masters"), sentinel.Masters):
        return f"redis{s}-sentinel://{masters.names}/{quote(masters.service)}/{db}"
    if isinstance(pool, SentinelConnectionPool):
        places = (known.connection_pool.connection_kwargs for known in pool.sentinel_manager.sentinels)
        names = ",".join(f"{_host(place['host'])}:{place['port']}" for place in places)
        return f"redis{s}-sentinel://{names}/{quote(pool.service_name)}/{db}"
    return f"redis{s}://{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}/{db}"


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def without_password(url: str) -> str:
    """The same with three asterisks in place of each password."""
    url = re.sub(r"(?<![^?&;#/])([^?&;#/=]*=)([^&;]*)", _masked, url)
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, separator, credentials = head.partition("://")
    return f"{scheme}{separator}{credentials.partition(':')[0]}:***@{tail}" if separator else f"***@{tail}"


def _masked(option: re.Match[str]) -> str:
    return f"{option[1]}***" if "pass" in unquote(option[1]).lower() else option[0]
