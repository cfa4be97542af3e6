"""What a client puts into Redis, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import (
    RDB,
    BrokerError,
    BrokerRefusedError,
    Client,
    DuplicateTaskError,
    Task,
    TaskIDConflictError,
    TaskInfo,
    TaskState,
    keys,
)
from aioasynq.client import batcher
from aioasynq.devserver import DevServer, free_port
from aioasynq.message import TaskMessage
from aioasynq.proto.codec import decode_task
from tests.server.stage import PATIENCE, assert_in_order, eventually, load_scripts
from tests.support.proxy import Proxy

MakeProxy = Callable[..., Awaitable[Proxy]]


async def message(redis: Redis, task_id: str, queue: str = "default") -> TaskMessage:
    data = await redis.hget(keys.task(queue, task_id), "msg")
    return decode_task(data)  # type: ignore[arg-type]


# ── what is stored ──

IN_AN_HOUR = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
STORED: dict[str, tuple[dict[str, Any], str, TaskState, bool]] = {
    "at once": ({}, "pending", TaskState.PENDING, True),
    "in no time": ({"process_in": 0}, "pending", TaskState.PENDING, True),
    "at a time that is past": ({"process_at": 1_000_000_000}, "pending", TaskState.PENDING, True),
    "in an hour": ({"process_in": 3600}, "scheduled", TaskState.SCHEDULED, True),
    "at a time to come": ({"process_at": IN_AN_HOUR}, "scheduled", TaskState.SCHEDULED, True),
    "in a group": ({"group": "g"}, "groups", TaskState.AGGREGATING, False),
    "in a group, later": ({"group": "g", "process_at": IN_AN_HOUR}, "scheduled", TaskState.SCHEDULED, True),
}


@pytest.mark.rows(90, 91, 94, 98)
@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize(("options", "place", "state", "is_timed"), STORED.values(), ids=STORED)
async def test_where_a_task_goes(
    redis: Redis, redis_url: str, options: dict[str, Any], place: str, state: TaskState, *, is_timed: bool, unique: bool
) -> None:
    more: dict[str, Any] = {"unique": 60} if unique else {}
    async with Client(redis_url) as client:
        info = await client.enqueue(Task("work", b"1"), task_id="a", queue="low", **options, **more)
    assert (info.id, info.queue, info.type, info.payload, info.state) == ("a", "low", "work", b"1", state)
    assert (info.next_process_at is not None) == is_timed
    assert info.group == options.get("group")
    assert await assert_in_order(redis, "low") == {place: ["a"], "tasks": ["a"]}
    msg = await message(redis, "a", "low")
    assert msg.group_key == options.get("group", "")
    if place == "scheduled":
        score = await redis.zscore(keys.scheduled("low"), "a")
        assert score is not None
        assert info.next_process_at is not None
        assert abs(score - info.next_process_at.timestamp()) < 5
        if "process_at" in options:
            assert score == math.ceil(IN_AN_HOUR.timestamp())  # far moments are whole seconds
    if unique:
        delay = IN_AN_HOUR.timestamp() - time.time() if "process_at" in options else 3600
        expected = 60 + (delay if place == "scheduled" else 0)
        assert expected - 10 <= await redis.ttl(msg.unique_key) <= expected + 1
        assert await redis.get(msg.unique_key) == b"a"


@pytest.mark.rows(95)
async def test_an_id_that_is_taken(redis: Redis, redis_url: str) -> None:
    async with Client(redis_url) as client:
        await client.enqueue(Task("work", b"first"), task_id="a")
        for options in ({}, {"process_in": 60}, {"group": "g"}, {"unique": 60}, {"unique": 60, "process_in": 60}):
            with pytest.raises(TaskIDConflictError) as caught:
                await client.enqueue(Task("work", b"second"), task_id="a", **options)  # pyright: ignore[reportArgumentType]
            assert (caught.value.queue, caught.value.task_id) == ("default", "a")
        await client.enqueue(Task("work", b"third"), task_id="a", queue="other")
    assert (await message(redis, "a")).payload == b"first"
    lock = keys.unique("default", "work", b"second")
    assert await redis.exists(lock) == 0


@pytest.mark.rows(98)
async def test_a_lock_that_is_held(redis: Redis, redis_url: str) -> None:
    async with Client(redis_url) as client:
        await client.enqueue(Task("work", b"1"), task_id="a", unique=60)
        for options in ({}, {"process_in": 60}, {"group": "g"}):
            with pytest.raises(DuplicateTaskError):
                await client.enqueue(Task("work", b"1"), unique=60, **options)  # pyright: ignore[reportArgumentType]
        await client.enqueue(Task("work", b"1"), task_id="not unique")
        await client.enqueue(Task("work", b"2"), task_id="another payload", unique=60)
        await client.enqueue(Task("work", b"1"), task_id="another queue", unique=60, queue="other")
    assert (await assert_in_order(redis))["pending"] == ["a", "not unique", "another payload"]


async def test_many_at_once(redis: Redis, redis_url: str) -> None:
    """One answer for each, in order: what it became, or why not."""
    tasks = [
        Task("work", task_id="a"),
        Task("work", task_id="a"),
        Task("work", b"1", task_id="b", unique=60, queue="low"),
        Task("work", b"1", unique=60, queue="low"),
        Task("work", task_id="c", process_in=60),
        Task("work", task_id="d", max_retry=7),
    ]
    async with Client(redis_url) as client:
        answers = await client.enqueue_many(tasks, max_retry=3)
        assert await client.enqueue_many([]) == []
    assert [answer.id if isinstance(answer, TaskInfo) else type(answer) for answer in answers] == [
        "a",
        TaskIDConflictError,
        "b",
        DuplicateTaskError,
        "c",
        "d",
    ]
    assert (await message(redis, "a")).retry == (await message(redis, "d")).retry == 3
    assert (await assert_in_order(redis))["pending"] == ["a", "d"]


async def test_many_more_than_one_call_takes(redis: Redis, redis_url: str) -> None:
    names = [str(n) for n in range(1000)]
    async with Client(redis_url) as client:
        infos = await client.enqueue_many(Task("work", b"x" * 5000, task_id=name) for name in names)
        assert [info.id for info in infos if isinstance(info, TaskInfo)] == names
    assert [task_id.decode() for task_id in reversed(await redis.lrange(keys.pending("default"), 0, -1))] == names  # type: ignore[union-attr]


async def test_one_wrong_task_among_many_sends_none(redis: Redis, redis_url: str) -> None:
    async with Client(redis_url, max_payload=10) as client:
        with pytest.raises(ValueError, match="payload"):
            await client.enqueue_many([Task("work"), Task("work", b"x" * 11)])
        with pytest.raises(TypeError):
            await client.enqueue_many([Task("work"), "work"])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="one task"):
            await client.enqueue_many(Task("work"))  # type: ignore[arg-type]
    assert not [key async for key in redis.scan_iter(match="*")]


async def test_payloads_have_a_limit(redis: Redis, redis_url: str) -> None:
    async with Client(redis_url, max_payload=1000) as client:
        with pytest.raises(ValueError, match=r"at most 1,000 bytes \(max_payload\), got 1,001 for task 'work'"):
            await client.enqueue(Task("work", b"x" * 1001))
        assert not [key async for key in redis.scan_iter(match="*")]
        await client.enqueue(Task("work", b"x" * 1000))
    with pytest.raises(ValueError, match=r"max_payload must be .* got -1"):
        Client(redis_url, max_payload=-1)


@pytest.mark.parametrize("timeout", [0, -1, 51, float("nan")])
def test_operation_timeouts_that_are_none(timeout: float) -> None:
    with pytest.raises(ValueError, match="operation_timeout"):
        Client("redis://localhost:1", operation_timeout=timeout)


# ── whose it is ──


@pytest.mark.rows(100)
async def test_a_redis_that_was_given_stays_open(redis: Redis, redis_url: str) -> None:
    async with RDB(redis_url) as rdb:
        for given in (redis, rdb):
            async with Client(given) as client:
                await client.enqueue(Task("work"))
        await rdb.ping()
    assert await redis.ping()


async def test_a_client_that_is_closed(redis_url: str) -> None:
    client = Client(redis_url)
    await client.ping()
    await client.aclose()
    await client.aclose()
    for call in (lambda: client.enqueue(Task("work")), lambda: client.enqueue_many([Task("work")]), client.ping):
        with pytest.raises(RuntimeError, match="this client is closed"):
            await call()


async def test_closing_sends_what_was_enqueued(redis: Redis, redis_url: str) -> None:
    client = Client(redis_url)
    calls = [asyncio.create_task(client.enqueue(Task("work"))) for _ in range(500)]
    await asyncio.sleep(0)
    await client.aclose()
    await asyncio.gather(*calls)
    assert await redis.llen(keys.pending("default")) == 500


async def test_a_client_in_another_loop_and_thread(redis_url: str) -> None:
    async with Client(redis_url) as client:
        await client.enqueue(Task("work"))

        def elsewhere() -> None:
            asyncio.run(client.enqueue(Task("work")))

        with pytest.raises(RuntimeError, match="another event loop or thread"):
            await asyncio.to_thread(elsewhere)
        await client.enqueue(Task("work"))


FORKS = """
import asyncio, os, sys
from aioasynq import Client, Task

