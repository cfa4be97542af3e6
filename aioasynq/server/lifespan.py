"""The lifespan of a server: a context manager of the user's around all it does, and the state that it yields."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, cast

from aioasynq.context import STATE
from aioasynq.errors import ServerStateError

if TYPE_CHECKING:
    from aioasynq.server.config import LifespanFactory
    from aioasynq.typed import TaskType

log = logging.getLogger(__name__)

LEAVE_LIMIT = 10.0  #: seconds that leaving it may take at the end of a server
LAST_GRACE = 1.0  #: seconds it has to end once it was cancelled because of that


class Lifespan:
    """Enters and leaves it in one asyncio task, as task groups and cancel scopes in it need.

    Args:
        factory: makes the context manager; None for a server without one.
        server: what it is made with, if it takes an argument.
        on_broken: called when it ends by itself while the server works.
    """

    def __init__(self, factory: LifespanFactory | None, server: object, on_broken: Callable[[], object]) -> None:
        self._factory = factory
        self._server = server
        self._on_broken = on_broken
        self._leaving = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.context: Context = copy_context()  #: in which the server works: with the state, and what was set there
        self.error: BaseException | None = None  #: by which it ended while the server worked

    async def enter(self) -> None:
        """Enter it. Whatever it raises comes out of here.

        Raises:
            TypeError: what the factory made is no async context manager.
        """
        if self._factory is None:
            return
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(
            self._live(self._factory, entered), name="aioasynq lifespan", context=self.context
        )
        try:
            await asyncio.wait({self._task, entered}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.leave(hurry=None)
            raise
        if not entered.done():
            ended, self._task = self._task, None
            await ended  # it raises
        else:
            self._task.add_done_callback(self._ended)

    async def leave(self, hurry: asyncio.Event | None) -> None:
        """Leave it, within limits; once *hurry* is set it is cancelled. What it raises is logged."""
        task = self._task
        if task is None:
            return
        self._leaving.set()
        if hurry is None:
            task.cancel()
        else:
            hurried = asyncio.ensure_future(hurry.wait())
            await asyncio.wait({task, hurried}, timeout=LEAVE_LIMIT, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
        if not task.done():
            if hurry is not None:
                log.error("the lifespan did not end in time and is cancelled")
            task.cancel()
            await asyncio.wait({task}, timeout=LAST_GRACE)
        if not task.done():
            log.error("the lifespan did not end when cancelled and is left to itself")
        elif not task.cancelled() and (error := task.exception()) is not None and error is not self.error:
            log.error("the lifespan failed at its end", exc_info=error)

    async def _live(self, factory: LifespanFactory, entered: asyncio.Future[None]) -> None:
        manager = factory(self._server) if takes_server(factory) else cast("Callable[[], Any]", factory)()
        if not isinstance(manager, AbstractAsyncContextManager):
            raise TypeError(f"lifespan must make an async context manager, got {manager!r} from {factory!r}")
        async with manager as state:
            STATE.set(state)
            entered.set_result(None)
            await self._leaving.wait()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._leaving.is_set():
            return
        self.error = asyncio.CancelledError() if task.cancelled() else task.exception()
        log.critical("the lifespan ended while the server works, which now shuts down", exc_info=self.error)
        self._on_broken()

    def check_states(self, task_types: Iterable[tuple[str, TaskType[Any, Any, Any]]]) -> None:
        """Refuse a state that is not what handlers say they take.

        Raises:
            ServerStateError: there is such a handler; it is named.
        """
        state = self.context.get(STATE)
        there = (
            "there is no lifespan: Server(mux=..., lifespan=...) has one that yields it"
            if self._factory is None
            else f"the lifespan yields {state!r}"
        )
        for pattern, task_type in task_types:
            check_state(pattern, task_type, state, there)


def check_state(pattern: str, task_type: TaskType[Any, Any, Any], state: object, there: str) -> None:
    """Refuse a *state* that is not what a handler says it takes; *there* says what there is.

    Raises:
        ServerStateError: it is not.
    """
    for wanted in task_type.states:
        if isinstance(wanted, type) and _is_other(state, wanted):
            raise ServerStateError(f"handler of {pattern!r} takes a Context[{wanted.__name__}], but {there}")


def takes_server(factory: Callable[..., object]) -> bool:
    """Is it called with the server, or with nothing?

    Raises:
        TypeError: neither.
    """
    signature = inspect.signature(factory)
    try:
        signature.bind()
    except TypeError:
        signature.bind(None)
        return True
    parameters = list(signature.parameters.values())
    return bool(parameters) and parameters[0].kind in {
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    }


def check_lifespan(factory: object) -> None:
    """Refuse what cannot be a lifespan.

    Raises:
        TypeError: it cannot; the text says what would be right.
    """
    must = "lifespan must be a function, of the server or of nothing, that makes an async context manager"
    if not callable(factory):
        raise TypeError(f"{must}, got {factory!r}")
    if isinstance(factory, AbstractAsyncContextManager):  # those of contextlib can be called, as decorators
        raise TypeError(f"{must}, got one that is made already, {factory!r}: give the function, without calling it")
    if inspect.isasyncgenfunction(factory) or inspect.iscoroutinefunction(factory):
        raise TypeError(f"{must}, got {factory!r}: decorate it with contextlib.asynccontextmanager")
    try:
        takes_server(factory)
    except TypeError as exc:
        raise TypeError(f"{must}, got {factory!r}: {exc}") from None


def _is_other(state: object, wanted: type) -> bool:
    try:
        return not isinstance(state, wanted)
    except TypeError:  # a TypedDict or a protocol: nobody can tell
        return False
