"""From a URL, a client or nothing to a client; and what a Redis that refuses is told apart by."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import SSLConnection

from aioasynq import Client, Task
from aioasynq.devserver import free_port
from aioasynq.errors import BrokerError, BrokerRefusedError
from aioasynq.rdb import rdb as rdb_module
from aioasynq.rdb.connection import open_link
from aioasynq.rdb.rdb import RDB, _parse_info, open_rdb
from aioasynq.rdb.url import MAX_CONNECTIONS
from tests.support.build import QUEUE, message

ADDRESSES = {
    "redis://localhost": "redis://localhost:6379/0",
    "redis://user:secret@example.test:7000/3": "redis://example.test:7000/3",
    "redis://:secret@example.test/2?socket_keepalive=1": "redis://example.test:6379/2",
    "redis://example.test?password=secret": "redis://example.test:6379/0",
    "rediss://:s%2Fecret%40@example.test:7000/3": "rediss://example.test:7000/3",
    "unix:///run/redis.sock": "unix:///run/redis.sock?db=0",
    "unix://:secret@/run/redis.sock?db=4": "unix:///run/redis.sock?db=4",
    "redis-cluster://one.test:7000": "redis-cluster://one.test:7000",
    "redis-cluster://user:secret@one.test:7000,two.test:7001,three.test": (
        "redis-cluster://one.test:7000,two.test:7001,three.test:6379"
    ),
}


@pytest.mark.rows(101)
@pytest.mark.parametrize(("url", "address"), ADDRESSES.items())
async def test_a_url(url, address):
    link = open_link(url)
    assert link.address == address
    assert link.owned
    for client in (link.client, link.again()):
        assert isinstance(client, RedisCluster if url.startswith("redis-cluster") else Redis)
        assert "secret" not in repr(client)
        await client.aclose()
    assert "secret" not in repr(link)
    assert "secret" not in repr(RDB(link))


async def test_what_a_url_says_reaches_the_connection():
    link = open_link("rediss://user:s%2Fecret%40@example.test:7000/3?socket_keepalive=1")
    assert isinstance(link.client, Redis)
    pool = link.client.connection_pool
    said = {name: pool.connection_kwargs[name] for name in ("username", "password", "host", "port", "db")}
    assert said == {"username": "user", "password": "s/ecret@", "host": "example.test", "port": 7000, "db": 3}
    assert issubclass(pool.connection_class, SSLConnection)
    assert pool.max_connections == MAX_CONNECTIONS
    await link.client.aclose()

    cluster = open_link("redis-cluster://user:s%2Fecret%40@one.test:7000,two.test:7001").client
    assert isinstance(cluster, RedisCluster)
    assert (cluster.connection_kwargs["username"], cluster.connection_kwargs["password"]) == ("user", "s/ecret@")
    await cluster.aclose()


BAD_URLS = {
    "no scheme": (
        "localhost:6379",
        r"begins with one of redis://.*; got 'localhost:6379' \(perhaps redis://localhost:6379\)",
    ),
    "port 0": ("redis://:secret@localhost:0/0", "there is no port 0"),
    "several servers": ("redis://:secret@one.test:1,two.test:2", "of several servers the URL is like redis-cluster://"),
    "an unknown option": ("redis://:secret@localhost?colour=1", "there is no option 'colour' of a connection"),
    "a socket after two slashes": ("unix://run/redis.sock", "'run' is no part of the path, which begins at the third"),
    "a socket after redis": ("redis:///run/redis.sock", "of a socket the URL is like unix:///path/to/redis.sock"),
    "an unknown scheme": ("http://:secret@localhost", r"begins with one of .*; got 'http://:\*\*\*@localhost'"),
    "one slash": ("unix:/u:secret@h/redis.sock", r"begins with one of .*; got '\*\*\*@h/redis.sock'"),
    "no slash": ("redis::secret@h", r"begins with one of .*; got '\*\*\*@h'"),
    "a protocol that is none": (
        "redis://:secret@h?protocol=9",
        r"got 'redis://:\*\*\*@h\?protocol=9': protocol must be",
    ),
    "a password with a question mark": ("redis://u:1?secret@h", r"got 'redis://u:\*\*\*@h': .* a \? %3F"),
    "the same of a cluster": ("redis-cluster://u:1?secret@h", r"got 'redis-cluster://u:\*\*\*@h': .* a \? %3F"),
    "no socket": ("unix://", "redis must name a socket, as in unix:///path/to/redis.sock, got 'unix://'"),
    "a bad port": ("redis://:secret@localhost:many/0", r"redis://:\*\*\*@localhost:many/0"),
    "a port too large": ("redis://:secret@localhost:99999/0", "redis must be a URL like redis://localhost:6379/0"),
    "a bad number in the query": (
        "redis://localhost?password=secret&db=x",
        r"redis must be a URL like redis://localhost:6379/0, got 'redis://localhost\?password=\*\*\*&db=x'",
    ),
    "a password with a slash": ("redis://:secret/1@localhost", r"redis://:\*\*\*@localhost"),
    "a password with a hash": ("redis://:secret#1@localhost", r"redis://:\*\*\*@localhost"),
    "a password with an at": ("redis://:a@secret@localhost:many", r"redis://:\*\*\*@localhost"),
    "a cluster without nodes": (
        "redis-cluster://:secret@",
        r"redis must name nodes as .* got 'redis-cluster://:\*\*\*@'",
    ),
    "a cluster with a bad port": ("redis-cluster://one.test:x", "redis must name nodes as redis-cluster://host:port"),
}


@pytest.mark.rows(101)
@pytest.mark.parametrize(("url", "text"), BAD_URLS.values(), ids=BAD_URLS)
def test_a_bad_url(url, text):
    with pytest.raises(ValueError, match=text) as caught:
        open_link(url)
    shown = "".join(traceback.format_exception(caught.value))
    assert "secret" not in shown.replace(f"open_link({url!r})", "")


@pytest.mark.parametrize("not_one", [6379, b"redis://localhost", object])
def test_neither_a_url_nor_a_client(not_one):
    with pytest.raises(TypeError, match=r"redis must be a URL, a redis.asyncio client or None, got"):
        open_link(not_one)


async def test_without_a_url_the_environment_tells(monkeypatch):
    monkeypatch.setenv("AIOASYNQ_REDIS_URL", "redis://:secret@example.test:7000/5")
    assert RDB().address == "redis://example.test:7000/5"
    monkeypatch.setenv("AIOASYNQ_REDIS_URL", "")
    assert RDB().address == "redis://localhost:6379/0"
    monkeypatch.delenv("AIOASYNQ_REDIS_URL")
    assert RDB(None).address == "redis://localhost:6379/0"


@pytest.mark.parametrize(
    "make", [Redis, lambda **kw: RedisCluster(host="one.test", **kw)], ids=["Redis", "RedisCluster"]
)
def test_a_client_that_decodes_is_refused(make):
    with pytest.raises(ValueError, match="decode_responses=False, since payloads are bytes"):
        open_link(make(decode_responses=True))


@pytest.mark.rows(100)
async def test_a_client_that_is_handed_in_is_never_closed(redis_target):
    async with RDB(redis_target) as rdb:
        assert rdb.client is redis_target
        await rdb.enqueue([message("a")])
    assert await redis_target.ping()
    link = open_link(redis_target)
    assert not link.owned
    again = link.again()
    assert again is not redis_target
    assert await again.ping()
    await again.aclose()


async def test_open_rdb(redis_target):
    rdb = open_rdb(redis_target)
    assert rdb.client is redis_target
    async with open_rdb(rdb) as view:
        assert view is not rdb
        assert view.client is redis_target
    await rdb.ping()  # it is closed by whoever made it
    await rdb.aclose()
    with pytest.raises(BrokerError, match="closed"):
        await rdb.ping()


async def test_a_url_of_one_server(redis_url, redis):
    async with RDB(redis_url) as rdb:
        assert await rdb.enqueue([message("a")]) == [None]
        await rdb.ping()
        async with rdb.twin() as twin:
            assert [leased.id for leased in (await twin.dequeue(QUEUE, owner="x")).tasks] == ["a"]


@pytest.mark.rows(101)
async def test_a_url_of_a_socket(own_server):
    server = own_server(unix_socket=True)
    async with RDB(server.url) as rdb:
        assert await rdb.enqueue([message("a")]) == [None]
        assert rdb.address.startswith("unix:///")


async def test_a_url_of_a_cluster(cluster, cluster_client):
    async with RDB(cluster.url) as rdb:
        for queue in ("q", "p", "another"):
            assert await rdb.enqueue([message("a", queue)]) == [None]
        batch = await rdb.dequeue("q", "p", "another", count=3, owner="x")
        assert [leased.queue for leased in batch.tasks] == ["q", "p", "another"]
        assert (await rdb.check_server())[:1] >= (6,)
        async with rdb.twin() as twin:
            await twin.ping()


@pytest.mark.no_cluster("a client of one server")
@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_protocols(redis_url, redis, protocol):
    async with Redis.from_url(redis_url, protocol=protocol) as client, RDB(client) as rdb:
        assert await rdb.enqueue([message("a"), message("b")]) == [None, None]
        batch = await rdb.dequeue(QUEUE, count=2, owner="x")
        assert await rdb.done(batch.tasks) == [True, True]
        assert await rdb.next_due(QUEUE) == {}
        assert await rdb.read_process_info() == []
        assert (await rdb.check_server())[:1] >= (6,)


# ── a Redis that refuses ──


@pytest.mark.parametrize(("scheme", "end"), [("redis", "/0"), ("redis-cluster", "")])
async def test_nobody_there(scheme, end):
    rdb = RDB(f"{scheme}://:secret@127.0.0.1:{(port := free_port())}", operation_timeout=0.2)
    where = rf"enqueue into queue 'q' failed on {scheme}://127.0.0.1:{port}{end}: .*"
    with pytest.raises(BrokerError, match=where) as caught:
        await rdb.enqueue([message("a")])
    assert not isinstance(caught.value, BrokerRefusedError)
    assert not caught.value.maybe_done
    assert "secret" not in str(caught.value)
    await rdb.aclose()


async def test_a_port_that_does_not_speak_tls(own_server):
    server = own_server()
    async with RDB(f"rediss://127.0.0.1:{server.port}", operation_timeout=0.3) as rdb:
        with pytest.raises(BrokerError, match=r"if the port does not speak TLS, the URL has to begin with redis://"):
            await rdb.ping()
    async with Client(f"rediss://127.0.0.1:{server.port}", operation_timeout=0.3) as client:
        with pytest.raises(BrokerError, match=r"if the port does not speak TLS"):
            await client.enqueue(Task("a"))


async def test_a_port_that_wants_tls():
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()  # as a port with TLS does when it reads what is no handshake

    async with (
        await asyncio.start_server(hang_up, "127.0.0.1", port := free_port()),
        RDB(f"redis://127.0.0.1:{port}", operation_timeout=0.3) as rdb,
    ):
        with pytest.raises(BrokerError, match=r"if the port speaks TLS, the URL has to begin with rediss://"):
            await rdb.ping()


async def test_a_redis_that_has_answered_is_not_suspected(own_server):
    server = own_server()
    async with RDB(server.url, operation_timeout=0.3) as rdb:
        await rdb.ping()
        server.kill()
        with pytest.raises(BrokerError) as caught:
            await rdb.ping()
    assert "TLS" not in str(caught.value)


async def test_a_wrong_password(own_server):
    server = own_server(config={"requirepass": "right"})
    for url in (f"redis://:secret@127.0.0.1:{server.port}", f"redis://127.0.0.1:{server.port}"):
        async with RDB(url) as rdb:
            for operation in (rdb.check_server(), rdb.ping(), rdb.enqueue([message("a")])):
                with pytest.raises(
                    BrokerRefusedError, match=rf"failed on redis://127.0.0.1:{server.port}/0: "
                ) as caught:
                    await operation
                assert "secret" not in str(caught.value)
    async with RDB(server.url) as rdb:
        assert await rdb.enqueue([message("a")]) == [None]


async def test_a_missing_permission(own_server):
    server = own_server()
    async with Redis.from_url(server.url) as admin:
        everything = ("on", ">pw", "~*", "&*", "+@all")
        await admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+info", "+ping")
        await admin.execute_command("ACL", "SETUSER", "uninformed", *everything, "-info")
        await admin.execute_command("ACL", "SETUSER", "no-lists", *everything, "-lpush")
        await admin.execute_command("ACL", "SETUSER", "elsewhere", "on", ">pw", "~other:*", "+@all")

        async with RDB(f"redis://reader:pw@127.0.0.1:{server.port}") as rdb:
            assert (await rdb.check_server())[:1] >= (6,)
            with pytest.raises(BrokerRefusedError, match=r"enqueue into queue .* failed on redis://127.0.0.1"):
                await rdb.enqueue([message("a")])
        async with RDB(f"redis://elsewhere:pw@127.0.0.1:{server.port}") as rdb:
            with pytest.raises(BrokerRefusedError, match=r"enqueue into queue .* failed on"):
                await rdb.enqueue([message("a")])
        async with RDB(f"redis://uninformed:pw@127.0.0.1:{server.port}") as rdb:
            assert await rdb.check_server() == ()
            assert await rdb.enqueue([message("a")]) == [None]
        async with RDB(f"redis://no-lists:pw@127.0.0.1:{server.port}") as rdb:
            with pytest.raises(BrokerRefusedError, match=r"enqueue failed on redis://127.0.0.1"):
                await rdb.enqueue([message("b")])


async def test_a_redis_that_is_too_old(rdb, monkeypatch):
    monkeypatch.setattr(rdb_module, "MIN_VERSION", (99, 1))
    with pytest.raises(
        BrokerRefusedError, match=r"^redis(-cluster)?://.* is Redis \d+\.\d+\.\d+; version 6.2 or later is needed$"
    ):
        await rdb.check_server()


async def test_the_version_of_redis(rdb):
    version = await rdb.check_server()
    assert rdb_module.MIN_VERSION == (6, 2) <= version
    assert len(version) == 3


def test_the_answer_of_info():
    assert _parse_info({"redis_version": "7.4.1", "port": 6379}) == {"redis_version": "7.4.1", "port": "6379"}
    with pytest.raises(BrokerError, match="INFO answered bytes"):
        _parse_info(b"redis_version:7.4.1")


@pytest.mark.parametrize(("policy", "warned"), [("noeviction", False), ("allkeys-lru", True)])
async def test_a_redis_that_throws_away_is_warned_of(own_server, caplog, policy, warned):
    server = own_server(config={"maxmemory-policy": policy})
    with caplog.at_level(logging.WARNING):
        async with RDB(server.url) as rdb:
            await rdb.check_server()
    assert [policy in record.getMessage() for record in caplog.records] == [True] * warned


@pytest.mark.parametrize("text", ["dictionary changed size during iteration", "Set changed size during iteration"])
async def test_what_redis_py_5_raises_when_two_learn_the_nodes_at_once_is_tried_again(rdb, text):
    tries = []

    async def call():
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError(text)
        return await rdb.command("PING")

    assert await rdb._plain("PING", call) in (b"PONG", True)
    assert len(tries) == 2


async def test_any_other_error_of_that_kind_is_not(rdb):
    async def call():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await rdb._plain("PING", call)


@pytest.mark.parametrize("hang_ups", [0, 1, 3])
async def test_a_last_attempt_that_had_no_time_says_why_the_one_before_it_failed(hang_ups: int) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections > hang_ups:
            await reader.read(-1)  # silent until the other side has gone
        writer.close()

    async with (
        await asyncio.start_server(serve, "127.0.0.1", port := free_port()),
        RDB(f"redis://127.0.0.1:{port}", operation_timeout=0.6) as rdb,
    ):
        with pytest.raises(BrokerError) as caught:
            await rdb.ping()
    assert connections == hang_ups + 1
    assert ("no answer in time" in str(caught.value)) == (hang_ups == 0)
    assert bool(re.search("closed|reset|lost", str(caught.value))) == (hang_ups > 0)
