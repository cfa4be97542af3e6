"""A task is somebody else's by now: what its former owner still does to it has no effect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import RDB, Client, LeaseExpiredError, Server, SkipRetry, Task, TaskNotFoundError, keys
from aioasynq.message import TaskMessage
from aioasynq.proto.codec import decode_task, encode_task
from aioasynq.server import recover_loop, server as server_module
from aioasynq.server.config import Config
from aioasynq.server.contact import Contact
from aioasynq.server.recover_loop import Recovery
from tests.server.stage import PATIENCE, Seen, Stage, assert_in_order, counted, eventually, places
from tests.support.proxy import Proxy

MakeProxy = Callable[..., Awaitable[Proxy]]

HELD = {"active": ["a"], "lease": ["a"], "tasks": ["a"]}


async def taken_by_go(redis: Redis) -> float:
    """Do as a Go worker does that takes the task: whole seconds, and not a word about the owner."""
    moment = float(int(time.time()) + 30)
    await redis.zadd(keys.lease("default"), {"a": moment})
    return moment


async def taken_by_python(redis: Redis) -> float:
    moment = int(time.time()) + 15.25
    await redis.zadd(keys.lease("default"), {"a": moment})
    await redis.hset(keys.task("default", "a"), "owner", "elsewhere:1:other:7")
    return moment


TAKEN = {"by Go": taken_by_go, "by Python": taken_by_python}


@pytest.mark.rows(9, 109)
@pytest.mark.parametrize("take", TAKEN.values(), ids=TAKEN)
async def test_the_handler_is_ended(redis: Redis, redis_url: str, take: Callable[[Redis], Awaitable[float]]) -> None:
    began, ended, told = Seen(), Seen(), Seen()

    async def error_handler(task: Task, error: BaseException) -> None:
        told.add((task.id, type(error)))

    server = Server(redis_url, lease=1.0, error_handler=error_handler)

    @server.handler("work")
    async def work(task: Task) -> None:
        began.add(task.id)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.add("cancelled")
            raise

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("work"), task_id="a")
        await began.until(1)
        moment = await take(redis)
        await told.until(1)
        assert ended.all == ["cancelled"]
        await eventually(lambda: server.running == 0)
    assert told.all == [("a", LeaseExpiredError)]
    assert await assert_in_order(redis) == HELD
    assert await redis.zscore(keys.lease("default"), "a") == moment
    assert await counted(redis) == (0, 0)


@dataclass
class Late:
    """How the handler of a task ends that is no longer its server's."""

    raises: BaseException | None = None
    options: dict[str, Any] = field(default_factory=dict)
    shutdown: bool = False


LATE = {
    "done": Late(),
    "complete": Late(options={"retention": 60}),
    "retry": Late(raises=ValueError("no")),
    "kill": Late(raises=SkipRetry("never")),
    "requeue": Late(shutdown=True),
}


@pytest.mark.parametrize("take", TAKEN.values(), ids=TAKEN)
@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
async def test_a_late_end_changes_nothing(
    redis: Redis, redis_url: str, take: Callable[[Redis], Awaitable[float]], late: Late
) -> None:
    stage = Stage()
    stage.gate.clear()
    stage.raises = late.raises
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue(Task("work"), task_id="a", unique=60, **late.options)
        async with Server(redis_url, stage.mux, shutdown_timeout=0 if late.shutdown else 8):
            await stage.began.until(1)
            moment = await take(redis)
            before = await redis.hgetall(keys.task("default", "a"))
            if not late.shutdown:
                stage.gate.set()
                await stage.ended.until(1)
    assert await assert_in_order(redis) == HELD
    assert await redis.zscore(keys.lease("default"), "a") == moment
    assert await redis.hgetall(keys.task("default", "a")) == before
    assert await redis.get(before[b"unique_key"]) == b"a"
    assert await counted(redis) == (0, 0)


async def test_a_late_result_is_refused(redis: Redis, redis_url: str) -> None:
    refused = Seen()
    began, go_on = asyncio.Event(), asyncio.Event()
    server = Server(redis_url)

    @server.handler("work")
    async def work(task: Task) -> None:
        assert await task.write_result(b"first") == 5
        began.set()
        await go_on.wait()
        try:
            await task.write_result(b"second")
        except TaskNotFoundError:
            refused.add(task.id)

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("work"), task_id="a")
        await began.wait()
        await taken_by_python(redis)
        go_on.set()
        await refused.until(1)
    assert await redis.hget(keys.task("default", "a"), "result") == b"first"


