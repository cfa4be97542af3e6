"""A web app that answers at once and works later: Starlette, with a client and a server of aioasynq in its lifespan.

uvicorn --app-dir examples webapp:app
curl -X POST localhost:8000/welcome -d '{"user_id": 42}'
curl localhost:8000/journal
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from aioasynq import BrokerError, Client, ServeMux, Server, Task, current_task
from aioasynq.mux import Run

QUEUE = os.environ.get("WEBAPP_QUEUE", "default")
PATIENCE = float(os.environ.get("WEBAPP_PATIENCE", "5"))  # seconds a request waits for its task

logging.basicConfig(
    level=logging.INFO
)  # uvicorn sets up its own loggers only; without this aioasynq's INFO is not seen

mux = ServeMux()
journal: list[dict[str, Any]] = []  # what happened to which task
ticks = 0
pings: dict[str, asyncio.Future[float]] = {}


# ── what is done later ──


@mux.use
async def keep_journal(task: Task, call_next: Run) -> object:
    if task.type in {"tick", "ping"}:  # there are thousands of them
        return await call_next(task)
    try:
        result = await call_next(task)
    except Exception as exc:
        journal.append({"id": task.id, "type": task.type, "at": time.time(), "what": f"failed: {exc}"})
        raise
    journal.append({"id": task.id, "type": task.type, "at": time.time(), "what": f"done: {result}"})
    return result


@mux.task("welcome", queue=QUEUE)
async def welcome(user_id: int) -> str:
    return f"wrote to user {user_id}"


@mux.task("remind", queue=QUEUE)
async def remind(text: str) -> str:
    return f"reminded of {text}"


@mux.task("pay", queue=QUEUE, max_retry=5)
async def pay(amount: int) -> str:
    if current_task().retried < 2:
        raise ConnectionError("the bank does not answer")
    return f"paid {amount}"


@mux.task("import", queue=QUEUE, max_retry=1)
async def import_file(path: str) -> str:
    raise ValueError(f"{path} is no table")


@mux.task("tick", queue=QUEUE)
async def tick() -> None:
    global ticks  # noqa: PLW0603 - a counter
    ticks += 1


@mux.task("ping", queue=QUEUE)
async def ping(name: str) -> None:
    if waiting := pings.pop(name, None):
        waiting.set_result(time.perf_counter())


# ── the web app ──


async def enqueue(request: Request, task: Task, process_in: float = 0) -> JSONResponse:
    client: Client = request.state.client
    info = await client.enqueue(task, process_in=process_in)
    return JSONResponse({"id": info.id, "type": info.type, "state": info.state}, 202)


async def post_welcome(request: Request) -> JSONResponse:
    body = await request.json()
    return await enqueue(request, welcome.task(user_id=body["user_id"]))


async def post_reminder(request: Request) -> JSONResponse:
    body = await request.json()
    return await enqueue(request, remind.task(text=body["text"]), process_in=body["seconds"])


async def post_payment(request: Request) -> JSONResponse:
    body = await request.json()
    return await enqueue(request, pay.task(amount=body["amount"]))


async def post_import(request: Request) -> JSONResponse:
    body = await request.json()
    return await enqueue(request, import_file.task(path=body["path"]))


async def post_ping(request: Request) -> JSONResponse:
    """How long it takes from enqueue to the start of the handler, here."""
    client: Client = request.state.client
    name = str(time.perf_counter_ns())
    started: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    pings[name] = started
    began = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE):
            await client.enqueue(ping.task(name))
            return JSONResponse({"ms": (await started - began) * 1000})
    except TimeoutError:
        why = (
            f"the task did not start in this process within {PATIENCE:g} s; does another worker serve queue {QUEUE!r}?"
        )
        return JSONResponse({"error": why}, 504)
    finally:
        pings.pop(name, None)


async def post_ticks(request: Request) -> JSONResponse:
    body = await request.json()
    client: Client = request.state.client
    infos = await client.enqueue_many(tick.task() for _ in range(body["count"]))
    return JSONResponse({"enqueued": sum(not isinstance(info, Exception) for info in infos)}, 202)


async def get_journal(_: Request) -> JSONResponse:
    return JSONResponse({"journal": journal, "ticks": ticks})


async def bad_request(_: Request, error: Exception) -> JSONResponse:
    """No JSON, a member that is missing, or a value that the task or an option does not take."""
    return JSONResponse({"error": f"{type(error).__name__}: {error}"}, 400)


async def no_redis(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 503)


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncGenerator[dict[str, Any]]:
    # Leaving the block is a graceful shutdown: running tasks finish, or go back to their queue.
    async with (
        Client() as client,
        Server(mux=mux, queues={QUEUE: 1}, retry_delay=lambda retried, _error, _task: 0.2 * (retried + 1)),
    ):
        yield {"client": client}


app = Starlette(
    routes=[
        Route("/welcome", post_welcome, methods=["POST"]),
        Route("/reminders", post_reminder, methods=["POST"]),
        Route("/payments", post_payment, methods=["POST"]),
        Route("/imports", post_import, methods=["POST"]),
        Route("/ping", post_ping, methods=["POST"]),
        Route("/ticks", post_ticks, methods=["POST"]),
        Route("/journal", get_journal),
    ],
    exception_handlers={ValueError: bad_request, TypeError: bad_request, KeyError: bad_request, BrokerError: no_redis},
    lifespan=lifespan,
)
