"""A worker that has a parent: it does what it is told, and ends when the parent is gone."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from typing import TYPE_CHECKING

import anyio

from aioasynq.cli.banner import introduce, rows
from aioasynq.cli.burst import look
from aioasynq.cli.limits import resident, shown
from aioasynq.cli.line import HURRY, LOOK, STOP, Hello, Outgrown, Ready, encode
from aioasynq.cli.process import KILL_AFTER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aioasynq.cli.figures import Recorder
    from aioasynq.cli.limits import Limits
    from aioasynq.cli.orphan import Orphan
    from aioasynq.cli.unknown import Unknown
    from aioasynq.rdb.rdb import RDB
    from aioasynq.server import Server

log = logging.getLogger(__name__)

TASKS_INTERVAL = 0.1  #: seconds between two looks at the number of tasks
FIGURES_INTERVAL = 1.0  #: seconds between two reports to the parent
MEMORY_EVERY = 5  #: so many of those looks between two at the memory


class Child:
    """This process, as its parent started it.

    Args:
        fd: of the line to the parent.
        orphan: ends the process when the parent is gone and it does not end by itself.
        processes: introduce all of them; 0 when another one does, or has.
        also: what else there is to say then.
        unknown: says which tasks have no handler, when all are introduced.
        redis: URL of Redis, None when the program brings a client.
        recorder: of the figures that the parent is told; None: it does not ask.
    """

    def __init__(
        self,
        fd: int,
        orphan: Orphan,
        *,
        processes: int,
        limits: Limits,
        redis: str | None,
        unknown: Unknown,
        also: Mapping[str, str],
        recorder: Recorder | None = None,
    ) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)  # what handlers start must not keep the line open
        self._orphan = orphan
        self._processes = processes
        self._limits = limits
        self._redis = redis
        self._unknown = unknown
        self._also = also
        self._recorder = recorder
        self._closing: asyncio.Task[None] | None = None

    async def run(self, server: Server, rdb: RDB) -> None:
        """Run *server* until the parent, a signal, or the end of the parent ends it."""
        if self._processes:
            introduce(self._rows(server, rdb))
        config = server.config
        self._orphan.limit = config.shutdown_timeout + KILL_AFTER
        hello = Hello(
            name=server.name,
            redis=self._redis,
            queues=dict(config.queues),
            shutdown_timeout=config.shutdown_timeout,
            max_archive=config.max_archive,
            archive_days=config.archive_days,
        )
        try:
            self._socket.sendall(encode(hello))  # before all else: from here on the parent can take back what we hold
        except ConnectionError:
            log.warning("the parent process is gone")
            return
        self._socket.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=self._socket)
        async with self._unknown.looking(rdb, config.queues if self._processes else ()):
            await self._run(server, rdb, reader, writer)

    async def _run(self, server: Server, rdb: RDB, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGTSTP) as signals:
            await server.start()
            writer.write(encode(Ready()))
            supervisor = server._supervisor  # noqa: SLF001 - as Server.run waits for it
            assert supervisor is not None  # noqa: S101 - start has made it
            try:
                async with asyncio.TaskGroup() as beside:
                    helpers = [
                        beside.create_task(self._heed(signals, server)),
                        beside.create_task(self._obey(reader, writer, server, rdb)),
                        beside.create_task(self._watch(writer, server)),
                        beside.create_task(self._report(writer, server)),
                    ]
                    await asyncio.wait({supervisor})
                    for helper in helpers:
                        helper.cancel()
            finally:
                with anyio.CancelScope(shield=True):
                    await server.shutdown()
                self._tell(writer, server)
                writer.close()
        if not supervisor.cancelled() and (bug := supervisor.exception()) is not None:
            raise bug

    def _rows(self, server: Server, rdb: RDB) -> dict[str, str]:
        about = rows(server, rdb)
        about["server"] = f"{about['server'].rpartition(':')[0]}:{os.getppid()}"
        about |= self._also
        if "reload" in about:  # one process, by its nature
            return about
        limits = []
        if self._limits.memory is not None:
            limits.append(f"at {shown(self._limits.memory)}")
        if self._limits.tasks is not None:
            limits.append(f"after {self._limits.tasks} tasks")
        about["processes"] = f"{self._processes}{', replaced ' if limits else ''}{' or '.join(limits)}"
        return about

    def _close(self, server: Server) -> None:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(server.shutdown())

    async def _heed(self, signals: AsyncIterator[signal.Signals], server: Server) -> None:
        """A signal may come to the parent and to each child, so the second one is nothing new."""
        async for number in signals:
            if number == signal.SIGTSTP:
                server.stop()
            else:
                log.info("%s received: shutting down", signal.Signals(number).name)
                self._close(server)

    async def _obey(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: Server, rdb: RDB) -> None:
        try:
            while word := await reader.readline():
                if word == STOP:
                    server.stop()
                elif word == LOOK:
                    writer.write(encode(await look(server, rdb)))
                else:
                    if word == HURRY:
                        server.hurry()
                    self._close(server)
        except ConnectionError:
            log.debug("the line to the parent broke")
        if self._closing is None:
            log.warning("the parent process is gone: shutting down")
        self._close(server)

    async def _watch(self, writer: asyncio.StreamWriter, server: Server) -> None:
        """Ask to be replaced when there is a reason, once."""
        look = 0
        while not (why := self._outgrown(server, memory=look % MEMORY_EVERY == 0)):
            look += 1
            await asyncio.sleep(TASKS_INTERVAL)
        writer.write(encode(Outgrown(why)))

    async def _report(self, writer: asyncio.StreamWriter, server: Server) -> None:
        """Tell the parent how it goes, every second."""
        while self._recorder is not None:
            self._tell(writer, server)
            await asyncio.sleep(FIGURES_INTERVAL)

    def _tell(self, writer: asyncio.StreamWriter, server: Server) -> None:
        if self._recorder is not None and not writer.transport.get_write_buffer_size():  # else the parent is busy
            writer.write(encode(self._recorder.figures(server)))

    def _outgrown(self, server: Server, *, memory: bool) -> str:
        limits = self._limits
        if limits.tasks is not None and (done := server.counts.processed) >= limits.tasks:
            return f"{done} tasks"
        if memory and limits.memory is not None and (used := resident()) > limits.memory:
            return f"{shown(used)} of memory"
        return ""
