"""Workers to run."""

from __future__ import annotations

import os
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.cli.stage import APP, TASKS, Worker


@pytest.fixture
def run_worker(tmp_path: Path) -> Callable[..., object]:
    """``async with run_worker("tasks:mux", "--strict") as worker:``, in a folder that has a module ``tasks``."""
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "broken.py").write_text("import surely_not_there\n")
    (tmp_path / "app").mkdir()
    for name, text in APP.items():
        (tmp_path / "app" / name).write_text(text)

    @asynccontextmanager
    async def start(
        *arguments: str,
        env: dict[str, str] | None = None,
        cwd: Path = tmp_path,
        program: Sequence[str] = ("-m", "aioasynq"),
    ) -> AsyncGenerator[Worker]:
        process = await create_subprocess_exec(
            sys.executable,
            *(*program, "worker", *arguments),
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
