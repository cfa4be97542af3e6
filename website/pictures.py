"""Make docs/pictures anew: what commands show on a terminal, of a Redis that is filled for it.

The commands are the real ones, on a terminal of their own. Ids and numbers are the same each time; moments are not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from aioasynq import Client, ServeMux, Server, SkipRetry, Task
from aioasynq.devserver import DevServer

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
WIDTH = 110

#: Files → commands.
COMMANDS = {
    "stats": "aioasynq stats",
    "task_list": "aioasynq task ls -q critical -s retry",
    "top": "aioasynq top --once",
    "doctor": "aioasynq doctor",
    "explain": "aioasynq task explain -q critical -i pay-8",
}

mux = ServeMux()
at_work: asyncio.Queue[str] = asyncio.Queue()
go_on = asyncio.Event()


@mux.task("email:welcome", queue="default", retention=3600)
async def welcome(user_id: int) -> None: ...


@mux.task("image:resize", queue="low", timeout=600)
async def resize(task: Task, name: str) -> None:
    await task.progress(0.4, f"resizing {name}")
    at_work.put_nowait(name)
    await go_on.wait()


@mux.task("pay", queue="critical", max_retry=3, retry=900)
async def pay(order: int) -> None:
    if order == 9:
        raise SkipRetry("order 9 was cancelled")
    raise ConnectionError("the bank does not answer")


async def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    logging.getLogger("aioasynq").setLevel(logging.CRITICAL)  # that handlers fail is what the pictures show
    with DevServer(appendonly=True) as redis:
        async with (
            Client(redis.url) as client,
            Server(redis.url, mux, queues={"critical": 6, "default": 3, "low": 1}, concurrency=10),
        ):
            for user in range(40):
                await client.enqueue(welcome.task(user), task_id=f"welcome-{user}")
            for order in (7, 8, 9):
                await client.enqueue(pay.task(order), task_id=f"pay-{order}")
            for name in ("sea.png", "hill.png"):
                await client.enqueue(resize.task(name), task_id=name)
                await at_work.get()
            await client.enqueue(welcome.task(41), task_id="welcome-41", process_in=86400)
            await client.enqueue(Task("report:daily", b"{}"), queue="reports", task_id="report")
            await asyncio.sleep(6)  # servers tell what they run with each heartbeat
            for name, command in COMMANDS.items():
                said = await asyncio.to_thread(show, command, redis.url)
                (PICTURES / f"{name}.svg").write_text(picture(command, said))
            go_on.set()


def show(command: str, url: str) -> str:
    """What a command prints on a terminal."""
    ours, theirs = pty.openpty()
    terminal = {"COLUMNS": str(WIDTH), "LINES": "40", "TERM": "xterm-256color"}
    environment = {**os.environ, **terminal, "AIOASYNQ_REDIS_URL": url}
    process = subprocess.Popen(
        [sys.executable, "-m", *command.split()], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:  # so a terminal ends on Linux
            break
        if not some:
            break
        said += some
    process.wait()
    os.close(ours)
    return said.decode().replace("\r\n", "\n")


def picture(command: str, said: str) -> str:
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(f"$ {command}\n{said.rstrip()}"), soft_wrap=True)
        svg = console.export_svg(title="aioasynq", unique_id=command.split()[1])
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # it would be loaded from another host


if __name__ == "__main__":
    asyncio.run(main())
