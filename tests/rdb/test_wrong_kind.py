"""A URL that leads to another kind of Redis than it says, and Clusters of which nobody answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from aioasynq import BrokerError, BrokerRefusedError, Client, Scheduler, ServeMux, Server, Task
from aioasynq.devserver import HOST, DevServer, free_port
from aioasynq.rdb.failures import advice
from aioasynq.rdb.rdb import RDB
from tests.support.cluster import Cluster
from tests.support.sentinel import Sentinels

PATIENCE = 20


@pytest.fixture
def mux() -> ServeMux:
    mux = ServeMux()

    @mux.handler("any")
    async def any_(task: Task) -> None: ...

    return mux


# ── nobody is there ──


async def test_a_cluster_that_cannot_be_reached_is_an_error_of_ours():
    async with (
        asyncio.timeout(PATIENCE),
        Client(f"redis-cluster://{HOST}:{free_port()}", operation_timeout=0.3) as client,
    ):
        with pytest.raises(BrokerError, match="cannot be connected") as caught:
            await client.enqueue(Task("any"))
    assert not isinstance(caught.value, BrokerRefusedError)
    assert not caught.value.maybe_done


async def test_a_server_and_a_scheduler_start_without_their_cluster(mux: ServeMux):
    url = f"redis-cluster://{HOST}:{free_port()}"
    async with asyncio.timeout(PATIENCE), Server(url, mux) as server, Scheduler(url) as scheduler:
        assert (server.status, scheduler.status) == ("active", "active")
        assert not server.in_contact


async def test_a_cluster_that_goes_away_altogether(server_program: Path):
    async with asyncio.timeout(PATIENCE):
        with Cluster(server_program) as cluster:
            rdb = RDB(cluster.url, operation_timeout=1.5)
            await rdb.ping()
        with pytest.raises(BrokerError):
            await rdb.ping()
        await rdb.learn_anew("asynq:{default}:pending")  # nobody can tell, which is no error
        await rdb.aclose()


# ── another kind ──


async def test_a_redis_that_is_no_cluster(one_server_url: str, mux: ServeMux):
    url = one_server_url.replace("redis://", "redis-cluster://")
    text = r"no Cluster: the URL has to begin with redis://"
    async with asyncio.timeout(PATIENCE), Client(url) as client:
        with pytest.raises(BrokerRefusedError, match=text):
            await client.enqueue(Task("any"))
    with pytest.raises(BrokerRefusedError, match=text):
        await Server(url, mux).start()


async def test_what_was_opened_to_a_redis_that_is_no_cluster_is_closed(one_server_url: str):
    rdb = RDB(one_server_url.replace("redis://", "redis-cluster://"))
    async with asyncio.timeout(PATIENCE), Redis.from_url(one_server_url) as redis:
        before = len(await redis.client_list())
        await rdb.learn_anew("asynq:{default}:pending")  # as after an attempt without an answer
        assert len(await redis.client_list()) > before
        kept = rdb.client  # or it would be closed when nobody has it any more
        await rdb.aclose()
        while len(await redis.client_list()) > before:
            await asyncio.sleep(0.01)
    assert rdb.client is kept


async def test_a_node_of_a_cluster_as_a_single_server(cluster: Cluster):
    cluster.flush()
    text = r"the key is on another node, .*redis-cluster://"
    async with asyncio.timeout(PATIENCE), Client(f"redis://{cluster.host}:{cluster.port}") as client:

        async def enqueue_to_many() -> None:
            for number in range(20):  # one of these queues is on another node
                await client.enqueue(Task("any"), queue=f"q{number}")

        with pytest.raises(BrokerRefusedError, match=text) as caught:
            await enqueue_to_many()
    assert not caught.value.maybe_done


async def test_a_sentinel_as_a_redis(sentinels: Sentinels, mux: ServeMux):
    url = f"redis://{HOST}:{sentinels.sentinels[0].port}"
    with pytest.raises(BrokerRefusedError, match="is a Sentinel; the URL has to be like redis-sentinel://"):
        await Server(url, mux).start()
    async with asyncio.timeout(PATIENCE), Client(url) as client:
        with pytest.raises(BrokerRefusedError, match="if this is a Sentinel, the URL has to be like redis-sentinel://"):
            await client.enqueue(Task("any"))


@pytest.mark.no_cluster("redis-py looks for the command itself there")
async def test_a_command_that_any_redis_lacks_says_nothing_of_sentinels(redis: Redis):
    with pytest.raises(Exception, match="unknown command") as caught:
        await redis.execute_command("NOSUCH", "GET")
    assert advice(caught.value, is_cluster=False) == ""


# ── sockets ──


async def test_a_socket_without_the_password_is_a_refusal(own_server: Callable[..., DevServer]):
    server = own_server(unix_socket=True, config={"requirepass": "secret"})
    async with asyncio.timeout(PATIENCE), Client(server.url.replace(":secret@", "")) as client:
        with pytest.raises(BrokerRefusedError, match="Authentication required"):
            await client.enqueue(Task("any"))
