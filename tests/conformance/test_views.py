"""What Go's Inspector and asynqmon see of Python's servers and tasks, and Python of Go's."""

from __future__ import annotations

import os
import socket
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from aioasynq import RDB, keys
from tests.conformance.go_side import Asynqmon, GoClient, GoInspector, GoServer
from tests.conformance.history import Json
from tests.conformance.python_side import PythonClient, PythonServer, differences, read_task

STATES = {"active", "pending", "scheduled", "retry", "archived", "completed", "aggregating"}


async def _one_in_each_state(client: PythonClient, server: PythonServer, queue: str) -> None:
    """Tasks whose ids are their states; the server takes no more afterwards."""
    await client.enqueue("result", b"r", queue=queue, task_id="completed", retention=60)
    await client.enqueue("fail", b"bad", queue=queue, task_id="archived", max_retry=0)
    await client.enqueue("fail", b"bad", queue=queue, task_id="retry", headers={"a": "b"})
    await client.enqueue("ok", queue=queue, task_id="gone")
    await client.enqueue("block", b"p", queue=queue, task_id="active", timeout=90)
    await client.enqueue("ok", b"p", queue=queue, task_id="scheduled", process_in=60)
    await client.enqueue("ok", b"p", queue=queue, task_id="aggregating", group="g")
    for task in ("completed", "archived", "retry", "gone"):
        await server.settled(task)
    await server.wait("started", id="active")
    server.server.stop()
    await server.at_rest()
    await client.enqueue("ok", b"p", queue=queue, task_id="pending")


async def _the_server(inspector: GoInspector, **members: object) -> Json:
    """Our server as Go sees it, once its record has these members: nobody tells when it has written it."""
    while True:
        [server] = await inspector.call("servers")
        if all(server[name] == value for name, value in members.items()):
            return server  # type: ignore[no-any-return]


async def test_go_sees_every_queue_task_and_server(
    python_client: PythonClient, go_inspector: GoInspector, redis, redis_url, queue
):
    weights = {queue: 3, f"{queue}-low": 1}
    async with PythonServer(redis_url, queues=weights, strict_priority=True, concurrency=7, retry_delay=60) as server:
        await _one_in_each_state(python_client, server, queue)
        seen = await go_inspector.queue(queue)
        expected: dict[str, Any] = dict.fromkeys(STATES, 1) | {
            "size": 7, "groups": 1, "processed": 4, "failed": 2, "processed_total": 4, "failed_total": 2,
            "paused": False,
        }  # fmt: skip
        assert {name: seen[name] for name in expected} == expected
        assert 0 <= seen["latency"] < 5
        assert seen["memory_usage"] > 0
        today, yesterday = await go_inspector.call("history", queue, days=2)
        assert (today["processed"], today["failed"], yesterday["processed"]) == (4, 2, 0)
        for state in STATES:
            [listed] = await go_inspector.tasks(queue, state, group="g")
            assert listed["id"] == listed["state"] == state
            assert differences(listed, await read_task(redis, queue, state)) == {}
        assert await go_inspector.call("groups", queue) == [{"group": "g", "size": 1}]

        seen = await _the_server(go_inspector, status="stopped")
        expected = {
            "host": socket.gethostname(), "pid": os.getpid(), "id": server.server.id, "queues": weights,
            "strict_priority": True, "concurrency": 7,
        }  # fmt: skip
        assert {name: seen[name] for name in expected} == expected
        assert seen["started"] == pytest.approx(server.server.began, abs=0.001)
        [worker] = seen["active_workers"]
        assert {name: worker[name] for name in ("task_id", "task_type", "task_payload", "queue")} == {
            "task_id": "active", "task_type": "block", "task_payload": b"p", "queue": queue,
        }  # fmt: skip
        assert worker["started"] == pytest.approx(time.time(), abs=5)
        assert worker["deadline"] - worker["started"] == pytest.approx(90, abs=0.001)
    assert await go_inspector.call("servers") == []
    assert await redis.keys("asynq:servers*") == await redis.keys("asynq:workers*") == []


async def test_asynqmon_sees_every_queue_task_and_server(
    asynqmon: Asynqmon, python_client: PythonClient, go_inspector: GoInspector, redis_url, queue
):
    async with PythonServer(redis_url, queues=[queue], retry_delay=60) as server:
        await _one_in_each_state(python_client, server, queue)
        await _the_server(go_inspector, status="stopped")
        async with httpx.AsyncClient(base_url=f"{asynqmon.url}/api/") as http:
            [shown] = (await http.get("queues")).json()["queues"]
            assert {name: shown[name] for name in STATES} == dict.fromkeys(STATES, 1)
            assert (shown["queue"], shown["processed"], shown["failed"], shown["succeeded"]) == (queue, 4, 2, 2)
            for state in STATES - {"scheduled", "retry"}:
                place = "groups/g/aggregating" if state == "aggregating" else state
                [task] = (await http.get(f"queues/{queue}/{place}_tasks")).json()["tasks"]
                assert task["id"] == state
                task = (await http.get(f"queues/{queue}/tasks/{state}")).json()
                assert (task["state"], task["queue"]) == (state, queue)
            [shown] = (await http.get("servers")).json()["servers"]
            assert (shown["pid"], shown["queue_priorities"], shown["status"]) == (os.getpid(), {queue: 1}, "stopped")
            [worker] = shown["active_workers"]
            assert (worker["task_id"], worker["task_payload"]) == ("active", "p")
            history = (await http.get(f"queues/{queue}")).json()["history"]
            assert (history[0]["processed"], history[0]["failed"]) == (4, 2)
            for state, verb in (("scheduled", "archive"), ("archived", "run"), ("pending", "delete")):
                done = await http.request(
                    "DELETE" if verb == "delete" else "POST",
                    f"queues/{queue}/{state}_tasks/scheduled{'' if verb == 'delete' else f':{verb}'}",
                )
                assert done.status_code == httpx.codes.NO_CONTENT


