"""What a handler may ask about where it runs; the server sets it anew for each task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Generic, TypeAlias, TypeVar, cast

from aioasynq.task import Task

S_co = TypeVar("S_co", covariant=True)

RunInThread: TypeAlias = Callable[[Callable[[], object]], Awaitable[object]]

CURRENT: ContextVar[Task] = ContextVar("aioasynq_current_task")
"""The task whose handler runs in this context."""

STATE: ContextVar[Any] = ContextVar("aioasynq_state")
"""What the lifespan of the server in this context has yielded; set only where there is one."""

RUN_IN_THREAD: ContextVar[RunInThread] = ContextVar("aioasynq_run_in_thread", default=asyncio.to_thread)
"""Runs a function in a thread, in a copy of this context, and hands back what it returns: how a plain ``def`` runs."""


class Context(Generic[S_co]):
    """Where a handler runs: its task, and the state of its server.

    The parameter of a typed handler that is annotated ``Context[State]`` is filled in with one, and is no part of the
    payload. It comes first, so that type checkers know. Tests of a handler make one: ``Context(task, state)``.
    """

    __slots__ = ("_state", "task")

    def __init__(self, task: Task, state: S_co | None = None) -> None:
        self.task = task  #: the one that is being handled
        self._state = state

    @property
    def state(self) -> S_co:
        """What the ``lifespan`` of the server has yielded; None where it yielded nothing, or there is none."""
        return cast("S_co", self._state)

    def __repr__(self) -> str:
        return f"<Context of {self.task!r}>"


def current_task() -> Task:
    """The task that is being handled; also in functions a handler calls, and in its threads.

    Raises:
        RuntimeError: called outside a handler.
    """
    try:
        return CURRENT.get()
    except LookupError:
        raise RuntimeError("current_task() was called outside a handler: no task is being processed here") from None


def current_context() -> Context[Any]:
    """The task that is being handled and the state of its server: for middleware, raw handlers and what they call.

    Raises:
        RuntimeError: called outside a handler.
    """
    try:
        return Context(CURRENT.get(), STATE.get(None))
    except LookupError:
        raise RuntimeError("current_context() was called outside a handler: no task is being processed here") from None
