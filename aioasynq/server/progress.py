"""Progress: what handlers say of how far they are, written now and then. Nothing here is worth failing a task for."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aioasynq.errors import AioasynqError

if TYPE_CHECKING:
    from aioasynq.rdb.rdb import RDB
    from aioasynq.server.running import Held
    from aioasynq.task import Progress, Task

log = logging.getLogger(__name__)

INTERVAL = 0.25  #: seconds between two writes for a task
LAST_LIMIT = 1.0  #: seconds that the last write may take before its task is settled without it


class Reporter:
    """Writes the steps of one task: the latest, at most four a second.

    Args:
        write: writes one.
    """

    def __init__(self, write: Callable[[Progress], Awaitable[None]]) -> None:
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._next: Progress | None = None  # not written yet
        self._awake = False  # somebody has seen to it that the next one is written
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def note(self, step: Progress) -> None:
        """Write *step* soon. Safe from any thread; costs next to nothing while the one before waits."""
        self._next = step
        if not self._awake:
            self._awake = True
            self._loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._run(), name="aioasynq progress")

    async def _run(self) -> None:
        while (step := self._next) is not None:
            self._next = None
            try:
                await self._write(step)
            except AioasynqError as exc:
                log.debug("progress was not written: %s", exc)
            try:
                async with asyncio.timeout(INTERVAL):
                    await self._hurry.wait()
            except TimeoutError:
                pass
        self._awake = False
        if self._next is not None:  # noted by a thread just now, who may have seen that somebody was awake
            self._awake = True
            self._loop.call_soon(self._start)

    async def finish(self) -> None:
        """See the last step written, within limits."""
        self._hurry.set()
        if self._next is not None:
            self._start()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=LAST_LIMIT)


class Reporters:
    """Those of the tasks that have said how far they are; most never do."""

    def __init__(self, rdb: RDB, held: Held) -> None:
        self._rdb = rdb
        self._held = held
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._all: dict[Task, Reporter] = {}
        self._first: dict[Task, Progress] = {}  # said by threads, of tasks that the loop has still to begin with
        self._lock = threading.Lock()  # around what says which of the two has a step, so that none overtakes another

    def note(self, task: Task, step: Progress) -> None:
        """Take note of a step; from whatever thread."""
        with self._lock:
            reporter = self._all.get(task)
            if reporter is not None:
                reporter.note(step)
                return
            waits = task in self._first
            self._first[task] = step
        if threading.get_ident() == self._thread:
            self._begin(task)
        elif not waits:
            self._loop.call_soon_threadsafe(self._begin, task)

    def _begin(self, task: Task) -> None:
        # a thread may outlive its task, which may run again here: that is another one
        mine = [each.leased for each in self._held.find(task.id) if each.handed is task]
        with self._lock:
            step = self._first.pop(task, None)
            if step is None or not mine:
                return
            [leased] = mine

            async def write(latest: Progress) -> None:
                await self._rdb.write_progress(leased.queue, leased.id, latest, owner=leased.guard)

            reporter = self._all[task] = Reporter(write)
            reporter.note(step)

    def __bool__(self) -> bool:
        return bool(self._all)

    def forget(self, task: Task) -> None:
        """Whatever *task* says from now on is passed over."""
        self._all.pop(task, None)

    async def finish(self, task: Task) -> None:
        """The handler of *task* has ended: see its last step written."""
        reporter = self._all.pop(task, None)
        if reporter is not None:
            await reporter.finish()
