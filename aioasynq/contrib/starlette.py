"""Starlette and FastAPI: ``FastAPI(lifespan=lifespan(mux=mux))``, and the client in each request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias, Unpack

from aioasynq.client import Client
from aioasynq.contrib.embedded import KEY, Redis, client_in, embedded
from aioasynq.contrib.needs import needs
from aioasynq.hooks import EnqueueHook
from aioasynq.mux import ServeMux
from aioasynq.server.config import ServerOptions

needs("starlette", "starlette")
from starlette.requests import HTTPConnection  # noqa: E402 - FastAPI has to find it by the name of an annotation

AppLifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

__all__ = ["get_client", "lifespan"]


def lifespan(
    redis: Redis = None,
    mux: ServeMux | None = None,
    *,
    inner: AppLifespan | None = None,
    on_enqueue: EnqueueHook | Iterable[EnqueueHook] | None = None,
    **options: Unpack[ServerOptions],
) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """A lifespan of an app, with a client, and with a server at work in the same process if there is a *mux*.

    ``FastAPI(lifespan=lifespan(mux=mux, concurrency=20))``. The client is ``request.state.aioasynq``, or what
    ``Depends(get_client)`` gives. When the app ends, running tasks may finish; what does not goes back to its queue.

    Args:
        redis: as of a Client.
        mux: the handlers; None for an app that only enqueues.
        inner: a lifespan of the app's own, which is entered first and left last; its state is kept.
        on_enqueue: as of a Client.
        options: of the server, as ``concurrency`` and ``queues``.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """
    if inner is not None and not callable(inner):
        raise TypeError(f"inner must be a lifespan: a function of the app that makes a context manager, got {inner!r}")
    opens = embedded(redis, mux, on_enqueue, dict(options))

    @asynccontextmanager
    async def of_app(app: Any) -> AsyncGenerator[Mapping[str, Any]]:
        if inner is None:
            async with opens() as client:
                yield {KEY: client}
        else:
            async with inner(app) as state, opens() as client:
                yield {**(state or {}), KEY: client}

    return of_app


def get_client(connection: HTTPConnection) -> Client:
    """The client of a request or a websocket; for FastAPI ``Annotated[Client, Depends(get_client)]``.

    Raises:
        RuntimeError: the app was made without :func:`lifespan`, or was not started.
    """
    return client_in(connection.state, "lifespan=aioasynq.contrib.starlette.lifespan(…)")
