"""Idle servers wait instead of asking, and what waits takes no more than there are places for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import Client, Server, Task, keys
from aioasynq.devserver import DevServer
from aioasynq.server import fetcher
from tests.server.stage import (
    PATIENCE,
    Stage,
    assert_in_order,
    counted,
    eventually,
    load_scripts,
    once_each,
    places,
    summed,
)
from tests.support.proxy import Proxy

MakeProxy = Callable[..., Awaitable[Proxy]]

QUEUES = ["a", "b", "c"]


@pytest.fixture
async def stage(redis: Redis) -> Stage:
    await load_scripts(redis)
    return Stage()


async def blocked(redis: Redis) -> int:
    """How many connections wait in a BLMOVE."""
    return await summed(redis, "clients", "blocked_clients")


async def active(redis: Redis, *queues: str) -> int:
    return sum([int(await redis.llen(keys.active(queue))) for queue in queues])


async def until_blocked(redis: Redis, count: int) -> None:
    async def holds() -> bool:
        return await blocked(redis) == count

    await eventually(holds)


@pytest.mark.parametrize("concurrency", [1, 2, 3, 4, 7])
async def test_waiting_queues_take_no_more_tasks_than_there_are_places(
    redis: Redis, redis_url: str, stage: Stage, concurrency: int
) -> None:
    stage.gate.clear()
    async with (
        asyncio.timeout(PATIENCE),
        Server(redis_url, stage.mux, queues=QUEUES, concurrency=concurrency),
        Client(redis_url) as client,
    ):
        await until_blocked(redis, len(QUEUES))
        await asyncio.gather(*(client.enqueue(Task("work"), queue=queue) for queue in QUEUES * 3))

        async def all_places_taken() -> bool:
            taken = await active(redis, *QUEUES)
            assert taken <= concurrency
            return taken == concurrency and await blocked(redis) == 0

        await eventually(all_places_taken)
        await stage.began.until(concurrency)
        assert await active(redis, *QUEUES) == concurrency == stage.most
        stage.gate.set()
        await stage.ended.until(9)
    assert stage.most == concurrency
    assert set(stage.began.times.values()) == {1}


async def test_places_kept_for_rides_go_to_a_queue_that_has_tasks(redis: Redis, redis_url: str, stage: Stage) -> None:
    stage.gate.clear()
    async with (
        asyncio.timeout(PATIENCE),
        Server(redis_url, stage.mux, queues=QUEUES, concurrency=3),
        Client(redis_url) as client,
    ):
        await until_blocked(redis, 3)
        await client.enqueue_many([Task("work")] * 10, queue="b")
        await stage.began.until(3)
        stage.gate.set()
        await stage.ended.until(10)
    assert stage.most == 3


async def test_a_push_that_races_a_shutdown(redis: Redis, redis_url: str, stage: Stage) -> None:
    """The ride that the shutdown ends may just have taken a task: it runs or goes back, and is never left active."""
    ids: list[str] = []
    async with Client(redis_url) as client:
        for n in range(60):
            async with asyncio.timeout(PATIENCE):
                server = Server(redis_url, stage.mux, queues=["a", "b"])
                await server.start()
                await until_blocked(redis, 2)
                push = asyncio.create_task(client.enqueue(Task("work"), queue="ab"[n % 2], task_id=str(n)))
                for _ in range(n % 20):  # the later in the loop's turns the closer the two come to each other
                    await asyncio.sleep(0)
                await server.shutdown()
                await push
            ids.append(str(n))
            waiting: list[str] = []
            for queue in ("a", "b"):
                found = await assert_in_order(redis, queue)
                assert "active" not in found
                waiting += found.get("pending", [])
            assert sorted(stage.ended.all + waiting) == sorted(ids)
            assert stage.began.all == stage.ended.all


async def test_a_paused_queue_with_tasks_is_only_looked_at(
    redis: Redis, redis_url: str, proxy: MakeProxy, stage: Stage
) -> None:
    between = await proxy()
    await redis.set(keys.paused("default"), 1)
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue_many([Task("work")] * 5)
        async with Server(between.url, stage.mux):
            await between.until(lambda: between.commands["EVALSHA"] >= 1)
            await asyncio.sleep(0.2)  # the start is over
            before = between.commands.total()
            await asyncio.sleep(2.0)
            assert between.commands.total() - before <= 25
            assert stage.began.all == []
            await redis.delete(keys.paused("default"))
            await stage.ended.until(5)
    assert set(stage.began.times.values()) == {1}


async def test_a_queue_paused_while_it_is_waited_for(redis: Redis, redis_url: str, stage: Stage) -> None:
    async with asyncio.timeout(PATIENCE), Server(redis_url, stage.mux), Client(redis_url) as client:
        await until_blocked(redis, 1)
        await redis.set(keys.paused("default"), 1)
        await client.enqueue(Task("work"), task_id="a")
        await until_blocked(redis, 0)
        assert (await places(redis))["pending"] == ["a"]
        await redis.delete(keys.paused("default"))
        await stage.ended.until(1)


async def test_a_ride_gives_its_place_up_when_another_queue_needs_it(
    redis: Redis, redis_url: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "LONGEST_WAIT", 1000.0)  # short waits follow each other for that long
    stage.gate.clear()
    async with Server(redis_url, stage.mux, queues={"a": 1, "b": 1}, concurrency=2), Client(redis_url) as client:
        await until_blocked(redis, 2)
        for queue in "ab":  # one of them has the ride
            for number in range(2):
                await client.enqueue(Task("work"), task_id=f"{queue}{number}", queue=queue)
            await stage.began.until(2)
            stage.gate.set()
            await stage.ended.until(2)
            stage.gate.clear()
            stage.began.all.clear()
            stage.ended.all.clear()
            await until_blocked(redis, 2)
        stage.gate.set()


async def test_scripts_are_flushed_while_a_server_waits_and_works(redis: Redis, redis_url: str, stage: Stage) -> None:
    async with asyncio.timeout(PATIENCE), Server(redis_url, stage.mux), Client(redis_url) as client:
        await until_blocked(redis, 1)
        await redis.script_flush()
        await client.enqueue(Task("work"), task_id="waiting")
        await stage.ended.until(1)
        stage.gate.clear()
        await client.enqueue(Task("work"), task_id="working")
        await stage.began.until(2)
        await redis.script_flush()
        stage.gate.set()
        await stage.ended.until(2)
    assert stage.began.times == once_each(["waiting", "working"])
    assert await assert_in_order(redis) == {}
    assert await counted(redis) == (2, 0)


async def test_of_many_idle_servers_two_wait(redis: Redis, redis_url: str, stage: Stage) -> None:
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as servers, Client(redis_url) as client:
        first: list[Server] = []
        for n in range(5):
            server = await servers.enter_async_context(Server(redis_url, stage.mux))
            first.append(server)

            async def stands_in_line(number: int = n + 1) -> bool:
                return await redis.zcard(keys.waiting("default")) == number

            await eventually(stands_in_line)
            await until_blocked(redis, min(n + 1, 2))
        for n in range(20):
            await client.enqueue(Task("work"), task_id=str(n))
            await stage.ended.until(n + 1)
            assert await blocked(redis) <= 2
        assert set(stage.began.times.values()) == {1}
        await asyncio.gather(first[0].shutdown(), first[1].shutdown())
        await until_blocked(redis, 2)
    assert await redis.exists(keys.waiting("default")) == 0


async def test_a_busy_server_leaves_tasks_to_an_idle_one(redis: Redis, redis_url: str, stage: Stage) -> None:
    idle = Stage()
    stage.gate.clear()
    async with (
        asyncio.timeout(PATIENCE),
        Server(redis_url, stage.mux, concurrency=2),
        Client(redis_url) as client,
    ):
        await client.enqueue_many([Task("work")] * 2)
        await stage.began.until(2)
        await client.enqueue(Task("work"), task_id="third")
        assert (await assert_in_order(redis))["pending"] == ["third"]
        async with Server(redis_url, idle.mux):
            await idle.ended.until(1)
        stage.gate.set()
        await stage.ended.until(2)
    assert idle.began.all == ["third"]


async def run_all(redis_url: str, stage: Stage, waiting: dict[str, int], **options: Any) -> list[str]:
    """Enqueue so many tasks per queue, run all of them, and return the queues in the order the tasks came."""
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        for queue, count in waiting.items():
            await client.enqueue_many([Task("work", task_id=f"{queue} {n}") for n in range(count)], queue=queue)
        async with Server(redis_url, stage.mux, **options):
            await stage.ended.until(sum(waiting.values()))
    for queue, count in waiting.items():
        mine = [task_id for task_id in stage.began.all if task_id.startswith(f"{queue} ")]
        if options.get("concurrency") == 1:
            assert mine == [f"{queue} {n}" for n in range(count)]
    return [task_id.split()[0] for task_id in stage.began.all]


@pytest.mark.rows(111)
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_strict_priority(redis_url: str, stage: Stage, concurrency: int) -> None:
    waiting = {"low": 6, "high": 6, "middle": 6}
    came = await run_all(
        redis_url,
        stage,
        waiting,
        queues={"low": 1, "middle": 5, "high": 10},
        strict_priority=True,
        concurrency=concurrency,
    )
    assert came == ["high"] * 6 + ["middle"] * 6 + ["low"] * 6


async def test_strict_priority_with_a_paused_queue(redis: Redis, redis_url: str, stage: Stage) -> None:
    await redis.set(keys.paused("high"), 1)
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        for queue in ("high", "low"):
            await client.enqueue_many([Task("work")] * 3, queue=queue)
        async with Server(redis_url, stage.mux, queues={"low": 1, "high": 2}, strict_priority=True, concurrency=1):
            await stage.ended.until(3)
            assert len((await places(redis, "high"))["pending"]) == 3
            await redis.delete(keys.paused("high"))
            await stage.ended.until(6)


async def test_all_queues_paused(redis: Redis, redis_url: str, proxy: MakeProxy, stage: Stage) -> None:
    between = await proxy()
    for queue in QUEUES:
        await redis.set(keys.paused(queue), 1)
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        for queue in QUEUES:
            await client.enqueue(Task("work"), queue=queue, task_id=queue)
        async with Server(between.url, stage.mux, queues=QUEUES):
            await between.until(lambda: between.commands["EVALSHA"] >= 6)
            assert stage.began.all == []
            for queue in QUEUES:
                await redis.delete(keys.paused(queue))
            await stage.ended.until(3)


async def test_strict_priority_comes_to_a_queue_that_was_empty(redis: Redis, redis_url: str, stage: Stage) -> None:
    """A task of high priority that arrives while all places work on others is the next to run."""
    stage.gate.clear()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue_many([Task("work", task_id=f"low {n}") for n in range(5)], queue="low")
        async with Server(redis_url, stage.mux, queues={"low": 1, "high": 2}, strict_priority=True, concurrency=1):
            await stage.began.until(1)
            await client.enqueue(Task("work"), queue="high", task_id="high")
            stage.gate.set()
            await stage.ended.until(6)
    assert stage.began.all.index("high") == 1


async def test_weights_decide_how_often_a_queue_comes(redis_url: str, stage: Stage) -> None:
    came = await run_all(redis_url, stage, {"light": 120, "heavy": 120}, queues={"light": 1, "heavy": 9}, concurrency=1)
    first = Counter(came[:100])
    assert first["heavy"] >= 70  # 90 are expected; less than 70 come once in ten million times
    assert first["light"] >= 1


async def test_no_queue_starves_beside_one_that_never_ends(redis_url: str, stage: Stage) -> None:
    """The quiet queue was found empty while the other one took all places, so nobody waits for it."""
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        quiet_ran = asyncio.Event()
        count = 0

        @stage.mux.handler("endless")
        async def endless(task: Task) -> None:
            nonlocal count
            count += 1
            if count == 30:
                await client.enqueue(Task("quiet"), queue="quiet")
            if not quiet_ran.is_set():
                await client.enqueue(Task("endless"), queue="busy")

        @stage.mux.handler("quiet")
        async def quiet(task: Task) -> None:
            quiet_ran.set()

        await client.enqueue_many([Task("endless")] * 10, queue="busy")
        async with Server(redis_url, stage.mux, queues=["busy", "quiet"], concurrency=2):
            await quiet_ran.wait()


async def test_many_queues_of_which_few_are_waited_for(redis: Redis, redis_url: str, stage: Stage) -> None:
    queues = [f"q{n}" for n in range(12)]
    async with asyncio.timeout(PATIENCE), Server(redis_url, stage.mux, queues=queues), Client(redis_url) as client:
        await eventually(lambda: _some_blocked(redis))
        for queue in queues:
            await client.enqueue(Task("work"), queue=queue, task_id=queue)
        await stage.ended.until(len(queues))
        assert await blocked(redis) <= 4
    assert stage.began.times == once_each(queues)


async def _some_blocked(redis: Redis) -> bool:
    return await blocked(redis) >= 4


async def test_a_user_who_may_not_unblock(own_server: Callable[..., DevServer], stage: Stage) -> None:
    """CLIENT UNBLOCK is refused: waits are short then, and end by themselves."""
    server = own_server()
    async with Redis.from_url(server.url) as admin:
        await admin.execute_command(
            "ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all", "-client", "+client|id"
        )
        url = server.url.replace("redis://", "redis://worker:secret@")
        async with asyncio.timeout(PATIENCE), Client(url) as client:
            for n in range(2):
                async with Server(url, stage.mux):
                    await until_blocked(admin, 1)
                    await client.enqueue(Task("work"), task_id=str(n))
                    await stage.ended.until(n + 1)
                    await until_blocked(admin, 1)
        assert await assert_in_order(admin) == {}
