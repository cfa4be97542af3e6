"""One trace: it begins in a web request, goes through a Go worker that enqueues again, and ends in a Python worker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest
import uvicorn
from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from aioasynq import Client, ServeMux, Server, Task, keys
from aioasynq.otel import OpenTelemetry
from aioasynq.proto.codec import decode_task
from tests.conformance.go_side import GoServer
from tests.server.stage import Seen, eventually, patience


@asynccontextmanager
async def serving(app: Starlette) -> AsyncGenerator[str]:
    """The app on a port of its own; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none", http="h11"))
        work = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            await eventually(lambda: server.started)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await work


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracers(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    yield made
    made.shutdown()


def app(client: Client, tracer: trace.Tracer) -> Starlette:
    async def sign_up(request: Request) -> JSONResponse:
        """As an instrumentation of the web framework does: a span of the server's, within the trace of the caller."""
        with tracer.start_as_current_span("POST /sign-up", extract(request.headers), SpanKind.SERVER):
            info = await client.enqueue(
                Task("relay:email:welcome", await request.body()), queue="go", headers={"to": "python"}
            )
            return JSONResponse({"id": info.id}, 202)

    return Starlette(routes=[Route("/sign-up", sign_up, methods=["POST"])])


async def traceparent(redis: Any, queue: str) -> str:
    """Of the one task that waits in a queue, as it lies in Redis."""
    [task_id] = await redis.lrange(keys.pending(queue), 0, -1)
    headers = decode_task(await redis.hget(keys.task(queue, task_id.decode()), keys.MSG)).headers
    return headers["traceparent"]


async def test_a_trace_from_the_web_through_go_to_python(
    go_programs, redis_url, redis, tracers: TracerProvider, exporter: InMemorySpanExporter
):
    observer = OpenTelemetry(tracer_provider=tracers)
    tracer = tracers.get_tracer("test")
    mux, done = ServeMux(), Seen()

    @mux.handler("email:welcome")
    async def welcome(task: Task) -> None:
        with tracer.start_as_current_span("smtp"):
            done.add(task.payload)

    async with patience(40), Client(redis_url, observers=[observer]) as client:
        async with serving(app(client, tracer)) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
            with tracer.start_as_current_span("click", kind=SpanKind.CLIENT):
                headers: dict[str, str] = {}
                inject(headers)
                answer = await http.post("/sign-up", content=b'{"user": 42}', headers=headers)
        assert answer.status_code == 202
        to_go = await traceparent(redis, "go")
        async with GoServer(redis_url, queues=["go"]) as go:
            await go.settled(answer.json()["id"], as_="done")
        to_python = await traceparent(redis, "python")
        async with Server(redis_url, mux, queues=["python"], observers=[observer]):
            await done.until(1)
            await eventually(lambda: len(exporter.get_finished_spans()) == 5)

    assert done.all == [b'{"user": 42}']
    spans: dict[str, ReadableSpan] = {span.name: span for span in exporter.get_finished_spans()}
    way = [spans[name] for name in ("click", "POST /sign-up", "send go", "process python", "smtp")]
    assert len(spans) == len(way)
    contexts = [span.context for span in way]
    assert len({context.trace_id for context in contexts if context is not None}) == 1
    assert way[0].parent is None
    for parent, child in pairwise(way):
        assert child.parent is not None
        assert parent.context is not None
        assert child.parent.span_id == parent.context.span_id, f"{child.name} is no child of {parent.name}"
    send = way[2].context
    assert send is not None
    assert to_go == to_python == f"00-{send.trace_id:032x}-{send.span_id:016x}-{send.trace_flags:02x}"
