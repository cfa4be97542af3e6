"""A client, and a server where there are handlers, open while an app runs: what all web frameworks have in common."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from aioasynq.client import Client
from aioasynq.hooks import EnqueueHook, enqueue_hooks
from aioasynq.mux import ServeMux
from aioasynq.rdb.rdb import RDB
from aioasynq.server import Server
from aioasynq.server.config import config_of

if TYPE_CHECKING:
    from aioasynq.rdb.connection import ToRedis

Redis: TypeAlias = "ToRedis | RDB | None"
Opens: TypeAlias = Callable[[], AbstractAsyncContextManager[Client]]

KEY = "aioasynq"  #: under which an app's state has the client


def embedded(
    redis: Redis, mux: ServeMux | None, on_enqueue: EnqueueHook | Iterable[EnqueueHook] | None, options: dict[str, Any]
) -> Opens:
    """What opens a client, and a server at work if there is a *mux*. An app may be started any number of times.

    Raises:
        TypeError, ValueError: an argument is wrong; it is said where the app is made, not when it starts.
    """
    if isinstance(redis, ServeMux):
        raise TypeError(f"redis comes first, then the mux: lifespan(url, mux) or lifespan(mux=mux), got {redis!r}")
    if callable(redis):  # an app, which has called what it was given as its lifespan
        raise TypeError(f"lifespan must be called where the app is made, as lifespan(mux=mux), got {redis!r} as redis")
    if redis is not None:
        Client(redis)  # for its checks
    if mux is not None and not isinstance(mux, ServeMux):
        raise TypeError(f"mux must be a ServeMux, or None for an app that only enqueues, got {mux!r}")
    if mux is None and options:
        raise TypeError(f"options are those of a server, which needs a mux, got {', '.join(options)} without one")
    config = config_of(None, options)
    hooks = enqueue_hooks(on_enqueue)

    @asynccontextmanager
    async def opens() -> AsyncGenerator[Client]:
        async with AsyncExitStack() as opened:
            client = await opened.enter_async_context(Client(redis, on_enqueue=hooks))
            if mux is not None:
                await opened.enter_async_context(Server(redis, mux, config=config))
            yield client

    return opens


def client_in(state: object, where: str) -> Client:
    """The client that a lifespan has put into *state*.

    Raises:
        RuntimeError: there is none; the text says what to do.
    """
    client = getattr(state, KEY, None)
    if not isinstance(client, Client):
        raise RuntimeError(f"the app has no aioasynq client: make it with {where}, and let it start")  # noqa: TRY004
    return client
