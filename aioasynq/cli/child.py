"""A worker that has a parent: it does what it is told, and ends when the parent is gone."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from typing import TYPE_CHECKING

import anyio
import typer

from aioasynq.cli.limits import resident, shown
from aioasynq.cli.line import HURRY, STOP, Hello, Outgrown, Ready, encode
from aioasynq.cli.serve import banner, rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioasynq.cli.limits import Limits
    from aioasynq.rdb.rdb import RDB
    from aioasynq.server import Server

log = logging.getLogger(__name__)

TASKS_INTERVAL = 0.1  #: seconds between two looks at the number of tasks
MEMORY_EVERY = 5  #: so many of those looks between two at the memory


class Child:
    """This process, as its parent started it.

    Args:
        fd: of the line to the parent.
        processes: introduce all of them; 0 when another one does.
        redis: URL of Redis, None when the program brings a client.
    """

    def __init__(self, fd: int, *, processes: int, limits: Limits, redis: str | None) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)  # what handlers start must not keep the line open
        self._processes = processes
        self._limits = limits
        self._redis = redis
        self._closing: asyncio.Task[None] | None = None

    async def run(self, server: Server, rdb: RDB) -> None:
        """Run *server* until the parent, a signal, or the end of the parent ends it."""
        if self._processes:
            typer.echo(banner(self._rows(server, rdb)), err=True)
        config = server.config
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
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGTSTP) as signals:
            await server.start()
            writer.write(encode(Ready()))
            supervisor = server._supervisor  # noqa: SLF001 - as Server.run waits for it
            assert supervisor is not None  # noqa: S101 - start has made it
            try:
                async with asyncio.TaskGroup() as beside:
                    helpers = [
                        beside.create_task(self._heed(signals, server)),
                        beside.create_task(self._obey(reader, server)),
                        beside.create_task(self._watch(writer, server)),
                    ]
                    await asyncio.wait({supervisor})
                    for helper in helpers:
                        helper.cancel()
            finally:
                with anyio.CancelScope(shield=True):
                    await server.shutdown()
                writer.close()
        if not supervisor.cancelled() and (bug := supervisor.exception()) is not None:
            raise bug

    def _rows(self, server: Server, rdb: RDB) -> dict[str, str]:
        about = rows(server, rdb)
        about["server"] = f"{about['server'].rpartition(':')[0]}:{os.getppid()}"
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

    async def _obey(self, reader: asyncio.StreamReader, server: Server) -> None:
        try:
            while word := await reader.readline():
                if word == STOP:
                    server.stop()
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

    def _outgrown(self, server: Server, *, memory: bool) -> str:
        limits = self._limits
        if limits.tasks is not None and (done := server.counts.processed) >= limits.tasks:
            return f"{done} tasks"
        if memory and limits.memory is not None and (used := resident()) > limits.memory:
            return f"{shown(used)} of memory"
        return ""
