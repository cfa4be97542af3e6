"""Worker processes of the fault suite: Python's, the command line's with its children, and Go's."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.conformance import go_build
from tests.faults.ledger import Ledger

ROOT = Path(__file__).parents[2]

_READY = 30.0  # seconds a worker may take to start
_LOOK = 0.05  # seconds between two looks at a log


class Worker:
    """A worker process that says ``ready`` on its standard output."""

    heard_late = False  #: what it does comes into the ledger by way of a pipe

    def __init__(self, command: list[str], log: Path, **environment: str) -> None:
        self.log = log
        self.disturbed = False  #: it was killed, frozen or cut off
        self._ready = False
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def ready(self) -> None:
        """Wait until it works, or has ended."""
        if not self._ready:
            async with asyncio.timeout(_READY):
                self._ready = await self._wait_ready()

    async def _wait_ready(self) -> bool:
        assert self.process.stdout is not None
        return bool(await asyncio.to_thread(self.process.stdout.readline))

    async def wait(self, limit: float) -> int:
        """Its exit code, a negative one being a signal's number; it is killed after *limit* seconds."""
        try:
            return await asyncio.to_thread(self.process.wait, limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return await asyncio.to_thread(self.process.wait)

    async def end(self, limit: float) -> int:
        """End it in order, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.wait(limit)

    def kill(self) -> None:
        """End it by SIGKILL; all that it did before is in the ledger afterwards."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Leave nothing behind."""
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def python_worker(spec: dict[str, Any], log: Path) -> Worker:
    """A server in a process of its own."""
    return Worker([sys.executable, "-m", "tests.faults.worker", json.dumps(spec)], log)


class CommandLine(Worker):
    """``aioasynq worker``, with children when *processes* is not 0."""

    def __init__(self, spec: dict[str, Any], log: Path, processes: int = 0) -> None:
        words = [f"--processes={processes}"] if processes else []
        super().__init__([sys.executable, "-m", "tests.faults.command", json.dumps(spec), *words], log)
        self._servers = processes or 1

    async def _wait_ready(self) -> bool:
        while self.log.read_text("utf-8", "replace").count(" started: redis://") < self._servers:
            if self.process.poll() is not None:
                break
            await asyncio.sleep(_LOOK)
        return True

    async def until_logged(self, text: str, often: int = 1) -> None:
        """Wait until its log says so."""
        while self.log.read_text("utf-8", "replace").count(text) < often:
            await asyncio.sleep(_LOOK)


class GoWorker(Worker):
    """A server of asynq's; what it prints goes into the ledger."""

    heard_late = True

    _NAMES = {"started": "start", "finished": "end", "failed": "fail", "cancelled": "cancelled"}  # noqa: RUF012

    def __init__(self, spec: dict[str, Any], log: Path, ledger: Ledger) -> None:
        clock = round(spec.get("clock", 0))
        program = go_build.build_shifted() if clock else go_build.build("go") / "serve"
        command = [program, "-redis", spec["url"], "-concurrency", spec["concurrency"], "-retry-delay", "100ms"]
        super().__init__([str(word) for word in command], log, **{go_build.CLOCK: str(clock)})
        self._ledger = ledger
        self._is_ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    async def _wait_ready(self) -> bool:
        return await asyncio.to_thread(self._is_ready.wait, _READY)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if said["event"] == "ready":
                self._is_ready.set()
            name = self._NAMES.get(said["event"])
            if name is None:
                continue
            if name == "fail" and said["id"].startswith("bad"):  # as Python's, which has done its work by then
                name = "end"
            self._ledger.write(said["id"], name, self.pid)
        self._is_ready.set()

    def kill(self) -> None:
        """End it by SIGKILL; all that it said before is in the ledger afterwards."""
        super().kill()
        self._reader.join(5.0)
