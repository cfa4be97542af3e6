"""What a handler and what is around it look like, and how a plain function is called."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeAlias, cast

from aioasynq.context import RUN_IN_THREAD
from aioasynq.task import Task

Handler: TypeAlias = Callable[[Task], Awaitable[object] | object]
"""Takes a task and returns its result. An ``async def`` runs on the event loop, a plain ``def`` in a thread."""
Run: TypeAlias = Callable[[Task], Coroutine[Any, Any, object]]
Middleware: TypeAlias = Callable[[Task, Run], Coroutine[Any, Any, object]]
"""``async def middleware(task, call_next)``: returns what ``await call_next(task)`` returned, or does otherwise."""


async def in_thread(call: Callable[[], object]) -> object:
    """What *call* returns, called in a thread."""
    result = await RUN_IN_THREAD.get()(partial(_guarded, call))
    # a plain function may hand back a coroutine, as wrappers around async functions do; it belongs on the loop
    return await result if inspect.isawaitable(result) else result


def _guarded(call: Callable[[], object]) -> object:
    try:
        return call()
    except StopIteration as exc:  # a future cannot carry it: whoever awaits it would wait for ever
        raise RuntimeError("handler raised StopIteration") from exc


def is_async(function: object) -> bool:
    """Does calling it make a coroutine?"""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def refuse_generator(what: str, function: object) -> None:
    """Refuse a function that yields.

    Raises:
        TypeError: it does; the text begins with *what*.
    """
    called = (function, type(function).__call__)
    if any(inspect.isasyncgenfunction(each) or inspect.isgeneratorfunction(each) for each in called):
        raise TypeError(f"{what} must not yield: it would return before it has done anything, got {function!r}")


def check_middleware(middleware: object) -> Middleware:
    """Hand back *middleware*, which can be put around handlers.

    Raises:
        TypeError: it is no async function of two arguments.
    """
    must = "middleware must be an async function of a task and the next step"
    if not is_async(middleware):
        raise TypeError(f"{must}, got {middleware!r}")
    try:
        inspect.signature(cast("Middleware", middleware)).bind(None, None)
    except TypeError as exc:
        raise TypeError(f"{must}, got {middleware!r}: {exc}") from None
    return cast("Middleware", middleware)


def check_all_middleware(given: object) -> tuple[Middleware, ...]:
    """Hand back a list of middleware as a tuple.

    Raises:
        TypeError: *given* is no list of async functions.
    """
    if not isinstance(given, list | tuple):
        raise TypeError(f"middleware must be a list of async functions, got {given!r}")
    return tuple(map(check_middleware, cast("Iterable[object]", given)))
