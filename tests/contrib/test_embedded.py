"""Lifespans and helpers for web frameworks: what they do beyond the examples, and what they say when used wrongly."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import httpx
import pytest
import uvicorn
from litestar import Litestar
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from aioasynq import ServeMux, Task, TaskInfo
from aioasynq.contrib import litestar as for_litestar, starlette as for_starlette
from aioasynq.contrib.starlette import get_client, lifespan
from aioasynq.devserver import free_port
from tests.server.stage import PATIENCE, eventually

wrong: Any = lambda value: value  # noqa: E731 - what type checkers would not let pass


async def send(request: Request) -> JSONResponse:
    info = await get_client(request).enqueue(Task("work"))
    return JSONResponse({"state": info.state, "own": getattr(request.state, "own", None)})


ROUTES = [Route("/", send, methods=["POST"])]


@asynccontextmanager
async def serving(app: Starlette):
    """The app on uvicorn, in this loop, and a client for it."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    server.capture_signals = nullcontext  # type: ignore[method-assign, assignment]  # those are pytest's
    serving = asyncio.ensure_future(server.serve())
    await eventually(lambda: server.started)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        yield http
    server.should_exit = True
    async with asyncio.timeout(PATIENCE):
        await serving


async def test_an_app_that_only_enqueues(redis_url: str) -> None:
    """It may be started again and again, and tells hooks."""
    told: list[str] = []

    @asynccontextmanager
    async def inner(app: Starlette):
        told.append("opened")
        yield {"own": "kept"}
        told.append("closed")

    def hook(task: Task, info: TaskInfo) -> None:
        told.append(info.state)

    app = Starlette(routes=ROUTES, lifespan=lifespan(redis_url, inner=inner, on_enqueue=hook))
    for _ in range(2):
        async with serving(app) as http:
            assert (await http.post("/")).json() == {"state": "pending", "own": "kept"}
    assert told == ["opened", "pending", "closed"] * 2


async def test_an_app_of_litestar_may_have_several(redis_url: str) -> None:
    app = Litestar([], lifespan=[for_litestar.lifespan(redis_url), for_litestar.lifespan(redis_url)])
    async with app.lifespan():
        assert (await for_litestar.get_client(app.state).enqueue(Task("work"))).state == "pending"
    with pytest.raises(RuntimeError, match="the app has no aioasynq client"):
        for_litestar.get_client(app.state)


WRONG: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "mux first": (
        (ServeMux(),),
        {},
        TypeError,
        "redis comes first, then the mux: lifespan(url, mux) or lifespan(mux=mux)",
    ),
    "an app, as it was not called": (
        (Starlette(),),
        {},
        TypeError,
        "lifespan must be called where the app is made, as lifespan(mux=mux), got <starlette.applications.Starlette",
    ),
    "no URL": (("localhost:6379",), {}, ValueError, "redis must be a URL that begins with"),
    "no mux": (
        (None, "tasks:mux"),
        {},
        TypeError,
        "mux must be a ServeMux, or None for an app that only enqueues, got",
    ),
    "options without": (
        (),
        {"concurrency": 3},
        TypeError,
        "options are those of a server, which needs a mux, got conc",
    ),
    "wrong option": (
        (None, ServeMux()),
        {"concurency": 3},
        TypeError,
        "a server has no option 'concurency' (did you mean conc",
    ),
    "wrong value": ((None, ServeMux()), {"concurrency": 0}, ValueError, "concurrency must be at least 1, got 0"),
    "wrong hook": ((), {"on_enqueue": "x"}, TypeError, "on_enqueue must be a function of 2 arguments"),
}


@pytest.mark.parametrize("make", [for_starlette.lifespan, for_litestar.lifespan], ids=["starlette", "litestar"])
@pytest.mark.parametrize(("args", "options", "error", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_lifespan_is_refused_where_it_is_made(make, args, options, error, text) -> None:
    with pytest.raises(error) as caught:
        make(*args, **options)
    assert text in str(caught.value)


def test_an_inner_lifespan_is_a_function() -> None:
    with pytest.raises(TypeError, match="inner must be a lifespan: a function of the app that makes a context manager"):
        lifespan(inner=wrong("database"))


async def test_an_app_without_the_lifespan() -> None:
    transport = httpx.ASGITransport(Starlette(routes=ROUTES))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        with pytest.raises(RuntimeError) as caught:
            await http.post("/")
    assert str(caught.value) == (
        "the app has no aioasynq client: make it with lifespan=aioasynq.contrib.starlette.lifespan(…), and let it start"
    )
    from litestar.datastructures import State

    with pytest.raises(RuntimeError, match=r"make it with lifespan=\[aioasynq.contrib.litestar.lifespan\(…\)\]"):
        for_litestar.get_client(State({}))


@pytest.mark.parametrize("framework", ["starlette", "litestar", "django"])
def test_what_to_install_is_said(framework: str) -> None:
    program = f"""
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "{framework}" else find(name, *rest)
try:
    import aioasynq.contrib.{framework}
except ImportError as exc:
    print(exc, exc.name, sep="|")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout.strip() == (
        f"aioasynq.contrib.{framework} needs {framework}: install aioasynq with the extra '{framework}', "
        f"or {framework}|{framework}"
    )


def test_the_frameworks_are_imported_by_their_modules_only() -> None:
    program = "import sys, aioasynq, aioasynq.contrib, aioasynq.testing; aioasynq.Client, aioasynq.Server; print("
    program += "sorted({'starlette', 'fastapi', 'litestar', 'django', 'pytest'} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout.strip() == "[]"
