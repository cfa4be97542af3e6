"""``aioasynq top``: queues, servers and running tasks, as they change."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from aioasynq.cli.connect import run
from aioasynq.cli.exits import refuse
from aioasynq.cli.given import seconds
from aioasynq.cli.output import Json, ago, cut, duration, many, show_json
from aioasynq.cli.server import rows_of
from aioasynq.inspector import Inspector
from aioasynq.inspector.records import QueueInfo, ServerStatus
from aioasynq.logs import clean
from aioasynq.rdb.rdb import RDB

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: Short, so that all fit beside a queue's name.
STATES = {
    "pending": "pending",
    "active": "active",
    "scheduled": "sched.",
    "retry": "retry",
    "archived": "arch.",
    "completed": "compl.",
    "aggregating": "aggr.",
}
LEAST = 0.2  #: seconds between two looks
MOST_ROWS = 12
MINUTE = 60.0
LONGEST_ID = 40  #: cells that an id may take; a UUID has 36
LEAST_CELLS = 12  #: that the name of a queue has


@dataclass
class Picture:
    """What there is at one moment, and how fast it goes."""

    queues: list[QueueInfo]
    servers: list[ServerStatus]
    at: float = field(default_factory=time.monotonic)

    def rate(self, before: Picture | None, queue: str) -> float:
        """Attempts a second since the picture before."""
        if before is None or self.at <= before.at:
            return 0.0
        then = {info.queue: info.processed_total for info in before.queues}
        now = {info.queue: info.processed_total for info in self.queues}
        return max(0, now[queue] - then.get(queue, now[queue])) / (self.at - before.at)


def top(
    ctx: typer.Context,
    interval: Annotated[
        str, typer.Option("--interval", "--refresh", metavar="SECONDS", help="Between two looks.")
    ] = "2",
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    as_json: Json = False,
) -> None:
    """Show queues, servers and running tasks as they change; Ctrl-C or q ends it."""
    pause = seconds("--interval", interval)
    if pause < LEAST:
        refuse(f"--interval must be {LEAST:g} seconds or more, got {interval!r}")

    async def work(inspector: Inspector, rdb: RDB) -> None:
        if as_json:
            picture = await look(inspector)
            show_json({"queues": picture.queues, "servers": picture.servers})
        elif once or not sys.stdout.isatty():
            console().print(draw(await look(inspector), None, rdb.address))
        else:
            await _live(inspector, rdb.address, pause)

    run(ctx, work)


async def look(inspector: Inspector) -> Picture:
    """All there is now."""
    queues = [await inspector.get_queue_info(name, memory=False) for name in await inspector.queues()]
    return Picture(queues, await inspector.servers())


async def _live(inspector: Inspector, address: str, interval: float) -> None:
    from rich.live import Live

    loop = asyncio.get_running_loop()
    pressed = asyncio.Event()
    keyboard = Keyboard()
    with keyboard, Live(console=console(), screen=True, auto_refresh=False) as live:
        if keyboard.is_there:
            loop.add_reader(sys.stdin, lambda: pressed.set() if keyboard.pressed("qQ\x1b") else None)
        before: Picture | None = None
        try:
            while not pressed.is_set():
                picture = await look(inspector)
                live.update(draw(picture, before, address), refresh=True)
                before = picture
                try:
                    async with asyncio.timeout(interval):
                        await pressed.wait()
                except TimeoutError:
                    continue
        finally:
            if keyboard.is_there:
                loop.remove_reader(sys.stdin)


class Keyboard:
    """A terminal that gives each key at once and shows none; as it was when that is over."""

    def __init__(self) -> None:
        self.is_there = sys.stdin.isatty()

    def pressed(self, keys: str) -> bool:
        """Whether one of *keys* is among what was typed since the last time; or there is nobody any more."""
        typed = os.read(sys.stdin.fileno(), 1024)  # not by sys.stdin, which keeps for itself what follows a key
        return not typed or any(key in keys for key in typed.decode("latin-1"))

    def __enter__(self) -> None:
        if self.is_there:
            import termios
            import tty

            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin.fileno())

    def __exit__(self, *_: object) -> None:
        if self.is_there:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)


def _wait(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < MINUTE else duration(seconds)


def console() -> Console:
    """That takes texts as they are."""
    from rich.console import Console

    return Console(markup=False, highlight=False)


def draw(picture: Picture, before: Picture | None, address: str) -> RenderableType:
    """All of a picture; rates are those since the picture *before*."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [head(picture, address), Text(), queue_table(picture, before), Text()]
    parts += [_server_table(picture), Text()]
    return Group(*parts, *running_tables(picture))


def head(picture: Picture, address: str) -> RenderableType:
    """When, where, and how many."""
    from rich.text import Text

    tasks = sum(len(server.active_workers) for server in picture.servers)
    return Text(
        f"{address}   {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC   {many(len(picture.servers), 'server')}, "
        f"{many(tasks, 'task')} running"
    )


def queue_table(picture: Picture, before: Picture | None) -> RenderableType:
    """The numbers of each queue."""
    from rich.table import Table
    from rich.text import Text

    if not picture.queues:
        return Text("no queues")
    queues = Table("queue", box=None, pad_edge=False, expand=False)
    for name in (*STATES.values(), "/s", "waits"):
        queues.add_column(name, justify="right", no_wrap=True)
    for info in picture.queues:
        name = f"{info.queue} (paused)" if info.paused else info.queue
        numbers = [f"{getattr(info, state):,}" for state in STATES]
        queues.add_row(clean(name), *numbers, f"{picture.rate(before, info.queue):,.0f}", _wait(info.latency))
    return queues


def _server_table(picture: Picture) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    if not picture.servers:
        return Text("no running servers")
    servers = Table("host", "pid", "state", "busy", "queues", "started", box=None, pad_edge=False)
    for row in rows_of(picture.servers)[:MOST_ROWS]:
        servers.add_row(*(clean(str(cell)) for cell in row))
    return servers


def running_tables(picture: Picture, most: int = MOST_ROWS) -> list[RenderableType]:
    """The tasks that have run longest; no table where none runs."""
    from rich.cells import cell_len
    from rich.table import Table

    now = datetime.now(UTC)
    workers = [worker for server in picture.servers for worker in server.active_workers]
    if not workers:
        return []
    running = Table(box=None, pad_edge=False)
    shown = sorted(workers, key=lambda each: each.started or now)[:most]
    for name in ("running", "type", "queue", "since"):
        running.add_column(name, no_wrap=True)
    whole = max(cell_len(clean(worker.task_id)) for worker in shown)  # so that it can be cancelled
    left = max(shutil.get_terminal_size().columns - min(whole, LONGEST_ID) - len("59m59s ago") - 6, 2 * LEAST_CELLS)
    for worker in shown:
        name, queue = cut(clean(worker.task_type), left - LEAST_CELLS), clean(worker.queue)
        running.add_row(
            cut(clean(worker.task_id), LONGEST_ID), name, cut(queue, left - cell_len(name)), ago(worker.started, now)
        )
    return [running]