client = Client(sys.argv[1])
asyncio.run(client.ping())
if os.fork() == 0:
    try:
        asyncio.run(client.enqueue(Task("work")))
    except RuntimeError as exc:
        print(exc, flush=True)
    os._exit(0)
os.wait()
"""


async def test_a_client_in_a_forked_process(redis_url: str) -> None:
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", FORKS, redis_url], capture_output=True, text=True, check=True, timeout=30
    )
    assert "made before a fork" in ran.stdout


# ── when Redis does not do as it should ──


@pytest.mark.parametrize("call", ["enqueue", "enqueue_many", "ping"])
async def test_there_is_no_redis(call: str) -> None:
    """The error comes in time, and names the server without its password."""
    port = free_port()
    async with (
        asyncio.timeout(PATIENCE),
        Client(f"redis://user:secret@127.0.0.1:{port}/3", operation_timeout=0.3) as client,
    ):
        if call == "enqueue_many":
            [error] = await client.enqueue_many([Task("work")])
        else:
            with pytest.raises(BrokerError) as caught:
                await (client.ping() if call == "ping" else client.enqueue(Task("work")))
            error = caught.value
    assert isinstance(error, BrokerError)
    assert not error.maybe_done
    assert f"redis://127.0.0.1:{port}/3" in str(error)
    assert "secret" not in str(error)
    assert "secret" not in repr(client)


async def test_redis_is_silent(redis_url: str, proxy: MakeProxy) -> None:
    between = await proxy()
    async with asyncio.timeout(PATIENCE), Client(between.url, operation_timeout=0.3) as client:
        await client.ping()
        between.black_hole()
        with pytest.raises(BrokerError, match="no answer in time") as caught:
            await client.enqueue(Task("work"))
        assert isinstance(caught.value, BrokerError)
        between.resume()
        await client.enqueue(Task("work"))


async def test_a_password_that_is_wrong(own_server: Callable[..., DevServer]) -> None:
    url = own_server(config={"requirepass": "right"}).url
    for login in ("", ":wrong@"):
        async with Client(url.replace(":right@", login)) as client:
            with pytest.raises(BrokerRefusedError) as caught:
                await client.enqueue(Task("work"))
            assert not caught.value.maybe_done


async def test_a_queue_that_is_something_else(redis: Redis, redis_url: str) -> None:
    """The error is the caller's; other queues are not concerned."""
    await redis.set(keys.pending("default"), "a string")
    async with Client(redis_url) as client:
        calls = [client.enqueue(Task("work"), queue=queue) for queue in ("default", "other", "default")]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(answer, BrokerError) for answer in answers] == [True, False, True]
    assert not [key async for key in redis.scan_iter(match="asynq:{default}:t:*")]


