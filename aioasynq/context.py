"""What a handler may ask about where it runs; the server sets it anew for each task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TypeAlias

from aioasynq.task import Task

RunInThread: TypeAlias = Callable[[Callable[[], object]], Awaitable[object]]

CURRENT: ContextVar[Task] = ContextVar("aioasynq_current_task")
"""The task whose handler runs in this context."""

RUN_IN_THREAD: ContextVar[RunInThread] = ContextVar("aioasynq_run_in_thread", default=asyncio.to_thread)
"""Runs a function in a thread, in a copy of this context, and hands back what it returns: how a plain ``def`` runs."""


def current_task() -> Task:
    """The task that is being handled; also in functions a handler calls, and in its threads.

    Raises:
        RuntimeError: called outside a handler.
    """
    try:
        return CURRENT.get()
    except LookupError:
        raise RuntimeError("current_task() was called outside a handler: no task is being processed here") from None
