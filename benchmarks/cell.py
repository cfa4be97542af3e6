"""One cell: one system at one work, with a Redis, shared memory and processes that nobody else uses."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from aioasynq.devserver import DevServer
from benchmarks import processes
from benchmarks.environments import ROOT, Installed
from benchmarks.hop import Hop
from benchmarks.shared import Shared

START_LIMIT = 60.0  #: seconds until a process has loaded and connected
POLL = 0.002
LOG_SHOWN = 1_500  #: characters of a program's output in an error


class CellError(Exception):
    """A cell gave no figure; the text says why."""


@dataclass(frozen=True)
class Enqueued:
    """What an enqueuer reported, and what Redis used meanwhile."""

    count: int
    seconds: float
    cpu: float
    redis_cpu: float
    due: float

    @property
    def rate(self) -> float:
        return self.count / self.seconds


class Child:
    """A program of the system, in a session of its own."""

    def __init__(self, command: list[str], log: Path, spec: dict[str, Any]) -> None:
        self._out = log.with_suffix(".out")
        self._err = log.with_suffix(".err")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*command, json.dumps(spec)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raise what it said, if it has ended."""
        if (status := self.process.poll()) is not None:
            raise CellError(f"the program ended with status {status}: {self.said()}")

    def said(self) -> str:
        text = self._err.read_text(errors="replace").strip() or self._out.read_text(errors="replace").strip()
        return text[-LOG_SHOWN:] or "(it said nothing)"

    def report(self, limit: float) -> dict[str, float]:
        """Wait for its end and return its last line."""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise CellError(f"the enqueuer was not done after {limit:g} s") from None
        if status:
            raise CellError(f"the enqueuer ended with status {status}: {self.said()}")
        said: dict[str, float] = json.loads(self._out.read_text().splitlines()[-1])
        return said

    def kill(self) -> None:
        """End it and what it started. Nothing is asked to stop in order: its Redis goes as well."""
        for pid in {*processes.of_session(self.pid), self.pid}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


class Cell:
    """Where *way* leads from a Redis's port to another way to reach it, the system takes that one."""

    def __init__(self, installed: Installed, tasks: int, way: Callable[[int], Hop] | None = None) -> None:
        self.installed = installed
        self.system = installed.system
        self.tasks = tasks
        self._way = way
        self._stack = ExitStack()
        self._children: list[Child] = []
        self._gate = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aioasynq-bench-")))
            self.server = stack.enter_context(DevServer())
            self.url = stack.enter_context(self._way(self.server.port)).url if self._way else self.server.url
            self.redis = stack.enter_context(redis.Redis.from_url(self.server.url))
            self.shared = Shared.create(self.folder / "shared", self.tasks)
            stack.callback(self.shared.close)
            stack.callback(self._kill_all)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def another(self, tasks: int) -> Cell:
        """A cell of the same system for *tasks* tasks, with a Redis of its own, to be used in turn with this one."""
        return Cell(self.installed, tasks, self._way)

    # --- enqueue ---

    def enqueue(self, how: str, count: int, *, limit: float = 1e6, patience: float = 180.0, **more: Any) -> Enqueued:
        """Run an enqueuer to its end. After *limit* seconds it begins no further task, after *patience* it failed."""
        child, gate = self._start(1, role="enqueue", how=how, count=count, limit=limit, **more)
        before = self.redis_cpu()
        self.shared.open_gate(gate)
        report = child[0].report(patience)
        return Enqueued(
            int(report["count"]), report["seconds"], report["cpu"], self.redis_cpu() - before, report["due"]
        )

    def preload(self, count: int, *, first: int = 0, **more: Any) -> None:
        """Put *count* tasks into the queue, in the fastest way the system has."""
        how = "bulk" if "bulk" in self.system.can else "callers"
        done = self.enqueue(how, count, first=first, **more)
        if done.count != count:
            raise CellError(f"only {done.count} of {count} tasks were enqueued")

    # --- work ---

    def work(self, workers: int = 1, **more: Any) -> list[Child]:
        """Start worker processes, all at once when each has loaded."""
        children, gate = self._start(workers, role="work", **more)
        self.shared.open_gate(gate)
        return children

    def wait_for(self, what: str, done: Callable[[], bool], limit: float) -> bool:
        """Whether *done* came true within *limit* seconds; a worker that ends meanwhile is an error about *what*."""
        end = time.monotonic() + limit
        looked = 0.0
        while not done():
            now = time.monotonic()
            if now > end:
                return False
            if now > looked + 0.5:
                looked = now
                for child in self._children:
                    if child.process.poll() not in {None, 0}:
                        raise CellError(f"while {what}: {child.said()}")
            time.sleep(POLL)
        return True

    def settle_down(self, warm: int = 10, *, first: int, pause: float = 1.0, **more: Any) -> None:
        """Have the workers handle a few tasks, for what is made at the first one, and then let them idle."""
        before = self.shared.handled()
        self.enqueue("one", warm, first=first, **more)
        if not self.wait_for("warming up", lambda: self.shared.handled() >= before + warm, 30.0):
            raise CellError("the worker handled nothing for 30 s")
        time.sleep(pause)

    # --- figures ---

    def redis_cpu(self) -> float:
        return processes.cpu_of(self.server.pid)

    def workers_cpu(self, children: list[Child]) -> float:
        return sum(processes.cpu_of_session(child.pid) for child in children)

    def commands(self) -> dict[str, tuple[int, int]]:
        """How often each command ran since the server started, and its microseconds; scripts and what they call."""
        found = self.redis.info("commandstats")
        return {name.removeprefix("cmdstat_"): (entry["calls"], entry["usec"]) for name, entry in found.items()}

    def used_memory(self) -> int:
        return int(self.redis.info("memory")["used_memory"])

    def program(self, code: str) -> Child:
        """A Python of the system's environment that runs *code*."""
        child = Child([self.installed.python, "-c", code], self.folder / f"{len(self._children)}", {})
        self._children.append(child)
        return child

    def _start(self, many: int, **spec: Any) -> tuple[list[Child], int]:
        gate, self._gate = self._gate, self._gate + 1
        common = {
            "redis": self.url,
            "shared": str(self.shared.path),
            "tasks": self.tasks,
            "gate": gate,
            **spec,
        }
        children = [
            Child(list(self.installed.command), self.folder / f"{len(self._children) + number}", common)
            for number in range(many)
        ]
        self._children += children
        end = time.monotonic() + START_LIMIT
        while self.shared.waiting_at(gate) < many:
            for child in children:
                child.check()
            if time.monotonic() > end:
                raise CellError(f"the program was not ready within {START_LIMIT:g} s: {children[0].said()}")
            time.sleep(POLL)
        return children, gate

    def _kill_all(self) -> None:
        for child in self._children:
            child.kill()


def percentile(values: list[float], part: float) -> float:
    """The value below which *part* of the values lie."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]