# ── more than Redis takes ──


@pytest.mark.parametrize(("limit", "at_most"), [("MAX_WAITING", 400), ("MAX_WAITING_BYTES", 4000)])
async def test_enqueue_waits_when_too_much_waits(
    redis: Redis, redis_url: str, proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch, limit: str, at_most: int
) -> None:
    monkeypatch.setattr(batcher, limit, at_most)
    await load_scripts(redis)
    between = await proxy()
    async with asyncio.timeout(PATIENCE), Client(between.url, operation_timeout=10) as client:
        await client.enqueue(Task("work"), task_id="first")
        between.black_hole()
        calls = [asyncio.create_task(client.enqueue(Task("work", b"x" * 10), task_id=str(n))) for n in range(1500)]
        for _ in range(5):
            await asyncio.sleep(0)
        gathered = client._batcher
        assert gathered is not None
        assert gathered.full
        assert gathered._count == 400
        between.resume()
        await asyncio.gather(*calls)
    assert await redis.llen(keys.pending("default")) == 1501


async def test_those_who_wait_for_room_go_on_when_others_withdraw(
    redis: Redis, proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "MAX_WAITING", 10)
    await load_scripts(redis)
    between = await proxy()
    async with asyncio.timeout(PATIENCE), Client(between.url, operation_timeout=10) as client:
        await client.enqueue(Task("work"), task_id="before")
        between.black_hole()
        under_way = asyncio.create_task(client.enqueue(Task("work"), task_id="under way"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        withdrawn = [asyncio.create_task(client.enqueue(Task("work"))) for _ in range(10)]
        last = asyncio.create_task(client.enqueue(Task("work"), task_id="last"))
        await asyncio.sleep(0)
        for call in withdrawn:
            call.cancel()
        between.resume()
        await under_way
        await last
    assert (await assert_in_order(redis))["pending"] == ["before", "under way", "last"]


async def test_a_large_task_beside_small_ones(redis: Redis, redis_url: str) -> None:
    sizes = [10, 3_000_000, 10, 900_000, 900_000, 10]
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        began = time.time()
        await asyncio.gather(
            *(client.enqueue(Task("work", bytes(size)), task_id=str(n)) for n, size in enumerate(sizes))
        )
    await eventually(lambda: _all_there(redis, len(sizes)))
    assert (await assert_in_order(redis))["pending"] == [str(n) for n in range(len(sizes))]
    since = await redis.hget(keys.task("default", "0"), "pending_since")
    assert began - 1 <= int(since) / 1e9 <= time.time() + 1  # type: ignore[arg-type]


async def _all_there(redis: Redis, count: int) -> bool:
    return int(await redis.llen(keys.pending("default"))) == count