@pytest.mark.parametrize("state", ["scheduled", "retry"])
async def test_asynqmon_lists_tasks_that_are_due_later(
    asynqmon: Asynqmon, python_client: PythonClient, redis_url, queue, state
):
    async with PythonServer(redis_url, queues=[queue], retry_delay=60) as server:
        if state == "retry":
            await python_client.enqueue("fail", b"bad", queue=queue, task_id="x")
            await server.settled("x")
        else:
            await python_client.enqueue("ok", b"p", queue=queue, task_id="x", process_in=60.5)
    async with httpx.AsyncClient(base_url=f"{asynqmon.url}/api/") as http:
        listed = await http.get(f"queues/{queue}/{state}_tasks")
        assert listed.status_code == httpx.codes.OK
        assert [task["id"] for task in listed.json()["tasks"]] == ["x"]
        task = (await http.get(f"queues/{queue}/tasks/x")).json()
        assert task["state"] == state


async def test_a_task_that_go_runs_again_is_taken_by_python(
    python_client: PythonClient, go_inspector: GoInspector, redis_url, queue
):
    """Out of every state in which it waits; Go notes no ``pending_since`` for these."""
    async with PythonServer(redis_url, queues=[queue], retry_delay=60) as server:
        await python_client.enqueue("fail:1", queue=queue, task_id="retry")
        await python_client.enqueue("fail:1", queue=queue, task_id="archived", max_retry=0)
        await python_client.enqueue("ok", queue=queue, task_id="scheduled", process_in=60)
        await python_client.enqueue("ok", queue=queue, task_id="aggregating", group="g")
        await python_client.enqueue("ok", queue=queue, task_id="completed", retention=60)
        for task in ("retry", "archived", "completed"):
            await server.settled(task)
        for task in ("retry", "scheduled", "aggregating", "completed"):
            await go_inspector.call("run_task", queue, id=task)
            await server.settled(task, as_="completed" if task == "completed" else "done")
        await go_inspector.call("run_task", queue, id="archived")
        await server.settled("archived", times=2)
    assert (await go_inspector.queue(queue))["failed"] == 3


async def test_python_reads_go_s_servers(go_programs, python_client: PythonClient, redis_url, queue):
    async with RDB(redis_url) as rdb:
        weights = {queue: 3, f"{queue}-low": 1}
        async with GoServer(redis_url, queues=weights, strict=True, concurrency=7) as server:
            [(info, workers)] = await rdb.read_process_info()
            assert (info.host, info.pid, info.concurrency, info.queues, info.strict_priority, info.status) == (
                socket.gethostname(), server.pid, 7, weights, True, "active",
            )  # fmt: skip
            assert workers == {}
            assert info.start_time / 1e9 == pytest.approx(time.time(), abs=5)
        assert await rdb.read_process_info() == []


@pytest.mark.timeout(90)
async def test_python_reads_what_go_s_servers_run(go_programs, go_client: GoClient, redis_url, queue):
    async with RDB(redis_url) as rdb, GoServer(redis_url, queues=[queue]) as server:
        await go_client.enqueue("block", b"\x00p", queue=queue, task_id="x", timeout=90)
        started = await server.wait("started", id="x")
        while True:  # Go tells in its heartbeat, every 5 s, what it runs
            [(info, workers)] = await rdb.read_process_info()
            if workers and info.active_worker_count:  # two reads; a heartbeat may lie between them
                break
        worker = workers["x"]
        assert (worker.server_id, worker.task_id, worker.task_type, worker.task_payload, worker.queue) == (
            info.server_id, "x", "block", b"\x00p", queue,
        )  # fmt: skip
        assert worker.start_time / 1e9 == pytest.approx(started["at"], abs=0.5)
        assert worker.deadline / 1e9 == pytest.approx(started["deadline"], abs=0.001)
        assert (len(workers), info.active_worker_count) == (1, 1)
        server.release("x")
        await server.settled("x")


@pytest.mark.parametrize("worker", [GoServer, PythonServer])
async def test_counters_are_kept_for_ninety_days(
    go_programs, python_client: PythonClient, redis, redis_url, queue, worker
):
    async with worker(redis_url, queues=[queue]) as server:
        await python_client.enqueue("fail", queue=queue, task_id="x")
        await server.settled("x")
    today = datetime.now(UTC).date()
    for counter in (keys.processed(queue, today), keys.failed(queue, today)):
        assert await redis.get(counter) == b"1"
        assert await redis.ttl(counter) == pytest.approx(90 * 86400, abs=60)
