"""Python enqueues, Go works, and both see the same."""

from __future__ import annotations

import time

import pytest

from aioasynq import keys
from tests.conformance.go_side import GoClient, GoError, GoInspector, GoServer
from tests.conformance.python_side import PythonClient, PythonServer, differences, read_task
from tests.conformance.tables import DELAYED_GROUP, ENDS, GROUP_ROUTES, OPTIONS, ROUTES


@pytest.mark.parametrize("route", [*ROUTES.values(), DELAYED_GROUP], ids=[*ROUTES, "in a group in a second"])
async def test_a_task_arrives_by_every_route(
    go_programs, python_client: PythonClient, go_inspector: GoInspector, redis, redis_url, queue, route
):
    options = {"queue": queue, "headers": {"a": "b"}, "max_retry": 3, "retention": 60} | route.options()
    info = await python_client.enqueue("ok:x", b"\x00\xff", **options)
    assert info["state"] == route.state
    assert differences(await go_inspector.task(queue, info["id"]), info) == {}
    async with GoServer(redis_url, queues=[queue]) as server:
        started = await server.wait("started", id=info["id"])
        assert {name: started[name] for name in ("queue", "type", "payload", "headers", "retried", "max_retry")} == {
            "queue": queue, "type": "ok:x", "payload": b"\x00\xff", "headers": {"a": "b"}, "retried": 0, "max_retry": 3,
        }  # fmt: skip
        assert (await server.settled(info["id"]))["as"] == "completed"
    after = await go_inspector.task(queue, info["id"])
    assert differences(after, await read_task(redis, queue, info["id"])) == {}
    assert after["completed_at"] == pytest.approx(time.time(), abs=3)
    assert await redis.keys("*}:unique:*") == []


@pytest.mark.parametrize("route", GROUP_ROUTES.values(), ids=GROUP_ROUTES)
async def test_a_group_is_aggregated(
    go_programs, python_client: PythonClient, go_client: GoClient, go_inspector: GoInspector, redis_url, queue, route
):
    info = await python_client.enqueue("ok", b"1", queue=queue, task_id="1", **route.options())
    assert info["state"] == route.state
    assert differences(await go_inspector.task(queue, "1"), info) == {}
    await go_client.enqueue("ok", b"2", queue=queue, task_id="2", **route.options())
    assert await go_inspector.call("groups", queue) == [{"group": "g", "size": 2}]
    async with GoServer(redis_url, queues=[queue], aggregate="ok:all", group_max_size=2) as server:
        aggregated = await server.wait("aggregated", group="g")
        assert sorted(aggregated["payloads"]) == ["1", "2"]
        await server.wait("settled")
    assert (await go_inspector.queue(queue))["size"] == 0


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
async def test_every_option_arrives(
    go_programs, python_client: PythonClient, go_inspector: GoInspector, redis, redis_url, queue, options
):
    info = await python_client.enqueue("block", **{"payload": b"p", "queue": queue} | options())
    id_ = info["id"]
    assert differences(await go_inspector.task(queue, id_), info) == {}
    async with GoServer(redis_url, queues=[queue]) as server:
        started = await server.wait("started", id=id_)
        assert ((started["payload"] or b""), started["headers"]) == (info["payload"], info["headers"])
        assert started["max_retry"] == info["max_retry"]
        ends = [started["at"] + info["timeout"]] * (info["timeout"] > 0) + [info["deadline"]] * bool(info["deadline"])
        assert started["deadline"] == pytest.approx(min(ends), abs=1.5)
        active = info | {"state": "active", "next_process_at": None}
        assert differences(active, await read_task(redis, queue, id_)) == {}
        server.release(id_)
        assert (await server.settled(id_))["as"] == ("completed" if info["retention"] else "done")


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_python_sees_how_a_task_ended(
    go_programs, python_client: PythonClient, go_inspector: GoInspector, redis, redis_url, queue, end
):
    async with GoServer(redis_url, queues=[queue], retry_delay=60) as server:
        id_ = (await python_client.enqueue(end.type, **{"payload": None, "queue": queue} | end.options()))["id"]
        assert (await server.settled(id_))["as"] == end.as_
    if end.seen is None:
        with pytest.raises(GoError, match="task not found"):
            await go_inspector.task(queue, id_)
        return
    info = await read_task(redis, queue, id_)
    expected = {"result": b""} | end.seen | ({"last_err": end.go_error} if end.go_error else {})
    expected["result"] = expected["result"] or b""
    assert {name: info[name] for name in expected} == expected
    if info["last_err"]:
        assert info["last_failed_at"] == pytest.approx(time.time(), abs=3)
    if end.as_ == "retry":
        assert info["next_process_at"] == pytest.approx(time.time() + 60, abs=3)
    assert differences(await go_inspector.task(queue, id_), info) == {}


async def test_a_task_fails_until_it_is_archived(
    go_programs, python_client: PythonClient, go_inspector: GoInspector, redis, redis_url, queue
):
    async with GoServer(redis_url, queues=[queue], retry_delay=0) as server:
        await python_client.enqueue("fail", b"bad", queue=queue, task_id="x", max_retry=2)
        await server.settled("x", as_="archived")
        assert [event["retried"] for event in server.events("started")] == [0, 1, 2]
    info = await read_task(redis, queue, "x")
    assert (info["state"], info["retried"], info["max_retry"], info["last_err"]) == ("archived", 2, 2, "bad")
    stats = await go_inspector.queue(queue)
    assert (stats["processed"], stats["failed"], stats["archived"], stats["size"]) == (3, 3, 1, 1)


async def test_a_task_that_failed_in_one_language_succeeds_in_the_other(
    go_programs, python_client: PythonClient, redis, redis_url, queue
):
    """It fails in Go, in Python, in Go, and succeeds in Python."""
    await python_client.enqueue("fail:3", b"why", queue=queue, task_id="x", retention=60, headers={"a": "b"})
    for side in (GoServer, PythonServer, GoServer, PythonServer):
        await redis.zadd(keys.retry(queue), {"x": 1}, xx=True)  # due
        async with side(redis_url, queues=[queue], retry_delay=60) as server:
            last = await server.settled("x")
    assert last["as"] == "completed"
    info = await read_task(redis, queue, "x")
    assert (info["retried"], info["last_err"], info["headers"]) == (3, "why", {"a": "b"})


async def test_an_unfinished_task_goes_back(
    go_programs, python_client: PythonClient, go_inspector: GoInspector, redis_url, queue
):
    async with GoServer(redis_url, queues=[queue], shutdown_timeout=0.1) as server:
        await python_client.enqueue("stubborn", queue=queue, task_id="x", retention=60)
        await server.wait("started", id="x")
        await server.terminate()
    info = await go_inspector.task(queue, "x")
    assert (info["state"], info["retried"]) == ("pending", 0)


async def test_python_deletes_what_has_expired(
    go_programs, python_client: PythonClient, go_inspector: GoInspector, redis_url, queue
):
    async with GoServer(redis_url, queues=[queue], janitor_interval=60) as server:
        await python_client.enqueue("ok", queue=queue, task_id="x", retention=1)
        await server.settled("x", as_="completed")
    async with PythonServer(redis_url, queues=[queue], cleanup_interval=0.1) as other:
        await other.wait("expired")
    with pytest.raises(GoError, match="task not found"):
        await go_inspector.task(queue, "x")
