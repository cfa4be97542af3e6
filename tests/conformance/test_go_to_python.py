"""Go enqueues, Python works, and both see the same."""

from __future__ import annotations

import time

import pytest

from tests.conformance.go_side import GoClient, GoError, GoInspector, GoServer
from tests.conformance.python_side import PythonServer, differences, read_task
from tests.conformance.tables import DELAYED_GROUP, ENDS, GROUP_ROUTES, OPTIONS, ROUTES


@pytest.mark.parametrize("route", [*ROUTES.values(), DELAYED_GROUP], ids=[*ROUTES, "in a group in a second"])
async def test_a_task_arrives_by_every_route(
    go_client: GoClient, go_inspector: GoInspector, redis, redis_url, queue, route
):
    options = {"queue": queue, "headers": {"a": "b"}, "max_retry": 3, "retention": 60} | route.options()
    info = await go_client.enqueue("ok:x", b"\x00\xff", **options)
    assert info["state"] == route.state
    assert differences(info, await read_task(redis, queue, info["id"])) == {}
    async with PythonServer(redis_url, queues=[queue]) as server:
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
async def test_a_group_is_read(go_client: GoClient, redis, queue, route):
    info = await go_client.enqueue("ok", b"p", queue=queue, **route.options())
    assert info["state"] == route.state
    assert differences(info, await read_task(redis, queue, info["id"])) == {}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
async def test_every_option_arrives(go_client: GoClient, go_inspector: GoInspector, redis, redis_url, queue, options):
    info = await go_client.enqueue("block", **{"payload": b"p", "queue": queue} | options())
    id_ = info["id"]
    assert differences(info, await read_task(redis, queue, id_)) == {}
    async with PythonServer(redis_url, queues=[queue]) as server:
        started = await server.wait("started", id=id_)
        assert (started["payload"], started["headers"]) == (info["payload"] or b"", info["headers"])
        assert started["max_retry"] == info["max_retry"]
        assert (
            differences(await go_inspector.task(queue, id_), info | {"state": "active", "next_process_at": None}) == {}
        )
        server.release(id_)
        assert (await server.settled(id_))["as"] == ("completed" if info["retention"] else "done")


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_go_sees_how_a_task_ended(go_client: GoClient, go_inspector: GoInspector, redis, redis_url, queue, end):
    async with PythonServer(redis_url, queues=[queue], retry_delay=60) as server:
        id_ = (await go_client.enqueue(end.type, **{"payload": None, "queue": queue} | end.options()))["id"]
        assert (await server.settled(id_))["as"] == end.as_
    counted = end.type != "soft"
    assert (await go_inspector.queue(queue))["processed"] == counted
    assert (await go_inspector.queue(queue))["failed"] == (counted and end.as_ in {"retry", "archived"})
    if end.seen is None:
        with pytest.raises(GoError, match="task not found"):
            await go_inspector.task(queue, id_)
        return
    info = await go_inspector.task(queue, id_)
    expected = end.seen | ({"last_err": end.python_error} if end.python_error else {})
    assert {name: info[name] for name in expected} == expected
    if info["last_err"]:
        assert info["last_failed_at"] == pytest.approx(time.time(), abs=3)
    if end.as_ == "retry":
        assert info["next_process_at"] == pytest.approx(time.time() + 60, abs=3)
    assert differences(info, await read_task(redis, queue, id_)) == {}


async def test_a_task_fails_until_it_is_archived(go_client: GoClient, go_inspector: GoInspector, redis_url, queue):
    async with PythonServer(redis_url, queues=[queue], retry_delay=0) as server:
        await go_client.enqueue("fail", b"bad", queue=queue, task_id="x", max_retry=2)
        await server.settled("x", as_="archived")
        assert [event["retried"] for event in server.events("started")] == [0, 1, 2]
    info = await go_inspector.task(queue, "x")
    assert (info["state"], info["retried"], info["max_retry"], info["last_err"]) == ("archived", 2, 2, "bad")
    [listed] = await go_inspector.tasks(queue, "archived")
    assert differences(info, listed) == {}
    stats = await go_inspector.queue(queue)
    assert (stats["processed"], stats["failed"], stats["archived"], stats["size"]) == (3, 3, 1, 1)


async def test_a_retry_succeeds(go_client: GoClient, go_inspector: GoInspector, redis_url, queue):
    async with PythonServer(redis_url, queues=[queue], retry_delay=0) as server:
        await go_client.enqueue("fail:1", queue=queue, task_id="x", retention=60)
        await server.settled("x", as_="completed")
    info = await go_inspector.task(queue, "x")
    assert (info["state"], info["retried"], info["last_err"]) == ("completed", 1, "boom")


RETURNED = {"text": ("return", '"grün"'.encode()), "bytes": ("return-bytes", "grün".encode())}


@pytest.mark.parametrize(("type_", "stored"), RETURNED.values(), ids=RETURNED)
async def test_what_a_handler_returns_is_the_result(
    go_client: GoClient, go_inspector: GoInspector, redis_url, queue, type_, stored
):
    async with PythonServer(redis_url, queues=[queue]) as server:
        await go_client.enqueue(type_, "grün", queue=queue, task_id="x", retention=60)
        await server.settled("x")
    assert (await go_inspector.task(queue, "x"))["result"] == stored


async def test_what_was_written_stays_with_a_failure(go_client: GoClient, go_inspector: GoInspector, redis_url, queue):
    async with PythonServer(redis_url, queues=[queue], retry_delay=60) as server:
        await go_client.enqueue("block", queue=queue, task_id="x")
        server.release("x", "fail", result=b"half")
        await server.settled("x")
    info = await go_inspector.task(queue, "x")
    assert (info["state"], info["result"]) == ("retry", b"half")


async def test_an_unfinished_task_goes_back(go_client: GoClient, go_inspector: GoInspector, redis_url, queue):
    async with PythonServer(redis_url, queues=[queue]) as server:
        for id_ in ("x", "y"):
            await go_client.enqueue("block", queue=queue, task_id=id_)
            await server.wait("started", id=id_)
    infos = await go_inspector.tasks(queue, "pending")
    assert [(info["id"], info["retried"], info["last_err"]) for info in infos] == [("x", 0, ""), ("y", 0, "")]


async def test_go_deletes_what_has_expired(
    go_programs, go_client: GoClient, go_inspector: GoInspector, redis_url, queue
):
    async with PythonServer(redis_url, queues=[queue]) as server:
        await go_client.enqueue("ok", queue=queue, task_id="x", retention=1)
        await server.settled("x", as_="completed")
    async with GoServer(redis_url, queues=[queue]) as other:
        await other.wait("expired", queue=queue)
    with pytest.raises(GoError, match="task not found"):
        await go_inspector.task(queue, "x")
