"""``--reload``: one worker, and another one in its place when a file has changed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine, Sequence
from pathlib import Path

from aioasynq.cli.exits import REFUSED, STOPPED, refuse
from aioasynq.cli.figures import OfProcesses
from aioasynq.cli.line import STOP
from aioasynq.cli.process import Process, first_of
from aioasynq.cli.rescue import LIMIT as RESCUE_LIMIT, rescue

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0  #: seconds between two looks whether the folders are still the same


def need_watchfiles(who: str) -> None:
    """End with a line when files cannot be watched."""
    try:
        import watchfiles
    except ImportError:
        refuse(f"{who} needs watchfiles: pip install 'aioasynq[reload]'")
    logging.getLogger(watchfiles.__name__).setLevel(logging.WARNING)  # it would tell the same as we do


class Reloader:
    """Keeps a child at work, and starts another one when a Python file has changed.

    What runs then may finish, or is given back, as at the end of a worker. A child that cannot start, or that dies, is
    followed by another one at the next change; unless it is the first one: what is wrong then ends the command.

    Args:
        command: of the child.
        folders: that are watched, with all that is in them.
        output: descriptor that the child writes to; None: where this process does.
    """

    def __init__(
        self,
        command: Sequence[str],
        folders: Sequence[Path],
        figures: OfProcesses | None = None,
        *,
        output: int | None = None,
    ) -> None:
        self._command = command
        self._folders = folders
        self._figures = OfProcesses() if figures is None else figures
        self._output = output
        self._process: Process | None = None
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rescues: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Work until SIGTERM or SIGINT; the exit code."""
        loop = asyncio.get_running_loop()
        for heeded in (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP):
            loop.add_signal_handler(heeded, self._on_signal, heeded)
        self._own(self._watch(), self._tasks)
        await asyncio.sleep(0)  # files are watched before any of them is read
        code = STOPPED
        worked = False
        while not self._ending.is_set():
            self._changed.clear()
            process = await self._start(introduce=not worked)
            if process is None:
                return REFUSED
            await first_of(process.ended, self._changed)
            if not process.ended.is_set():
                process.end()
                await process.ended.wait()
            self._figures.gone(process.pid)
            if process.code != STOPPED and process.hello is not None:
                self._own(rescue(process.hello), self._rescues)
            worked = worked or process.ready.is_set()
            if process.retiring:
                continue
            code = process.code or STOPPED
            if code == STOPPED or not worked:
                break
            failed = f"the worker {process.end_shown}" if process.ready.is_set() else "the worker cannot start"
            log.warning("%s; the next change of a file tries again", failed)
            await first_of(self._changed, self._ending)
        await self._finish()
        return STOPPED if self._ending.is_set() else code

    def end(self) -> None:
        """End the child, and then :meth:`run`; the second time, without waiting for what runs."""
        process = self._process
        if not self._ending.is_set():
            self._ending.set()
            self._figures.stop()
            if process is not None and not process.ended.is_set():
                process.end()
        elif process is not None:
            process.hurry()

    async def _start(self, *, introduce: bool) -> Process | None:
        command = [*self._command, "--introduce", str(int(introduce)), "--parent"]
        try:
            self._process = await Process.start(1, command, self._figures.report, output=self._output)
        except OSError as exc:
            log.error("the worker cannot be started: %s", exc)  # noqa: TRY400 - a traceback would not help
            return None
        self._own(self._process.wait(), self._tasks)
        if self._ending.is_set():
            self._process.end()
        return self._process

    async def _watch(self) -> None:
        try:
            while True:
                there = _identities(self._folders)
                if there:
                    await self._watch_while(there)
                else:
                    await asyncio.sleep(LOOK_EVERY)
                if there != _identities(self._folders):
                    self._on_change([folder for folder in self._folders if folder.is_dir()])
        except Exception:  # too many files for the system
            log.exception("files are not watched any more, and nothing is reloaded")

    async def _watch_while(self, there: dict[Path, tuple[int, int]]) -> None:
        """Watch these folders, as long as they are the same ones: what is deleted and made anew is another one."""
        from watchfiles import PythonFilter, awatch

        looks = awatch(
            *there,
            watch_filter=PythonFilter(),
            debounce=400,
            rust_timeout=int(LOOK_EVERY * 1000),
            yield_on_timeout=True,
        )
        async with contextlib.aclosing(looks):
            async for changes in looks:
                if changes:
                    self._on_change([Path(path) for _, path in changes])
                if there != _identities(self._folders):
                    return

    def _on_change(self, paths: Sequence[Path]) -> None:
        if paths and not self._changed.is_set() and not self._ending.is_set():
            names = sorted({_shown(path) for path in paths})
            log.info("%s%s: reloading", names[0], f" and {len(names) - 1} more" if len(names) > 1 else "")
        if paths:
            self._changed.set()

    def _on_signal(self, number: signal.Signals) -> None:
        process = self._process
        if number == signal.SIGTSTP:
            log.info("%s received: no tasks are taken any more", number.name)
            if process is not None:
                process.tell(STOP)
            return
        again = self._ending.is_set()
        log.log(
            logging.WARNING if again else logging.INFO,
            "%s received%s",
            number.name,
            " again: cancelling what runs" if again else ": shutting down",
        )
        self.end()

    async def _finish(self) -> None:
        """End what else is under way."""
        if self._rescues:
            await asyncio.wait(self._rescues, timeout=RESCUE_LIMIT)
        left = self._tasks | self._rescues
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _own(self, work: Coroutine[None, None, None], where: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        where.add(task)
        task.add_done_callback(where.discard)


def _identities(folders: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Device and inode of those that are there."""
    found: dict[Path, tuple[int, int]] = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            about = folder.stat()
            found[folder] = about.st_dev, about.st_ino
    return found


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
