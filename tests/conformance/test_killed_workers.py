"""A worker dies with a task in its hands, and one in the other language takes the task over."""

from __future__ import annotations

import time

import pytest

from aioasynq import keys
from tests.conformance.go_side import GoClient, GoInspector, GoServer
from tests.conformance.python_side import PythonClient, PythonProcess, PythonServer

LONG_AGO = 31  # seconds: asynq waits until a lease has been over for 30


@pytest.mark.rows(125)
@pytest.mark.parametrize(
    ("max_retry", "as_", "seen"),
    [(5, "completed", ("completed", 1)), (0, "archived", ("archived", 0))],
    ids=["retried", "archived"],
)
async def test_python_takes_over_from_a_killed_go_worker(
    go_programs, go_client: GoClient, go_inspector: GoInspector, redis, redis_url, queue, max_retry, as_, seen
):
    async with GoServer(redis_url, queues=[queue], hang=True) as dead:
        await go_client.enqueue("ok", queue=queue, task_id="x", max_retry=max_retry, retention=60)
        await dead.wait("started", id="x")
        await dead.kill()
    lease = await redis.zscore(keys.lease(queue), "x")
    assert lease == int(lease)  # which is how Go's are known
    async with PythonServer(redis_url, queues=[queue], lease=1) as server:
        # As if the lease had not been over for long enough until now.
        assert server.events() == []
        await redis.zadd(keys.lease(queue), {"x": int(time.time()) - LONG_AGO})
        await server.settled("x", as_=as_)
    info = await go_inspector.task(queue, "x")
    assert (info["state"], info["retried"]) == seen
    assert "task lease expired" in info["last_err"]
    stats = await go_inspector.queue(queue)
    assert (stats["active"], stats["failed"]) == (0, 1)


@pytest.mark.parametrize(
    ("max_retry", "as_", "seen"),
    [(5, "completed", ("completed", 1)), (0, "archived", ("archived", 0))],
    ids=["retried", "archived"],
)
async def test_go_takes_over_from_a_killed_python_worker(
    go_programs, python_client: PythonClient, go_inspector: GoInspector, redis, redis_url, queue, max_retry, as_, seen
):
    async with PythonProcess(redis_url, queues=[queue]) as dead:
        await python_client.enqueue("block", queue=queue, task_id="x", max_retry=max_retry, retention=60)
        await dead.wait("started", id="x")
        await dead.kill()
    lease = await redis.zscore(keys.lease(queue), "x")
    assert lease != int(lease)  # which is how ours are known
    await redis.zadd(keys.lease(queue), {"x": int(time.time()) - LONG_AGO + lease % 1})
    async with GoServer(redis_url, queues=[queue], retry_delay=0) as server:
        if as_ == "completed":
            await server.wait("started", id="x")
            server.release("x")
        await server.settled("x", as_=as_)
    info = await go_inspector.task(queue, "x")
    assert (info["state"], info["retried"], info["last_err"]) == (*seen, "asynq: task lease expired")
    stats = await go_inspector.queue(queue)
    assert (stats["active"], stats["failed"]) == (0, 1)


async def test_go_leaves_a_living_python_worker_its_task(
    go_programs, python_client: PythonClient, go_inspector: GoInspector, redis, redis_url, queue
):
    async with PythonServer(redis_url, queues=[queue]) as ours:
        await python_client.enqueue("block", queue=queue, task_id="x")
        await ours.wait("started", id="x")
        [listed] = await go_inspector.tasks(queue, "active")
        assert not listed["is_orphaned"]
        async with GoServer(redis_url, queues=[queue]) as theirs:  # its recoverer runs first of all
            await python_client.enqueue("ok", queue=queue, task_id="y")
            ours.release("x")
            assert (await ours.settled("x"))["as"] == "done"
        assert theirs.events("started", id="x") == []
        assert ours.events("settled", id="x", error="lost") == []


async def test_a_task_that_go_took_over_is_go_s(
    go_programs, python_client: PythonClient, go_inspector: GoInspector, redis, redis_url, queue
):
    """A Python worker that was cut off comes back while Go runs the task: what it did is not recorded."""
    async with PythonServer(redis_url, queues=[queue]) as ours:
        await python_client.enqueue("block", queue=queue, task_id="x", retention=60)
        await ours.wait("started", id="x")
        ours.server.stop()
        lease = await redis.zscore(keys.lease(queue), "x")
        await redis.zadd(keys.lease(queue), {"x": int(time.time()) - LONG_AGO + lease % 1})
        async with GoServer(redis_url, queues=[queue], retry_delay=0) as theirs:
            await theirs.wait("started", id="x")
            ours.release("x", result=None)
            assert (await ours.settled("x"))["error"] == "lost"
            assert (await go_inspector.task(queue, "x"))["state"] == "active"
            theirs.release("x", result=b"theirs")
            assert (await theirs.settled("x", as_="completed"))["as"] == "completed"
    info = await go_inspector.task(queue, "x")
    assert (info["result"], info["retried"]) == (b"theirs", 1)
