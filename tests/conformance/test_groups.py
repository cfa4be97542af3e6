"""A group that Go and Python fill together becomes one task, whoever aggregates."""

from __future__ import annotations

import asyncio

import pytest

from aioasynq import ServeMux, Server, Task, keys
from aioasynq.rdb.rdb import RDB
from tests.conformance.go_side import GoClient, GoInspector, GoServer
from tests.conformance.python_side import PythonClient
from tests.conformance.tables import DELAYED_GROUP

PATIENCE = 30.0


async def _fill(go_client: GoClient, python_client: PythonClient, queue: str) -> None:
    """In the order of their ids: times in a group are whole seconds."""
    await go_client.enqueue("part", b"a", queue=queue, group="g", task_id="a")
    await python_client.enqueue_many([Task("part", b"b", queue=queue, group="g", task_id="b", unique=60)])
    await go_client.enqueue("part", b"c", queue=queue, group="g", task_id="c")


async def test_go_aggregates(go_programs, go_client: GoClient, python_client: PythonClient, redis, redis_url, queue):
    await _fill(go_client, python_client, queue)
    async with GoServer(redis_url, queues=[queue], aggregate="ok:all", group_max_size=3) as server:
        assert (await server.wait("aggregated", group="g"))["payloads"] == ["a", "b", "c"]
        started = await server.wait("started", type="ok:all")
        await server.wait("settled", id=started["id"])
    assert await redis.keys(f"{keys.task_prefix(queue)}*") == []


async def test_a_delayed_task_joins_its_group(go_programs, python_client: PythonClient, redis, redis_url, queue):
    """Where a Python server finds it due; its group is then looked at by Go as well."""
    info = await python_client.enqueue("part", b"late", queue=queue, **DELAYED_GROUP.options())
    assert info["state"] == DELAYED_GROUP.state
    async with asyncio.timeout(PATIENCE), RDB(redis) as rdb:
        while not (await rdb.check_and_enqueue(queue)).moved:
            await asyncio.sleep(0.05)
    async with GoServer(redis_url, queues=[queue], aggregate="ok:all") as server:
        assert (await server.wait("aggregated", group="g"))["payloads"] == ["late"]


async def test_python_aggregates_and_go_works(
    go_programs, go_client: GoClient, python_client: PythonClient, go_inspector: GoInspector, redis, redis_url, queue
):
    await _fill(go_client, python_client, queue)
    assert await go_inspector.call("groups", queue) == [{"group": "g", "size": 3}]
    mux = ServeMux()

    @mux.aggregator
    async def join(group: str, tasks: list[Task]) -> Task:
        return Task("ok:all", f"{group}: {b' '.join(task.payload for task in tasks).decode()}")

    @mux.handler("nothing")
    async def nothing(_: Task) -> None: ...

    aside = f"{queue}-aside"  # so that ours takes no task of the queue
    await redis.set(keys.paused(queue), 1)
    async with asyncio.timeout(PATIENCE), Server(redis_url, mux, queues=[queue, aside], group_max_size=3):
        while not await redis.llen(keys.pending(queue)):
            await asyncio.sleep(0.01)
    await redis.delete(keys.paused(queue))
    assert await go_inspector.call("groups", queue) == []
    async with GoServer(redis_url, queues=[queue]) as server:
        started = await server.wait("started")
        assert (started["type"], started["payload"]) == ("ok:all", b"g: a b c")
        await server.wait("settled", id=started["id"])
    assert await redis.keys(f"{keys.prefix(queue)}unique:*") == []


@pytest.mark.parametrize("side", ["go", "python"])
async def test_both_aggregate_side_by_side(
    go_programs, go_client: GoClient, python_client: PythonClient, redis, redis_url, queue, side
):
    """No task is in two of them, and none in no one."""
    seen: list[str] = []
    mux = ServeMux()

    @mux.aggregator
    async def join(_: str, tasks: list[Task]) -> Task:
        seen.extend(task.payload.decode() for task in tasks)
        return Task("ok:python", b"x")

    @mux.handler("ok")
    async def ok(_: Task) -> None: ...

    wanted = [f"{side}{n:03}" for n in range(200)]
    async with (
        asyncio.timeout(PATIENCE),
        Server(redis_url, mux, queues=[queue], group_max_size=5, group_grace_period=1),
        GoServer(redis_url, queues=[queue], aggregate="ok:all", group_max_size=5) as server,
    ):
        if side == "go":
            await asyncio.gather(*(go_client.enqueue("part", name.encode(), queue=queue, group="g") for name in wanted))
        else:
            await python_client.enqueue_many([Task("part", name, queue=queue, group="g") for name in wanted])

        def by_go() -> list[str]:
            return [name for event in server.events("aggregated") for name in event["payloads"]]

        while len(seen) + len(by_go()) < len(wanted) or await redis.keys(f"{keys.task_prefix(queue)}*"):
            await asyncio.sleep(0.05)
    assert sorted(seen + by_go()) == wanted
