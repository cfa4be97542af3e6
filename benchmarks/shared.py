"""The memory that the runner, enqueuers and workers of one cell share: a file of 64-bit integers, mapped.

Handlers note in it that they ran, so that nothing but the system under test touches Redis. The Go program knows the
same layout, and every system's own environment can import this file: it needs the standard library only.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from pathlib import Path

GATES = 31  #: pairs of words: how many processes wait at this gate, and whether it is open
NEXT_LANE = 62  #: the lane that the next process takes
LANES = 64  #: where the lanes begin
LANE = 8  #: words from lane to lane: a cache line, so that processes do not slow each other down
LANE_COUNT = 64
TASKS = LANES + LANE * LANE_COUNT  #: where the two moments of each task begin


class Shared:
    """Counts of handled tasks, and for each task when it was sent and when its handler began (unix ns)."""

    def __init__(self, path: str | os.PathLike[str], tasks: int) -> None:
        self.path = Path(path)
        self.tasks = tasks
        with self.path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size(tasks))
        self.words = memoryview(self._map).cast("q")
        self.sent = self.words[TASKS : TASKS + tasks]
        self.began = self.words[TASKS + tasks : TASKS + 2 * tasks]
        self._pid = 0
        self._lane = 0

    @classmethod
    def create(cls, path: str | os.PathLike[str], tasks: int) -> Shared:
        with Path(path).open("wb") as file:
            file.truncate(size(tasks))
        return cls(path, tasks)

    def hit(self, number: int) -> None:
        """The handler of task *number* has begun."""
        self.began[number] = time.time_ns()
        if self._pid != os.getpid():
            self._take_lane()
        self.words[self._lane] += 1

    def handled(self) -> int:
        """How often a handler has begun, over all processes."""
        return sum(self.words[LANES:TASKS:LANE])

    def wait_at_gate(self, gate: int) -> None:
        """Called by a process that has loaded and connected what it can; the runner opens the gate for all at once."""
        self._add(2 * gate)
        while not self.words[2 * gate + 1]:
            time.sleep(0.001)

    def waiting_at(self, gate: int) -> int:
        return self.words[2 * gate]

    def open_gate(self, gate: int) -> None:
        self.words[2 * gate + 1] = 1

    def close(self) -> None:
        for view in (self.sent, self.began, self.words):
            view.release()
        self._map.close()

    def _take_lane(self) -> None:
        self._lane = LANES + LANE * (self._add(NEXT_LANE) % LANE_COUNT)
        self._pid = os.getpid()

    def _add(self, word: int) -> int:
        with self.path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = self.words[word]
            self.words[word] = before + 1
        return before


def size(tasks: int) -> int:
    """Bytes that *tasks* tasks need."""
    return 8 * (TASKS + 2 * tasks)
