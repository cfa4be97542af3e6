"""Redis is away, read-only or full for a while: nothing is lost, nothing runs twice, and all go on by themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import RDB, BrokerError, Client, Server, Task
from aioasynq.devserver import DevServer
from aioasynq.rdb.lifecycle import Batch
from tests.server.stage import PATIENCE, Stage, assert_in_order, counted, eventually, once_each
from tests.support.proxy import Proxy

MakeServer = Callable[..., DevServer]
MakeProxy = Callable[..., Awaitable[Proxy]]


@pytest.mark.rows(123, 127)
async def test_redis_is_killed_while_tasks_run_and_are_enqueued(own_server: MakeServer) -> None:
    """Some have run and cannot be settled, some wait, some are on their way in."""
    redis_server = own_server(appendonly=True, config={"appendfsync": "always"})
    stage = Stage()
    stage.gate.clear()
    before = [f"before {n}" for n in range(20)]
    meanwhile = [f"meanwhile {n}" for n in range(20)]
    async with (
        asyncio.timeout(PATIENCE * 2),
        Client(redis_server.url) as client,
        Server(redis_server.url, stage.mux, concurrency=10),
    ):
        await client.enqueue_many([Task("work", task_id=name) for name in before])
        await stage.began.until(10)
        redis_server.kill()
        enqueued = [asyncio.create_task(client.enqueue(Task("work"), task_id=name)) for name in meanwhile]
        stage.gate.set()
        await stage.ended.until(10)
        await asyncio.to_thread(redis_server.restart)
        assert [info.id for info in await asyncio.gather(*enqueued)] == meanwhile
        await stage.ended.until(40)
        async with Redis.from_url(redis_server.url) as redis:
            await eventually(lambda: _empty(redis))
            assert await counted(redis) == (40, 0)
    assert stage.began.times == once_each(before + meanwhile)


async def _empty(redis: Redis) -> bool:
    return await assert_in_order(redis) == {}


async def test_redis_is_killed_again_and_again_under_load(own_server: MakeServer) -> None:
    redis_server = own_server(appendonly=True, config={"appendfsync": "always"})
    stage = Stage()
    stored: list[str] = []
    enough = asyncio.Event()

    async def caller(number: int) -> None:
        n = 0
        while not enough.is_set():
            n += 1
            stored.append((await client.enqueue(Task("work"), task_id=f"{number} {n}")).id)

    async with (
        asyncio.timeout(PATIENCE * 2),
        Client(redis_server.url) as client,
        Server(redis_server.url, stage.mux),
    ):
        callers = [asyncio.create_task(caller(number)) for number in range(5)]
        for _ in range(3):
            ran = len(stage.ended.all)
            await stage.ended.until(ran + 100)
            redis_server.kill()
            await asyncio.to_thread(redis_server.restart)
        await stage.ended.until(len(stage.ended.all) + 50)
        enough.set()
        await asyncio.gather(*callers)
        await stage.ended.until(len(stored))
        async with Redis.from_url(redis_server.url) as redis:
            await eventually(lambda: _empty(redis))
            assert await counted(redis) == (len(stored), 0)
    assert stage.began.times == once_each(stored)


@pytest.mark.rows(118, 123)
async def test_a_server_starts_without_redis(own_server: MakeServer, caplog: pytest.LogCaptureFixture) -> None:
    redis_server = own_server()
    redis_server.stop()
    stage = Stage()
    async with asyncio.timeout(PATIENCE):
        async with Server(redis_server.url, stage.mux) as server:
            assert server.status == "active"
            await asyncio.to_thread(redis_server.restart)
            async with Client(redis_server.url) as client:
                await client.enqueue(Task("work"))
            await stage.ended.until(1)
    texts = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert sum(text.startswith("no contact with Redis") for text in texts) == 1


@pytest.mark.rows(118)
async def test_a_server_starts_and_ends_without_redis(
    own_server: MakeServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()
    dequeue = RDB.dequeue

    async def spy(self: RDB, *queues: str, **more: Any) -> Batch:
        asked.set()
        return await dequeue(self, *queues, **more)

    monkeypatch.setattr(RDB, "dequeue", spy)
    redis_server = own_server()
    redis_server.stop()
    async with asyncio.timeout(PATIENCE):
        async with Server(redis_server.url, Stage().mux) as server:
            assert server.status == "active"
            await asked.wait()  # the end comes in the middle of a fetch
        assert server.status == "closed"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]  # it has never taken a task


async def test_a_server_ends_while_redis_is_away(redis: Redis, redis_url: str, proxy: MakeProxy) -> None:
    """What could not be settled belongs to its lease."""
    between = await proxy()
    stage = Stage()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        stage.gate.clear()
        await client.enqueue(Task("work"), task_id="a")
        async with Server(between.url, stage.mux):
            await stage.began.until(1)
            await between.down()
            stage.gate.set()
            await stage.ended.until(1)
    assert await assert_in_order(redis) == {"active": ["a"], "lease": ["a"], "tasks": ["a"]}


async def test_a_server_ends_while_redis_is_silent(redis_url: str, proxy: MakeProxy) -> None:
    """Connections are open, and no answer comes."""
    between = await proxy()
    stage = Stage()
    async with asyncio.timeout(PATIENCE):
        async with Server(between.url, stage.mux):
            await between.until(lambda: between.commands["BLMOVE"] >= 1)
            between.black_hole()
        between.resume()


@pytest.mark.rows(119)
async def test_a_flaky_redis(redis: Redis, redis_url: str, proxy: MakeProxy) -> None:
    """Down, up, down, up: each task ends once, as done or as retried."""
    between = await proxy()
    failing, working = Stage(), Stage()
    server = Server(between.url, retry_delay=lambda *_: 3600.0)
    failing.raises = ValueError("no")
    server.mux.add("fail", failing.mux.find("work"))
    server.mux.add("work", working.mux.find("work"))
    names = [str(n) for n in range(30)]
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await between.down()
        await server.start()
        await client.enqueue_many([Task("work", task_id=name) for name in names[:10]])
        await between.up()
        await working.ended.until(10)
        await between.down()
        await client.enqueue_many([Task("fail", task_id=name) for name in names[10:20]])
        await between.up()
        await failing.ended.until(10)
        between.cut_all()
        await client.enqueue_many([Task("work", task_id=name) for name in names[20:]])
        await working.ended.until(20)

        async def settled() -> bool:
            return set(await assert_in_order(redis)) == {"retry", "tasks"}

        await eventually(settled)
        await server.shutdown()
    assert (await assert_in_order(redis))["retry"] == sorted(names[10:20])
    assert working.began.times + failing.began.times == once_each(names)
    assert await counted(redis) == (30, 10)


async def test_redis_is_a_replica_for_a_while(own_server: MakeServer) -> None:
    """As after a failover that went the wrong way: it refuses to write."""
    redis_server = own_server()
    stage = Stage()
    stage.gate.clear()
    async with (
        asyncio.timeout(PATIENCE),
        Redis.from_url(redis_server.url) as redis,
        Client(redis_server.url) as client,
        Server(redis_server.url, stage.mux),
    ):
        await client.enqueue(Task("work"), task_id="before")
        await stage.began.until(1)
        await redis.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(BrokerError, match=r"READONLY|read only"):
            await client.enqueue(Task("work"), task_id="meanwhile")
        stage.gate.set()
        await stage.ended.until(1)
        await redis.execute_command("REPLICAOF", "NO", "ONE")
        await client.enqueue(Task("work"), task_id="after")
        await stage.ended.until(2)
        await eventually(lambda: _empty(redis))
        assert await counted(redis) == (2, 0)
    assert stage.began.all == ["before", "after"]


async def test_memory_is_full_for_a_while(own_server: MakeServer) -> None:
    """Nothing more goes in, but what is there runs and is settled."""
    redis_server = own_server()
    stage = Stage()
    stage.gate.clear()
    async with (
        asyncio.timeout(PATIENCE),
        Redis.from_url(redis_server.url) as redis,
        Client(redis_server.url) as client,
        Server(redis_server.url, stage.mux, concurrency=3),
    ):
        await client.enqueue_many([Task("work", task_id=f"before {n}") for n in range(10)])
        await stage.began.until(3)
        await redis.config_set("maxmemory", "1mb")
        with pytest.raises(BrokerError, match=r"OOM|maxmemory"):
            await client.enqueue(Task("work"), task_id="meanwhile")
        stage.gate.set()
        await stage.ended.until(10)
        await eventually(lambda: _empty(redis))
        await redis.config_set("maxmemory", "0")
        await client.enqueue(Task("work"), task_id="after")
        await stage.ended.until(11)
        await eventually(lambda: _empty(redis))
        assert await counted(redis) == (11, 0)
    assert set(stage.began.times.values()) == {1}


async def test_a_client_goes_on_after_an_outage(redis: Redis, proxy: MakeProxy) -> None:
    between = await proxy()
    async with asyncio.timeout(PATIENCE), Client(between.url, operation_timeout=0.3) as client:
        await client.enqueue(Task("work"), task_id="before")
        await between.down()
        with pytest.raises(BrokerError):
            await client.enqueue(Task("work"), task_id="meanwhile")
        await between.up()
        await client.enqueue(Task("work"), task_id="after")
    assert (await assert_in_order(redis))["pending"] == ["before", "after"]
