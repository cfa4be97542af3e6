"""What a worker says about itself: how many tasks it had, how they ended, how long they took."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Hashable
from dataclasses import asdict, fields
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec

from aioasynq.observer import Ended, Observer, Processed
from aioasynq.server.counts import Counts

if TYPE_CHECKING:
    from aioasynq.server import Server
    from aioasynq.task import Task

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)  #: seconds of a duration
MAX_TYPES = 500  #: patterns that are told apart; the rest are OTHER, as are tasks without a handler
OTHER = "other"
STALLED = 30.0  #: seconds an event loop may stand still before its process counts as sick


class Durations(msgspec.Struct):
    """How many took how long."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))  #: by bound, and beyond
    total: float = 0.0  #: seconds

    def add(self, other: Durations) -> None:
        """Count those of another one too."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


class Figures(msgspec.Struct, tag=True):
    """Of one process, or of several together."""

    counts: dict[str, int] = msgspec.field(default_factory=lambda: asdict(Counts()))  #: ``Server.counts``
    outcomes: dict[str, dict[str, int]] = msgspec.field(default_factory=dict[str, dict[str, int]])  #: by pattern
    durations: dict[str, Durations] = msgspec.field(default_factory=dict[str, Durations])  #: by pattern
    running: int = 0
    concurrency: int = 0
    processes: int = 0
    in_contact: int = 0  #: processes for which Redis is there
    ready: int = 0  #: processes that take tasks

    def add(self, other: Figures, *, is_alive: bool = True) -> None:
        """Count those of another process too; of one that has ended only what it has done."""
        for name, count in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        for pattern, outcomes in other.outcomes.items():
            ours = self.outcomes.setdefault(pattern, {})
            for outcome, count in outcomes.items():
                ours[outcome] = ours.get(outcome, 0) + count
        for pattern, durations in other.durations.items():
            self.durations.setdefault(pattern, Durations()).add(durations)
        if is_alive:
            for name in ("running", "concurrency", "processes", "in_contact", "ready"):
                setattr(self, name, getattr(self, name) + getattr(other, name))


class Source(Protocol):
    """Who is asked, from any thread."""

    def figures(self) -> Figures:
        """All there is to tell."""
        ...

    def sick(self) -> str:
        """Why this should be restarted; "" when it is well."""
        ...

    def unready(self) -> str:
        """Why this takes no tasks; "" when it does."""
        ...


class Recorder(Observer):
    """Counts how the tasks of a server end. Its loop writes, others read copies."""

    def __init__(self) -> None:
        self._outcomes: dict[str, dict[str, int]] = {}
        self._durations: dict[str, Durations] = {}

    def processing(self, task: Task, *, pattern: str, address: str) -> Processed:  # noqa: ARG002 - the observer's shape
        """Count it when it has ended."""
        if not pattern or (pattern not in self._durations and len(self._durations) >= MAX_TYPES):
            pattern = OTHER
        return partial(self._count, pattern)

    def _count(self, pattern: str, ended: Ended) -> None:
        durations = self._durations.get(pattern)
        if durations is None:
            durations = self._durations[pattern] = Durations()
            self._outcomes[pattern] = {}
        durations.counts[bisect_left(BOUNDS, ended.seconds)] += 1
        durations.total += ended.seconds
        outcomes = self._outcomes[pattern]
        outcomes[ended.outcome] = outcomes.get(ended.outcome, 0) + 1

    def figures(self, server: Server) -> Figures:
        """Of this server."""
        counts = {each.name: getattr(server.counts, each.name) for each in fields(Counts)}
        return Figures(
            counts=counts,
            outcomes={pattern: outcomes.copy() for pattern, outcomes in self._outcomes.copy().items()},
            durations={
                pattern: Durations(durations.counts.copy(), durations.total)
                for pattern, durations in self._durations.copy().items()
            },
            running=server.running,
            concurrency=server.config.concurrency,
            processes=1,
            in_contact=int(server.in_contact),
            ready=int(server.is_ready),
        )


class OfServer:
    """The figures of a server in this process."""

    def __init__(self, server: Server, recorder: Recorder) -> None:
        self._server = server
        self._recorder = recorder

    def figures(self) -> Figures:
        """As they are now."""
        return self._recorder.figures(self._server)

    def sick(self) -> str:
        """Its event loop stands still, or it has ended."""
        return _standing(self._server.standing_still)

    def unready(self) -> str:
        """It does not run, or Redis is away."""
        if self._server.status != "active":
            return f"the server is {self._server.status}"
        return "" if self._server.in_contact else "no contact with Redis"


class OfProcesses:
    """The figures of several processes, which report them; those of the dead stay in the sums."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # the parent's loop writes, who is asked reads
        self._past = Figures()
        self._last: dict[Hashable, tuple[Figures, float]] = {}
        self._stopping = False

    def report(self, process: Hashable, figures: Figures) -> None:
        """What a process says."""
        with self._lock:
            self._last[process] = (figures, time.monotonic())

    def gone(self, process: Hashable) -> None:
        """It has ended."""
        with self._lock:
            last = self._last.pop(process, None)
            if last is not None:
                self._past.add(last[0], is_alive=False)

    def stop(self) -> None:
        """All of them are to end, or take no more tasks."""
        self._stopping = True

    def figures(self) -> Figures:
        """The sum, of at most a second ago."""
        total = Figures()
        with self._lock:
            total.add(self._past, is_alive=False)
            for figures, _ in self._last.values():
                total.add(figures)
        return total

    def sick(self) -> str:
        """A process says nothing any more: its event loop stands still."""
        with self._lock:
            ages = [(time.monotonic() - when, process) for process, (_, when) in self._last.items()]
        silent, process = max(ages, default=(0.0, None))
        why = _standing(silent)
        return f"process {process}: {why}" if why else ""

    def unready(self) -> str:
        """No process takes tasks."""
        if self._stopping:
            return "the worker is stopping"
        total = self.figures()
        if total.ready:
            return ""
        return "no contact with Redis" if total.processes and not total.in_contact else "no process is ready"


def _standing(seconds: float) -> str:
    return f"its event loop has stood still for {seconds:.0f} s" if seconds > STALLED else ""
