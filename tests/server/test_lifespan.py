"""The lifespan of a server: its state reaches handlers, and its end comes last, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis

from aioasynq import (
    Client,
    Context,
    ServeMux,
    Server,
    ServerStateError,
    Task,
    current_context,
)
from aioasynq.mux import Run
from aioasynq.server import lifespan as lifespan_module
from tests.server.stage import PATIENCE, Seen, assert_in_order

region: ContextVar[str] = ContextVar("region", default="nowhere")


@dataclass
class State:
    name: str


async def test_a_state_reaches_all_that_handles_a_task(redis: Redis, redis_url: str) -> None:
    seen = Seen()
    mux = ServeMux()

    @asynccontextmanager
    async def lifespan(server: Server) -> AsyncGenerator[State]:
        seen.add(f"enter, server {server.status}")
        region.set("eu")
        yield State("state")
        seen.add(f"leave, server {server.status}, {server.running} running")

    @mux.use
    async def middleware(task: Task, call_next: Run) -> object:
        seen.add(f"middleware {current_context().state.name} {region.get()}")
        return await call_next(task)

    @mux.task("typed")
    async def typed(context: Context[State], number: int) -> None:
        seen.add(f"typed {context.state.name} {context.task.id} {number} {region.get()}")

    @mux.task("plain")
    def plain(context: Context[State]) -> None:
        seen.add(f"plain {context.state.name} {region.get()}")

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, Server(redis_url, mux, lifespan=lifespan):
        await client.enqueue(typed.task(number=1), task_id="a")
        await seen.until(3)
        await plain.enqueue(client)
        await seen.until(5)
    assert seen.all == [
        "enter, server new",
        *("middleware state eu", "typed state a 1 eu", "middleware state eu", "plain state eu"),
        "leave, server closed, 0 running",
    ]
    assert region.get() == "nowhere"
    assert await assert_in_order(redis) == {}


async def test_it_may_take_nothing_and_yield_nothing(redis_url: str) -> None:
    entered = left = False

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        nonlocal entered, left
        entered = True
        yield
        left = True

    server = Server(redis_url, lifespan=lifespan)
    server.handler("t")(repr)
    async with asyncio.timeout(PATIENCE), server:
        assert (entered, left) == (True, False)
    assert left


async def test_task_groups_in_it_may_work_beside_the_server(redis_url: str) -> None:
    ticks = Seen()

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            yield
            group.cancel_scope.cancel()

    async def tick() -> None:
        ticks.add("tick")
        await anyio.sleep_forever()

    server = Server(redis_url, lifespan=lifespan)
    server.handler("t")(repr)
    async with asyncio.timeout(PATIENCE), server:
        await ticks.until(1)
    assert server.status == "closed"


async def test_what_it_raises_at_first_comes_out_of_start(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    fails = True

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        if fails:
            raise OSError("no database")
        yield

    server = Server(redis_url, lifespan=lifespan)
    server.handler("t")(repr)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(OSError, match="no database"):
            await server.start()
        assert caplog.records == []
        fails = False
        async with server:  # it had not started
            assert server.status == "active"


async def test_a_start_that_is_cancelled_leaves_it(redis_url: str) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        entered.set()
        try:
            await asyncio.Event().wait()
            yield
        finally:
            left.set()

    server = Server(redis_url, lifespan=lifespan)
    server.handler("t")(repr)
    async with asyncio.timeout(PATIENCE):
        start = asyncio.create_task(server.start())
        await entered.wait()
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert left.is_set()


async def test_a_shutdown_while_it_is_entered(redis_url: str) -> None:
    left = False

    @asynccontextmanager
    async def lifespan(server: Server) -> AsyncGenerator[None]:
        nonlocal left
        await server.shutdown()
        yield
        left = True

    server = Server(redis_url, lifespan=lifespan)
    server.handler("t")(repr)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ServerStateError, match="this server was closed while it was started"):
            await server.start()
    assert left


async def test_what_it_raises_at_its_end_is_logged(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        yield
        raise OSError("no goodbye")

    server = Server(redis_url, lifespan=lifespan)
    server.handler("t")(repr)
    async with asyncio.timeout(PATIENCE), server:
        pass
    assert server.status == "closed"
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "the lifespan failed at its end"
    ]


@pytest.mark.parametrize("stubborn", [False, True], ids=["it is cancelled", "it does not end even then"])
async def test_one_that_does_not_end(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, stubborn: bool
) -> None:
    monkeypatch.setattr(lifespan_module, "LEAVE_LIMIT", 0.1)
    monkeypatch.setattr(lifespan_module, "LAST_GRACE", 0.1)
    go_on = asyncio.Event()

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        yield
        try:
            await asyncio.Event().wait()
        finally:
            if stubborn:
                await go_on.wait()

    server = Server(redis_url, lifespan=lifespan)
    server.handler("t")(repr)
    async with asyncio.timeout(PATIENCE), server:
        pass
    go_on.set()
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == ["the lifespan did not end in time and is cancelled"] + (
        ["the lifespan did not end when cancelled and is left to itself"] if stubborn else []
    )


async def test_one_that_ends_by_itself_ends_the_server(redis: Redis, redis_url: str) -> None:
    """What runs goes back, nothing is lost, and who runs the server alone hears why."""
    fail, seen = asyncio.Event(), Seen()

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(background)
            yield

    async def background() -> None:
        await fail.wait()
        raise OSError("lost the database")

    server = Server(redis_url, lifespan=lifespan, shutdown_timeout=0)

    @server.handler("t")
    async def handler(task: Task) -> None:
        seen.add(task.id)
        await asyncio.Event().wait()

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        running = asyncio.create_task(server.run())
        await client.enqueue(Task("t"), task_id="a")
        await seen.until(1)
        fail.set()
        with pytest.raises(ExceptionGroup) as broken:
            await running
    assert broken.group_contains(OSError, match="lost the database")
    assert await assert_in_order(redis) == {"pending": ["a"], "tasks": ["a"]}


# ── wrong ones ──


class Other:
    def __repr__(self) -> str:
        return "<other>"


@asynccontextmanager
async def other_state() -> AsyncGenerator[Other]:
    yield Other()


STATES: dict[str, tuple[Callable[..., Any] | None, str]] = {
    "none": (
        None,
        r"handler of 't' takes a Context\[State\], but there is no lifespan: Server\(mux=.*, lifespan=.*\) has one .*",
    ),
    "another": (other_state, r"handler of 't' takes a Context\[State\], but the lifespan yields <other>"),
}


@pytest.mark.parametrize(("lifespan", "text"), STATES.values(), ids=STATES)
@pytest.mark.parametrize("nested", [False, True], ids=["", "in a mux within the mux"])
async def test_a_state_that_handlers_do_not_take(redis_url: str, lifespan: Any, text: str, *, nested: bool) -> None:
    mux = ServeMux()

    @mux.task("t")
    async def handler(context: Context[State]) -> None: ...

    if nested:
        outer = ServeMux()
        outer.add("t", mux)
        mux = outer
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ServerStateError, match=f"^{text}$"):
            await Server(redis_url, mux, lifespan=lifespan).start()


def test_one_that_is_no_context_manager_is_refused() -> None:
    async def generator() -> AsyncGenerator[None]:
        yield

    async def coroutine() -> None: ...

    @asynccontextmanager
    async def of_two(server: Server, other: int) -> AsyncGenerator[None]:
        yield

    must = "lifespan must be a function, of the server or of nothing, that makes an async context manager, got"
    for wrong, text in {
        "x": "'x'",
        generator: ".*decorate it with contextlib.asynccontextmanager",
        coroutine: ".*decorate it with contextlib.asynccontextmanager",
        of_two: ".*missing a required argument: 'other'",
        asynccontextmanager(generator)(): "one that is made already, .*: give the function, without calling it",
    }.items():
        with pytest.raises(TypeError, match=f"^{must} {text}"):
            Server(lifespan=wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_factory_that_makes_something_else_is_refused_at_the_start(redis_url: str) -> None:
    server = Server(redis_url, lifespan=lambda: 5)  # type: ignore[arg-type,return-value]  # pyright: ignore[reportArgumentType]
    server.handler("t")(repr)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(TypeError, match="lifespan must make an async context manager, got 5 from <function"):
            await server.start()
