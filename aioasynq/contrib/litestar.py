"""Litestar: ``Litestar(lifespan=[lifespan(mux=mux)])``, and the client as a dependency."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Unpack

from aioasynq.client import Client
from aioasynq.contrib.embedded import KEY, Redis, client_in, embedded
from aioasynq.contrib.needs import needs
from aioasynq.hooks import EnqueueHook
from aioasynq.mux import ServeMux
from aioasynq.server.config import ServerOptions

needs("litestar", "litestar")
from litestar.datastructures import State  # noqa: E402 - Litestar has to find it by the name of an annotation
from litestar.di import Provide  # noqa: E402

__all__ = ["get_client", "lifespan", "provide_client"]


def lifespan(
    redis: Redis = None,
    mux: ServeMux | None = None,
    *,
    on_enqueue: EnqueueHook | Iterable[EnqueueHook] | None = None,
    **options: Unpack[ServerOptions],
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """One of the lifespans of an app, with a client, and with a server at work in the same process if there is a *mux*.

    ``Litestar(lifespan=[lifespan(mux=mux)], dependencies={"tasks": provide_client})``. The client is also
    ``app.state.aioasynq``. When the app ends, running tasks may finish; what does not goes back to its queue.

    Args:
        redis: as of a Client.
        mux: the handlers; None for an app that only enqueues.
        on_enqueue: as of a Client.
        options: of the server, as ``concurrency`` and ``queues``.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """
    opens = embedded(redis, mux, on_enqueue, dict(options))

    @asynccontextmanager
    async def of_app(app: Any) -> AsyncGenerator[None]:
        async with opens() as client:
            app.state[KEY] = client
            try:
                yield
            finally:
                if app.state.get(KEY) is client:  # an app may have several, of which the last one's is there
                    del app.state[KEY]

    return of_app


def get_client(state: State) -> Client:
    """The client of an app, from its state.

    Raises:
        RuntimeError: the app was made without :func:`lifespan`, or was not started.
    """
    return client_in(state, "lifespan=[aioasynq.contrib.litestar.lifespan(…)]")


provide_client = Provide(get_client, sync_to_thread=False)
"""The client as a dependency: ``dependencies={"tasks": provide_client}`` fills ``tasks: NamedDependency[Client]``."""
