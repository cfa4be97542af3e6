"""A master is replaced while a server and a client work: under Sentinel and on a Cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis, Sentinel

from aioasynq import (
    RDB,
    BrokerError,
    BrokerRefusedError,
    Client,
    Inspector,
    NotReplicatedError,
    Scheduler,
    Server,
    Task,
    keys,
)
from aioasynq.devserver import HOST, DevServer, free_port
from aioasynq.rdb.connection import open_link
from aioasynq.rdb.receipts import Receipt
from tests.server.stage import Stage, eventually, patience, summed
from tests.support.build import QUEUE, message
from tests.support.cluster import Cluster
from tests.support.sentinel import SERVICE, Sentinels

pytestmark = [pytest.mark.one_server("starts its own"), pytest.mark.timeout(120), pytest.mark.xdist_group("failover")]


def leaves_nodes(test: Any) -> Any:
    """Of a node that is gone, redis-py 5 leaves the connections to the garbage collector."""
    for mark in (
        pytest.mark.leaves_connections("redis-py 5 does"),
        pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
    ):
        test = mark(test)
    return test


ON = {"default": keys.pending("default")}


@pytest.fixture(scope="module")
def watched(server_program: Any) -> Iterator[Sentinels]:
    """A master with two replicas and three Sentinels, all with passwords."""
    with Sentinels(server_program, password="on-redis", sentinel_password="on-sentinel") as sentinels:
        yield sentinels


@pytest.fixture(scope="module")
def replicated(server_program: Any) -> Iterator[Cluster]:
    """A Cluster of three masters, each with a replica."""
    config = {"cluster-node-timeout": "1000", "cluster-replica-validity-factor": "0"}
    with Cluster(server_program, replicas=1, config=config) as cluster:
        yield cluster


@pytest.fixture
def sentinels(watched: Sentinels) -> Sentinels:
    """The same, holding nothing."""
    watched.until_complete()
    watched.flush()
    return watched


@asynccontextmanager
async def client_of_redis_py(sentinels: Sentinels) -> AsyncGenerator[Redis]:
    places = [(HOST, sentinel.port) for sentinel in sentinels.sentinels]
    found = Sentinel(places, sentinel_kwargs={"password": "on-sentinel"}, password="on-redis", protocol=2)
    known = [*found.sentinels]  # two who ask at the same moment may leave one of them out of redis-py's list
    async with found.master_for(SERVICE) as client:
        try:
            yield client
        finally:
            for sentinel in known:
                await sentinel.aclose()


@pytest.mark.parametrize("ours", [True, False], ids=["a URL", "a client of redis-py"])
async def test_all_parts_follow_the_master_of_sentinels(sentinels, ours):
    """Tasks, the wait for them, heartbeats, leases, cancelations: on the new master within seconds."""
    stage = Stage()
    async with client_of_redis_py(sentinels) as given:
        redis: Any = sentinels.url if ours else given
        async with (
            Server(redis, stage.mux, lease=3.0),
            Client(redis, operation_timeout=20.0) as client,
            Inspector(redis) as inspector,
        ):
            await client.enqueue(Task("work"), task_id="before")
            await stage.ended.until(1)
            stage.gate.clear()
            await client.enqueue(Task("work"), task_id="during")
            await stage.began.until(2)
            old = await asyncio.to_thread(lambda: sentinels.master)
            old.kill()  # one that lives on would take tasks for a while yet, and forget them
            await sentinels.until_failed_over(old)
            stage.gate.set()
            await client.enqueue(Task("work"), task_id="after")
            assert set(await stage.ended.until(3)) == {"before", "during", "after"}
            stage.gate.clear()
            await client.enqueue(Task("work"), task_id="cancelled")
            await stage.began.until(4)
            async with patience():
                while stage.running:  # one that comes before the server has subscribed anew is not heard
                    for task_id in ("cancelled", "during"):  # whose end the old master may have taken with it
                        await inspector.cancel_processing(task_id)
                    await asyncio.sleep(0.2)
            new = await asyncio.to_thread(lambda: sentinels.master)
            assert new is not old
            async with Redis.from_url(new.url) as redis_now:
                await eventually(lambda: _is_told_of(redis_now))
        await asyncio.to_thread(old.start)
        assert await given.ping()  # what was given is not closed


async def _is_told_of(redis: Redis) -> bool:
    return await redis.zcard(keys.servers()) == 1


async def test_a_sentinel_that_is_silent_or_gone_is_done_without(sentinels):
    silent, gone = free_port(), free_port()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, HOST, silent):
        hosts = f"{HOST}:{gone},{HOST}:{silent},{HOST}:{sentinels.sentinels[0].port}"
        url = f"redis-sentinel://:on-redis@{hosts}/{SERVICE}?sentinel_password=on-sentinel"
        async with RDB(url) as rdb:
            assert await rdb.enqueue([message("a")]) == [None]


@pytest.mark.parametrize(
    ("password", "query", "service", "text"),
    [
        ("on-redis", "?sentinel_password=wrong", SERVICE, "Sentinel 127.0.0.1:.* refuses: "),
        ("on-redis", "", SERVICE, "Sentinel 127.0.0.1:.* refuses: "),
        ("wrong", "?sentinel_password=on-sentinel", SERVICE, "invalid username-password|WRONGPASS"),
        ("on-redis", "?sentinel_password=on-sentinel", "others", "knows no master named 'others'"),
    ],
    ids=["a wrong password of Sentinel", "none", "a wrong password of Redis", "another service"],
)
async def test_what_sentinels_refuse_is_said_at_once(sentinels, password, query, service, text):
    url = f"redis-sentinel://:{password}@{sentinels.hosts}/{service}{query}"
    async with RDB(url) as rdb, patience(4.0):
        with pytest.raises(BrokerRefusedError, match=text) as caught:
            await rdb.enqueue([message("a")])
        assert "wrong" not in str(caught.value).replace("wrong number", "")
        with pytest.raises(BrokerRefusedError):
            await Server(url, Stage().mux).start()


async def test_a_server_that_is_no_sentinel(redis_url):
    host = redis_url.removeprefix("redis://").partition("/")[0]
    async with RDB(f"redis-sentinel://{host}/s") as rdb:
        with pytest.raises(BrokerRefusedError, match=f"{host} is no Sentinel: "):
            await rdb.ping()


@pytest.mark.parametrize("about", [b"*0\r\n", b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", b"+OK\r\n", b"$-1\r\n", b":1\r\n"])
@pytest.mark.parametrize("address", [b"*-1\r\n", b"*1\r\n$1\r\nh\r\n", b"*2\r\n$1\r\nh\r\n$1\r\np\r\n"])
async def test_a_sentinel_whose_answers_make_no_sense(about, address):
    """No real one says such things; what stands in its place, or between, might."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            for word, reply in ((b"GET-MASTER", address), (b"MASTER\r", about), (b"CLIENT", b"+OK\r\n")):
                if line.startswith(word):
                    writer.write(reply)
                    break
        writer.close()

    async with await asyncio.start_server(answer, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with RDB(f"redis-sentinel://{HOST}:{port}/s", operation_timeout=0.5) as rdb:
            with pytest.raises(
                BrokerError, match=f"no Sentinel names a master for 's': .*{HOST}:{port} (is no|knows no)"
            ):
                await rdb.enqueue([message("a")])


async def test_no_sentinel_is_there():
    async with RDB(f"redis-sentinel://{HOST}:{(port := free_port())}/s", operation_timeout=1.5) as rdb:
        with pytest.raises(
            BrokerError, match=f"no Sentinel names a master for 's': Sentinel {HOST}:{port}: "
        ) as caught:
            await rdb.enqueue([message("a")])
        assert not caught.value.maybe_done


@leaves_nodes
async def test_a_master_of_a_cluster_is_killed(replicated):
    replicated.flush()
    stage = Stage()
    async with (
        Server(replicated.url, stage.mux, lease=3.0) as server,
        Client(replicated.url, operation_timeout=20.0) as client,
    ):
        await client.enqueue(Task("work"), task_id="before")
        await stage.ended.until(1)
        old = replicated.holder(ON["default"])
        await _until_copied(old)
        old.kill()
        await client.enqueue(Task("work"), task_id="after")
        assert set(await stage.ended.until(2)) == {"before", "after"}
        await asyncio.to_thread(old.start)
        await replicated.until_complete()
    assert server.counts.lost == 0


@leaves_nodes
async def test_all_of_a_cluster_is_away_and_comes_back(replicated, caplog):
    """As when a worker is cut off from all of it: redis-py says so by an error that is none of its usual tree."""
    replicated.flush()
    stage = Stage()
    async with (
        Server(replicated.url, stage.mux, lease=3.0) as server,
        Client(replicated.url, operation_timeout=1.0) as client,
        Scheduler(replicated.url, heartbeat_interval=0.2) as scheduler,
    ):
        result = await client.enqueue(Task("work"), task_id="before", retention=60)
        await stage.ended.until(1)
        for each in replicated.servers:
            each.kill()
        entry = scheduler.register("@every 1s", Task("work"))
        for call in (client.enqueue(Task("work")), client.ping(), client.result(result, timeout=10)):
            with pytest.raises(BrokerError, match=r"failed on redis-cluster://.*: "):
                await call
        await eventually(lambda: server.counts.contact_lost > 0)
        for each in replicated.servers:
            await asyncio.to_thread(each.start)
        await replicated.until_complete()
        await stage.ended.until(3)  # they are the scheduler's
        stage.gate.clear()
        scheduler.unregister(entry)
        await client.enqueue(Task("work"), task_id="cancelled")
        await stage.began.until(lambda ids: "cancelled" in ids)
        async with Inspector(replicated.url) as inspector, patience():
            while stage.running:
                for task_id in stage.began.all:
                    await inspector.cancel_processing(task_id)
                await asyncio.sleep(0.2)
    ours = [record for record in caplog.records if record.name.startswith("aioasynq")]
    assert [record.message for record in ours if record.levelno >= logging.ERROR] == []


async def _until_copied(master: DevServer) -> None:
    async with Redis.from_url(master.url) as redis:
        await redis.set("{default}x", "")
        assert await redis.wait(1, 10_000)


# ── wait_replicas ──


@pytest.fixture(params=["sentinel", "cluster"])
def copies(request: pytest.FixtureRequest) -> tuple[str, int]:
    """The URL of what has replicas, and how many each master has."""
    servers = request.getfixturevalue("sentinels" if request.param == "sentinel" else "replicated")
    servers.flush()
    return servers.url, 2 if request.param == "sentinel" else 1


async def test_an_enqueue_waits_for_replicas(copies):
    url, replicas = copies
    async with Client(url, wait_replicas=replicas) as client:
        assert (await client.enqueue(Task("a"), task_id="a", queue=QUEUE)).id == "a"
        before = await _waits(url)
        infos = await client.enqueue_many([Task("a", queue=QUEUE) for _ in range(200)])
        assert len(infos) == 200
        assert await _waits(url) - before <= 3  # one for each call, not for each task
        await client.enqueue(Task("a"), process_in=60, queue="another")


async def test_too_few_replicas_are_told(copies):
    """What is stored stays, and what is refused is refused as ever."""
    url, replicas = copies
    async with Client(url, wait_replicas=replicas + 1, wait_timeout=1.0) as client, Inspector(url) as inspector:
        with pytest.raises(NotReplicatedError, match=f"stored, but {replicas} of {replicas + 1} replicas") as caught:
            await client.enqueue(Task("a"), task_id="a", queue=QUEUE)
        error = caught.value
        assert (error.maybe_done, error.answered, error.wanted, error.replicas) == (True, True, replicas + 1, replicas)
        assert (await inspector.get_task_info(QUEUE, "a")).state == "pending"
        refused = await client.enqueue_many([Task("a", task_id="a"), Task("a", task_id="b")], queue=QUEUE)
        assert [type(answer).__name__ for answer in refused] == ["TaskIDConflictError", "NotReplicatedError"]
        await client.ping()


async def test_without_replicas_nobody_else_waits(redis_url):
    """The wait holds up the connection that stores, and no other."""
    async with Client(redis_url, wait_replicas=1, wait_timeout=2.0) as client:
        waiting = asyncio.create_task(client.enqueue(Task("a")))
        await asyncio.sleep(0)
        async with asyncio.timeout(1.5):
            await client.ping()
        with pytest.raises(NotReplicatedError):
            await waiting


async def test_a_repeat_waits_for_what_the_first_call_wrote(sentinels):
    """Whoever repeats a call on a new connection has written nothing there, and WAIT is about what was."""
    async with RDB(sentinels.url) as rdb:
        receipt = Receipt("somebody", 1)
        assert await rdb.enqueue([message("a")], receipt=receipt) == [None]
        async with Redis.from_url(sentinels.master.url) as redis:
            before = await _offset(redis)
            assert await rdb.enqueue([message("a")], receipt=receipt) == [None]
            assert await _offset(redis) > before


async def _offset(redis: Redis) -> int:
    return int((await redis.info("replication"))["master_repl_offset"])


async def _waits(url: str) -> int:
    """How often WAIT was called on all masters."""
    async with open_link(url).client as redis:
        return await summed(redis, "commandstats", "cmdstat_wait")


WRONG = {
    "not a number": ({"wait_replicas": "1"}, TypeError, "wait_replicas must be an int, got '1'"),
    "negative": ({"wait_replicas": -1}, ValueError, "wait_replicas must be a number of replicas from 0 to 100, got -1"),
    "no time": ({"wait_replicas": 1, "wait_timeout": 0}, ValueError, "wait_timeout must be more than 0 and less than"),
    "longer than a call": (
        {"wait_replicas": 1, "wait_timeout": 5.0},
        ValueError,
        "wait_timeout must be more than 0 and less than operation_timeout, 5 seconds, got 5.0",
    ),
}


@pytest.mark.parametrize(("options", "kind", "text"), WRONG.values(), ids=WRONG)
def test_a_wait_that_cannot_be(options, kind, text):
    with pytest.raises(kind, match=text):
        Client("redis://localhost", **options)
