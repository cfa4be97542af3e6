"""One child, as its parent sees it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process as Spawned
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeAlias

import msgspec

from aioasynq.cli.burst import Left
from aioasynq.cli.figures import Figures
from aioasynq.cli.line import HURRY, LONGEST, LOOK, SHUTDOWN, Hello, Outgrown, Ready, decode

log = logging.getLogger(__name__)

OnFigures: TypeAlias = Callable[[int, Figures], None]

LAST_WORDS = 1.0  #: seconds that what a dead child had said may take to be read
KILL_AFTER = 10.0  #: seconds past its shutdown limit after which a child is killed
USUAL_SHUTDOWN = 8.0  #: that limit, as long as the child has not told it
LOOK_LIMIT = 5.0  #: seconds that a child may take to say what is left to do


def command(target: str, words: Sequence[str]) -> list[str]:
    """Of a worker in a process of its own.

    Python is started as this process was: ``-m`` looks into the working directory first, the installed command last.
    """
    python = [sys.executable] if Path(sys.argv[0]).name == "__main__.py" else [sys.executable, "-P"]
    return [*python, "-m", "aioasynq", "worker", target, *words]


class Process:
    """A child that was started. Its events never go back."""

    def __init__(
        self,
        number: int,
        spawned: Spawned,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_figures: OnFigures,
    ) -> None:
        self.number = number  #: its place among its siblings, from 1
        self.pid = spawned.pid
        self.hello: Hello | None = None
        self.why = ""  #: it asked to be replaced
        self.retiring = False  #: it was told to end
        self.ready = asyncio.Event()
        self.outgrown = asyncio.Event()
        self.ended = asyncio.Event()
        self._spawned = spawned
        self._began = time.monotonic()
        self._ended_at = 0.0
        self._writer = writer
        self._on_figures = on_figures
        self._left: asyncio.Future[Left | None] | None = None
        self._reading = asyncio.get_running_loop().create_task(self._read(reader))

    @classmethod
    async def start(
        cls, number: int, command: Sequence[str], on_figures: OnFigures, *, output: int | None = None
    ) -> Self:
        """Start *command*, which is told the descriptor of its line as its last argument.

        *on_figures* is called with its pid and what it says about itself. *output* is the descriptor that it writes
        all to; None: where this process does.

        It is in a process group of its own: what a terminal sends to all, Ctrl-C, reaches it through its parent only.
        """
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LONGEST)
        try:
            spawned = await asyncio.create_subprocess_exec(
                *(*command, str(theirs.fileno())),
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        except BaseException:
            writer.close()
            raise
        finally:
            theirs.close()
        return cls(number, spawned, reader, writer, on_figures)

    async def wait(self) -> None:
        """Wait for its end."""
        await self._spawned.wait()
        self._ended_at = time.monotonic()
        # What it said before it died is still to be read. The end of the line may not come: somebody it had started
        # may hold the other end.
        await asyncio.wait({self._reading}, timeout=LAST_WORDS)
        self._reading.cancel()
        self._writer.close()
        self._looked(None)
        self.ended.set()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                word = decode(line)
                if isinstance(word, Hello):
                    self.hello = word
                elif isinstance(word, Outgrown):
                    self.why = word.why
                    self.outgrown.set()
                elif isinstance(word, Figures):
                    self._on_figures(self.pid, word)
                elif isinstance(word, Ready):
                    self.ready.set()
                else:
                    self._looked(word)
        except (ConnectionError, ValueError, msgspec.DecodeError) as exc:
            log.debug("the line of process %d broke: %s", self.pid, exc)

    @property
    def code(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._spawned.returncode

    @property
    def lived(self) -> float:
        """Seconds from its start to its end, or to now."""
        return (self._ended_at or time.monotonic()) - self._began

    @property
    def limit(self) -> float:
        """Seconds it may take to end, once told so."""
        return (self.hello.shutdown_timeout if self.hello else USUAL_SHUTDOWN) + KILL_AFTER

    def tell(self, word: bytes) -> None:
        """Say something to it, if it lives."""
        if self.code is None and not self._writer.is_closing():
            self._writer.write(word)

    async def look(self) -> Left | None:
        """What it has left to do; None: it does not answer. One at a time."""
        self._left = asyncio.get_running_loop().create_future()
        self.tell(LOOK)
        try:
            async with asyncio.timeout(LOOK_LIMIT):
                return await self._left
        except TimeoutError:
            return None

    def _looked(self, left: Left | None) -> None:
        if self._left is not None and not self._left.done():
            self._left.set_result(left)

    def end(self) -> None:
        """Let it finish what it is at, and end; one that does not is killed."""
        self.retiring = True
        self.tell(SHUTDOWN)
        if not self.ready.is_set():  # it may be in an import, where it does not listen
            self._signal(signal.SIGTERM)
        asyncio.get_running_loop().call_later(self.limit, self.kill)

    def hurry(self) -> None:
        """Let it give back at once what it is at, and end; one that does not is killed."""
        self.tell(HURRY)
        asyncio.get_running_loop().call_later(KILL_AFTER, self.kill)

    def kill(self) -> None:
        """End it now."""
        if self.code is None:
            log.error("process %d (pid %d) did not end in %.0f s and is killed", self.number, self.pid, self.limit)
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        try:
            self._spawned.send_signal(number)
        except ProcessLookupError:
            log.debug("process %d has ended by itself", self.pid)

    @property
    def end_shown(self) -> str:
        """How it ended, for people."""
        code = self.code or 0
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"


async def first_of(*events: asyncio.Event, timeout: float | None = None) -> None:
    """Wait until one of them is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
