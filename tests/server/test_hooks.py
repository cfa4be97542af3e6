"""Hooks: who is told what, and that nothing they do harms a task or a worker."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import (
    AioasynqError,
    Client,
    DuplicateTaskError,
    RetryAfter,
    RevokeTask,
    ServeMux,
    Server,
    SkipRetry,
    Task,
    TaskInfo,
    hooks as hooks_module,
    keys,
)
from tests.server.stage import PATIENCE, Seen, assert_in_order, eventually

DELAY = 3600.0


def listening(mux: ServeMux, seen: Seen) -> None:
    """Note every call of every hook."""

    @mux.on_start
    async def on_start(task: Task) -> None:
        seen.add(("start", task.id))

    @mux.on_success
    def on_success(task: Task, result: object) -> None:
        seen.add(("success", task.id, result))

    @mux.on_failure
    async def on_failure(task: Task, error: BaseException) -> None:
        seen.add(("failure", task.id, type(error)))

    @mux.on_retry
    def on_retry(task: Task, error: BaseException, delay: float) -> None:
        seen.add(("retry", task.id, type(error), delay))

    @mux.on_archive
    async def on_archive(task: Task, error: BaseException) -> None:
        seen.add(("archive", task.id, type(error)))


#: by row: what the handler raises, options, what is told
TOLD: dict[str, tuple[BaseException | None, dict[str, Any], list[tuple[Any, ...]]]] = {
    "success": (None, {}, [("success", "a", "done")]),
    "success, to be kept": (None, {"retention": 60}, [("success", "a", "done")]),
    "a failure": (ValueError(), {}, [("failure", "a", ValueError), ("retry", "a", ValueError, DELAY)]),
    "the last failure": (ValueError(), {"max_retry": 0}, [("failure", "a", ValueError), ("archive", "a", ValueError)]),
    "SkipRetry": (SkipRetry(), {}, [("failure", "a", SkipRetry), ("archive", "a", SkipRetry)]),
    "RetryAfter": (RetryAfter(5), {}, [("retry", "a", RetryAfter, 5.0)]),
    "an error that is none": (KeyError(), {}, [("retry", "a", KeyError, DELAY)]),
    "RevokeTask": (RevokeTask(), {}, []),
}


@pytest.mark.parametrize(("error", "options", "told"), TOLD.values(), ids=TOLD)
async def test_who_is_told_what(redis: Redis, redis_url: str, error, options, told) -> None:
    seen = Seen()
    server = Server(
        redis_url, retry_delay=lambda *_: DELAY, is_failure=lambda exc: not isinstance(exc, KeyError), concurrency=1
    )
    listening(server.mux, seen)

    @server.handler("work")
    async def work(task: Task) -> str:
        if error is not None and task.id == "a":
            raise error
        return "done"

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("work"), task_id="a", **options)
        await client.enqueue(Task("work"), task_id="last")
        await seen.until(lambda all_: ("success", "last", "done") in all_)
    assert seen.all == [("start", "a"), *told, ("start", "last"), ("success", "last", "done")]


async def test_a_result_that_cannot_be_stored_is_a_failure(redis: Redis, redis_url: str) -> None:
    seen = Seen()
    server = Server(redis_url)
    listening(server.mux, seen)

    @server.handler("work")
    async def work(task: Task) -> object:
        return object()

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("work"), task_id="a", retention=60)
        await seen.until(3)
    assert seen.all == [("start", "a"), ("failure", "a", TypeError), ("archive", "a", TypeError)]
    assert await assert_in_order(redis) == {"archived": ["a"], "tasks": ["a"]}


RAISED = [ValueError("bad"), asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(1), StopIteration()]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_hooks_that_raise_harm_nothing(
    redis: Redis, redis_url: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the task, nor the worker, nor the hooks behind them."""
    seen = Seen()
    mux = ServeMux()

    async def fails(*_: object) -> None:
        raise error

    def fails_at_once(*_: object) -> None:
        raise error

    for hook in (fails, fails_at_once):
        for register in (mux.on_start, mux.on_success, mux.on_failure, mux.on_retry, mux.on_archive):
            register(hook)
    listening(mux, seen)

    @mux.handler("work")
    async def work(task: Task) -> None:
        if task.payload:
            raise ValueError(task.payload)

    server = Server(redis_url, mux, retry_delay=lambda *_: DELAY)
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("work"), task_id="fine", retention=60)
        await client.enqueue(Task("work", b"x"), task_id="again")
        await client.enqueue(Task("work", b"x"), task_id="over", max_retry=0)
        await seen.until(3 + 1 + 2 + 2)
        assert server.status == "active"
    assert await assert_in_order(redis) == {
        "completed": ["fine"],
        "retry": ["again"],
        "archived": ["over"],
        "tasks": ["again", "fine", "over"],
    }
    said = [record.getMessage() for record in caplog.records if record.name == "aioasynq.hooks"]
    assert len(said) == 2 * 8
    assert {text.split()[0] for text in said} == {"on_start", "on_success", "on_failure", "on_retry", "on_archive"}


