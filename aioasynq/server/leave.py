"""The end of a process that was a worker, whatever is stuck in it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

log = logging.getLogger(__name__)

LEAVE_LIMIT = 0.5  #: seconds that what is still running after the shutdown may take to end


@asynccontextmanager
async def ends_anyway() -> AsyncGenerator[None]:
    """Around all that a worker process does in its loop: afterwards nothing keeps the process from ending."""
    # A pool of our own for asyncio.to_thread: asyncio would wait for the default one for ever.
    threads = ThreadPoolExecutor(thread_name_prefix="aioasynq-to-thread")
    asyncio.get_running_loop().set_default_executor(threads)
    try:
        yield
    except BaseException:
        await _leave(threads, 1)
        raise
    await _leave(threads, 0)


async def _leave(threads: ThreadPoolExecutor, code: int) -> None:
    """Return when nothing would keep the process from ending; else end it here.

    A thread cannot be ended from outside, and a coroutine may swallow its cancellation; what they work on was given
    back by now.
    """
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=LEAVE_LIMIT)
    threads.shutdown(wait=False, cancel_futures=True)
    end = time.monotonic() + LEAVE_LIMIT
    pooled = [thread for thread in threading.enumerate() if thread.name.startswith("aioasynq-") and not thread.daemon]
    for thread in pooled:
        thread.join(max(0.0, end - time.monotonic()))
    stuck = [_name(task) for task in tasks if not task.done()]
    stuck += [f"thread {thread.name}{_place(thread)}" for thread in pooled if thread.is_alive()]
    if not stuck:
        return
    if (error := sys.exception()) is not None:
        traceback.print_exception(error)
    log.error("the process ends although something in it does not: %s", "; ".join(stuck))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _name(task: asyncio.Task[object]) -> str:
    """Handlers that were left to themselves bear the names of their tasks."""
    name = task.get_name()
    return name if name.startswith("task ") else f"task {name}"


def _place(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - documented for just this
    if frame is None:
        return ""
    return f" at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
