"""Traces and metrics of OpenTelemetry: what spans there are, whose children they are, and what they say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from aioasynq import (
    RDB,
    BrokerError,
    Client,
    DuplicateTaskError,
    RetryAfter,
    RevokeTask,
    Scheduler,
    ServeMux,
    Server,
    SkipRetry,
    Task,
    keys,
)
from aioasynq.observer import Observer
from aioasynq.otel import OpenTelemetry, _server
from aioasynq.proto.codec import decode_task
from tests.observability.conftest import Telemetry, id_of, parent_of, trace_of
from tests.server.stage import Seen, eventually, patience
from tests.support.proxy import Proxy


async def headers(redis: Any, task_id: str) -> dict[str, str]:
    return decode_task(await redis.hget(keys.task("default", task_id), keys.MSG)).headers


def traceparent(span: Any) -> str:
    return f"00-{trace_of(span)}-{id_of(span)}-{span.context.trace_flags:02x}"


async def test_a_task_is_the_child_of_who_enqueued_it(redis_url, redis, telemetry: Telemetry):
    mux, inner = ServeMux(), Seen()

    @mux.task("email:welcome")
    async def welcome() -> None:
        inner.add(trace.get_current_span().get_span_context())

    async with patience(), Client(redis_url, observers=[telemetry.observer]) as client:
        with telemetry.tracers.get_tracer("app").start_as_current_span("request"):
            info = await client.enqueue(welcome.task(), task_id="x", headers={"user": "ada"})
        request, send = telemetry.named("request"), telemetry.named("send default")
        assert await headers(redis, "x") == {"user": "ada", "traceparent": traceparent(send)} == info.headers
        async with Server(redis_url, mux, observers=[telemetry.observer]):
            await eventually(lambda: len(telemetry.spans) == 3)
    process = telemetry.named("process default")
    assert {trace_of(span) for span in telemetry.spans} == {trace_of(request)}
    assert [parent_of(span) for span in (request, send, process)] == [None, id_of(request), id_of(send)]
    assert [f"{link.context.span_id:016x}" for link in process.links] == [id_of(send)]
    assert [span.kind for span in (send, process)] == [SpanKind.PRODUCER, SpanKind.CONSUMER]
    assert inner.all == [process.context]
    port = int(redis_url.rpartition(":")[2].removesuffix("/0"))
    assert dict(send.attributes or {}) == {
        "messaging.system": "asynq",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "default",
        "messaging.message.id": "x",
        "messaging.message.body.size": 2,
        "messaging.asynq.task.type": "email:welcome",
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    assert dict(process.attributes or {}) == {
        **(send.attributes or {}),
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.asynq.task.attempt": 1,
        "messaging.asynq.task.max_retry": 25,
        "messaging.asynq.task.outcome": "done",
    }
    assert process.start_time is not None
    assert process.end_time is not None
    assert process.start_time <= process.end_time


async def test_a_firing_begins_a_trace_that_its_handler_goes_on_with(redis_url, redis, telemetry: Telemetry):
    mux = ServeMux()
    mux.add("report", lambda task: None)
    scheduler = Scheduler(redis_url, observers=[telemetry.observer])
    with telemetry.tracers.get_tracer("app").start_as_current_span("request"):
        entry = scheduler.register("@every 1h", Task("report"), catch_up="once")
        await redis.set(keys.fired("default", entry), b"3600 1 test")
        async with patience(), scheduler, Server(redis_url, mux, observers=[telemetry.observer]):
            await eventually(lambda: len(telemetry.spans) >= 2)
    send, process = telemetry.named("send default"), telemetry.named("process default")
    assert [parent_of(span) for span in (send, process)] == [None, id_of(send)]
    assert trace_of(send) != trace_of(telemetry.named("request"))
    assert telemetry.points("messaging.client.sent.messages", "messaging.destination.name") == {"default": 1}


async def test_a_task_of_a_handler_is_its_child_whatever_its_headers_say(redis_url, telemetry: Telemetry):
    mux = ServeMux()
    async with Client(redis_url, observers=[telemetry.observer]) as client:

        @mux.handler("first")
        async def first(task: Task) -> None:
            await client.enqueue(Task("second"), queue="low", headers=task.headers)

        mux.add("second", lambda task: None)
        async with patience(), Server(redis_url, mux, queues=["default", "low"], observers=[telemetry.observer]):
            await client.enqueue(Task("first"))
            await eventually(lambda: len(telemetry.spans) == 4)
    chain = [telemetry.named(name) for name in ("send default", "process default", "send low", "process low")]
    assert [parent_of(span) for span in chain] == [None, *map(id_of, chain[:-1])]


async def test_outside_of_a_trace_the_headers_name_the_parent(redis_url, telemetry: Telemetry):
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with Client(redis_url, observers=[telemetry.observer]) as client:
        await client.enqueue(Task("t"), headers={"traceparent": given})
        await client.enqueue(Task("t"), headers={"traceparent": "junk"})
    first, second = telemetry.spans
    assert (trace_of(first), parent_of(first)) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert parent_of(second) is None


async def _done(task: Task) -> None: ...


async def _raise(task: Task) -> None:
    raise ValueError("no")


class _MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


async def _raise_mute(task: Task) -> None:
    raise _MuteError


async def _raise_no_text(task: Task) -> None:
    raise FileNotFoundError("no \udcff")


async def _skip(task: Task) -> None:
    raise SkipRetry("never")


async def _revoke(task: Task) -> None:
    raise RevokeTask("not wanted")


async def _later(task: Task) -> None:
    raise RetryAfter(600)


async def _hang(task: Task) -> None:
    await asyncio.sleep(60)


async def _not_json(task: Task) -> object:
    return object()


OUTCOMES = {
    "done": (_done, {}, "done", None),
    "completed": (_done, {"retention": 60}, "completed", None),
    "failed": (_raise, {}, "retry", "ValueError"),
    "failed for good": (_raise, {"max_retry": 0}, "archived", "ValueError"),
    "failed without a text": (_raise_mute, {}, "retry", f"{__name__}._MuteError"),
    "failed with what is no text": (_raise_no_text, {}, "retry", "FileNotFoundError"),
    "skipped": (_skip, {}, "archived", "aioasynq.errors.SkipRetry"),
    "revoked": (_revoke, {}, "revoked", None),
    "comes back": (_later, {}, "postponed", None),
    "out of time": (_hang, {"timeout": 1}, "retry", "aioasynq.errors.TaskTimeoutError"),
    "over before it began": (_done, {"deadline": 1_000_000_000}, "retry", "aioasynq.errors.TaskDeadlineError"),
    "a result that is none": (_not_json, {"retention": 60}, "archived", "TypeError"),
}


@pytest.mark.parametrize(("handler", "options", "outcome", "error"), OUTCOMES.values(), ids=OUTCOMES)
async def test_how_a_task_ends(redis_url, telemetry: Telemetry, caplog, handler, options, outcome, error):
    caplog.set_level(logging.CRITICAL, "aioasynq")  # a traceback with what is no text could not be reported
    mux = ServeMux()
    mux.add("t:", handler)
    async with (
        patience(),
        Client(redis_url, observers=[telemetry.observer]) as client,
        Server(redis_url, mux, observers=[telemetry.observer]),
    ):
        await client.enqueue(Task("t:1"), **options)
        await eventually(lambda: len(telemetry.spans) == 2)
    span = telemetry.named("process default")
    assert span.attributes is not None
    assert span.attributes["messaging.asynq.task.outcome"] == outcome
    assert span.attributes.get("error.type") == error
    assert (span.status.status_code is StatusCode.ERROR) == (error is not None)
    assert [event.name for event in span.events] == (["exception"] if error else [])
    for event in span.events:
        about = event.attributes or {}
        assert about["exception.type"] == error
        for value in about.values():
            str(value).encode()  # an exporter can send it
    (span.status.description or "").encode()
    assert telemetry.points("messaging.process.duration", "error.type") == {error: 1}
    assert telemetry.points("messaging.process.duration", "messaging.asynq.task.outcome") == {outcome: 1}
    assert telemetry.points("messaging.client.consumed.messages", "messaging.asynq.task.pattern") == {"t:": 1}
    assert telemetry.points("messaging.asynq.process.active", "messaging.destination.name") == {"default": 0}
    assert telemetry.points("messaging.client.sent.messages", "messaging.destination.name") == {"default": 1}
    assert telemetry.points("messaging.client.operation.duration", "error.type") == {None: 1}


async def test_what_a_shutdown_gives_back_ends_its_span(redis_url, telemetry: Telemetry):
    mux, began = ServeMux(), Seen()

    @mux.handler("t")
    async def hold(task: Task) -> None:
        began.add(task.id)
        await asyncio.sleep(60)

    @mux.handler("stubborn")
    async def stubborn(task: Task) -> None:
        began.add(task.id)
        while True:
            try:
                await gate.wait()
                return
            except asyncio.CancelledError:
                continue

    gate = asyncio.Event()
    async with Client(redis_url) as client:
        async with Server(redis_url, mux, shutdown_timeout=0, observers=[telemetry.observer]):
            await client.enqueue_many([Task("t"), Task("stubborn")])
            await began.until(2)
        gate.set()
    assert [(span.attributes or {})["messaging.asynq.task.outcome"] for span in telemetry.spans] == ["requeued"] * 2
    assert [span.status.status_code for span in telemetry.spans] == [StatusCode.UNSET] * 2


async def test_a_task_that_is_refused(redis_url, telemetry: Telemetry):
    async with Client(redis_url, observers=[telemetry.observer]) as client:
        await client.enqueue(Task("t"), unique=60)
        with pytest.raises(DuplicateTaskError):
            await client.enqueue(Task("t"), unique=60)
        with pytest.raises(ValueError, match="queue must not contain braces"):  # nothing was sent, so there is no span
            await client.enqueue(Task("t"), queue="{}")
    good, refused = telemetry.spans
    assert good.status.status_code is StatusCode.UNSET
    assert refused.status.status_code is StatusCode.ERROR
    assert (refused.attributes or {})["error.type"] == "aioasynq.errors.DuplicateTaskError"
    assert telemetry.points("messaging.client.sent.messages", "error.type") == {
        None: 1,
        "aioasynq.errors.DuplicateTaskError": 1,
    }


async def test_redis_is_away(redis_url, telemetry: Telemetry, proxy: Callable[..., Awaitable[Proxy]]):
    between = await proxy()
    await between.down()
    async with Client(between.url, operation_timeout=0.2, observers=[telemetry.observer]) as client:
        with pytest.raises(BrokerError):
            await client.enqueue(Task("t"))
        assert all(isinstance(each, BrokerError) for each in await client.enqueue_many([Task("t"), Task("u")]))
    assert telemetry.points("messaging.client.sent.messages", "error.type") == {"aioasynq.errors.BrokerError": 3}


async def test_a_caller_who_is_cancelled_ends_the_span(
    redis_url, redis, telemetry: Telemetry, proxy: Callable[..., Awaitable[Proxy]]
):
    between = await proxy()
    async with Client(between.url, observers=[telemetry.observer]) as client, patience():
        await client.ping()
        between.delay(reply=0.3)
        work = asyncio.create_task(client.enqueue(Task("t", task_id="x")))
        await eventually(lambda: _is_there(redis, "x"))
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        [span] = telemetry.spans
        assert (span.attributes or {})["error.type"] == "asyncio.exceptions.CancelledError"
        between.delay()


async def _is_there(redis: Any, task_id: str) -> bool:
    return bool(await redis.exists(keys.task("default", task_id)))


async def test_many_tasks_have_a_span_each_and_one_together(redis_url, redis, telemetry: Telemetry):
    async with Client(redis_url, observers=[telemetry.observer]) as client:
        with telemetry.tracers.get_tracer("app").start_as_current_span("request"):
            await client.enqueue_many([Task("t", task_id="a"), Task("t", task_id="b"), Task("t", task_id="a")])
            await client.enqueue_many([Task("t"), Task("t", queue="low")])
            await client.enqueue_many([Task("t", queue="low")])
            await client.enqueue_many([])
    names = [span.name for span in telemetry.spans]
    assert names == [
        *["create default"] * 3,
        "send default",
        *("create default", "create low", "send"),
        "send low",
        "request",
    ]
    *creates, send = telemetry.spans[:4]
    assert [span.kind for span in creates] == [SpanKind.PRODUCER] * 3
    assert send.kind is SpanKind.CLIENT
    assert [f"{link.context.span_id:016x}" for link in send.links] == [id_of(span) for span in creates]
    assert (send.attributes or {})["messaging.batch.message_count"] == 3
    assert send.status.description == "1 of 3 tasks: task id 'a' conflicts with another task in queue 'default'"
    assert await headers(redis, "a") == {"traceparent": traceparent(creates[0])}
    assert await headers(redis, "b") == {"traceparent": traceparent(creates[1])}
    assert telemetry.points("messaging.client.sent.messages", "messaging.destination.name") == {"default": 4, "low": 2}


async def test_each_attempt_has_a_span(redis_url, telemetry: Telemetry):
    mux = ServeMux()

    @mux.handler("t")
    async def flaky(task: Task) -> None:
        if task.retried < 2:
            raise ValueError("no")

    options: Any = {"retry_delay": lambda *_: 0, "observers": [telemetry.observer]}
    async with (
        patience(),
        Client(redis_url, observers=[telemetry.observer]) as client,
        Server(redis_url, mux, **options),
    ):
        await client.enqueue(Task("t"))
        await eventually(lambda: len(telemetry.spans) == 4)
    send = telemetry.named("send default")
    attempts = [span for span in telemetry.spans if span is not send and span.name == "process default"]
    assert [(span.attributes or {})["messaging.asynq.task.attempt"] for span in attempts] == [1, 2, 3]
    assert {parent_of(span) for span in attempts} == {id_of(send)}


async def test_a_trace_of_its_own_that_only_links(redis_url, telemetry: Telemetry):
    mux = ServeMux()
    mux.add("t", _done)
    only_links = telemetry.make(link_only=True)
    async with (
        patience(),
        Client(redis_url, observers=[only_links]) as client,
        Server(redis_url, mux, observers=[only_links]),
    ):
        await client.enqueue(Task("t"))
        await eventually(lambda: len(telemetry.spans) == 2)
    send, process = telemetry.named("send default"), telemetry.named("process default")
    assert parent_of(process) is None
    assert trace_of(process) != trace_of(send)
    assert [f"{link.context.span_id:016x}" for link in process.links] == [id_of(send)]


async def test_the_task_made_of_a_group_links_to_those_it_was_made_of(redis_url, telemetry: Telemetry):
    mux = ServeMux()
    mux.add("all", _done)

    @mux.aggregator
    def together(group: str, tasks: list[Task]) -> Task:
        return Task("all")

    options: Any = {"group_max_size": 2, "observers": [telemetry.observer]}
    async with patience(), Client(redis_url, observers=[telemetry.observer]) as client:
        await client.enqueue(Task("one"), group="g")
        await client.enqueue(Task("two"), group="g")
        ones = telemetry.spans
        async with Server(redis_url, mux, **options):
            await eventually(lambda: len(telemetry.spans) == 4)
    process = telemetry.named("process default")
    [made] = [span for span in telemetry.spans if span not in {*ones, process}]
    assert made.name == "send default"
    assert {f"{link.context.span_id:016x}" for link in made.links} == {id_of(span) for span in ones}
    assert parent_of(process) == id_of(made)


async def test_without_an_sdk_nothing_is_recorded_and_a_trace_is_passed_on(redis_url, redis):
    mux, seen = ServeMux(), Seen()
    observer = OpenTelemetry()
    async with Client(redis_url, observers=[observer]) as client:

        @mux.handler("t")
        async def again(task: Task) -> None:
            seen.add((await client.enqueue(Task("u"), queue="low")).headers)

        given = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        async with Server(redis_url, mux, observers=[observer]):
            assert (await client.enqueue(Task("t"))).headers == {}
            await client.enqueue(Task("t"), headers=given)
            assert sorted(await seen.until(2), key=len) == [{}, given]


class Broken(Observer):
    """Fails wherever it can."""

    def __init__(self, begin: bool) -> None:
        self._begin = begin

    def sending(self, *_: Any, **__: Any) -> Any:
        return self._fail() if self._begin else self._fail

    def processing(self, *_: Any, **__: Any) -> Any:
        return self._fail() if self._begin else self._fail

    def _fail(self, *_: Any) -> None:
        raise RuntimeError("an observer's own fault")


@pytest.mark.parametrize("begin", [True, False])
async def test_an_observer_that_fails_changes_nothing(redis_url, redis, caplog, begin):
    mux, seen = ServeMux(), Seen()
    mux.add("t", lambda task: seen.add(task.id))
    observers = [Broken(begin)]
    async with Client(redis_url, observers=observers) as client, Server(redis_url, mux, observers=observers) as server:
        await client.enqueue(Task("t"))
        await client.enqueue_many([Task("t"), Task("t")])
        await seen.until(3)
        await eventually(lambda: server.counts.processed == 3)
    assert caplog.text.count("an observer failed") == 5 if begin else 6
    assert await redis.keys("*:t:*") == []
    assert {record.levelno for record in caplog.records if "observer" in record.message} == {logging.ERROR}


@pytest.mark.parametrize("wrong", ["x", 7, [7], Observer(), [Observer], None])
@pytest.mark.parametrize("made", [Client, Server])
def test_what_is_no_list_of_observers_is_refused(made, wrong):
    with pytest.raises(TypeError, match=r"^observers must be a list of Observers, got "):
        made("redis://127.0.0.1:1/0", observers=wrong)


ADDRESSES = {
    "redis://example.test:7000/3": {"server.address": "example.test", "server.port": 7000},
    "rediss://example.test/0": {"server.address": "example.test", "server.port": 6379},
    "redis://[::1]:6380/0": {"server.address": "::1", "server.port": 6380},
    "redis-cluster://a:7000,b:7001": {"server.address": "a", "server.port": 7000},
    "unix:///run/redis.sock?db=1": {"server.address": "/run/redis.sock"},
    "": {},
}


@pytest.mark.parametrize(("address", "attributes"), ADDRESSES.items())
def test_where_redis_is(address, attributes):
    assert _server(address) == attributes


async def test_an_observer_is_told_of_an_rdb_that_was_handed_in(redis_url, telemetry: Telemetry):
    async with RDB(redis_url) as rdb, Client(rdb, observers=[telemetry.observer]) as client:
        await client.enqueue(Task("t"))
    assert (telemetry.named("send default").attributes or {})["server.address"] == "127.0.0.1"
