"""Progress: what a handler says of how far it is, and who sees it."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import aclosing
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from aioasynq import (
    Client,
    Inspector,
    Progress,
    ServeMux,
    Server,
    SkipRetry,
    Task,
    TaskNotFoundError,
    TaskState,
    current_task,
    keys,
)
from aioasynq.rdb.rdb import open_rdb
from aioasynq.server import progress
from aioasynq.server.progress import Reporter, Reporters
from tests.server.stage import PATIENCE, Seen, eventually

WRONG = {
    "text for a number": (("half",), TypeError, "fraction must be a number from 0 to 1, got 'half'"),
    "a truth": ((True,), TypeError, "fraction must be a number from 0 to 1, got True"),
    "too much": ((1.01,), ValueError, "fraction must be a number from 0 to 1, got 1.01"),
    "per cent": ((40,), ValueError, "fraction must be a number from 0 to 1, got 40"),
    "less than nothing": ((-0.1,), ValueError, "fraction must be a number from 0 to 1, got -0.1"),
    "no number": ((float("nan"),), ValueError, "fraction must be a number from 0 to 1, got nan"),
    "bytes": ((0.5, b"x"), TypeError, "text must be a str, got b'x'"),
    "a long text": ((0.5, "x" * 1001), ValueError, "text must have at most 1,000 characters, got 1,001"),
    "half a letter": ((0.5, "\ud800"), ValueError, "text must be bytes or valid Unicode text"),
}


@pytest.mark.parametrize(("arguments", "error", "text"), WRONG.values(), ids=WRONG)
async def test_what_is_no_progress_is_refused(arguments, error, text):
    noted: list[Progress] = []
    task = Task.received(
        *("t", None, {}),
        id="a",
        queue="q",
        retried=0,
        max_retry=0,
        write_result=None,
        note_progress=lambda _, step: noted.append(step),
    )
    with pytest.raises(error, match=f"^{text}"):
        await task.progress(*arguments)
    with pytest.raises(error, match=f"^{text}"):
        task.progress_sync(*arguments)
    assert noted == []
    task.progress_sync(1)
    assert noted == [Progress(1.0, "")]


async def test_only_a_handler_tells_progress():
    with pytest.raises(RuntimeError, match=r"^task 't' is not being processed: only a handler's task can tell"):
        await Task("t").progress(0.5)


async def stored(redis: Redis, task_id: str) -> list[Any]:
    return await redis.hmget(keys.task("default", task_id), [keys.PROGRESS, keys.PROGRESS_TEXT])


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_client_watches(redis_url, kind):
    mux = ServeMux()
    seen = Seen()
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    @mux.handler("async")
    async def on_the_loop(task: Task) -> str:
        await task.progress(0.25, "reading")
        await go_on.wait()
        await task.progress(0.5)
        await task.progress(1, "written")
        return "done"

    @mux.handler("thread")
    def in_a_thread(task: Task) -> str:
        current_task().progress_sync(0.25, "reading")
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        for n in range(2000):
            task.progress_sync(0.5 + n / 4000)
        task.progress_sync(1, "written")
        return "done"

    async with Client(redis_url) as client, Server(redis_url, mux):
        info = await client.enqueue(Task(kind), retention=60)
        async with asyncio.timeout(PATIENCE):
            async for step in client.watch(info):
                seen.add(step)
                go_on.set()
            assert await client.result(info) == "done"
            assert [step async for step in client.watch(info.id)] == [Progress(1, "written")]
        async with Inspector(redis_url) as inspector:
            assert (await inspector.get_task_info("default", info.id)).progress == Progress(1, "written")
    assert seen.all[0] == Progress(0.25, "reading")
    assert seen.all[-1] == Progress(1, "written")
    assert len(seen.all) <= 6  # two thousand steps are a few


async def test_a_watcher_is_told_at_once(redis_url, monkeypatch):
    monkeypatch.setattr("aioasynq.client.results.FIRST_LOOK", 60.0)
    monkeypatch.setattr("aioasynq.client.results.LONGEST_LOOK", 60.0)
    mux = ServeMux()
    watched = asyncio.Event()

    @mux.handler("t")
    async def handler(task: Task) -> None:
        for step in (0.1, 0.2, 0.3):
            await task.progress(step)
            await watched.wait()
            watched.clear()

    async with Client(redis_url) as client, asyncio.timeout(PATIENCE):
        info = await client.enqueue(Task("t"), retention=60)
        steps = client.watch(info)
        first = asyncio.ensure_future(anext(steps))
        assert await client._rdb.command("PING")
        async with Server(redis_url, mux):
            assert (await first).fraction == 0.1
            watched.set()
            assert (await anext(steps)).fraction == 0.2
            watched.set()
            assert (await anext(steps)).fraction == 0.3
            watched.set()
            with pytest.raises(StopAsyncIteration):
                await anext(steps)


async def test_a_watch_ends_with_a_task_that_failed_or_is_gone(redis_url):
    mux = ServeMux()

    @mux.handler("fails")
    async def fails(task: Task) -> None:
        task.progress_sync(0.3, "at the wall")
        raise SkipRetry("no")

    @mux.handler("gone")
    async def gone(task: Task) -> None:
        await task.progress(0.3)

    async with Client(redis_url) as client, Server(redis_url, mux), asyncio.timeout(PATIENCE):
        failed = await client.enqueue(Task("fails"))
        assert [step async for step in client.watch(failed)] == [Progress(0.3, "at the wall")]
        lost = await client.enqueue(Task("gone"))
        assert {step async for step in client.watch(lost)} <= {Progress(0.3)}
        async with Inspector(redis_url) as inspector:
            info = await inspector.get_task_info("default", failed.id)
        assert (info.state, info.progress) == (TaskState.ARCHIVED, Progress(0.3, "at the wall"))


async def test_wrong_watches(redis_url):
    async with Client(redis_url) as client:
        with pytest.raises(TypeError, match=r"^task must be what enqueue returned, or an id, got 7"):
            client.watch(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match=r"^queue must not contain braces, got"):
            client.watch("a", queue="{x}")
        with pytest.raises(TaskNotFoundError, match=r"^cannot find task 'a' in queue 'default'"):
            await anext(client.watch("a"))


async def test_a_watcher_that_leaves_is_forgotten(redis_url):
    async with Client(redis_url) as client, asyncio.timeout(PATIENCE):
        info = await client.enqueue(Task("t"))
        async with aclosing(client.watch(info)) as steps:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await anext(steps)
        assert client._results is not None
        assert dict(client._results._waiting["default"]) == {}


async def test_only_the_owner_writes(redis_url, redis):
    async with Client(redis_url) as client:
        info = await client.enqueue(Task("t"))
    rdb = open_rdb(redis_url)
    for task_id in (info.id, "other"):
        with pytest.raises(TaskNotFoundError):
            await rdb.write_progress("default", task_id, Progress(0.5), owner="me")
    await rdb.aclose()
    assert await stored(redis, info.id) == [None, None]
    assert not await redis.exists(keys.task("default", "other"))


async def test_a_thread_that_outlives_its_task_says_nothing_of_the_next_try(redis_url, redis):
    mux = ServeMux()
    began, again, zombie = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    @mux.handler("t")
    def handler(task: Task) -> None:
        if task.retried == 0:
            loop.call_soon_threadsafe(began.set)
            asyncio.run_coroutine_threadsafe(again.wait(), loop).result()
            task.progress_sync(0.9, "dead")
            loop.call_soon_threadsafe(zombie.set)
        else:
            task.progress_sync(0.1, "alive")
            loop.call_soon_threadsafe(again.set)
            asyncio.run_coroutine_threadsafe(zombie.wait(), loop).result()

    async with (
        Client(redis_url) as client,
        Server(redis_url, mux, retry_delay=lambda *_: 0.0),
        asyncio.timeout(PATIENCE),
    ):
        info = await client.enqueue(Task("t"), retention=60)
        await began.wait()
        async with Inspector(redis_url) as inspector:
            await inspector.cancel_processing(info.id)
        await client.result(info)
        assert await stored(redis, info.id) == [b"0.1", b"alive"]


async def test_steps_are_written_now_and_then_and_the_last_one_always(monkeypatch):
    written: list[Progress] = []
    times: list[float] = []

    async def write(step: Progress) -> None:
        written.append(step)
        times.append(time.monotonic())
        await asyncio.sleep(0)

    reporter = Reporter(write)
    end = time.monotonic() + 0.6
    n = 0
    async with asyncio.timeout(PATIENCE):
        while time.monotonic() < end:
            n += 1
            reporter.note(Progress(0.5, str(n)))
            await asyncio.sleep(0.001)
        await eventually(lambda: written[-1] == Progress(0.5, str(n)))
        assert 2 <= len(written) <= 5
        assert min(b - a for a, b in pairwise(times)) >= progress.INTERVAL - 0.02
        reporter.note(Progress(0.9))
        reporter.note(Progress(1))
        monkeypatch.setattr(progress, "INTERVAL", 60.0)
        await reporter.finish()
    assert written[-1] == Progress(1)


async def test_a_step_said_at_the_very_end_is_written():
    written: list[Progress] = []

    async def write(step: Progress) -> None:
        await asyncio.sleep(0)
        written.append(step)

    reporter = Reporter(write)
    reporter.note(Progress(1))
    async with asyncio.timeout(PATIENCE):
        await reporter.finish()
    assert written == [Progress(1)]


async def test_no_step_of_a_thread_overtakes_another():
    """Not even while the first one is on its way to the loop."""
    written: list[Progress] = []

    class Writes:
        async def write_progress(self, queue: str, task_id: str, step: Progress, *, owner: str) -> None:
            written.append(step)

    task: Any = Task("work", task_id="t")
    held: Any = SimpleNamespace(
        find=lambda _: [SimpleNamespace(handed=task, leased=SimpleNamespace(queue="default", id="t", guard=""))]
    )
    reporters: Any = Reporters(cast("Any", Writes()), held)
    loop, second, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    queued: list[Any] = []

    def call_soon_threadsafe(call: Any, *arguments: Any) -> None:
        queued.append(call)
        if len(queued) > 1:
            loop.call_soon_threadsafe(second.set)
            go_on.wait(PATIENCE)
        loop.call_soon_threadsafe(call, *arguments)

    reporters._loop = SimpleNamespace(call_soon_threadsafe=call_soon_threadsafe)

    def say() -> None:
        for n in (1, 2):
            reporters.note(task, Progress(0.5, str(n)))
        loop.call_soon_threadsafe(second.set)
        go_on.wait(PATIENCE)
        reporters.note(task, Progress(1.0, "3"))

    thread = threading.Thread(target=say)
    async with asyncio.timeout(PATIENCE):
        thread.start()
        await second.wait()
        await eventually(lambda: bool(reporters))  # the first step has come
        go_on.set()
        thread.join()  # nothing else happens on the loop meanwhile
        await asyncio.sleep(0)
        await reporters.finish(task)
    assert written[-1] == Progress(1.0, "3")


async def test_a_task_does_not_wait_for_a_write_that_hangs(monkeypatch):
    monkeypatch.setattr(progress, "LAST_LIMIT", 0.05)
    hangs = asyncio.Event()

    async def write(step: Progress) -> None:
        await hangs.wait()

    reporter = Reporter(write)
    reporter.note(Progress(0.5))
    async with asyncio.timeout(PATIENCE):
        await asyncio.sleep(0)
        await reporter.finish()
    hangs.set()
