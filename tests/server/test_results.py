"""Results: a client waits for what a handler returned."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import Client, ServeMux, Server, SkipRetry, Task, TaskFailedError, TaskNotFoundError, keys
from aioasynq.client import results
from aioasynq.rdb.rdb import RDB
from tests.server.stage import PATIENCE, eventually
from tests.support.proxy import Proxy

RETURNED: dict[str, tuple[Any, Any, bytes | None]] = {
    "nothing": (None, None, None),
    "an object": ({"a": [1, 2.5, "ü"]}, {"a": [1, 2.5, "ü"]}, '{"a":[1,2.5,"ü"]}'.encode()),
    "text": ("done", "done", b'"done"'),
    "bytes": (b"\xff\x00", b"\xff\x00", b"\xff\x00"),
    "bytes that are JSON": (b"[1]", [1], b"[1]"),
}


def returning(value: Any) -> ServeMux:
    mux = ServeMux()

    @mux.handler("work")
    async def work(_: Task) -> Any:
        if isinstance(value, BaseException):
            raise value
        return value

    return mux


@pytest.mark.parametrize(("returned", "value", "raw"), RETURNED.values(), ids=RETURNED)
async def test_what_a_handler_returns(redis_url: str, returned: Any, value: Any, raw: bytes | None) -> None:
    server = Server(redis_url, returning(returned))
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        info = await client.enqueue(Task("work"), retention=60)
        assert await client.result(info) == value
        assert await client.result(info.id) == value  # it is still there
        assert await client.result(info, raw=True, timeout=1) == raw


async def test_whoever_waits_is_woken(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many at once, for the same task and for others; nobody looks in between."""
    monkeypatch.setattr(results, "FIRST_LOOK", 3600)
    monkeypatch.setattr(results, "LONGEST_LOOK", 3600)
    gate = asyncio.Event()
    mux = ServeMux()

    @mux.handler("work")
    async def work(task: Task) -> str:
        await gate.wait()
        if task.payload == b"7":
            raise SkipRetry("not seven")
        return task.id

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, Server(redis_url, mux):
        tasks = [Task("work", str(n), task_id=f"t{n}", queue="default", retention=60) for n in range(20)]
        infos = await client.enqueue_many(tasks)
        waits = [asyncio.create_task(client.result(info)) for info in [*infos, infos[0]]]  # type: ignore[arg-type]
        await eventually(lambda: _listens(redis))
        await asyncio.sleep(0.1)  # so that each has looked once
        gate.set()
        answers = await asyncio.gather(*waits, return_exceptions=True)
    failed = answers.pop(7)
    assert isinstance(failed, TaskFailedError)
    assert (failed.queue, failed.task_id, failed.error) == ("default", "t7", "not seven")
    assert str(failed) == "task 't7' in queue 'default' failed: not seven"
    assert answers == [f"t{n}" for n in range(20) if n != 7] + ["t0"]


async def _listens(redis: Redis) -> bool:
    return bool(await redis.exists(keys.awaited("default")))


async def test_a_server_that_tells_nobody(redis: Redis, redis_url: str) -> None:
    """As Go's: who waits looks again and again."""
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, RDB(redis) as rdb:
        info = await client.enqueue(Task("work"), retention=60)
        wait = asyncio.create_task(client.result(info))
        await eventually(lambda: _listens(redis))
        [leased] = (await rdb.dequeue("default", owner="go")).tasks
        await redis.hset(keys.task("default", leased.id), mapping={"state": "completed", "result": b"1"})
        assert await wait == 1


@pytest.mark.one_server("by a proxy")
async def test_the_connection_of_a_listener_is_cut(redis: Redis, redis_url: str) -> None:
    gate = asyncio.Event()
    mux = ServeMux()

    @mux.handler("work")
    async def work(_: Task) -> int:
        await gate.wait()
        return 1

    server = Server(redis_url, mux)
    async with asyncio.timeout(PATIENCE), Proxy(redis_url) as proxy, Client(proxy.url) as client, server:
        info = await client.enqueue(Task("work"), retention=60)
        wait = asyncio.create_task(client.result(info))
        await eventually(lambda: _listens(redis))
        proxy.cut_all()
        gate.set()
        assert await wait == 1


async def test_what_is_not_there_or_goes(redis: Redis, redis_url: str) -> None:
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        with pytest.raises(TaskNotFoundError, match="cannot find task 'x' in queue 'other'"):
            await client.result("x", queue="other")
        info = await client.enqueue(Task("work"), retention=60)
        with pytest.raises(TimeoutError, match=rf"task '{info.id}' in queue 'default' has not ended within 0.2 s"):
            await client.result(info, timeout=0.2)
        wait = asyncio.create_task(client.result(info))
        await eventually(lambda: _listens(redis))
        await redis.delete(keys.task("default", info.id))
        with pytest.raises(TaskNotFoundError):
            await wait


@pytest.mark.no_cluster("only one of its nodes knows who listens")
async def test_nobody_listens_when_nobody_waits(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "SILENCE", 0.05)

    async def subscribed() -> bool:
        return bool(await redis.pubsub_numsub(keys.awaited("default")) != [(keys.awaited("default").encode(), 0)])

    async def silent() -> bool:
        return not await subscribed()

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        info = await client.enqueue(Task("work"), retention=60)
        waits = [asyncio.create_task(client.result(info)) for _ in range(3)]
        await eventually(subscribed)
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
        await eventually(silent)
        again = asyncio.create_task(client.result(info))
        await eventually(subscribed)
    await asyncio.wait([again])  # the client was closed meanwhile
    assert await silent()


async def test_wrong_arguments(redis_url: str) -> None:
    async with Client(redis_url) as client:
        info = await client.enqueue(Task("work"))
        with pytest.raises(ValueError, match=r"\(work\) has no retention, so its result is not kept"):
            await client.result(info)
        with pytest.raises(TypeError, match="task must be what enqueue returned, or an id, got 3"):
            await client.result(3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="queue must contain"):
            await client.result("x", queue="")
        with pytest.raises(ValueError, match="queue is for an id"):
            await client.result(info, queue="q")
        with pytest.raises(ValueError, match="timeout must be a number of seconds"):
            await client.result("x", timeout=-1)
    with pytest.raises(RuntimeError, match="this client is closed"):
        await client.result("x")
