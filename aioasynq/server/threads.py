"""Threads for handlers that are a plain ``def``."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Threads:
    """Runs functions in threads, at most *limit* at once.

    A thread cannot be ended from outside. One whose task timed out keeps its place here until it returns, while the
    task's own place is free at once. That is what a pool of the standard library does; anyio's limiter would let the
    place go with the wait.
    """

    def __init__(self, limit: int) -> None:
        self._pool = ThreadPoolExecutor(limit, thread_name_prefix="aioasynq-handler")

    async def run(self, function: Callable[[], object]) -> object:
        """Run *function* in a thread, in a copy of this context."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, copy_context().run, function)

    def close(self) -> None:
        """Take no more; do not wait for what runs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
