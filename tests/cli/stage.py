"""Programs in processes of their own, with a terminal or without, and the modules they may find there."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from aioasynq.cli.main import main

PATIENCE = 20  # seconds until something that has to happen counts as not happening
COLUMNS = 80  # of a terminal
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")

TASKS = """
import asyncio, os, signal, time
from aioasynq import ServeMux, Server

mux = ServeMux()
empty = ServeMux()
server = Server(mux=mux, concurrency=7, queues={"low": 1, "high": 2})
number = 3

class nested:
    mux = mux

def make():
    made = ServeMux()
    made.add("made", print)
    return made

def make_server():
    return Server(mux=make())

def make_nothing():
    pass

async def later():
    return mux

@mux.task("greet")
async def greet(name: str):
    print("hello", name, flush=True)

@mux.handler("slow:")
async def slow(task):
    print("slow", flush=True)
    await asyncio.sleep(60)

@mux.handler("thread")
def thread(task):
    print("thread", flush=True)
    time.sleep(60)

@mux.handler("to-thread")
async def to_thread(task):
    print("to-thread", flush=True)
    await asyncio.to_thread(time.sleep, 60)

@mux.handler("stubborn")
async def stubborn(task):
    print("stubborn", flush=True)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

@mux.handler("hold")
async def hold(task):
    print("hold", os.getpid(), task.retried, flush=True)
    await asyncio.sleep(60)

@mux.handler("gate")
async def gate(task):
    print("gate", os.getpid(), flush=True)
    while not os.path.exists("open"):
        await asyncio.sleep(0.02)
    print("through", flush=True)

@mux.handler("pid")
async def pid(task):
    print("pid", os.getpid(), flush=True)

@mux.handler("poison")
async def poison(task):
    os.kill(os.getpid(), signal.SIGKILL)

@mux.handler("eat")
async def eat(task):
    eaten.append(bytearray(b"x") * 300_000_000)
    print("eat", os.getpid(), flush=True)

@mux.handler("block")
async def block(task):
    print("block", os.getpid(), flush=True)
    time.sleep(60)

eaten = []
patient = Server(mux=mux, concurrency=1, lease=60, shutdown_timeout=0)
"""

APP = {
    "__init__.py": "",
    "models.py": "",
    "jobs.py": "from app.models import nothing\n",
    "many.py": """from aioasynq import ServeMux
m0, m1, m2, m3, m4, m5, m6 = (ServeMux() for _ in range(7))

def make_none():
    raise ValueError("no settings")
""",
    "deep.py": "from app import deeper\n",
    "deeper.py": 'setting = {}["missing"]\n',
    "wrong.py": "def\n",
    "leaves.py": "raise SystemExit(0)\n",
}


class Worker:
    """A worker that runs, and what it has said so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.said = ""

    async def line(self) -> str:
        """The next line a handler printed."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stdout.readline()).decode().strip()

    async def until(self, text: str, times: int = 1) -> str:
        """All it has said on stderr, once *text* is in it, so many times."""
        assert self.process.stderr is not None
        try:
            async with asyncio.timeout(PATIENCE):
                while self.said.count(text) < times:
                    line = await self.process.stderr.readline()
                    assert line, f"it ended without saying {text!r}:\n{self.said}"
                    self.said += line.decode()
        except TimeoutError:
            raise TimeoutError(f"it did not say {text!r}:\n{self.said}") from None
        return self.said

    async def end(self) -> int:
        """Its exit code, once it has ended."""
        async with asyncio.timeout(PATIENCE):
            _, rest = await self.process.communicate()
        self.said += rest.decode()
        assert self.process.returncode is not None
        return self.process.returncode


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, fd: int, process: asyncio.subprocess.Process) -> None:
        self._fd = fd
        self.process = process
        self.raw = b""
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, self._read)

    @property
    def text(self) -> str:
        return _CONTROL.sub("", self.raw.decode("utf-8", "replace"))

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    async def shows(self, text: str, times: int = 1) -> None:
        while self.text.count(text) < times:
            self._more.clear()
            await self._more.wait()

    async def end(self) -> int:
        return await self.process.wait()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the program has ended
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
        self.raw += data
        self._more.set()


Start = Callable[..., AbstractAsyncContextManager[Terminal]]


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command that is run here."""
    monkeypatch.setattr(sys, "argv", ["aioasynq", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code
