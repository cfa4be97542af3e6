"""One child, as its parent sees it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from asyncio.subprocess import DEVNULL, Process as Spawned
from typing import TYPE_CHECKING, Self

import msgspec

from aioasynq.cli.line import LONGEST, SHUTDOWN, Hello, Outgrown, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

LAST_WORDS = 1.0  #: seconds that what a dead child had said may take to be read
KILL_AFTER = 10.0  #: seconds past its shutdown limit after which a child is killed
USUAL_SHUTDOWN = 8.0  #: that limit, as long as the child has not told it


class Process:
    """A child that was started. Its events never go back."""

    def __init__(
        self, number: int, spawned: Spawned, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
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
        self._reading = asyncio.get_running_loop().create_task(self._read(reader))

    @classmethod
    async def start(cls, number: int, command: Sequence[str]) -> Self:
        """Start *command*, which is told the descriptor of its line as its last argument.

        It is in a process group of its own: what a terminal sends to all, Ctrl-C, reaches it through its parent only.
        """
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LONGEST)
        try:
            spawned = await asyncio.create_subprocess_exec(
                *command, str(theirs.fileno()), stdin=DEVNULL, pass_fds=[theirs.fileno()], process_group=0
            )
        except BaseException:
            writer.close()
            raise
        finally:
            theirs.close()
        return cls(number, spawned, reader, writer)

    async def wait(self) -> None:
        """Wait for its end."""
        await self._spawned.wait()
        self._ended_at = time.monotonic()
        # What it said before it died is still to be read. The end of the line may not come: somebody it had started
        # may hold the other end.
        await asyncio.wait({self._reading}, timeout=LAST_WORDS)
        self._reading.cancel()
        self._writer.close()
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
                else:
                    self.ready.set()
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

    def end(self) -> None:
        """Let it finish what it is at, and end."""
        self.retiring = True
        self.tell(SHUTDOWN)
        if not self.ready.is_set():  # it may be in an import, where it does not listen
            self._signal(signal.SIGTERM)

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
