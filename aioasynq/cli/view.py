"""What a terminal shows beside a worker: its lines pass above, the queues stand beneath and change."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
from codecs import getincrementaldecoder
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aioasynq.cli.top import Keyboard, Picture, console, head, look, queue_table, running_tables
from aioasynq.errors import AioasynqError
from aioasynq.inspector import Inspector
from aioasynq.logs import clean
from aioasynq.rdb.rdb import RDB

if TYPE_CHECKING:
    from rich.console import RenderableType

log = logging.getLogger(__name__)

INTERVAL = 1.0  #: seconds between two pictures
MOST_RUNNING = 5  #: tasks that are shown
LAST_WORDS = 0.5  #: seconds that what the worker wrote at its end may take to be read


def _heed(keyboard: Keyboard, on_quit: Callable[[], None]) -> None:
    if keyboard.pressed("qQ"):
        log.info("q was pressed: shutting down")
        on_quit()


class View(io.TextIOBase):
    """A terminal with a picture of the queues. It is a stream too, whose lines stand above the picture.

    Args:
        url: of the Redis whose queues are shown.
    """

    def __init__(self, url: str) -> None:
        from rich.live import Live

        self._url = url
        self._console = console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._part = ""  #: of a line whose end has not come yet
        self._out, self.output = os.pipe()  #: *output*: where the worker writes to

    def write(self, text: str) -> int:
        """Show the lines that are whole by now."""
        from rich.text import Text

        *whole, self._part = (self._part + text).split("\n")
        if whole:
            lines = [line.removesuffix("\r").rpartition("\r")[2] for line in whole]
            self._console.print(Text.from_ansi("\n".join(lines)), soft_wrap=True)
        return len(text)

    @asynccontextmanager
    async def shown(self, on_quit: Callable[[], None]) -> AsyncGenerator[None]:
        """Show it, until the block ends; *on_quit* is called when q is pressed."""
        loop = asyncio.get_running_loop()
        keyboard = Keyboard()
        reading = loop.create_task(self._read())
        with keyboard, self._live:
            if keyboard.is_there:
                loop.add_reader(sys.stdin, _heed, keyboard, on_quit)
            drawing = loop.create_task(self._draw())
            try:
                yield
            finally:
                if keyboard.is_there:
                    loop.remove_reader(sys.stdin)
                drawing.cancel()
                os.close(self.output)
                await asyncio.wait({reading}, timeout=LAST_WORDS)  # somebody it started may hold the other end
                reading.cancel()
                await asyncio.wait({reading, drawing})
                if self._part:
                    self.write("\n")
                if not drawing.cancelled():
                    drawing.result()  # a bug

    async def _read(self) -> None:
        """Pass on what the worker writes."""
        reader = asyncio.StreamReader()
        pipe = os.fdopen(self._out, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        decoder = getincrementaldecoder("utf-8")("replace")
        try:
            while data := await reader.read(1 << 16):
                self.write(decoder.decode(data))
        finally:
            transport.close()

    async def _draw(self) -> None:
        """A new picture every second."""
        before: Picture | None = None
        async with RDB(self._url) as rdb, Inspector(rdb) as inspector:
            while True:
                try:
                    picture = await look(inspector)
                    self._show(self._picture(picture, before, rdb.address))
                    before = picture
                except AioasynqError as exc:
                    self._show(self._words(str(exc)))
                await asyncio.sleep(INTERVAL)

    def _picture(self, picture: Picture, before: Picture | None, address: str) -> RenderableType:
        from rich.console import Group

        parts = [head(picture, address), queue_table(picture, before), *running_tables(picture, MOST_RUNNING)]
        served = {queue for server in picture.servers for queue in server.queues}
        left = [clean(info.queue) for info in picture.queues if info.pending and info.queue not in served]
        if left and served:
            parts.append(self._words(f"no worker has {', '.join(left)}: see --queues"))
        return Group(*parts)

    def _words(self, text: str) -> RenderableType:
        from rich.text import Text

        return Text(text, style="red")

    def _show(self, what: RenderableType) -> None:
        from rich.console import Group
        from rich.rule import Rule

        self._live.update(Group(Rule("q or Ctrl-C ends all", style="dim", align="right"), what), refresh=True)