async def test_a_hook_that_hangs_holds_up_neither_outcome_nor_end(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hooks_module, "HOOK_LIMIT", 0.2)
    hung, seen = Seen(), Seen()
    server = Server(redis_url)

    @server.mux.on_success
    async def hangs(task: Task, result: object) -> None:
        hung.add(task.id)
        await asyncio.Event().wait()

    @server.mux.on_success
    def behind(task: Task, result: object) -> None:
        seen.add(task.id)

    @server.handler("work")
    async def work(task: Task) -> None: ...

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("work"), task_id="a")
        await hung.until(1)
        await eventually(lambda: _is_gone(redis))  # while the hook hangs
        await seen.until(1)
    assert any("on_success failed for task a" in record.getMessage() for record in caplog.records)


async def _is_gone(redis: Redis) -> bool:
    return not await redis.exists(keys.task("default", "a"))


@pytest.mark.parametrize("swallows", [False, True], ids=["it ends", "it swallows its cancellation"])
async def test_a_timeout_ends_a_start_hook_and_counts(redis: Redis, redis_url: str, *, swallows: bool) -> None:
    seen = Seen()
    server = Server(redis_url, retry_delay=lambda *_: DELAY)
    listening(server.mux, seen)

    @server.mux.on_start
    async def hangs(task: Task) -> None:
        with suppress(*[asyncio.CancelledError] * swallows):
            await asyncio.Event().wait()

    @server.handler("work")
    async def work(task: Task) -> None:
        seen.add(("called", task.id))

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("work"), task_id="a", timeout=1)
        await seen.until(3)
    assert [entry[0] for entry in seen.all] == ["start", "failure", "retry"]


# ── of a client ──


async def test_a_client_tells_of_what_redis_has(redis: Redis, redis_url: str) -> None:
    seen = Seen()

    async def first(task: Task, info: TaskInfo) -> None:
        seen.add(("first", task.type, info.id, await redis.exists(keys.task(info.queue, info.id))))

    def second(task: Task, info: TaskInfo) -> None:
        seen.add(("second", task.type, info.id))

    async with asyncio.timeout(PATIENCE), Client(redis_url, on_enqueue=[first, second]) as client:
        await client.enqueue(Task("t"), task_id="a", unique=60)
        with pytest.raises(DuplicateTaskError):
            await client.enqueue(Task("t"), unique=60)
        answers = await client.enqueue_many(
            [Task("t", task_id="b"), Task("t", task_id="c", unique=60), Task("t", task_id="d")]
        )
    assert [isinstance(answer, AioasynqError) for answer in answers] == [False, True, False]
    assert seen.all == [
        entry for each in "abd" for entry in (("first", "t", each, 1), ("second", "t", each))
    ]  # fmt: skip


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_a_hook_of_a_client_that_raises_takes_nothing_back(
    redis: Redis, redis_url: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(task: Task, info: TaskInfo) -> None:
        raise error

    async with asyncio.timeout(PATIENCE), Client(redis_url, on_enqueue=fails) as client:
        assert (await client.enqueue(Task("t"), task_id="a")).id == "a"
        [answer] = await client.enqueue_many([Task("t", task_id="b")])
        assert isinstance(answer, TaskInfo)
    assert sorted((await assert_in_order(redis))["tasks"]) == ["a", "b"]
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 2


async def test_who_is_cancelled_in_a_hook_of_a_client_hears_of_it(redis: Redis, redis_url: str) -> None:
    began = asyncio.Event()

    async def hangs(task: Task, info: TaskInfo) -> None:
        began.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(PATIENCE), Client(redis_url, on_enqueue=hangs) as client:
        call = asyncio.create_task(client.enqueue(Task("t"), task_id="a"))
        await began.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert await assert_in_order(redis) == {"pending": ["a"], "tasks": ["a"]}


@pytest.mark.parametrize(
    ("hook", "text"),
    [
        ("log", "on_enqueue must be a function of 2 arguments or a list of them, got 'log'"),
        ([len], "on_enqueue must be a function of 2 arguments, got <built-in function len>: too many"),
        (lambda task: None, "on_enqueue must be a function of 2 arguments, got .*: too many positional arguments"),
    ],
    ids=["text", "one of a list", "of one argument"],
)
def test_hooks_of_a_client_are_checked(hook: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Client(on_enqueue=hook)
