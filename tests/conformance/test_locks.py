"""Unique tasks: a lock that one side has taken holds for the other, until whoever works has done the task."""

from __future__ import annotations

from typing import Any

import pytest

from aioasynq import TaskError, keys
from tests.conformance.go_side import GoClient, GoError, GoInspector, GoServer
from tests.conformance.python_side import PythonClient, PythonServer, refusal

PAYLOADS = {"no payload": None, "an empty payload": b"", "a payload": b"\x00\xffabc"}
ROUTES: dict[str, dict[str, Any]] = {"at once": {}, "later": {"process_in": 3600}, "in a group": {"group": "g"}}


@pytest.fixture
def clients(go_client: GoClient, python_client: PythonClient) -> dict[str, GoClient | PythonClient]:
    return {"go": go_client, "python": python_client}


@pytest.mark.parametrize("options", ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize(("first", "second"), [("go", "python"), ("python", "go")])
async def test_a_lock_of_one_refuses_the_other(clients, redis, queue, first, second, payload, options):
    info = await clients[first].enqueue("ok", payload, queue=queue, unique=60, **options)
    lock = keys.unique(queue, "ok", payload)
    assert await redis.get(lock) == info["id"].encode()
    assert await redis.ttl(lock) == pytest.approx(60 + options.get("process_in", 0), abs=2)
    for route in ROUTES.values():
        with pytest.raises((GoError, TaskError)) as refused:
            await clients[second].enqueue("ok", payload, queue=queue, unique=60, **route)
        assert refusal(refused.value) == "duplicate"
    # Another payload, another type and another queue are other locks, and who asks for no lock is not held up.
    for other in PAYLOADS.values():
        if other != payload:
            await clients[second].enqueue("ok", other, queue=queue, unique=60)
    await clients[second].enqueue("ok:2", payload, queue=queue, unique=60)
    await clients[second].enqueue("ok", payload, queue=f"{queue}-2", unique=60)
    await clients[second].enqueue("ok", payload, queue=queue)


@pytest.mark.parametrize("retention", [0, 60])
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize(("first", "worker"), [("go", PythonServer), ("python", GoServer)])
async def test_the_other_side_releases_a_lock_at_the_end(
    go_programs, clients, redis, redis_url, queue, first, worker, payload, retention
):
    info = await clients[first].enqueue("ok", payload, queue=queue, unique=60, retention=retention)
    async with worker(redis_url, queues=[queue]) as server:
        await server.settled(info["id"])
    assert await redis.keys("*}:unique:*") == []
    for client in clients.values():
        again = await client.enqueue("ok", payload, queue=queue, unique=1, task_id=f"{info['id']}-{client}")
        assert again["state"] == "pending"
        await redis.delete(keys.unique(queue, "ok", payload))


@pytest.mark.parametrize("worker", [PythonServer, GoServer])
async def test_a_retry_keeps_its_lock(go_programs, clients, redis_url, queue, worker):
    for name, client in clients.items():
        info = await client.enqueue("fail", name, queue=queue, unique=60)
        async with worker(redis_url, queues=[queue], retry_delay=60) as server:
            assert (await server.settled(info["id"]))["as"] == "retry"
        for other in clients.values():
            with pytest.raises((GoError, TaskError)) as refused:
                await other.enqueue("fail", name, queue=queue, unique=60)
            assert refusal(refused.value) == "duplicate"


async def test_go_releases_the_lock_of_a_task_it_deletes(python_client, go_inspector: GoInspector, redis, queue):
    info = await python_client.enqueue("ok", b"p", queue=queue, unique=60, process_in=60)
    await go_inspector.call("delete_task", queue, id=info["id"])
    assert await redis.keys("*}:unique:*") == []


@pytest.mark.parametrize(("first", "second"), [("go", "python"), ("python", "go")])
async def test_an_id_of_one_refuses_the_other(clients, queue, first, second):
    for n, route in enumerate(ROUTES.values()):
        await clients[first].enqueue("ok", queue=queue, task_id=f"x{n}", **route)
        for other in ROUTES.values():
            with pytest.raises((GoError, TaskError)) as refused:
                await clients[second].enqueue("ok", queue=queue, task_id=f"x{n}", **other)
            assert refusal(refused.value) == "id_conflict"