NOW = 1_795_437_947.0
OVER = {
    "a lease of ours that goes on": (NOW + 3.1, False),
    "a lease of ours that has just ended": (NOW - 0.1, False),
    "a lease of ours that ended 1.9 s ago": (NOW - 1.9, False),
    "a lease of ours that ended 2.1 s ago": (NOW - 2.1, True),
    "a lease of Go that goes on": (NOW + 3, False),
    "a lease of Go that ended 3 s ago": (NOW - 3, False),
    "a lease of Go that ended 29 s ago": (NOW - 29, False),
    "a lease of Go that ended 31 s ago": (NOW - 31, True),
}


@pytest.mark.rows(125)
@pytest.mark.parametrize(("lease", "recovered"), OVER.values(), ids=OVER)
@pytest.mark.parametrize("retries", [5, 0])
async def test_recovery_leaves_live_owners_their_tasks(
    redis: Redis, redis_url: str, *, lease: float, recovered: bool, retries: int
) -> None:
    msg = TaskMessage(type="work", id="a", queue="default", retry=retries, timeout=60)
    await redis.hset(
        keys.task("default", "a"), mapping={"msg": encode_task(msg), "state": "active", "owner": "host:1:server:1"}
    )
    await redis.lpush(keys.active("default"), "a")
    await redis.zadd(keys.lease("default"), {"a": lease})
    contact = Contact(redis_url)
    contact.since -= 3600  # there all along
    async with RDB(redis_url, clock=lambda: NOW) as rdb:
        recovery = Recovery(rdb, Config(), contact)
        await recovery.step()
    place = "archived" if retries == 0 else "retry"
    assert await assert_in_order(redis) == ({place: ["a"], "tasks": ["a"]} if recovered else HELD)
    assert contact.counts.recovered == recovered
    assert await counted(redis) == ((1, 1) if recovered else (0, 0))
    data = await redis.hget(keys.task("default", "a"), "msg")
    kept = decode_task(data)  # type: ignore[arg-type]
    assert kept.retried == (recovered and retries > 0)
    assert ("task lease expired" in kept.error_msg) == recovered


async def test_recovery_waits_after_an_outage(redis: Redis, redis_url: str) -> None:
    """Those who live extend their leases first."""
    await redis.hset(keys.task("default", "a"), mapping={"msg": b"", "state": "active"})
    await redis.lpush(keys.active("default"), "a")
    await redis.zadd(keys.lease("default"), {"a": NOW - 60.5})
    async with RDB(redis_url, clock=lambda: NOW) as rdb:
        recovery = Recovery(rdb, Config(), Contact(redis_url))
        await recovery.step()
    assert await places(redis) == HELD


@pytest.mark.rows(9, 109)
async def test_a_server_that_was_cut_off_gives_way(
    redis: Redis, redis_url: str, proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one recovers its task and runs it; the first one's handler is ended when it is back, and not settled."""
    monkeypatch.setattr(server_module, "INTERVAL", 0.2)
    monkeypatch.setattr(server_module, "AFTER_CONTACT", 0.1)
    monkeypatch.setattr(recover_loop, "AFTER_CONTACT", 0.1)
    monkeypatch.setattr(recover_loop, "OUR_SLACK", 0.1)
    between = await proxy()
    first, second, told = Stage(), Stage(), Seen()
    first.gate.clear()

    async def error_handler(task: Task, error: BaseException) -> None:
        told.add(type(error))

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue(Task("work"), task_id="a")
        async with Server(between.url, first.mux, lease=1.0, error_handler=error_handler):
            await first.began.until(1)
            async with Server(redis_url, second.mux, lease=1.0):
                between.black_hole()
                await second.ended.until(1)
                between.resume()
                assert await told.until(1) == [LeaseExpiredError]
    assert first.began.all == second.began.all == ["a"]
    assert first.ended.all == []
    assert await assert_in_order(redis) == {}
    assert await counted(redis) == (2, 1)
