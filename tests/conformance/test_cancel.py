"""A cancelation reaches the worker, whoever published it and whoever works."""

from __future__ import annotations

import pytest

from aioasynq import RDB
from tests.conformance.go_side import GoClient, GoInspector, GoServer
from tests.conformance.python_side import PythonClient, PythonServer


@pytest.mark.rows(128)
async def test_go_cancels_a_task_that_python_runs(
    go_client: GoClient, python_client: PythonClient, go_inspector: GoInspector, redis_url, queue
):
    async with PythonServer(redis_url, queues=[queue], retry_delay=60) as server:
        await go_client.enqueue("block", queue=queue, task_id="x")
        await python_client.enqueue("block", queue=queue, task_id="y")
        await server.wait("started", times=2)
        await go_inspector.call("cancel_processing", id="x")
        await server.wait("cancelled", id="x")
        assert (await server.settled("x"))["as"] == "retry"
        assert server.events("cancelled", id="y") == []  # only the one that was named
        server.release("y")
        assert (await server.settled("y"))["as"] == "done"
    info = await go_inspector.task(queue, "x")
    assert (info["state"], info["retried"], info["last_err"]) == ("retry", 1, "task cancelled")


async def test_python_cancels_a_task_that_go_runs(
    go_programs, python_client: PythonClient, go_inspector: GoInspector, redis_url, queue
):
    async with GoServer(redis_url, queues=[queue], retry_delay=60) as server, RDB(redis_url) as rdb:
        await python_client.enqueue("block", queue=queue, task_id="x")
        await server.wait("started", id="x")
        assert await rdb.publish_cancelation("x") == 1
        assert (await server.wait("cancelled", id="x"))["cause"] == "context canceled"
        assert (await server.settled("x"))["as"] == "retry"
    info = await go_inspector.task(queue, "x")
    assert (info["state"], info["retried"], info["last_err"]) == ("retry", 1, "context canceled")


@pytest.mark.rows(128)
@pytest.mark.parametrize("stranger", ["", "nobody", "ö" * 1000])
async def test_a_cancelation_of_nothing_does_no_harm(
    go_programs, python_client: PythonClient, go_inspector: GoInspector, redis_url, queue, stranger
):
    async with PythonServer(redis_url, queues=[queue]) as ours, GoServer(redis_url, queues=[f"{queue}-go"]) as theirs:
        await go_inspector.call("cancel_processing", id=stranger)
        assert await ours.rdb.publish_cancelation(stranger) == 2
        for name, server in ((queue, ours), (f"{queue}-go", theirs)):
            await python_client.enqueue("ok", queue=name, task_id="x")
            assert (await server.settled("x"))["as"] == "done"
