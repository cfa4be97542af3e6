"""Typed tasks on a server: what is archived at once, when a task is tried again, and who may enqueue it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from redis.asyncio import Redis

from aioasynq import (
    Client,
    Exponential,
    RetryAfter,
    ServeMux,
    Server,
    Task,
    TaskState,
    TaskType,
    keys,
)
from aioasynq.codecs import HEADER, Encrypted
from aioasynq.message import TaskMessage
from aioasynq.proto.codec import decode_task
from tests.server.stage import PATIENCE, Seen, assert_in_order, eventually


async def message(redis: Redis, task_id: str = "a", queue: str = "default") -> TaskMessage:
    data = await redis.hget(keys.task(queue, task_id), "msg")
    return decode_task(data)  # type: ignore[arg-type]


@dataclass
class Order:
    id: int
    at: datetime


async def test_arguments_arrive_as_they_were(redis: Redis, redis_url: str) -> None:
    seen = Seen()
    server = Server(redis_url, queues=["default", "low"])

    @server.task("order", queue="low", retention=60)
    async def handle(order: Order, note: str = "") -> str:
        seen.add((order, note))
        return note

    order = Order(1, datetime(2026, 1, 2, tzinfo=UTC))
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        info = await handle.enqueue(client, order, note="soon")
        assert (info.queue, info.retention) == ("low", 60)
        assert await client.result(info) == "soon"
        info = await handle.with_options(queue="default", task_id="x", process_in=60).enqueue(client, order=order)
        assert (info.queue, info.id, info.state, info.retention) == ("default", "x", TaskState.SCHEDULED, 60)
    assert seen.all == [(order, "soon")]
    assert await handle(order, "direct") == "direct"


MISFITS: dict[str, tuple[bytes, dict[str, str], str]] = {
    "a field of another type": (
        b'{"order":{"id":"x","at":"2026-01-02T00:00:00Z"}}',
        {},
        "payload of task 'order' does not fit its handler: 'order.id': expected `int`, got `str`",
    ),
    "a field that is missing": (
        b'{"order":{"id":1}}',
        {},
        "payload of task 'order' does not fit its handler: 'order': object missing required field `at`",
    ),
    "no JSON": (b"\xff", {}, "payload of task 'order' is not valid JSON: "),
    "another codec": (
        b"{}",
        {HEADER: "msgpack"},
        "payload of task 'order' was written by codec 'msgpack' (header 'aioasynq-codec'), but its handler reads",
    ),
}


@pytest.mark.parametrize(("payload", "headers", "text"), MISFITS.values(), ids=MISFITS)
async def test_what_does_not_fit_is_archived_at_once(
    redis: Redis, redis_url: str, payload: bytes, headers: dict[str, str], text: str
) -> None:
    server = Server(redis_url)

    @server.task("order", retry=0, max_retry=25)
    async def handle(order: Order) -> None:
        raise AssertionError("it is not called")

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("order", payload, headers=headers), task_id="a", max_retry=25)
        await eventually(lambda: _is_in(redis, keys.archived("default")))
    msg = await message(redis)
    assert msg.error_msg.startswith(text)
    assert (msg.retried, msg.payload) == (0, payload)


async def _is_in(redis: Redis, place: str) -> bool:
    return await redis.zscore(place, "a") is not None


async def test_a_secret_is_not_readable_in_redis(redis: Redis, redis_url: str) -> None:
    seen = Seen()
    server = Server(redis_url)

    @server.task("secret", codec=Encrypted(Fernet.generate_key()))
    async def handle(password: str) -> None:
        seen.add(password)

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await handle.with_options(task_id="a").enqueue(client, password="hunter2")
        stored = await redis.hget(keys.task("default", "a"), "msg")
        assert isinstance(stored, bytes)
        assert b"hunter2" not in stored
        assert (await message(redis)).headers == {HEADER: "fernet+json"}
        async with server:
            await seen.until(1)
    assert seen.all == ["hunter2"]


async def test_who_has_no_code_may_enqueue(redis: Redis, redis_url: str) -> None:
    """By a declaration, or by name and JSON alone."""
    seen = Seen()
    server = Server(redis_url)

    @server.task("email:welcome")
    async def welcome(user_id: int, lang: str = "en") -> None:
        seen.add((user_id, lang))

    @TaskType.declare("email:welcome", max_retry=3)
    async def declared(user_id: int, lang: str = "en") -> None: ...

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        info = await declared.enqueue(client, user_id=1)
        assert info.max_retry == 3
        await client.enqueue(Task("email:welcome", '{"user_id":2,"lang":"de"}'))
        await seen.until(2)
    assert sorted(seen.all) == [(1, "en"), (2, "de")]
    with pytest.raises(TypeError, match="task 'email:welcome' is only declared here, its function is elsewhere"):
        declared(1)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    with pytest.raises(ValueError, match="task 'email:welcome' is only declared here and cannot be a handler of 'x'"):
        ServeMux().add("x", declared)
    with pytest.raises(TypeError, match="'user_id': expected `int`, got `str`"):
        declared.task(user_id="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# ── retries of a type ──


def by_error(retried: int, error: BaseException, task: Task) -> timedelta:
    return timedelta(hours=1) if isinstance(error, OSError) and task.type in {"typed", "raw"} else timedelta(0)


#: by row: rule, the delay after the first failure, at least and at most
DELAYS: dict[str, tuple[Any, float, float]] = {
    "a constant": (600, 600, 600),
    "a timedelta": (timedelta(minutes=10), 600, 600),
    "a list": ([700, 5], 700, 700),
    "exponential": (Exponential(first=800, jitter=False), 800, 800),
    "exponential with jitter": (Exponential(first=900), 0, 900),
    "a function": (by_error, 3600, 3600),
    "none, so the server's": (None, 300, 300),
    "a function that fails, so asynq's": (lambda *_: 1 / 0, 15, 44),
    "a function that gives no number, so asynq's": (lambda *_: "soon", 15, 44),
}


@pytest.mark.parametrize(("rule", "least", "most"), DELAYS.values(), ids=DELAYS)
async def test_a_type_says_when_it_is_tried_again(
    redis: Redis, redis_url: str, rule: Any, least: float, most: float
) -> None:
    """Nothing of it is in the message: Go sees a task that was retried once, and will be up to 25 times."""
    server = Server(redis_url, retry_delay=lambda *_: 300)

    @server.task("typed", retry=rule)
    async def typed() -> None:
        raise OSError("no answer")

    @server.handler("raw", retry=rule)
    async def raw(task: Task) -> None:
        raise OSError("no answer")

    began = time.time()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        for each in ("typed", "raw"):
            await client.enqueue(Task(each), task_id=each)
        await eventually(lambda: _all_in(redis, keys.retry("default"), 2))
    for each in ("typed", "raw"):
        score = await redis.zscore(keys.retry("default"), each)
        assert score is not None
        assert began + least - 1 <= score <= time.time() + most + 1
        msg = await message(redis, each)
        assert (msg.retry, msg.retried, msg.error_msg, msg.headers) == (25, 1, "no answer", {})


async def _all_in(redis: Redis, place: str, count: int) -> bool:
    return await redis.zcard(place) == count


class StrangeMeta(type):
    def __instancecheck__(cls, instance: object) -> bool:
        raise RuntimeError("no idea")


class StrangeError(Exception, metaclass=StrangeMeta):
    pass


#: by row: dont_retry, what is raised, where the task is
FINAL: dict[str, tuple[Any, BaseException, str]] = {
    "it": (ValueError, ValueError("x"), "archived"),
    "one of several": ((KeyError, ValueError), ValueError("x"), "archived"),
    "what is derived from it": (OSError, ConnectionError("x"), "archived"),
    "another": (ValueError, KeyError("x"), "retry"),
    "RetryAfter goes first": (Exception, RetryAfter(60), "retry"),
    "a class that cannot tell": (StrangeError, ValueError("x"), "retry"),
}


@pytest.mark.parametrize(("dont_retry", "error", "place"), FINAL.values(), ids=FINAL)
async def test_errors_that_no_retry_helps(
    redis: Redis, redis_url: str, dont_retry: Any, error: BaseException, place: str
) -> None:
    server = Server(redis_url)

    @server.task("t", dont_retry=dont_retry)
    async def handler() -> None:
        raise error

    place_of: dict[str, Callable[[str], str]] = {"archived": keys.archived, "retry": keys.retry}
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await handler.with_options(task_id="a").enqueue(client)
        await eventually(lambda: _is_in(redis, place_of[place]("default")))
    assert await assert_in_order(redis) == {place: ["a"], "tasks": ["a"]}
    assert (await message(redis)).retried == (1 if place == "retry" and not isinstance(error, RetryAfter) else 0)


async def test_a_list_of_delays_is_followed(redis: Redis, redis_url: str) -> None:
    seen = Seen()
    server = Server(redis_url)

    @server.task("t", retry=[0, 0.01, 0], max_retry=4)
    async def handler(task: Task) -> None:
        seen.add(task.retried)
        raise ValueError("bad")

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await handler.with_options(task_id="a").enqueue(client)
        await seen.until(5)
        await eventually(lambda: _is_in(redis, keys.archived("default")))
    assert seen.all == [0, 1, 2, 3, 4]
