"""URLs and what is given beside them: what comes of each, and what is said of one that is wrong."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from aioasynq import Client, Inspector, RedisOptions, ServeMux, Server
from aioasynq.rdb.connection import masters_of, open_link

SENTINELS = "one.test:1,two.test,[::1]:3"
NAMED = "one.test:1,two.test:26379,::1:3"

# URL and options → scheme of the address, user and password of Redis, those of the Sentinels
SENTINEL = {
    "a service": (f"redis-sentinel://{SENTINELS}/tasks", {}, (None, None), (None, None), 0),
    "a database": (f"redis-sentinel://{SENTINELS}/tasks/3", {}, (None, None), (None, None), 3),
    "a database in the query": (f"redis-sentinel://{SENTINELS}/tasks?db=3", {}, (None, None), (None, None), 3),
    "a password": (f"redis-sentinel://:s%2Fecret@{SENTINELS}/tasks", {}, (None, "s/ecret"), (None, None), 0),
    "a user": (f"redis-sentinel://me:secret@{SENTINELS}/tasks", {}, ("me", "secret"), (None, None), 0),
    "a password of the Sentinels": (
        f"redis-sentinel://:secret@{SENTINELS}/tasks?sentinel_password=secret2",
        {},
        (None, "secret"),
        (None, "secret2"),
        0,
    ),
    "asynq's form": (f"redis-sentinel://{SENTINELS}?master=tasks", {}, (None, None), (None, None), 0),
    "asynq's form: the password is the Sentinels'": (
        f"redis-sentinel://:secret@{SENTINELS}?master=tasks",
        {},
        (None, None),
        (None, "secret"),
        0,
    ),
    "asynq's form with both": (
        f"redis-sentinel://:secret@{SENTINELS}?master=tasks&password=secret2",
        {},
        (None, "secret2"),
        (None, "secret"),
        0,
    ),
    "all beside the URL": (
        f"redis-sentinel://{SENTINELS}/tasks",
        {"username": "me", "password": "secret", "sentinel_username": "you", "sentinel_password": "secret2"},
        ("me", "secret"),
        ("you", "secret2"),
        0,
    ),
    "what is beside it wins": (
        f"redis-sentinel://me:no@{SENTINELS}/tasks?sentinel_password=no",
        {"password": "secret", "sentinel_password": "secret2"},
        ("me", "secret"),
        (None, "secret2"),
        0,
    ),
}


@pytest.mark.parametrize(("url", "given", "user", "sentinel_user", "db"), SENTINEL.values(), ids=SENTINEL)
async def test_a_url_of_sentinels(url, given, user, sentinel_user, db):
    link = open_link(RedisOptions(url, **given))
    assert link.address == f"redis-sentinel://{NAMED}/tasks/{db}"
    for client in (link.client, link.again()):
        assert isinstance(client, Redis)
        said: dict[str, Any] = client.connection_pool.connection_kwargs
        assert (said.get("username"), said.get("password"), said["db"]) == (*user, db)
        masters = masters_of(client)
        assert masters is not None
        assert masters.service == "tasks"
        assert masters.sentinels == (("one.test", 1), ("two.test", 26379), ("::1", 3))
        options = masters._options
        assert (options.get("username"), options.get("password")) == sentinel_user
        assert "secret" not in repr(client) + repr(masters)
        await client.aclose()
    assert "secret" not in repr(link)


SERVERS = {
    "a password": ("redis://one.test/2", {"password": "se/cret"}, (None, "se/cret"), "redis://one.test:6379/2"),
    "a user": ("redis://one.test", {"username": "me", "password": "s"}, ("me", "s"), "redis://one.test:6379/0"),
    "it wins": ("redis://you:no@one.test", {"password": "s"}, ("you", "s"), "redis://one.test:6379/0"),
    "TLS": ("rediss://one.test", {"password": "s"}, (None, "s"), "rediss://one.test:6379/0"),
    "a socket": ("unix:///run/r.sock?db=1", {"password": "s"}, (None, "s"), "unix:///run/r.sock?db=1"),
    "asynq's name of a socket": ("redis-socket://:s@/run/r.sock?db=2", {}, (None, "s"), "unix:///run/r.sock?db=2"),
    "a Cluster": ("redis-cluster://one.test", {"password": "s"}, (None, "s"), "redis-cluster://one.test:6379"),
    "a Cluster, in the query": (
        "redis-cluster://one.test?username=me&password=s", {}, ("me", "s"), "redis-cluster://one.test:6379"
    ),
    "a Cluster with TLS": ("rediss-cluster://:s@one.test:1", {}, (None, "s"), "rediss-cluster://one.test:1"),
    "Sentinels with TLS": ("rediss-sentinel://:s@one.test/t", {}, (None, "s"), "rediss-sentinel://one.test:26379/t/0"),
}  # fmt: skip


@pytest.mark.parametrize(("url", "given", "user", "address"), SERVERS.values(), ids=SERVERS)
async def test_what_is_given_beside_a_url(url, given, user, address):
    link = open_link(RedisOptions(url, **given))
    assert link.address == address
    client: Any = link.client
    is_secure = url.startswith("rediss")
    if isinstance(client, RedisCluster):
        kwargs = client.connection_kwargs
        kind = kwargs.get("connection_class", Connection)
        for node in client.nodes_manager.startup_nodes.values():
            assert node.connection_class is kind
            assert node.connection_kwargs.get("tls") is kwargs.get("tls")
    else:
        kwargs = client.connection_pool.connection_kwargs
        kind = client.connection_pool.connection_class
        assert issubclass(kind, UnixDomainSocketConnection) == ("/run/" in url)
    assert (kwargs.get("username"), kwargs.get("password")) == user
    assert issubclass(kind, SSLConnection) == is_secure
    await client.aclose()


async def test_without_a_url_beside_what_the_environment_says(monkeypatch):
    monkeypatch.setenv("AIOASYNQ_REDIS_URL", "redis://example.test:7000/5")
    link = open_link(RedisOptions(password="secret"))
    assert link.address == "redis://example.test:7000/5"
    assert isinstance(link.client, Redis)
    assert link.client.connection_pool.connection_kwargs["password"] == "secret"
    await link.client.aclose()


def test_options_show_no_secret():
    options = RedisOptions(
        "redis-sentinel://:secret@h/s?sentinel_password=secret",
        password="secret",
        sentinel_password="secret",
        ssl_password="secret",
        username="me",
    )
    assert repr(options) == (
        "RedisOptions('redis-sentinel://:***@h/s?sentinel_password=***', username='me', password=***, "
        "sentinel_password=***, ssl_password=***)"
    )


WRONG: dict[str, tuple[str | None, dict[str, Any], str]] = {
    "no service": (f"redis-sentinel://:secret@{SENTINELS}", {}, "must name the service that its Sentinels watch"),
    "an empty service": ("redis-sentinel://h?master=", {}, "must name the service that its Sentinels watch"),
    "a service twice": ("redis-sentinel://h/a?master=b", {}, "must name its service once"),
    "no number behind the service": ("redis-sentinel://:secret@h/a/b", {}, "behind the service is a number"),
    "too much behind the service": ("redis-sentinel://h/a/1/2", {}, "behind the service is a number"),
    "a database that is none": ("redis-sentinel://h/a?db=x&password=secret", {}, "must name its database by a number"),
    "no Sentinel": ("redis-sentinel:///a", {}, "must name nodes as redis-sentinel://host:port,host:port/service, got"),
    "an empty Sentinel": ("redis-sentinel://:secret@h,,g/a", {}, "must name nodes as redis-sentinel://"),
    "a port that is none": ("redis-sentinel://:secret@h:x/a", {}, "must name nodes as redis-sentinel://"),
    "a port too large": ("redis-sentinel://h:65536/a", {}, "must name nodes as redis-sentinel://"),
    "port 0": ("redis-cluster://h:0", {}, "must name nodes as redis-cluster://"),
    "a password with a slash": ("redis-sentinel://:secret/1@h/a", {}, r"a slash is written %2F"),
    "a password with a hash": ("redis-sentinel://:secret#1@h/a", {}, r"a # %23"),
    "a password with a question mark": ("redis-sentinel://u:1?secret@h/a", {}, r"a \? %3F"),
    "a protocol that is none": ("redis-sentinel://h/a?protocol=9&password=secret", {}, "protocol must be"),
    "an unknown option": (
        "redis-sentinel://h/a?password=secret&colour=red",
        {},
        "there is no option 'colour' of a connection",
    ),
    "an option that is no number": ("redis-sentinel://h/a?socket_timeout=x", {}, "Invalid value for 'socket_timeout'"),
    "an option of a Cluster": ("redis-cluster://h?password=secret&db=1", {}, "there is no option 'db' of a Cluster"),
    "a database of a Cluster": ("redis-cluster://:secret@h/1", {}, "a Cluster has one database"),
    "Sentinel's password beside one server": (
        "redis://:secret@h",
        {"sentinel_password": "secret"},
        r"sentinel_password goes with a URL that begins with redis-sentinel://, got 'redis://:\*\*\*@h'",
    ),
    "certificates without TLS": (
        "redis://:secret@h",
        {"ssl_ca_certs": "/ca.pem"},
        r"ssl_ca_certs goes with a URL that begins with rediss, got 'redis://:\*\*\*@h'",
    ),
    "the same in the URL": (
        "redis://h?ssl_ca_certs=/c&password=secret",
        {},
        "ssl_ca_certs goes with a URL that begins",
    ),
}


@pytest.mark.parametrize(("url", "given", "text"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("use", [open_link, Client, Inspector], ids=["open_link", "Client", "Inspector"])
def test_what_is_wrong_is_named(use, url, given, text):
    options = RedisOptions(url, **given)
    with pytest.raises(ValueError, match=text) as caught:
        use(options)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_what_is_no_text_is_named():
    with pytest.raises(TypeError, match="password must be a str, got bytes"):
        RedisOptions("redis://h", password=b"secret")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="url must be a str, got Redis"):
        RedisOptions(Redis())  # type: ignore[arg-type]


async def test_a_given_client_of_sentinels_has_twins():
    sentinels = Sentinel([("one.test", 1)], sentinel_kwargs={"password": "secret"}, password="secret2", protocol=2)
    given = sentinels.master_for("tasks", db=2)
    link = open_link(given)
    assert link.address == "redis-sentinel://one.test:1/tasks/2"
    assert not link.owned
    twin: Any = link.again()
    pool = twin.connection_pool
    assert pool.sentinel_manager is not sentinels
    assert pool.sentinel_manager.sentinels[0].connection_pool.connection_kwargs["password"] == "secret"
    assert (pool.service_name, pool.connection_kwargs["password"], pool.connection_kwargs["db"]) == (
        "tasks",
        "secret2",
        2,
    )
    assert pool.make_connection().connection_pool == pool
    await twin.aclose()


async def test_a_server_takes_options(redis_url):
    mux = ServeMux()

    @mux.handler("a")
    async def a(task): ...

    async with Server(RedisOptions(redis_url), mux), Client(RedisOptions(redis_url)) as client:
        await client.ping()
