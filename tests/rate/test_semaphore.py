"""Semaphore: tokens that tasks share, given out, given back, and taken back."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis

from aioasynq import RDB, Client, RetryAfter, ServeMux, Server, Task, TaskInfo, TokenNotFoundError, current_task, keys
from aioasynq.context import CURRENT
from aioasynq.rate import MAX_TOKENS, Semaphore
from aioasynq.rdb import base
from aioasynq.rdb.script import Script
from tests.security.rules import PASSWORD, set_user
from tests.server.stage import Seen, eventually, patience
from tests.support.proxy import Proxy, script

KEY = keys.semaphore("s")
MakeProxy = Callable[..., Awaitable[Proxy]]


def task(task_id: str, *, ends_in: float = 60.0) -> Task:
    """A task as a handler gets it."""
    return Task.received(
        "t", b"", {}, id=task_id, queue="q", retried=0, max_retry=0, write_result=None, ends=time.time() + ends_in
    )


@pytest.fixture
async def semaphore(redis_target) -> AsyncIterator[Semaphore]:
    made = Semaphore(redis_target, "s", 2)
    yield made
    await made.aclose()


async def holders(redis) -> list[str]:
    return [member.decode() for member in await redis.zrange(KEY, 0, -1)]


WRONG = {
    "no token": (("s", 0), {}, ValueError, "max_tokens must be from 1 to 2147483647, got 0"),
    "too many": (("s", 2**31), {}, ValueError, "max_tokens must be from 1 to 2147483647, got 2147483648"),
    "half a token": (("s", 1.5), {}, TypeError, "max_tokens must be a whole number, got 1.5"),
    "a bool": (("s", True), {}, TypeError, "max_tokens must be a whole number, got True"),
    "no scope": (("", 1), {}, ValueError, "scope must contain one or more characters that are not blank, got ''"),
    "blank": ((" \t", 1), {}, ValueError, r"scope must contain one or more characters that are not blank, got ' \t'"),
    "no text": ((7, 1), {}, TypeError, "scope must be a str, got 7"),
    "no Unicode": (("\ud800", 1), {}, ValueError, r"scope must be valid Unicode text, got '\ud800'"),
    "long": (("s" * 1025, 1), {}, ValueError, "scope must have at most 1024 characters, got 1025"),
    "a negative pause": (("s", 1), {"retry_after": -1}, ValueError, "retry_after must be 0 or more seconds, got -1"),
    "no pause": (("s", 1), {"retry_after": math.nan}, ValueError, "retry_after must be 0 or more seconds, got nan"),
    "a pause of words": (("s", 1), {"retry_after": "1"}, TypeError, "retry_after must be seconds or a timedelta"),
}


@pytest.mark.rows(149)
@pytest.mark.parametrize(("arguments", "options", "kind", "text"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_refused(arguments, options, kind, text):
    with pytest.raises(kind) as caught:
        Semaphore("redis://localhost:1/0", *arguments, **options)
    assert str(caught.value).startswith(text)


@pytest.mark.rows(149)
def test_a_redis_that_is_none_is_refused():
    with pytest.raises(TypeError, match=r"redis must be a URL, a redis.asyncio client or None, got builtins.object"):
        Semaphore(object(), "s", 1)  # type: ignore[arg-type]


def test_the_largest_semaphore():
    assert repr(Semaphore("redis://localhost:1/0", "s" * 3, MAX_TOKENS, retry_after=timedelta(minutes=1))) == (
        "<Semaphore 'sss' of 2147483647 on redis://localhost:1/0>"
    )


@pytest.mark.rows(149)
async def test_tokens_are_given_out_until_none_is_left(semaphore, redis_target):
    assert [await semaphore.acquire(task(name)) for name in "abc"] == [True, True, False]
    assert sorted(await holders(redis_target)) == ["a", "b"]


async def test_a_token_ends_with_the_attempt(semaphore, redis_target):
    mine = task("a", ends_in=100)
    await semaphore.acquire(mine)
    seconds, micros = await redis_target.time() if isinstance(redis_target, Redis) else (time.time(), 0)
    end = await redis_target.zscore(KEY, "a")
    assert end is not None
    left = end - (seconds + micros / 1e6)
    assert 90 < left <= 100.1
    assert mine.deadline is not None


async def test_who_has_a_token_keeps_it(semaphore, redis_target):
    assert [await semaphore.acquire(task(name)) for name in "aba"] == [True, True, True]
    assert sorted(await holders(redis_target)) == ["a", "b"]


@pytest.mark.rows(149)
async def test_a_token_of_the_dead_is_free_a_second_after_its_end(semaphore, redis_target):
    now = time.time()
    await redis_target.zadd(KEY, {"dead": now - 30, "late": now + 30})
    assert [await semaphore.acquire(task(name)) for name in "ab"] == [True, False]
    assert await holders(redis_target) == ["late", "a"]


@pytest.mark.rows(149)
async def test_a_token_that_is_given_back_is_free(semaphore, redis_target):
    a, b, c = map(task, "abc")
    assert await semaphore.acquire(a)
    assert await semaphore.acquire(b)
    await semaphore.release(a)
    assert await semaphore.acquire(c)
    assert sorted(await holders(redis_target)) == ["b", "c"]


@pytest.mark.rows(149)
async def test_who_has_no_token_cannot_give_it_back(semaphore):
    with pytest.raises(TokenNotFoundError, match=r"^no token of semaphore 's' found for task 'a'$") as caught:
        await semaphore.release(task("a"))
    assert (caught.value.scope, caught.value.task_id) == ("s", "a")


async def test_a_token_of_anybody_can_be_given_back(semaphore, redis_target):
    """As in Go, where whoever has the id may."""
    await redis_target.zadd(KEY, {"a": time.time() + 60})
    await semaphore.release(task("a"))
    assert await holders(redis_target) == []


async def test_a_token_that_is_not_there_although_redis_has_forgotten_its_scripts(semaphore, redis_target):
    assert await semaphore.acquire(task("a"))  # so that the first call goes over the connection that calls share
    await redis_target.script_flush()
    with pytest.raises(TokenNotFoundError):
        await semaphore.release(task("b"))


async def test_an_attempt_that_is_over_does_not_give_back_the_token_of_the_next(semaphore, redis_target):
    """As of a handler that was left to itself, and ends when its task runs again."""
    first, second = task("a", ends_in=10), task("a", ends_in=60)
    assert await semaphore.acquire(first)
    assert await semaphore.acquire(second)
    with pytest.raises(TokenNotFoundError):
        await semaphore.release(first)
    assert await holders(redis_target) == ["a"]
    await semaphore.release(second)
    assert await holders(redis_target) == []


@pytest.mark.rows(149)
@pytest.mark.parametrize("operation", ["acquire", "release"])
@pytest.mark.parametrize(
    "not_running",
    [
        Task("t", task_id="a"),
        Task.received("t", b"", {}, id="", queue="q", retried=0, max_retry=0, write_result=None, ends=4e9),
    ],
    ids=["no deadline", "no id"],
)
async def test_a_task_that_is_not_processed_gets_none(semaphore, redis_target, operation, not_running):
    with pytest.raises(ValueError, match="task must be one that is being processed, with an id and a deadline, got <T"):
        await getattr(semaphore, operation)(not_running)
    assert await redis_target.exists(KEY) == 0


async def test_outside_a_handler_there_is_no_task(semaphore):
    with pytest.raises(RuntimeError, match="a semaphore was asked outside a handler: tokens are for tasks"):
        await semaphore.acquire()
    with pytest.raises(TypeError, match=r"task must be a Task that a handler got, got 'a'"):
        await semaphore.acquire("a")


async def test_tokens_that_were_never_given_back_are_forgotten(semaphore, redis_target, monkeypatch):
    monkeypatch.setattr("aioasynq.rate.MANY", 1)
    async with RDB(redis_target, clock=lambda: 1e9) as then:
        with monkeypatch.context() as long_ago:
            long_ago.setattr(semaphore, "_rdb", then)
            assert await semaphore.acquire(task("a"))
    assert len(semaphore._held) == 1
    assert await semaphore.acquire(task("b"))
    assert [task_id for task_id, _ in semaphore._held] == ["b"]


@pytest.mark.parametrize("kind", ["lose_reply", "cut_after", "cut_before"])
async def test_a_lost_reply_costs_no_token(redis, redis_url, proxy: MakeProxy, monkeypatch, kind):
    monkeypatch.setattr(base, "ATTEMPT_TIMEOUT", 0.3)
    between = await proxy()
    semaphore = Semaphore(between.url, "s", 1)
    mine = task("a")
    async with patience():
        taken = getattr(between, kind)(script(Script("acquire_token").sha))
        assert await semaphore.acquire(mine)
        assert not await semaphore.acquire(task("b"))
        given = getattr(between, kind)(script(Script("release_token").sha))
        await semaphore.release(mine)
        assert (taken.fired, given.fired) == (1, 1)
        assert await holders(redis) == []
        await semaphore.aclose()


async def _cancel(work: asyncio.Task[object]) -> None:
    work.cancel()


async def _cut_short(work: asyncio.Task[object]) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(work, 0)


@pytest.mark.parametrize("end", [_cancel, _cut_short])
async def test_a_caller_who_is_cancelled_keeps_no_token(redis, redis_url, proxy: MakeProxy, end):
    between = await proxy()
    semaphore = Semaphore(between.url, "s", 1)
    async with patience():
        assert await semaphore.acquire(task("x"))  # so that it is connected
        await semaphore.release(task("x"))
        between.delay(reply=0.2)
        work = asyncio.create_task(semaphore.acquire(task("a")))
        await eventually(lambda: _holds(redis, "a"))
        await end(work)
        with suppress(asyncio.CancelledError):
            await work
        await eventually(lambda: _holds_nobody(redis))
        await semaphore.aclose()


async def _holds(redis, task_id: str) -> bool:
    return await holders(redis) == [task_id]


async def _holds_nobody(redis) -> bool:
    return await holders(redis) == []


async def test_at_most_so_many_handlers_run_at_once(redis_url, redis):
    """All of them end well, each counts one try, and no more than two were ever inside."""
    mux, seen = ServeMux(), Seen()
    inside, most = 0, 0
    semaphore = Semaphore(redis_url, "s", 2, retry_after=0.02)

    @mux.task("work", retention=60)
    async def work() -> None:
        nonlocal inside, most
        async with semaphore:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.02)
            inside -= 1
        seen.add(current_task().id)

    async with Server(redis_url, mux, concurrency=6), Client(redis_url) as client:
        for info in await client.enqueue_many([work.task() for _ in range(8)]):
            assert isinstance(info, TaskInfo)
            await client.result(info, timeout=20)
    await semaphore.aclose()
    assert most == 2
    assert len(set(seen.all)) == len(seen.all) == 8
    assert await holders(redis) == []
    assert await redis.get(keys.failed_total("default")) is None


async def test_without_a_token_the_handler_is_not_entered(semaphore, redis_target):
    await redis_target.zadd(KEY, {"x": time.time() + 60, "y": time.time() + 60})
    CURRENT.set(task("a"))
    with pytest.raises(RetryAfter, match=r"^no token of semaphore 's' is free$") as caught:
        async with semaphore:
            pytest.fail("it was entered")
    assert 1.0 <= caught.value.delay <= 1.25


async def test_a_handler_that_is_done_is_done_though_redis_has_gone(redis, redis_url, proxy: MakeProxy, caplog):
    between = await proxy()
    rdb = RDB(between.url, operation_timeout=0.3)
    semaphore = Semaphore(rdb, "s", 1)
    CURRENT.set(task("a"))
    async with semaphore:
        await between.down()
    assert "a token of semaphore 's' ends only with its attempt: release_token failed on" in caplog.text
    assert await holders(redis) == ["a"]
    await rdb.aclose()


async def test_a_token_that_has_ended_is_no_error_at_the_end(semaphore, redis_target):
    CURRENT.set(task("a"))
    async with semaphore:
        await redis_target.delete(KEY)
    assert await redis_target.exists(KEY) == 0


async def test_what_a_user_of_a_semaphore_needs(redis_url, redis, own_server):
    """As docs/security.md says."""
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    found = re.search(r"takes `(~asynq:sema:\*[^`]+)`", page)
    assert found
    server = own_server()
    async with Redis.from_url(server.url) as admin:
        await admin.execute_command(*set_user("sema", found[1].split()))
        made = Semaphore(server.url.replace("redis://", f"redis://sema:{PASSWORD}@"), "s", 1)
        assert await made.acquire(task("a"))
        assert not await made.acquire(task("b"))
        await made.release(task("a"))
        await made.aclose()
