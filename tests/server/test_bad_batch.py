"""One bad entry among good ones: the good ones run, and the bad one has its documented end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from redis.asyncio import Redis

from aioasynq import Client, Server, Task, keys
from aioasynq.message import TaskMessage
from aioasynq.proto.codec import decode_task, encode_task
from tests.server.stage import PATIENCE, Seen, Stage, counted, eventually, places

GOOD = ["good 0", "good 1", "good 2", "good 3"]
TASK = keys.task("default", "bad")


def a_message(task_id: str) -> bytes:
    return encode_task(TaskMessage(type="work", payload=b"1", id=task_id, queue="default", retry=5, timeout=60))


@dataclass
class Bad:
    """An entry of the pending list: what stands behind it before, and where it is in the end."""

    before: dict[str, str | bytes] | str | None
    after: dict[str, list[str]] = field(default_factory=dict)
    error: str = ""


ARCHIVED = {"archived": ["bad"], "tasks": ["bad"]}
BAD = {
    "bytes that are no message": Bad({"msg": b"\xff\xff\xff", "state": "pending"}, ARCHIVED, "undecodable message"),
    "a message cut short": Bad({"msg": a_message("bad")[:-3], "state": "pending"}, ARCHIVED, "undecodable message"),
    "a message of another id": Bad({"msg": a_message("other"), "state": "pending"}, ARCHIVED, "'other'"),
    "a hash without a message": Bad({"state": "pending"}, ARCHIVED, "undecodable message"),
    "an empty message": Bad({"msg": b"", "state": "pending"}, ARCHIVED, "undecodable message"),
    "no hash": Bad(None),
    "something else than a hash": Bad("a string", {"tasks": ["bad"]}),
}


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def put_among_good(redis: Redis, client: Client, put: Callable[[], Awaitable[object]]) -> None:
    await client.enqueue_many([Task("work", task_id=name) for name in GOOD[:2]])
    await put()
    await client.enqueue_many([Task("work", task_id=name) for name in GOOD[2:]])


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_a_bad_entry_among_pending_ones(redis: Redis, redis_url: str, stage: Stage, bad: Bad) -> None:
    async def put() -> None:
        if isinstance(bad.before, dict):
            await redis.hset(TASK, mapping=bad.before)  # type: ignore[arg-type]
        elif bad.before is not None:
            await redis.set(TASK, bad.before)
        await redis.lpush(keys.pending("default"), "bad")

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await put_among_good(redis, client, put)
        async with Server(redis_url, stage.mux):
            await stage.ended.until(len(GOOD))
    assert stage.began.all == GOOD
    assert await places(redis) == bad.after
    if bad.error:
        fields = await redis.hgetall(TASK)
        assert isinstance(bad.before, dict)
        assert fields.get(b"msg") == bad.before.get("msg")
        assert fields[b"state"] == b"archived"
        assert bad.error in fields[b"error"].decode()  # type: ignore[union-attr]
        assert await counted(redis) == (len(GOOD) + 1, 1)
    else:
        assert await counted(redis) == (len(GOOD), 0)


async def test_an_id_that_is_no_text(redis: Redis, redis_url: str, stage: Stage) -> None:
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await put_among_good(redis, client, lambda: redis.lpush(keys.pending("default"), b"\xff\xfe"))
        async with Server(redis_url, stage.mux):
            await stage.ended.until(len(GOOD))
    assert stage.began.all == GOOD
    assert await places(redis) == {}


async def test_an_id_that_is_no_text_with_bytes_behind_it(redis: Redis, redis_url: str, stage: Stage) -> None:
    task = keys.task_prefix("default").encode() + b"\xff\xfe"

    async def put() -> None:
        await redis.hset(task, mapping={"msg": b"junk", "state": "pending"})
        await redis.lpush(keys.pending("default"), b"\xff\xfe")

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await put_among_good(redis, client, put)
        async with Server(redis_url, stage.mux):
            await stage.ended.until(len(GOOD))
    assert stage.began.all == GOOD
    assert await redis.zrange(keys.archived("default"), 0, -1) == [b"\xff\xfe"]
    assert await redis.hget(task, "msg") == b"junk"


async def test_an_id_that_is_there_twice(redis: Redis, redis_url: str, stage: Stage) -> None:
    async def put() -> None:
        await redis.lpush(keys.pending("default"), GOOD[1], GOOD[0])

    stage.gate.clear()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await put_among_good(redis, client, put)
        async with Server(redis_url, stage.mux):
            await stage.began.until(len(GOOD))
            stage.gate.set()
    assert stage.began.all == GOOD
    assert await places(redis) == {}
    assert await counted(redis) == (len(GOOD), 0)


async def test_an_id_of_a_task_that_stands_elsewhere(redis: Redis, redis_url: str, stage: Stage) -> None:
    async def put() -> None:
        await redis.hset(TASK, mapping={"msg": a_message("bad"), "state": "archived"})
        await redis.zadd(keys.archived("default"), {"bad": 1795437947})
        await redis.lpush(keys.pending("default"), "bad")

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await put_among_good(redis, client, put)
        async with Server(redis_url, stage.mux):
            await stage.ended.until(len(GOOD))
    assert stage.began.all == GOOD
    assert await places(redis) == ARCHIVED


class BadTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class BadResult:
    pass


@dataclass
class End:
    """How a handler ends, and what is kept of it."""

    raises: BaseException | None = None
    returns: object = None
    place: str = "retry"
    text: str = ""


ENDS = {
    "an error text that is no UTF-8": End(ValueError("bad \udcff text"), text="bad ? text"),
    "an error without a text": End(BadTextError(), text="BadTextError"),
    "an error text with NUL": End(ValueError("a\0b"), text="a\0b"),
    "a result that cannot be encoded": End(returns=BadResult(), place="archived", text="cannot be stored as JSON"),
    "a result with text that is no UTF-8": End(returns="\udcff", place="archived", text="cannot be stored as JSON"),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_a_bad_end_among_good_ones(
    redis: Redis, redis_url: str, end: End, caplog: pytest.LogCaptureFixture
) -> None:
    # A traceback with a lone surrogate in it is more than the runner can carry from one process to another.
    caplog.set_level(logging.CRITICAL, logger="aioasynq.server.consumer")
    gate = asyncio.Event()
    began = Seen()
    server = Server(redis_url, retry_delay=lambda *_: 3600.0)

    @server.handler("work")
    async def work(task: Task) -> object:
        began.add(task.id)
        await gate.wait()  # so that all ends are settled together
        if task.id != "bad":
            if end.raises is not None and task.id != "good 0":
                raise ValueError("good")
            return "good"
        if end.raises is not None:
            raise end.raises
        return end.returns

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await put_among_good(redis, client, lambda: client.enqueue(Task("work"), task_id="bad", retention=600))
        async with server:
            await began.until(5)
            gate.set()
    found = await places(redis)
    assert found[end.place] == sorted(["bad", *(GOOD[1:] if end.raises is not None else [])])
    assert "active" not in found
    data = await redis.hget(TASK, "msg")
    assert end.text in decode_task(data).error_msg  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["the task", "its lock"])
async def test_something_else_stands_there_when_it_ends(redis: Redis, redis_url: str, stage: Stage, what: str) -> None:
    """Somebody overwrote a key while the handler ran; those that end together with it are settled all the same."""
    stage.gate.clear()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await put_among_good(redis, client, lambda: client.enqueue(Task("work"), task_id="bad", unique=60))
        async with Server(redis_url, stage.mux):
            await stage.began.until(5)
            if what == "the task":
                await redis.set(TASK, "a string")
            else:
                lock = await redis.hget(TASK, "unique_key")
                await redis.delete(lock)  # type: ignore[arg-type]
                await redis.lpush(lock, "a list")  # type: ignore[arg-type]
            stage.gate.set()
            await stage.ended.until(5)

            async def good_ones_settled() -> bool:
                return not set((await places(redis)).get("active", [])) & set(GOOD)

            await eventually(good_ones_settled)
    assert (await counted(redis))[0] == (4 if what == "the task" else 5)


@pytest.mark.parametrize("place", ["scheduled", "retry"])
async def test_bad_entries_among_due_ones(redis: Redis, redis_url: str, stage: Stage, place: str) -> None:
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        for name in GOOD:
            await client.enqueue(Task("work"), task_id=name, process_in=3600)
        await redis.delete(keys.scheduled("default"))
        for name in GOOD:
            await redis.hset(keys.task("default", name), "state", place)
        await redis.set(TASK, "a string")
        await redis.zadd(
            keys.prefix("default") + place, {"none": 1, GOOD[0]: 2, "bad": 3, GOOD[1]: 4, GOOD[2]: 5, GOOD[3]: 6}
        )
        async with Server(redis_url, stage.mux):
            await stage.ended.until(len(GOOD))
    assert stage.began.all == GOOD
    assert await places(redis) == {"tasks": ["bad"]}
