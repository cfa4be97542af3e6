"""The parent of several workers: starts them, watches them, starts others where one dies, and ends them.

It imports nothing of the user's. The first child is started alone; when that one finds something wrong with the module
or the options, it says so and its exit code is the parent's.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

from aioasynq.cli.burst import Left, until_empty
from aioasynq.cli.exits import REFUSED, STOPPED, WRONG_USE
from aioasynq.cli.figures import OfProcesses
from aioasynq.cli.line import STOP
from aioasynq.cli.process import Process, first_of
from aioasynq.cli.rescue import LIMIT as RESCUE_LIMIT, rescue

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

log = logging.getLogger(__name__)


class Backoff:
    """How long to wait before a dead child is followed by another one."""

    FIRST = 0.1  #: seconds
    LONGEST = 30.0
    SOUND = 60.0  #: seconds after which a child is taken to be well, and the next pause is the first one again

    def __init__(self) -> None:
        self._next = self.FIRST

    def after(self, lived: float) -> float:
        """Seconds to wait after a child that lived so many."""
        pause = self.FIRST if lived >= self.SOUND else self._next
        self._next = min(pause * 2, self.LONGEST)
        return pause


class Parent:
    """Keeps *processes* children at work, each of them *command*; *figures* hears what they say about themselves.

    In a *burst* they end when nothing is left to do.
    """

    def __init__(
        self, command: Sequence[str], processes: int, figures: OfProcesses | None = None, *, burst: bool = False
    ) -> None:
        self._command = command
        self._processes = processes
        self._burst = burst
        self._figures = OfProcesses() if figures is None else figures
        self._alive: set[Process] = set()
        self._code = STOPPED
        self._resting = asyncio.Event()  #: no child is started any more
        self._ending = asyncio.Event()  #: nor are there to be any
        self._tasks: set[asyncio.Task[None]] = set()
        self._rescues: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Work until SIGTERM or SIGINT; the exit code."""
        loop = asyncio.get_running_loop()
        for heeded in (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP):
            loop.add_signal_handler(heeded, self._on_signal, heeded)
        first = await self._start(1, introduce=True)
        if first is not None:
            await first_of(first.ready, first.ended)
        if self._burst:
            self._own(self._end_when_empty(), self._tasks)
        async with asyncio.TaskGroup() as places:
            places.create_task(self._keep(1, first))
            if not self._given_up(first):
                for number in range(2, self._processes + 1):
                    places.create_task(self._keep(number, None))
            await self._ending.wait()
        while self._alive:
            await asyncio.wait({asyncio.ensure_future(process.ended.wait()) for process in self._alive})
        if self._rescues:
            await asyncio.wait(self._rescues, timeout=RESCUE_LIMIT)
        if self._code == STOPPED:
            log.info("all processes have ended")
        return self._code

    # ── one place ──

    async def _keep(self, number: int, process: Process | None) -> None:
        """See to it that there is a child in this place."""
        backoff = Backoff()
        while not self._resting.is_set():
            if process is None:
                process = await self._start(number)
            if process is not None:
                await first_of(process.ended, process.outgrown, self._resting)
                if self._resting.is_set() or self._given_up(process):
                    return
                if not process.ended.is_set():
                    process = await self._replace(process, backoff)
                    continue
            pause = backoff.after(0.0 if process is None else process.lived)
            if process is not None:
                log.warning("%s; another one starts in %.1f s", _death(process), pause)
                process = None
            await first_of(self._resting, timeout=pause)

    async def _replace(self, old: Process, backoff: Backoff) -> Process | None:
        """Start another one, and end *old* when that one is at work."""
        while not old.ended.is_set():
            pause = backoff.after(old.lived)
            log.info(
                "process %d (pid %d) has had %s; another one starts in %.1f s and takes its place",
                *(old.number, old.pid, old.why, pause),
            )
            await first_of(self._resting, old.ended, timeout=pause)
            if self._resting.is_set() or old.ended.is_set():
                break
            new = await self._start(old.number)
            if new is None:
                continue
            await first_of(new.ready, new.ended, self._resting)
            if self._resting.is_set():
                return new
            if not new.ended.is_set():
                if old.ended.is_set():
                    log.warning("%s", _death(old))
                else:
                    old.end()
                return new
            log.warning("%s before it was ready; process %d (pid %d) goes on", _death(new), old.number, old.pid)
        return old

    async def _start(self, number: int, *, introduce: bool = False) -> Process | None:
        """A new child; None when the system has none to give."""
        try:
            process = await Process.start(
                number,
                [*self._command, "--introduce", str(self._processes if introduce else 0), "--parent"],
                self._figures.report,
            )
        except OSError as exc:
            log.error("process %d cannot be started: %s", number, exc)  # noqa: TRY400 - a traceback would not help
            return None
        self._alive.add(process)
        self._own(self._watch(process), self._tasks)
        if self._ending.is_set():
            process.end()
        elif self._resting.is_set():
            process.tell(STOP)
        return process

    async def _watch(self, process: Process) -> None:
        await process.wait()
        self._alive.discard(process)
        self._figures.gone(process.pid)
        began = process.ready.is_set() or (process.code or 0) < 0  # else it ended by itself before its first task
        if began and process.hello is not None and process.code != STOPPED:
            self._own(rescue(process.hello), self._rescues)
        if process.retiring or self._resting.is_set():
            meant = process.code == STOPPED or (process.code == -signal.SIGTERM and not process.ready.is_set())
            log.log(logging.INFO if meant else logging.WARNING, "%s", _death(process))

    def _given_up(self, process: Process | None) -> bool:
        """Has a child found that something is wrong for all of them?"""
        if process is None or process.ready.is_set() or process.code not in {WRONG_USE, REFUSED}:
            return False
        if any(other.ready.is_set() for other in self._alive):
            return False  # those go on, and what is wrong with the new one may pass
        self._code = process.code or STOPPED
        self._end()
        return True

    # ── all of them ──

    async def _end_when_empty(self) -> None:
        await until_empty(self._ask)
        if not self._resting.is_set():
            self._end()

    async def _ask(self) -> dict[int, Left | None]:
        """What each that is at work has left to do; those that are being started hold nothing yet."""
        asked = [process for process in self._alive if process.ready.is_set()]
        left = await asyncio.gather(*(process.look() for process in asked))
        return dict(zip((process.pid for process in asked), left, strict=True))

    def _on_signal(self, number: signal.Signals) -> None:
        name = number.name
        if number == signal.SIGTSTP:
            log.info("%s received: no process takes tasks any more", name)
            self._figures.stop()
            self._resting.set()
            for process in self._alive:
                process.tell(STOP)
        elif not self._ending.is_set():
            log.info("%s received: shutting down %d processes", name, len(self._alive))
            self._end()
        else:
            log.warning("%s received again: cancelling what runs", name)
            for process in self._alive:
                process.hurry()

    def _end(self) -> None:
        self._figures.stop()
        self._resting.set()
        self._ending.set()
        for process in self._alive:
            process.end()

    def _own(self, work: Coroutine[None, None, None], where: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        where.add(task)
        task.add_done_callback(where.discard)


def _death(process: Process) -> str:
    return f"process {process.number} (pid {process.pid}) {process.end_shown} after {process.lived:.1f} s"
