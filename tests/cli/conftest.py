"""Programs to run."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cli.stage import APP, COLUMNS, PATIENCE, TASKS, Start, Terminal, Worker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that has a module ``tasks``, others that are broken, and a package ``app``."""
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "broken.py").write_text("import surely_not_there\n")
    (tmp_path / "app").mkdir()
    for name, text in APP.items():
        (tmp_path / "app" / name).write_text(text)
    return tmp_path


@pytest.fixture
def run_worker(folder: Path) -> Callable[..., object]:
    """``async with run_worker("tasks:mux", "--strict") as worker:``, in that folder."""

    @asynccontextmanager
    async def start(
        *arguments: str,
        env: dict[str, str] | None = None,
        cwd: Path = folder,
        program: Sequence[str] = ("-m", "aioasynq"),
        command: str = "worker",
    ) -> AsyncGenerator[Worker]:
        process = await create_subprocess_exec(
            sys.executable,
            *(*program, command, *arguments),
            cwd=cwd,
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, "COLUMNS": "200", **(env or {})},
        )
        worker = Worker(process)
        try:
            yield worker
        finally:
            if process.returncode is None:
                process.kill()
                await worker.end()

    return start


@pytest.fixture
def terminal(redis_url: str, tmp_path: Path) -> Start:
    """``async with terminal("top") as running:``, in an empty folder."""

    @asynccontextmanager
    async def start(*arguments: str, **variables: str) -> AsyncGenerator[Terminal]:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, COLUMNS, 0, 0))
        env = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "aioasynq", *arguments, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path,
            env={**env, "AIOASYNQ_REDIS_URL": redis_url, "TERM": "xterm", "HOME": str(tmp_path), **variables},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that a typed Ctrl-C is a signal
        )  # fmt: skip
        os.close(theirs)
        running = Terminal(ours, process)
        try:
            async with asyncio.timeout(2 * PATIENCE):
                yield running
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            running.close()

    return start
