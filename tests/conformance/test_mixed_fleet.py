"""Go and Python work side by side on one queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from aioasynq import Task, keys
from tests.conformance.go_side import GoClient, GoInspector, GoServer
from tests.conformance.python_side import PythonClient, PythonServer

MANY = 1000


async def _all_settled(servers: Sequence[GoServer | PythonServer], count: int, as_: str) -> None:
    """Wait until *count* tasks are settled *as_*, whoever did it."""
    members: dict[str, Any] = {"as": as_}
    while left := count - sum(len(server.events("settled", **members)) for server in servers):
        # One of them has at least its share of what is left.
        share = -(-left // len(servers))
        waits = [
            asyncio.create_task(s.wait("settled", times=len(s.events("settled", **members)) + share, **members))
            for s in servers
        ]
        [first, *_], others = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        first.result()


async def test_every_task_is_processed_once(
    go_programs, go_client: GoClient, python_client: PythonClient, go_inspector: GoInspector, redis, redis_url, queue
):
    """Half of them fail once first, and come back to whoever takes them."""
    async with AsyncExitStack() as fleet:
        options: dict[str, Any] = {"queues": [queue], "retry_delay": 0}
        theirs = await fleet.enter_async_context(GoServer(redis_url, **options))
        ours = await fleet.enter_async_context(PythonServer(redis_url, **options))
        await asyncio.gather(
            *(
                go_client.enqueue("fail:1" if n % 2 else "sleep:5", b"go", queue=queue, task_id=f"g{n}")
                for n in range(MANY)
            ),
            python_client.enqueue_many(
                Task("fail:1" if n % 2 else "sleep:5", b"python", queue=queue, task_id=f"p{n}") for n in range(MANY)
            ),
        )
        await _all_settled([theirs, ours], 2 * MANY, "done")
        done = Counter(event["id"] for server in (theirs, ours) for event in server.events("settled", **{"as": "done"}))
        ran = Counter(event["id"] for server in (theirs, ours) for event in server.events("started"))
        assert done == dict.fromkeys([f"{side}{n}" for side in "gp" for n in range(MANY)], 1)
        assert ran == {id_: 1 + int(id_[1:]) % 2 for id_ in done}
        # Each has done its part, and of what both sides enqueued.
        for server in (theirs, ours):
            assert {event["payload"] for event in server.events("started")} == {b"go", b"python"}
        stats = await go_inspector.queue(queue)
    assert (stats["processed"], stats["failed"], stats["size"]) == (3 * MANY, MANY, 0)
    assert (stats["processed_total"], stats["failed_total"]) == (3 * MANY, MANY)
    assert await redis.keys(f"{keys.task_prefix(queue)}*") == []


async def test_a_paused_queue_is_left_alone_by_both(
    go_programs, go_client: GoClient, python_client: PythonClient, go_inspector: GoInspector, redis_url, queue
):
    beside = f"{queue}-go", f"{queue}-python"  # queues of their own, whose tasks show that they have looked
    async with AsyncExitStack() as fleet:
        theirs = await fleet.enter_async_context(GoServer(redis_url, queues=[queue, beside[0]]))
        ours = await fleet.enter_async_context(PythonServer(redis_url, queues=[queue, beside[1]]))
        await go_inspector.call("pause_queue", queue)
        for n in range(10):
            await python_client.enqueue("ok", queue=queue, task_id=f"p{n}")
            await go_client.enqueue("ok", queue=queue, task_id=f"g{n}")
        for name, server in zip(beside, (theirs, ours), strict=True):
            for n in range(3):
                await python_client.enqueue("ok", queue=name, task_id=f"{name}{n}")
                await server.settled(f"{name}{n}")
            assert server.events("started", queue=queue) == []
        assert (await go_inspector.queue(queue))["pending"] == 20
        await go_inspector.call("unpause_queue", queue)
        await _all_settled([theirs, ours], 20 + 6, "done")
    stats = await go_inspector.queue(queue)
    assert (stats["processed"], stats["size"]) == (20, 0)


async def test_what_is_no_task_stops_nobody(
    go_programs, go_client: GoClient, python_client: PythonClient, go_inspector: GoInspector, redis, redis_url, queue
):
    """Bytes that are no message, an id without a hash, and a message under another id, taken by Python."""
    async with PythonServer(redis_url, queues=[queue]) as ours:
        for n in range(3):
            await redis.hset(keys.task(queue, f"broken{n}"), mapping={"msg": b"\xff" * (n + 1), "state": "pending"})
        await redis.lpush(keys.pending(queue), "broken0", "nothing", "broken1", "broken2", "nothing")
        await go_client.enqueue("ok", queue=queue, task_id="g", retention=60)
        await python_client.enqueue("ok", queue=queue, task_id="p", retention=60)
        await asyncio.gather(ours.settled("g"), ours.settled("p"))
        for n in range(3):
            assert (await ours.settled(f"broken{n}"))["as"] == "archived"
    stats = await go_inspector.queue(queue)
    assert (stats["pending"], stats["active"], stats["archived"], stats["completed"]) == (0, 0, 3, 2)
    # Their bytes are kept, and Go's listing passes over them.
    assert await redis.hget(keys.task(queue, "broken0"), "msg") == b"\xff"
    assert await go_inspector.tasks(queue, "archived") == []


async def test_what_is_no_task_is_put_right_behind_go(
    go_programs, go_client: GoClient, go_inspector: GoInspector, redis, redis_url, queue
):
    """Go strands such ids among the active ones; a Python server beside it takes them off and archives them."""
    await redis.hset(keys.task(queue, "broken"), mapping={"msg": b"\xff", "state": "pending"})
    await redis.lpush(keys.pending(queue), "broken", "nothing")
    async with GoServer(redis_url, queues=[queue]) as theirs:
        await go_client.enqueue("ok", queue=queue, task_id="g")
        await theirs.settled("g")
        assert set(await redis.lrange(keys.active(queue), 0, -1)) == {b"broken", b"nothing"}
        for id_ in ("broken", "nothing"):
            await redis.zadd(keys.lease(queue), {id_: 1})  # as if Go's leases were long over
        async with PythonServer(redis_url, queues=[queue], lease=1) as ours:
            assert (await ours.settled("broken"))["as"] == "archived"
            await ours.settled("nothing")
    assert (await go_inspector.queue(queue))["active"] == 0
