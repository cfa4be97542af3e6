"""The child processes of a server: as many as may run at once, started when they are needed, kept while they live."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from aioasynq.errors import ChildDiedError
from aioasynq.server.processes.frames import Hello, Run
from aioasynq.server.processes.process import ChildProcess
from aioasynq.server.processes.targets import main_of
from aioasynq.typed.target import MAIN, MAIN_OF_CHILD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aioasynq.task import Task
    from aioasynq.typed.target import Target

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  #: seconds until a child is started after some have died by themselves


class Processes:
    """Runs handlers in child processes, one in each at a time.

    Args:
        limit: of children; None for one for each CPU.
        handlers: those that may run there; the program itself is imported in children only if one of them needs that.
    """

    def __init__(self, limit: int | None, handlers: Callable[[], Iterable[tuple[str, Target, object]]]) -> None:
        self._places = asyncio.Semaphore(cpus() if limit is None else limit)
        self._handlers = handlers
        self._jobs = itertools.count(1)
        self._idle: list[ChildProcess] = []
        self._all: set[ChildProcess] = set()
        self._starts: set[asyncio.Task[ChildProcess]] = set()
        self._deaths = 0  # one after another
        self._not_before = 0.0  # monotonic seconds
        self._closed = False

    async def run(self, target: Target, task: Task) -> object:
        """Run the handler that *target* names in a child process; cancelling this kills it.

        Raises:
            ChildDiedError: the child died, or none could be started.
            Exception: what the handler raised, as :meth:`ChildProcess.run`.
        """
        run = Run(
            job=next(self._jobs),
            module=target.module,
            name=target.name,
            around=target.around,
            type=task.type,
            payload=task.raw_payload,
            headers=task.headers,
            id=task.id,
            queue=task.queue,
            retried=task.retried,
            max_retry=task.max_retry,
            ends=task._ends,  # noqa: SLF001 - the moment that its deadline is made of
        )
        async with self._places:
            try:
                return await self._run(run, task)
            except _NotBegunError:  # it died while it had no work: that is no fault of this task
                return await self._run(run, task)

    async def _run(self, run: Run, task: Task) -> object:
        child = await self._child()
        try:
            result = await child.run(run, task)
        except ChildDiedError as exc:
            if child.has_begun:
                raise
            raise _NotBegunError(str(exc)) from None
        finally:
            if child.is_fit:
                self._deaths = 0
                self._idle.append(child)
        return result

    async def _child(self) -> ChildProcess:
        while self._idle:
            child = self._idle.pop()
            if child.is_fit:
                return child
        await asyncio.sleep(self._not_before - time.monotonic())
        if self._closed:
            raise ChildDiedError("no child process is started any more: the server has ended")
        # nobody who is cancelled tears this: a process would be left behind
        start = asyncio.get_running_loop().create_task(self._start(), name="aioasynq child process start")
        self._starts.add(start)
        start.add_done_callback(self._starts.discard)
        try:
            return await asyncio.shield(start)
        except asyncio.CancelledError:
            start.add_done_callback(_discard)
            raise
        except OSError as exc:
            self._on_death()
            raise ChildDiedError(f"no child process could be started: {exc}") from exc

    async def _start(self) -> ChildProcess:
        child = await ChildProcess.start(self._hello(), self._on_end)
        self._all.add(child)
        if not child.is_fit:
            self._all.discard(child)
        return child

    def _hello(self) -> Hello:
        of_main = {MAIN, MAIN_OF_CHILD}
        needs_main = any(target.module in of_main for _, target, _ in self._handlers())
        name, file = main_of(sys.modules[MAIN]) if needs_main else (None, None)
        loggers: dict[str, Any] = logging.root.manager.loggerDict
        levels = {name: each.level for name, each in loggers.items() if isinstance(each, logging.Logger) and each.level}
        return Hello(
            path=[os.path.abspath(each) for each in sys.path],  # noqa: PTH100 - Path("") is no folder
            argv=sys.argv,
            main_name=name,
            main_file=file,
            levels={"": logging.root.level, **levels},
            disabled=logging.root.manager.disable,
        )

    def _on_end(self, child: ChildProcess) -> None:
        self._all.discard(child)
        if child in self._idle:
            self._idle.remove(child)
        if child.died:
            self._on_death()

    def _on_death(self) -> None:
        """Start the next one later each time, until one has finished a task."""
        if self._deaths:
            pause = min(FIRST_PAUSE * 2.0 ** min(self._deaths - 1, 16), LONGEST_PAUSE)
            self._not_before = time.monotonic() + pause
        self._deaths += 1

    async def close(self) -> None:
        """End all; what still runs in them is killed."""
        self._closed = True
        if self._starts:
            await asyncio.wait(self._starts)
        await asyncio.gather(*(child.close() for child in tuple(self._all)))


class _NotBegunError(ChildDiedError):
    """The child has died before it had begun."""


def _discard(start: asyncio.Task[ChildProcess]) -> None:
    if not start.cancelled() and start.exception() is None:
        start.result().kill()


def cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
