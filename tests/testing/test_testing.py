"""The testing kit: a clock, running until idle, what was enqueued, and handlers that run at enqueue."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aioasynq import (
    RDB,
    Client,
    Context,
    DuplicateTaskError,
    HandlerNotFoundError,
    PayloadError,
    Progress,
    RetryAfter,
    RevokeTask,
    ServeMux,
    Server,
    ServerStateError,
    SkipRetry,
    Task,
    TaskDeadlineError,
    TaskFailedError,
    TaskIDConflictError,
    TaskInfo,
    TaskNotFoundError,
    TaskState,
    TaskTimeoutError,
    current_context,
    current_task,
)
from aioasynq.codecs import HEADER, Msgpack
from aioasynq.testing import (
    Clock,
    InlineClient,
    RecordingClient,
    assert_enqueued,
    assert_not_enqueued,
    run_until_idle,
)
from tests.server.stage import places

wrong: Any = lambda value: value  # noqa: E731 - what type checkers would not let pass


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(redis_url: str, clock: Clock) -> AsyncIterator[RecordingClient]:
    async with RDB(redis_url, clock=clock) as rdb, RecordingClient(rdb) as client:
        yield client


class Shop:
    """A mux, and what its handlers were called with."""

    def __init__(self) -> None:
        self.mux = ServeMux()
        self.ran: list[Any] = []
        self.fails = 0  #: how often the next ones fail

        @self.mux.task("order", max_retry=3, retry=60)
        async def order(number: int, at: datetime | None = None) -> int:
            self.ran.append(number)
            if self.fails:
                self.fails -= 1
                raise ConnectionError(f"no answer for {number}")
            return number * 2

        self.order = order


@pytest.fixture
def shop() -> Shop:
    return Shop()


# ── clock ──


def test_a_clock_goes_forward_when_told() -> None:
    clock = Clock()
    began = clock()
    assert began == int(began)
    assert clock.now == datetime.fromtimestamp(began, UTC)
    clock.advance(1.5)
    clock.advance(timedelta(minutes=1))
    assert clock() == began + 61.5
    clock.move_to(clock.now + timedelta(days=1))
    assert clock() == began + 61.5 + 86400


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda clock: clock.advance(-1), ValueError, "by must be 0 or more, since a clock goes forward, got -1"),
        (lambda clock: clock.advance(float("nan")), ValueError, "by must be 0 or more"),
        (lambda clock: clock.advance("1h"), TypeError, "by must be a number of seconds or a timedelta, got '1h'"),
        (lambda clock: clock.move_to(1), TypeError, "moment must be a datetime, got 1"),
        (lambda clock: clock.move_to(datetime(2099, 1, 1)), ValueError, "moment must have a time zone"),  # noqa: DTZ001
        (lambda clock: clock.move_to(datetime(2020, 1, 1, tzinfo=UTC)), ValueError, "moment must not be before"),
    ],
)
def test_a_clock_refuses(call, error, text) -> None:
    clock = Clock()
    before = clock()
    with pytest.raises(error) as caught:
        call(clock)
    assert text in str(caught.value)
    assert clock() == before


# ── running until idle ──


async def test_scheduled_tasks_run_when_the_clock_says_so(client, clock, shop) -> None:
    await shop.order.with_options(process_in=3600).enqueue(client, 1)
    await shop.order.with_options(process_at=clock.now + timedelta(days=2)).enqueue(client, 2)
    assert await run_until_idle(shop.mux, client) == (0, 0)
    clock.advance(3599)
    assert await run_until_idle(shop.mux, client) == (0, 0)
    clock.advance(1)
    assert await run_until_idle(shop.mux, client) == (1, 0)
    clock.advance(timedelta(days=2))
    assert await run_until_idle(shop.mux, client) == (1, 0)
    assert shop.ran == [1, 2]


async def test_retries_and_the_archive(client, clock, shop, redis) -> None:
    shop.fails = 4
    await shop.order.enqueue(client, 1)
    for _ in range(4):
        assert await run_until_idle(shop.mux, client) == (1, 1)
        assert await run_until_idle(shop.mux, client) == (0, 0)
        clock.advance(60)
    assert shop.ran == [1] * 4
    assert set(await places(redis)) == {"archived", "tasks"}


async def test_handlers_may_enqueue_to_queues_that_were_not_there(client) -> None:
    mux = ServeMux()
    ran: list[str] = []

    @mux.handler("hop")
    async def hop(task: Task) -> None:
        ran.append(task.queue)
        if len(ran) < 4:
            await client.enqueue(Task("hop", queue=f"q{len(ran)}"))

    await client.enqueue(Task("hop"))
    assert await run_until_idle(mux, client) == (4, 0)
    assert ran == ["default", "q1", "q2", "q3"]


async def test_a_server_lends_its_options_or_is_waited_for(client, shop: Shop) -> None:
    states: list[Any] = []

    @shop.mux.use
    async def look(task: Task, call_next) -> object:
        states.append(current_context().state)
        return await call_next(task)

    @asynccontextmanager
    async def lifespan():
        yield "state"

    server = Server(mux=shop.mux, lifespan=lifespan, queues=["low"])
    for number in (1, 2):
        await shop.order.with_options(queue="low").enqueue(client, number)
        await shop.order.enqueue(client, 0)  # to a queue that is not its own
        assert await run_until_idle(server, client) == (1, 0)
        assert server.status == "new"
    assert (shop.ran, states) == ([1, 2], ["state"] * 2)
    async with Server(client._rdb, shop.mux) as running:
        assert (await run_until_idle(running, client)).failures == 0
        assert shop.ran == [1, 2, 0, 0]
    with pytest.raises(RuntimeError, match="server must be one that runs, or was not started yet, got <Server"):
        await run_until_idle(running, client)


async def test_groups_that_are_ripe(client, clock) -> None:
    mux = ServeMux()
    ran: list[bytes] = []

    @mux.aggregator
    def together(group: str, tasks: list[Task]) -> Task:
        return Task("mail", b",".join(task.payload for task in tasks))

    @mux.handler("mail")
    async def mail(task: Task) -> None:
        ran.append(task.payload)

    for payload in ("a", "b"):
        await client.enqueue(Task("mail", payload), group="ann")
        clock.advance(1)  # what joins in the same second is in no order
    await assert_enqueued(client, "mail")
    assert await run_until_idle(mux, client) == (0, 0)
    clock.advance(60)
    assert await run_until_idle(mux, client) == (1, 0)
    assert ran == [b"a,b"]


async def test_what_does_not_end_is_named(client) -> None:
    mux = ServeMux()

    @mux.handler("hang")
    async def hang(task: Task) -> None:
        await asyncio.Event().wait()

    await client.enqueue(Task("hang"))
    server = Server(mux=mux, shutdown_timeout=0)
    with pytest.raises(TimeoutError) as caught:
        await run_until_idle(server, client, timeout=0.5)
    assert str(caught.value).startswith("there is still something to do after 0.5 s: queue 'default' has ")


async def test_running_until_idle_refuses(client, shop) -> None:
    with pytest.raises(TypeError, match="server must be a Server or a ServeMux, got <Client"):
        await run_until_idle(wrong(client), wrong(shop.mux))
    with pytest.raises(TypeError, match="client must be a Client, got 'redis://'"):
        await run_until_idle(shop.mux, wrong("redis://"))
    with pytest.raises(ValueError, match="timeout must be more than 0 seconds, got 0"):
        await run_until_idle(shop.mux, client, timeout=0)
    with pytest.raises(ServerStateError, match="the server has no handler"):
        await run_until_idle(ServeMux(), client)


# ── what was enqueued ──


async def test_what_was_enqueued_is_found(client, shop) -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    sent = await shop.order.enqueue(client, 7, at=at)
    [many] = await client.enqueue_many([Task("raw", b"\xff")])
    assert client.enqueued == [sent, many]
    for args in ({}, {"number": 7}, {"number": 7, "at": at}):
        assert client.assert_enqueued(shop.order, **args) is sent
        assert client.assert_enqueued("order", **args) is sent
        assert (await assert_enqueued(client, shop.order, **args)).id == sent.id
        assert (await assert_enqueued(client, "order", **args)).id == sent.id
    client.assert_enqueued("raw")
    client.assert_not_enqueued("order", number=8)
    await assert_not_enqueued(client, shop.order, number=8)
    await run_until_idle(shop.mux, client)
    await assert_not_enqueued(client, shop.order)  # it has succeeded
    assert client.assert_enqueued(shop.order) is sent


async def test_what_was_not_enqueued_is_said(client, shop) -> None:
    with pytest.raises(AssertionError) as caught:
        client.assert_enqueued("order", number=1)
    assert str(caught.value) == "task 'order' with number=1 was not enqueued; nothing was"
    await shop.order.enqueue(client, 7)
    await client.enqueue(Task("raw", b"\xff"), queue="low", process_in=60)
    packed = ServeMux()

    @packed.task("points", codec=Msgpack())
    async def points(x: int) -> None: ...

    await points.enqueue(client, x=1)
    client.assert_enqueued("points", x=1)
    with pytest.raises(AssertionError) as caught:
        client.assert_enqueued("order", number=8, to="Ada")
    assert str(caught.value).splitlines() == [
        "task 'order' with number=8, to='Ada' was not enqueued; there are:",
        "  order(number=7), pending in queue 'default'  <- number differs",
        "  raw b'\\xff', scheduled in queue 'low'",
        "  points(x=1), pending in queue 'default'",
    ]
    with pytest.raises(AssertionError) as caught:
        await assert_enqueued(client, "raw", x=1)
    assert "cannot be compared: its payload is raw, it has no named arguments" in str(caught.value)
    with pytest.raises(AssertionError) as caught:
        client.assert_enqueued(shop.order, nmber=7)
    assert "  order(number=7, at=None), pending in queue 'default'  <- has no 'nmber'" in str(caught.value)
    with pytest.raises(AssertionError) as caught:
        client.assert_not_enqueued(shop.order)
    assert str(caught.value) == (
        "task 'order' was enqueued, and should not have been: order(number=7, at=None), pending in queue 'default'"
    )
    with pytest.raises(AssertionError, match="was enqueued, and should not have been"):
        await assert_not_enqueued(client, "order", number=7)


async def test_what_cannot_be_told_was_not_enqueued_is_a_failure(client, shop) -> None:
    with pytest.raises(TypeError, match=r"^'order' has no argument 'nmber'; it has number, at$"):
        client.assert_not_enqueued(shop.order, nmber=7)
    with pytest.raises(TypeError, match="'order' has no argument 'nmber'"):
        await assert_not_enqueued(client, shop.order, nmber=7)
    await client.enqueue(Task("secret", b"???", headers={HEADER: "fernet+json"}))
    client.assert_not_enqueued("order", token="x")
    text = "it cannot be told whether task 'secret' with token='x' was enqueued"
    with pytest.raises(AssertionError, match=text):
        client.assert_not_enqueued("secret", token="x")
    with pytest.raises(AssertionError, match=text):
        await assert_not_enqueued(client, "secret", token="x")


async def test_asserting_refuses(client) -> None:
    with pytest.raises(TypeError, match="client must be a Client, which comes before the type, got 'order'"):
        await assert_enqueued(wrong("order"), wrong(client))
    with pytest.raises(TypeError, match="type must be the name of a task type, or a typed handler, got 7"):
        client.assert_enqueued(wrong(7))
    with pytest.raises(ValueError, match="type must"):
        client.assert_enqueued(" ")


async def test_a_recording_client_has_hooks_of_its_own_too(redis_url) -> None:
    told: list[str] = []
    async with RecordingClient(redis_url, on_enqueue=lambda task, _: told.append(task.type)) as client:
        await client.enqueue(Task("a"))
        await asyncio.to_thread(client.enqueue_sync, Task("b"))
    assert told == [info.type for info in client.enqueued] == ["a", "b"]


# ── inline ──


@dataclass
class Item:
    name: str


async def test_inline_runs_what_is_enqueued() -> None:
    mux = ServeMux()
    seen: list[Any] = []

    @mux.task("buy", retention=60, timeout=5)
    async def buy(context: Context[str], items: list[Item], at: datetime) -> dict[str, int]:
        seen.append((context.state, context.task.queue, current_task().id, items, at))
        return {"count": len(items)}

    @mux.task("thread")
    def in_thread(n: int) -> None:
        seen.append((n, current_context().state))

    @mux.use
    async def middleware(task: Task, call_next) -> object:
        seen.append(task.type)
        return await call_next(task)

    told: list[str] = []
    mux.on_start(lambda task: told.append(f"start {task.type}"))
    mux.on_success(lambda task, result: told.append(f"success {result}"))
    items, at = [Item("pen")], datetime(2026, 1, 2, tzinfo=UTC)
    async with InlineClient(mux, state="shop", on_enqueue=lambda task, info: told.append(info.state)) as client:
        info = await buy.with_options(queue="low", process_in=60).enqueue(client, items, at)
        assert (info.state, info.queue, info.result) == (TaskState.COMPLETED, "low", b'{"count":1}')
        assert await client.result(info) == {"count": 1}
        assert await client.result(info.id, queue="low", raw=True) == b'{"count":1}'
        assert (await in_thread.enqueue(client, 1)).state == TaskState.COMPLETED
        assert [each.state for each in client.enqueued] == ["scheduled", "pending"]
        assert client.assert_enqueued(buy, items=items).id == info.id
        with pytest.raises(AssertionError, match="number"):
            client.assert_enqueued("buy", number=1)
        infos = await client.enqueue_many([in_thread.task(n) for n in (2, 3)])
        assert all(isinstance(each, TaskInfo) for each in infos)
        synced = await asyncio.to_thread(client.enqueue_sync, in_thread.task(4))
        assert synced.state == TaskState.COMPLETED
        await client.ping()
        assert repr(client) == "<InlineClient of <ServeMux 'buy', 'thread'>>"
    assert seen[:2] == ["buy", ("shop", "low", info.id, items, at)]
    assert seen[1][3] is not items  # they were bytes in between
    assert [each for each in seen[2:] if each != "thread"] == [(n, "shop") for n in (1, 2, 3, 4)]
    assert told[:3] == ["scheduled", "start buy", "success {'count': 1}"]
    with pytest.raises(RuntimeError, match="this client is closed; make a new one"):
        await client.enqueue(in_thread.task(5))


@pytest.mark.parametrize(
    ("state", "there"), {None: "this is the state: None", 5: "this is the state: 5"}.items(), ids=["none", "another"]
)
async def test_inline_a_state_is_given_where_a_handler_takes_one(state: object, there: str) -> None:
    mux = ServeMux()

    @mux.task("t")
    async def handler(context: Context[str], n: int) -> None: ...

    @mux.task("other")
    async def other() -> None: ...

    async with InlineClient(mux, state=state) as client:
        await other.enqueue(client)
        with pytest.raises(
            ServerStateError, match=rf"handler of 't' takes a Context\[str\], but {there}; give another"
        ):
            await handler.enqueue(client, 1)
        assert [each.type for each in client.enqueued] == ["other"]


async def test_inline_raises_what_a_handler_raises(shop) -> None:
    client = InlineClient(shop.mux)
    shop.fails = 1
    with pytest.raises(ConnectionError, match="no answer for 1"):
        await shop.order.enqueue(client, 1)
    assert shop.ran == [1]
    with pytest.raises(PayloadError, match="'number': expected `int`, got `str`"):
        await client.enqueue(Task("order", '{"number": "x"}'))
    with pytest.raises(HandlerNotFoundError):
        await client.enqueue(Task("unknown"))
    with pytest.raises(TypeError, match="expected `int`, got `str`"):
        await shop.order.enqueue(client, "x")  # as in production: nothing was sent
    assert [info.type for info in client.enqueued] == ["order", "order", "unknown"]
    await client.aclose()


async def test_inline_retries_as_production_does(shop) -> None:
    client = InlineClient(shop.mux, raises=False)
    told: list[Any] = []
    shop.mux.on_failure(lambda task, error: told.append(("failure", task.retried)))
    shop.mux.on_retry(lambda task, error, delay: told.append(("retry", delay)))
    shop.mux.on_archive(lambda task, error: told.append(("archive", str(error))))
    shop.fails = 2
    info = await shop.order.with_options(retention=60).enqueue(client, 1)
    assert (info.state, info.retried, await client.result(info)) == (TaskState.COMPLETED, 2, 2)
    assert told == [("failure", 0), ("retry", 60), ("failure", 1), ("retry", 60)]
    shop.fails = 9
    del told[:]
    info = await shop.order.enqueue(client, 2)
    assert (info.state, info.retried, info.last_err) == (TaskState.ARCHIVED, 3, "no answer for 2")
    assert told[-2:] == [("failure", 3), ("archive", "no answer for 2")]
    with pytest.raises(TaskFailedError, match="no answer for 2"):
        await client.result(info.id)
    with pytest.raises(TaskIDConflictError):
        await client.enqueue(Task("order"), task_id=info.id)
    await client.aclose()


#: What a handler does → what it comes to, without raising.
VERDICTS: dict[str, tuple[Any, TaskState, int, str]] = {
    "skip": (SkipRetry("no such user"), TaskState.ARCHIVED, 1, "no such user"),
    "revoke": (RevokeTask("old"), TaskState.COMPLETED, 1, ""),
    "later": (RetryAfter(5), TaskState.COMPLETED, 2, ""),
    "cancelled": (asyncio.CancelledError(), TaskState.ARCHIVED, 1, "task cancelled"),
}


@pytest.mark.parametrize(("error", "state", "tries", "text"), VERDICTS.values(), ids=VERDICTS)
async def test_inline_does_what_a_handler_asks_for(error, state, tries, text) -> None:
    mux = ServeMux()
    ran: list[int] = []

    @mux.handler("work")
    async def work(task: Task) -> None:
        ran.append(task.retried)
        if len(ran) == 1:
            raise error

    async with InlineClient(mux, raises=False) as client:
        info = await client.enqueue(Task("work"), max_retry=0)
    assert (info.state, info.last_err, len(ran)) == (state, text, tries)


async def test_inline_limits_and_results() -> None:
    mux = ServeMux()

    @mux.handler("hang")
    async def hang(task: Task) -> None:
        await asyncio.Event().wait()

    @mux.handler("always")
    async def always(task: Task) -> None:
        raise RetryAfter(1)

    @mux.handler("odd")
    async def odd(task: Task) -> object:
        return object()

    @mux.handler("steps")
    async def steps(task: Task) -> str:
        await task.progress(0.5, "half")
        await asyncio.to_thread(task.progress_sync, 1, "all")
        assert task.deadline is not None
        return str(round(task.deadline.timestamp() - time.time()))

    @mux.handler("writes")
    async def writes(task: Task) -> None:
        await task.write_result(b"half")
        await task.write_result(b"whole")

    async with InlineClient(mux) as client:
        with pytest.raises(TaskTimeoutError, match="timed out after 1 s"):
            await client.enqueue(Task("hang"), timeout=1)
        with pytest.raises(TaskDeadlineError):
            await client.enqueue(Task("hang"), deadline=datetime.now(UTC) + timedelta(seconds=1))
        with pytest.raises(TaskDeadlineError):  # it was over before it began, as in production: no handler is called
            await client.enqueue(Task("odd"), deadline=datetime.now(UTC) - timedelta(seconds=5))
        with pytest.raises(RuntimeError, match="asked for more than 100 tries"):
            await client.enqueue(Task("always"))
        with pytest.raises(TypeError, match="the result of the handler, of class object, cannot be stored as JSON"):
            await client.enqueue(Task("odd"), retention=60)
        await client.enqueue(Task("odd"))  # nobody wants its result
        assert await client.result(await client.enqueue(Task("writes"), retention=60), raw=True) == b"whole"
        info = await client.enqueue(Task("steps"), retention=60, timeout=90)
        assert (info.result, info.progress) == (b'"90"', Progress(1, "all"))
        for watched in (client.watch(info), client.watch(info.id)):
            assert [step async for step in watched] == [Progress(1, "all")]
        assert [step async for step in client.watch(await client.enqueue(Task("steps")))] == []  # it is gone
        with pytest.raises(TaskNotFoundError):
            await anext(client.watch("nothing"))
        task = asyncio.ensure_future(client.enqueue(Task("hang")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_inline_locks_and_ids() -> None:
    mux = ServeMux()
    refused: list[Exception] = []

    @mux.task("sync", unique=60)
    async def sync(user_id: int) -> None:
        try:
            await sync.enqueue(inline, user_id)  # while it runs, its lock is held
        except DuplicateTaskError as exc:
            refused.append(exc)

    async with InlineClient(mux) as inline:
        await sync.enqueue(inline, 1)
        await sync.enqueue(inline, 1)
        assert len(refused) == 2
        kept = await inline.enqueue_many([Task("sync", '{"user_id": 2}')] * 2, task_id="a", retention=60)
        assert isinstance(kept[0], TaskInfo)
        assert isinstance(kept[1], TaskIDConflictError)


async def test_inline_refuses(shop) -> None:
    with pytest.raises(TypeError, match="mux must be a ServeMux, got 'redis://'"):
        InlineClient(wrong("redis://"))
    async with InlineClient(shop.mux) as client:
        with pytest.raises(ValueError, match="group must not be given to an InlineClient, where no groups wait: use"):
            await client.enqueue(shop.order.task(1), group="g")
        with pytest.raises(TypeError, match="tasks must be a list of tasks or another iterable, got one task"):
            await client.enqueue_many(wrong(shop.order.task(1)))
        with pytest.raises(TypeError, match="task must be a Task"):
            await client.enqueue(wrong("order"))
        with pytest.raises(TaskNotFoundError):
            await client.result("nothing")
        info = await shop.order.enqueue(client, 1)
        with pytest.raises(ValueError, match="has no retention, so its result is not kept"):
            await client.result(info)
    async with InlineClient(shop.mux, max_payload=10) as client:
        with pytest.raises(ValueError, match="payload must have at most 10 bytes"):
            await client.enqueue(Task("order", json.dumps({"number": 10**20})))
    assert isinstance(client, Client)
