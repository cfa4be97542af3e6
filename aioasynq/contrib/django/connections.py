"""Database connections around handlers: Django closes old ones at each request, and a worker has none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings
from django.db import close_old_connections

from aioasynq.context import RUN_IN_THREAD, RunInThread
from aioasynq.mux import Run
from aioasynq.task import Task
from aioasynq.typed.target import RUN_IN_PROCESS, RunInProcess, Target


async def fresh_connections(task: Task, call_next: Run) -> object:
    """Middleware: before and after each handler, close connections that are broken or past ``CONN_MAX_AGE``.

    Those of the thread that a plain ``def`` runs in, and of the one in which Django's async calls work; of a child
    process too, where Django is set up before the handler is looked for.
    """
    RUN_IN_THREAD.set(_with_fresh(RUN_IN_THREAD.get()))
    if (in_process := RUN_IN_PROCESS.get()) is not None:
        RUN_IN_PROCESS.set(_with_django(in_process))
    await sync_to_async(close_old_connections)()
    try:
        return await call_next(task)
    finally:
        await sync_to_async(close_old_connections)()


def _with_fresh(run: RunInThread) -> RunInThread:
    async def run_in_thread(call: Callable[[], object]) -> object:
        def closing() -> object:
            close_old_connections()
            try:
                return call()
            finally:
                close_old_connections()

        return await run(closing)

    return run_in_thread


def _with_django(run: RunInProcess) -> RunInProcess:
    def run_in_process(target: Target, task: Task) -> Coroutine[Any, Any, object]:
        return run(target._replace(around=f"{__name__}:{in_child.__name__}"), task)

    return run_in_process


def in_child(call: Callable[[], object]) -> object:
    """Call the handler of a task in a child process."""
    if not apps.ready:
        if not settings.configured:
            settings.LOGGING_CONFIG = None  # what is logged goes to the parent, which does with it what LOGGING says
        django.setup()
    _close_all()
    try:
        return call()
    finally:
        _close_all()


def _close_all() -> None:
    close_old_connections()
    asyncio.run(sync_to_async(close_old_connections)())
