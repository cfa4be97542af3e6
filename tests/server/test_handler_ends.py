"""How a handler ends, and what becomes of its task."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster

from aioasynq import (
    RDB,
    Client,
    HandlerNotFoundError,
    PayloadError,
    RetryAfter,
    RevokeTask,
    Server,
    SkipRetry,
    Task,
    TaskCancelledError,
    TaskDeadlineError,
    TaskTimeoutError,
    current_task,
    keys,
)
from aioasynq.message import TaskMessage
from aioasynq.options import MAX_DURATION
from aioasynq.proto.codec import decode_task
from tests.server.stage import PATIENCE, Seen, assert_in_order, counted, eventually

DELAY = 3600.0  #: seconds until the next try, as the servers here say


async def message(redis: Redis, task_id: str = "a", queue: str = "default") -> TaskMessage:
    data = await redis.hget(keys.task(queue, task_id), "msg")
    return decode_task(data)  # type: ignore[arg-type]


def wrapped(error: BaseException) -> BaseException:
    outer = ValueError("outer")
    outer.__cause__ = error
    return outer


@dataclass
class End:
    """What a handler raises or returns, and what is there afterwards."""

    raises: BaseException | None = None
    returns: object = None
    options: dict[str, Any] = field(default_factory=dict)
    server: dict[str, Any] = field(default_factory=dict)
    kind: str = "work"
    place: str = ""  #: nowhere
    counted: tuple[int, int] = (1, 1)  #: processed, failed
    text: str = ""
    retried: int = 0
    told: type[BaseException] | None = None  #: what the error handler was called with


ENDS = {
    "nothing": End(counted=(1, 0)),
    "nothing, to be kept": End(options={"retention": 60}, place="completed", counted=(1, 0)),
    "an error": End(ValueError("bad"), place="retry", text="bad", retried=1, told=ValueError),
    "an error without text": End(KeyError(), place="retry", text="KeyError", retried=1, told=KeyError),
    "an error that says a key and no more": End(
        KeyError("user"), place="retry", text="KeyError: 'user'", retried=1, told=KeyError
    ),
    "an error, and no retries": End(
        ValueError("bad"), options={"max_retry": 0}, place="archived", text="bad", told=ValueError
    ),
    "an error of a task to be kept": End(
        ValueError("bad"), options={"retention": 60}, place="retry", text="bad", retried=1, told=ValueError
    ),
    "an error that is none": End(
        ValueError("bad"),
        server={"is_failure": lambda error: not isinstance(error, ValueError)},
        place="retry",
        counted=(0, 0),
        text="bad",
        told=ValueError,
    ),
    "an error that is none, and no retries": End(
        ValueError("bad"),
        options={"max_retry": 0},
        server={"is_failure": lambda _: False},
        place="archived",
        text="bad",
        told=ValueError,
    ),
    "is_failure itself fails": End(
        ValueError("bad"), server={"is_failure": lambda _: 1 / 0}, place="retry", text="bad", retried=1, told=ValueError
    ),
    "SkipRetry": End(SkipRetry("never"), place="archived", text="never", told=SkipRetry),
    "SkipRetry as a cause": End(wrapped(SkipRetry("never")), place="archived", text="outer", told=ValueError),
    "RevokeTask": End(RevokeTask("forget"), counted=(1, 0), told=RevokeTask),
    "RevokeTask of a task to be kept": End(
        RevokeTask("forget"), options={"retention": 60}, counted=(1, 0), told=RevokeTask
    ),
    "RevokeTask as a cause": End(wrapped(RevokeTask("forget")), counted=(1, 0), told=ValueError),
    "RetryAfter": End(RetryAfter(DELAY, "busy"), place="retry", counted=(0, 0), text="busy", told=RetryAfter),
    "RetryAfter, and no retries": End(
        RetryAfter(DELAY), options={"max_retry": 0}, place="retry", counted=(0, 0), told=RetryAfter
    ),
    "SystemExit": End(SystemExit("exit"), place="retry", text="SystemExit: exit", retried=1, told=SystemExit),
    "a cancellation of its own": End(
        asyncio.CancelledError(), place="retry", text="task cancelled", retried=1, told=TaskCancelledError
    ),
    "an unknown type": End(
        kind="other",
        place="retry",
        text='handler not found for task "other"',
        retried=1,
        told=HandlerNotFoundError,
    ),
    "arguments that do not fit": End(kind="typed", place="archived", text="typed", told=PayloadError),
    "a deadline in the past": End(
        options={"deadline": 1_000_000_000},
        place="retry",
        text="task deadline exceeded",
        retried=1,
        told=TaskDeadlineError,
    ),
}


@pytest.mark.rows(105, 106, 107, 108, 112)
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_the_end_of_a_handler(redis: Redis, redis_url: str, end: End) -> None:
    called, told = Seen(), Seen()

    async def error_handler(task: Task, error: BaseException) -> None:
        told.add((task.id, type(error)))

    options: dict[str, Any] = {"retry_delay": lambda *_: DELAY, "error_handler": error_handler, **end.server}
    server = Server(redis_url, **options)

    @server.handler("work")
    async def work(task: Task) -> object:
        called.add(task.id)
        if end.raises is not None:
            raise end.raises
        return end.returns

    @server.task("typed")
    async def typed(number: int) -> None: ...

    began = time.time()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue(Task(end.kind, b'{"x": 1}'), task_id="a", **end.options)
        async with server:
            await eventually(lambda: _taken_and_settled(redis, server))
    assert called.all == ([] if end.kind != "work" or "deadline" in end.options else ["a"])
    assert told.all == ([] if end.told is None else [("a", end.told)])
    assert await assert_in_order(redis) == ({end.place: ["a"], "tasks": ["a"]} if end.place else {})
    assert await counted(redis) == end.counted
    if end.place:
        msg = await message(redis)
        assert end.text in msg.error_msg
        assert msg.retried == end.retried
        failed_at = msg.completed_at if end.place == "completed" else msg.last_failed_at
        assert int(began) <= failed_at <= time.time() + 1
    if end.place == "retry":
        score = await redis.zscore(keys.retry("default"), "a")
        assert score is not None
        assert began + DELAY - 1 <= score <= time.time() + DELAY + 1


async def test_the_log_says_what_is_handled_where_a_type_is_not(
    redis_url: str, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(redis_url)
    for name in "abcdefg":
        server.handler(name)(repr)
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue(Task("other"), task_id="a")
        async with server:
            await eventually(lambda: _taken_and_settled(redis, server))
    assert 'handler not found for task "other"; this server handles a, b, c, d, e and 2 more: was all' in caplog.text
    assert (await message(redis)).error_msg == 'handler not found for task "other"'


@pytest.mark.parametrize(
    ("error", "line"),
    {ValueError(): "ValueError", ValueError("bad"): "ValueError: bad", KeyError("user"): "KeyError: 'user'"}.items(),
    ids=str,
)
async def test_the_log_names_the_class_of_an_error_once_and_shows_the_frames_of_the_handler(
    redis_url: str, redis: Redis, caplog: pytest.LogCaptureFixture, error: Exception, line: str
) -> None:
    server = Server(redis_url)

    @server.handler("work")
    async def work(task: Task) -> None:
        raise error

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue(Task("work", max_retry=0))
        async with server:
            await eventually(lambda: _taken_and_settled(redis, server))
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage().partition("archive: ")[2] == line
    assert record.exc_info is not None
    assert [frame.name for frame in traceback.extract_tb(record.exc_info[2])] == ["work"]


async def _taken_and_settled(redis: Redis, server: Server) -> bool:
    return server.running == 0 and not await redis.exists(keys.pending("default"), keys.active("default"))


@pytest.mark.rows(105)
async def test_a_task_fails_until_no_retries_are_left(redis: Redis, redis_url: str) -> None:
    """It runs once more than it may be retried; the error handler and the delay know how often it failed."""
    told, asked = Seen(), Seen()

    async def error_handler(task: Task, error: BaseException) -> None:
        told.add((task.retried, str(error)))

    def retry_delay(retried: int, error: BaseException, task: Task) -> float:
        asked.add((retried, str(error), task.type))
        return 0.0

    server = Server(redis_url, error_handler=error_handler, retry_delay=retry_delay)

    @server.handler("work")
    async def work(task: Task) -> None:
        raise ValueError(f"try {task.retried}")

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("work"), task_id="a", max_retry=2)
        await told.until(3)
    assert told.all == [(0, "try 0"), (1, "try 1"), (2, "try 2")]
    assert asked.all == [(0, "try 0", "work"), (1, "try 1", "work")]
    assert await assert_in_order(redis) == {"archived": ["a"], "tasks": ["a"]}
    assert (await message(redis)).retried == 2
    assert await counted(redis) == (3, 3)


@pytest.mark.parametrize("delay", [lambda *_: 1 / 0, lambda *_: "soon", lambda *_: float("nan"), lambda *_: 1e400])
async def test_a_retry_delay_that_is_none(redis: Redis, redis_url: str, delay: Callable[..., Any]) -> None:
    server = Server(redis_url, retry_delay=delay)

    @server.handler("work")
    async def work(task: Task) -> None:
        raise ValueError("bad")

    before = time.time()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("work"), task_id="a")
        await eventually(lambda: _is_in(redis, keys.retry("default")))
    score = await redis.zscore(keys.retry("default"), "a")
    assert score is not None
    assert before + 14 <= score <= time.time() + 46  # the default for the first time


@pytest.mark.parametrize("error", [ValueError("bad"), RetryAfter(1e300)], ids=["retry_delay", "RetryAfter"])
async def test_no_delay_is_longer_than_asynq_can_hold(redis: Redis, redis_url: str, error: Exception) -> None:
    server = Server(redis_url, retry_delay=lambda *_: 1e300)

    @server.handler("work")
    async def work(task: Task) -> None:
        raise error

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("work"), task_id="a")
        await eventually(lambda: _is_in(redis, keys.retry("default")))
    score = await redis.zscore(keys.retry("default"), "a")
    assert score is not None
    assert MAX_DURATION < score <= time.time() + MAX_DURATION + 1


async def _is_in(redis: Redis, place: str) -> bool:
    return await redis.zscore(place, "a") is not None


RAISED: dict[str, BaseException] = {
    "a bug": ZeroDivisionError("bug"),
    "a bug behind an error": wrapped(ZeroDivisionError("bug")),
    "what is no Exception": SystemExit("exit"),
    "a group": ExceptionGroup("many", [ValueError("bad"), ZeroDivisionError("bug")]),
}


@pytest.mark.rows(115)
@pytest.mark.parametrize("raised", RAISED.values(), ids=RAISED)
async def test_an_error_is_told_by_its_class_wherever_it_stands(redis_url: str, raised: BaseException) -> None:
    """Go asks whether an error was a panic. Here the error handler gets the very error, its cause, its place."""
    told: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def error_handler(task: Task, error: BaseException) -> None:
        told.set_result(error)

    server = Server(redis_url, error_handler=error_handler)

    @server.handler("work")
    async def work(task: Task) -> None:
        raise raised

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("work"), max_retry=0)
        error = await told
    assert error is raised
    assert "work" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]


async def test_an_error_handler_that_fails(redis: Redis, redis_url: str) -> None:
    async def error_handler(task: Task, error: BaseException) -> None:
        raise RuntimeError("it fails too")

    server = Server(redis_url, error_handler=error_handler, retry_delay=lambda *_: DELAY)

    @server.handler("work")
    async def work(task: Task) -> None:
        raise ValueError("bad")

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("work"), task_id="a")
        await eventually(lambda: _is_in(redis, keys.retry("default")))
    assert (await message(redis)).error_msg == "bad"


RESULTS = {
    "text": ("done", b'"done"'),
    "bytes": (b"raw", b"raw"),
    "an object": ({"n": 2**53 + 1}, b'{"n":9007199254740993}'),
    "nothing": (None, None),
    "false": (False, b"false"),
}


@pytest.mark.rows(108)
@pytest.mark.parametrize(("value", "stored"), RESULTS.values(), ids=RESULTS)
async def test_results(redis: Redis, redis_url: str, value: object, stored: bytes | None) -> None:
    server = Server(redis_url)

    @server.handler("work")
    async def work(task: Task) -> object:
        return value

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        for task_id, options in {"kept": {"retention": 60}, "gone": {}}.items():
            await client.enqueue(Task("work"), task_id=task_id, **options)  # type: ignore[arg-type]
        await eventually(lambda: _taken_and_settled(redis, server))
    assert await assert_in_order(redis) == {"completed": ["kept"], "tasks": ["kept"]}
    assert await redis.hget(keys.task("default", "kept"), "result") == stored


@pytest.mark.rows(104)
async def test_large_numbers_reach_a_typed_handler_unchanged(redis_url: str) -> None:
    seen = Seen()
    server = Server(redis_url)

    @server.task("typed")
    async def typed(number: int, *, other: int = 0) -> None:
        seen.add((number, other))

    @server.handler("raw")
    async def raw(task: Task) -> None:
        seen.add(task.payload)

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(typed.task(2**63 - 1, other=10**17 + 1))
        await seen.until(1)
        await client.enqueue(Task("raw", b'{"number": 123456789012345678901234567890}'))
        await seen.until(2)
    assert seen.all == [(2**63 - 1, 10**17 + 1), b'{"number": 123456789012345678901234567890}']


# ── timeouts and deadlines ──


@pytest.mark.rows(10, 114)
async def test_timeouts_and_deadlines(redis: Redis, redis_url: str) -> None:
    """All at once, since each takes a second or two."""
    told = Seen()
    cancelled = Seen()
    server = Server(redis_url, error_handler=lambda task, error: _tell(told, task, error), cancel_grace=0.05)

    @server.handler("wait")
    async def wait(task: Task) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.add(task.id)
            if task.payload == b"skip":
                raise SkipRetry("while it was ended") from None
            if task.payload == b"revoke":
                raise RevokeTask from None
            raise

    soon = int(time.time()) + 2
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("wait"), task_id="timeout", timeout=1)
        await client.enqueue(Task("wait"), task_id="deadline", deadline=soon)
        await client.enqueue(Task("wait"), task_id="timeout first", timeout=1, deadline=soon + 60)
        await client.enqueue(Task("wait"), task_id="deadline first", timeout=60, deadline=soon)
        await client.enqueue(Task("wait", b"skip"), task_id="skip", timeout=1)
        await client.enqueue(Task("wait", b"revoke"), task_id="revoke", timeout=1)
        await told.until(6)
    errors = dict(told.all)
    assert {task_id: (type(error), str(error)) for task_id, error in errors.items()} == {
        "timeout": (TaskTimeoutError, "task timed out after 1 s"),
        "deadline": (TaskDeadlineError, "task deadline exceeded"),
        "timeout first": (TaskTimeoutError, "task timed out after 1 s"),
        "deadline first": (TaskDeadlineError, "task deadline exceeded"),
        "skip": (SkipRetry, "while it was ended"),
        "revoke": (RevokeTask, ""),
    }
    assert set(cancelled.all) == set(errors)
    assert await assert_in_order(redis) == {
        "retry": sorted(["timeout", "deadline", "timeout first", "deadline first"]),
        "archived": ["skip"],
        "tasks": sorted(set(errors) - {"revoke"}),
    }


async def _tell(told: Seen, task: Task, error: BaseException) -> None:
    told.add((task.id, error))


# ── cancelation ──

CANCELLED = {
    "it ends": ("", "retry", "task cancelled", TaskCancelledError),
    "it raises an error": ("error", "retry", "task cancelled", TaskCancelledError),
    "it returns": ("return", "retry", "task cancelled", TaskCancelledError),
    "it skips retries": ("skip", "archived", "stop", SkipRetry),
    "it revokes": ("revoke", "", "", RevokeTask),
    "it goes on": ("go on", "retry", "task cancelled", TaskCancelledError),
}


@pytest.mark.rows(128)
@pytest.mark.parametrize(("does", "place", "text", "error"), CANCELLED.values(), ids=CANCELLED)
async def test_a_task_is_cancelled(
    redis: Redis, redis_url: str, does: str, place: str, text: str, error: type[BaseException]
) -> None:
    began, told, over = Seen(), Seen(), asyncio.Event()
    go_on = asyncio.Event()
    server = Server(
        redis_url,
        error_handler=lambda task, exc: _tell(told, task, exc),
        cancel_grace=0.05 if does == "go on" else 5,
        concurrency=2,
        retry_delay=lambda *_: DELAY,
    )

    @server.handler("work")
    async def work(task: Task) -> None:
        began.add(task.id)
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            if does == "error":
                raise ValueError("bad") from None
            if does == "return":
                return
            if does == "skip":
                raise SkipRetry("stop") from None
            if does == "revoke":
                raise RevokeTask from None
            if does == "go on":
                await go_on.wait()
                over.set()
                return
            raise

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, RDB(redis_url) as rdb, server:
        await client.enqueue(Task("work"), task_id="a")
        await client.enqueue(Task("work"), task_id="other")
        await began.until(2)
        await eventually(lambda: _heard(rdb, "unknown"))
        await rdb.publish_cancelation("a")
        await told.until(1)
        await eventually(lambda: server.running == 1)
        await client.enqueue(Task("work"), task_id="next")  # the place is free again
        await began.until(3)
        go_on.set()
        if does == "go on":
            await over.wait()
        await eventually(lambda: _taken_and_settled(redis, server))
    assert [(task_id, type(exc)) for task_id, exc in told.all] == [("a", error)]
    assert await assert_in_order(redis) == ({place: ["a"], "tasks": ["a"]} if place else {})
    if place:
        assert (await message(redis)).error_msg == text


async def _heard(rdb: RDB, task_id: str) -> bool:
    heard = await rdb.publish_cancelation(task_id)
    if isinstance(rdb.client, RedisCluster):  # each of its nodes counts its own
        for node in rdb.client.get_nodes():
            [(_, number)] = await rdb.client.execute_command("PUBSUB NUMSUB", keys.CANCEL, target_nodes=node)
            heard += number
    return heard > 0


# ── threads and context ──

REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")


@pytest.mark.rows(10)
async def test_each_task_has_a_context_of_its_own(redis_url: str) -> None:
    """A copy of that in which the server was started; what a handler changes there no other sees."""
    seen = Seen()
    server = Server(redis_url)

    @server.handler("async")
    async def in_loop(task: Task) -> None:
        seen.add((task.id, REQUEST.get(), current_task().id))
        REQUEST.set(task.id)

    @server.handler("def")
    def in_thread(task: Task) -> None:
        seen.add((task.id, REQUEST.get(), current_task().id))
        REQUEST.set(task.id)

    REQUEST.set("start")
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        REQUEST.set("later")
        for n, kind in enumerate(["async", "def"] * 2):
            await client.enqueue(Task(kind), task_id=str(n))
            await eventually(lambda n=n: len(seen.all) == n + 1)  # type: ignore[misc]
    assert seen.all == [(str(n), "start", str(n)) for n in range(4)]
    with pytest.raises(RuntimeError, match="outside a handler"):
        current_task()


async def test_plain_functions_run_in_threads(redis: Redis, redis_url: str) -> None:
    loop_thread = threading.get_ident()
    together = threading.Barrier(3, timeout=PATIENCE)
    server = Server(redis_url)

    @server.handler("def")
    def in_thread(task: Task) -> str:
        assert threading.get_ident() != loop_thread
        together.wait()
        return task.id

    @server.handler("fail")
    def fails(task: Task) -> None:
        raise SkipRetry("never")

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        for n in range(3):
            await client.enqueue(Task("def"), task_id=str(n), retention=60)
        await client.enqueue(Task("fail"), task_id="a")
        await eventually(lambda: _taken_and_settled(redis, server))
    assert await assert_in_order(redis) == {
        "completed": ["0", "1", "2"],
        "archived": ["a"],
        "tasks": ["0", "1", "2", "a"],
    }
    assert await redis.hget(keys.task("default", "1"), "result") == b'"1"'


async def test_a_thread_that_timed_out_keeps_its_place_among_threads(redis: Redis, redis_url: str) -> None:
    """It cannot be ended; its task's own place is free at once."""
    release, second_began = threading.Event(), threading.Event()
    told, ran = Seen(), Seen()
    server = Server(
        redis_url,
        concurrency=1,
        max_threads=1,
        error_handler=lambda task, error: _tell(told, task, error),
        retry_delay=lambda *_: DELAY,
    )

    @server.handler("stuck")
    def stuck(task: Task) -> None:
        release.wait(PATIENCE)

    @server.handler("second")
    def second(task: Task) -> None:
        second_began.set()

    @server.handler("async")
    async def beside(task: Task) -> None:
        ran.add(task.id)

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("stuck"), task_id="a", timeout=1)
        await told.until(1)
        assert str(told.all[0][1]) == "task timed out after 1 s"
        await client.enqueue(Task("async"), task_id="b")
        await ran.until(1)  # the consumer's place is free
        await client.enqueue(Task("second"), task_id="c")
        await eventually(lambda: server.running == 1)
        assert not second_began.is_set()
        release.set()
        await eventually(second_began.is_set)
        await eventually(lambda: _taken_and_settled(redis, server))
    assert await assert_in_order(redis) == {"retry": ["a"], "tasks": ["a"]}
