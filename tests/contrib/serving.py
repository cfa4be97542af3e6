"""Apps as programs: uvicorn on a port of its own, to be asked over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from aioasynq.devserver import ENV_URL, free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 40  # seconds until something counts as not happening


class Program:
    """A program that runs, and what it has printed so far."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.said: list[str] = []

    async def until(self, text: str) -> None:
        """Wait until it has printed a line with *text* in it."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while not any(text in line for line in self.said):
                line = await self._process.stdout.readline()
                assert line, f"it ended without {text!r}: {self.said}"
                self.said.append(line.decode().rstrip())

    async def stop(self) -> int:
        """Ask it to end, and wait until it has."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            rest, _ = await self._process.communicate()
        self.said += rest.decode().splitlines()
        assert self._process.returncode is not None
        return self._process.returncode


@asynccontextmanager
async def program(*arguments: str, url: str, **environ: str) -> AsyncGenerator[Program]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=PIPE, stderr=STDOUT, env={**os.environ, ENV_URL: url, **environ}
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@asynccontextmanager
async def served(
    target: str, url: str, folder: Path = EXAMPLES, **environ: str
) -> AsyncGenerator[tuple[httpx.AsyncClient, Program]]:
    """An app on uvicorn, and a client for it."""
    port = free_port()
    uvicorn = ("-m", "uvicorn", "--app-dir", str(folder), "--port", str(port), target)
    base_url = f"http://127.0.0.1:{port}"
    async with (
        program(*uvicorn, url=url, **environ) as app,
        httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=PATIENCE) as http,
    ):
        await app.until("running on")
        yield http, app
