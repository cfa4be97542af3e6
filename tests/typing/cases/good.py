"""What type checkers let pass: typed tasks, called and enqueued as they are meant to be."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from aioasynq import Client, Context, Exponential, Progress, ServeMux, Server, Task, TaskInfo, TaskType
from aioasynq.codecs import Encrypted, Json, Msgpack
from aioasynq.contrib import litestar, starlette
from aioasynq.mux import Run
from aioasynq.testing import InlineClient, assert_enqueued, run_until_idle

mux = ServeMux()


class State:
    name: str = "state"


async def own(task: Task, call_next: Run) -> object:
    return await call_next(task)


def rule(retried: int, error: BaseException, task: Task) -> timedelta:
    return timedelta(seconds=retried)


@mux.task("welcome", queue="low", max_retry=5, timeout=30, retention=timedelta(days=1), unique=60, retry=5)
async def welcome(user_id: int, lang: str = "en", *, at: datetime | None = None) -> str:
    return f"{user_id} {lang} {at}"


@mux.task("context", retry=[1, timedelta(minutes=1)], dont_retry=(ValueError, KeyError), middleware=[own])
async def with_context(context: Context[State], user_id: int, *, lang: str = "en") -> int:
    assert_type(context.state, State)
    assert_type(context.task, Task)
    return user_id + len(context.state.name)


@mux.task("task", retry=Exponential(first=2), dont_retry=OSError, codec=Msgpack())
def with_task(task: Task, number: float) -> float:
    return number + task.retried


@mux.task("nothing", retry=rule, codec=[Encrypted("key"), Json()])
async def nothing() -> None: ...


@mux.task("cpu", executor="process")
def cpu(task: Task, number: int) -> int:
    task.progress_sync(0.5, "half")
    return number


@mux.handler("raw cpu", executor="process")
def raw_cpu(task: Task) -> bytes:
    return task.payload


async def watches(client: Client, task: Task) -> None:
    await task.progress(1)
    async for step in client.watch(await cpu.enqueue(client, number=1)):
        assert_type(step, Progress)
    async for fraction, text in client.watch("id", queue="low"):
        assert_type(fraction, float)
        assert_type(text, str)


@mux.task("anything")
async def anything(value: Any, other: int = 0) -> None: ...


@mux.task("others")
async def others(number: int, **more: str) -> None: ...


@TaskType.declare("email:welcome", queue="critical")
async def declared(user_id: int, lang: str = "en") -> None: ...


@mux.handler("image:", retry=5, dont_retry=ValueError, middleware=[own])
async def image(task: Task) -> None: ...


@mux.on_start
async def on_start(task: Task) -> None: ...


@mux.on_success
def on_success(task: Task, result: object) -> None: ...


@mux.on_retry
async def on_retry(task: Task, error: BaseException, delay: float) -> None: ...


def on_enqueue(task: Task, info: TaskInfo) -> None: ...


@asynccontextmanager
async def lifespan(server: Server) -> AsyncGenerator[State]:
    yield State()


async def main(client: Client, context: Context[State], task: Task) -> None:
    assert_type(welcome.task(42), Task)
    assert_type(welcome.task(user_id=42, lang="de", at=datetime(2026, 1, 1, tzinfo=UTC)), Task)
    assert_type(await welcome.enqueue(client, 42, at=None), TaskInfo)
    assert_type(await welcome.with_options(queue="low", process_in=60).enqueue(client, user_id=42), TaskInfo)
    assert_type(await welcome(42, lang="de"), str)

    with_context.task(42)
    await with_context.enqueue(client, user_id=42, lang="de")
    assert_type(await with_context(context, 42), int)
    assert_type(await with_context(Context(task, State()), user_id=42), int)

    with_task.task(1)
    await with_task.enqueue(client, number=1.5)
    assert_type(with_task(task, 1.5), float)

    nothing.task()
    await nothing.enqueue(client)
    await nothing()

    anything.task(object(), 1)
    anything.task(value=1, other=2)
    others.task(1, a="x")
    await declared.enqueue(client, 42, lang="de")
    await client.enqueue(welcome.task(42), queue="critical")

    info = client.enqueue_sync(welcome.task(42), queue="low")
    assert_type(info, TaskInfo)
    assert_type(client.submit(welcome.task(42)).result(), TaskInfo)
    client.result_sync(info, timeout=1)
    async with InlineClient(mux, state=State(), raises=False) as inline:
        assert_type(await welcome.enqueue(inline, 42), TaskInfo)
        assert_type(inline.assert_enqueued(welcome, user_id=42), TaskInfo)
    await assert_enqueued(client, "welcome", user_id=42)
    tries, _ = await run_until_idle(mux, client)
    assert_type(tries, int)
    starlette.lifespan("redis://localhost", mux, concurrency=3, inner=starlette.lifespan())
    litestar.lifespan(mux=mux, queues=["low"])

    mux.add("mail", welcome)
    Client(on_enqueue=on_enqueue)
    Client(on_enqueue=[on_enqueue])
    Server(mux=mux, lifespan=lifespan, retry_delay=Exponential())
