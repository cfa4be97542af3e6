"""The ledger of a run: what clients were told and what handlers did, and what has to be made of it.

Each event is one line of a file that only grows: task id, event, process id, monotonic time. A line is one write to a
file opened for appending, so lines of many processes never mix, and what was written before a SIGKILL stays.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

#: Kinds of tasks, which their ids begin with, and how often a handler fails on purpose before it succeeds.
KINDS = {
    "quick": 0,
    "fails": 1,  # raises once, then succeeds
    "later": 0,  # scheduled
    "keep": 0,  # has a retention, so it is completed and not forgotten
    "bad": 0,  # raises SkipRetry, so it is archived
    "slow": 0,  # runs for longer than a lease
    "once": 0,  # has a lock of uniqueness
    "oncelater": 0,  # the same, scheduled
    "group": 0,  # waits in a group for ever, since nobody aggregates
    "groupone": 0,  # the same, with a lock
    "stubborn": 0,  # does not care that it is cancelled
    "raises": 1,  # raises whenever it is tried, which is twice
    "odd": 0,  # returns what cannot be stored
    "nobody": 1,  # of a type without a handler
    "junk": 0,  # its message cannot be decoded
    "empty": 0,  # it has no message
    "block": 0,  # blocks the event loop
    "gil": 0,  # holds the interpreter's lock
    "child": 0,  # runs in a child process of its worker
}
GROUPED = {"group", "groupone"}
ARCHIVED = {"bad", "raises", "odd", "nobody", "junk", "empty"}  #: kinds that end in the archive


def group_of(task_id: str) -> str:
    """The group that a task with this id is put into."""
    return f"team{sum(task_id.encode()) % 5}"


#: How long, in seconds, before a worker's death an outcome may have been handed on and still not be written.
SETTLE_WINDOW = 0.5

_RUNS = {"start", "end", "fail", "cancelled"}


class Event(NamedTuple):
    """One line.

    Of tasks: ``ack`` and ``refused`` are what the client heard; ``start``, and then one of ``end`` (it did all it had
    to), ``fail`` (on purpose) and ``cancelled`` what its handler did. Of workers, with ``-`` for an id: ``kill``,
    written just before (of Go's just after, since its events come late), and ``freeze``, written just after; ``stop``,
    written just before SIGTERM; ``dark`` and ``light``, between which it was cut off from Redis.
    """

    task_id: str
    name: str
    pid: int
    at: float  #: monotonic seconds, the same clock in all processes


class Ledger:
    """Appends to the file at *path*."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, task_id: str, name: str, pid: int = 0) -> None:
        """Note an event of this process, or of *pid*."""
        os.write(self._fd, f"{task_id} {name} {pid or os.getpid()} {time.monotonic():.6f}\n".encode())

    def read(self) -> list[Event]:
        """All events, in the order written."""
        events: list[Event] = []
        for line in self._path.read_text("ascii").splitlines():
            task_id, name, pid, at = line.split(" ")
            events.append(Event(task_id, name, int(pid), float(at)))
        return events

    def close(self) -> None:
        """Write no more."""
        os.close(self._fd)


@dataclass
class Remains:
    """What is left in Redis when all has come to rest."""

    #: Ids by where they wait: pending, active, lease, scheduled, retry.
    waiting: Mapping[str, set[str]] = field(default_factory=dict[str, set[str]])
    archived: set[str] = field(default_factory=set[str])
    completed: set[str] = field(default_factory=set[str])
    hashes: set[str] = field(default_factory=set[str])  #: ids with a task hash
    groups: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])  #: by id the groups it is in


@dataclass
class Verdict:
    """What a ledger and the remains amount to: ids, each with a reason."""

    acknowledged: int = 0
    refused: int = 0
    lost: dict[str, str] = field(default_factory=dict[str, str])  #: acknowledged, and now neither done nor in Redis
    dup: dict[str, str] = field(default_factory=dict[str, str])  #: ran more often than it may have
    stuck: dict[str, str] = field(default_factory=dict[str, str])  #: in Redis, and nothing will become of it
    archived: dict[str, str] = field(default_factory=dict[str, str])  #: in the archive without having asked for it
    reruns: int = 0  #: runs more because a worker was killed or frozen
    rerun_after: float = 0.0  #: longest time from a kill to the next start of a task it had caught, seconds
    longest_wait: float = 0.0  #: from an acknowledgement to the start, of tasks that were due at once, seconds

    @property
    def faultless(self) -> bool:
        """Whether all that was promised was kept."""
        return not (self.lost or self.dup or self.stuck or self.archived)


def evaluate(
    events: Iterable[Event], remains: Remains, *, concurrency: int = 1_000_000, window: float = SETTLE_WINDOW
) -> Verdict:
    """Judge a run that has come to rest.

    A task may run again once for each kill or freeze that caught it: it had started in that process and not ended, or
    had ended at most *window* seconds before. None may make more than *concurrency* tasks run again. A task that a
    process had to give back at its shutdown starts once more. A task of a group never starts.
    """
    by_task: defaultdict[str, list[Event]] = defaultdict(list)
    kills: list[Event] = []
    at: defaultdict[str, dict[int, float]] = defaultdict(dict)  # by name and process
    for event in events:
        if event.name in {"kill", "freeze", "dark"}:
            kills.append(event)
        elif event.task_id == "-":
            at[event.name][event.pid] = event.at
        else:
            by_task[event.task_id].append(event)
    verdict = Verdict()
    again_by_kill: Counter[int] = Counter()
    for task_id, history in by_task.items():
        count = Counter(event.name for event in history)
        verdict.acknowledged += count["ack"]
        verdict.refused += count["refused"]
        if count["ack"]:
            _look_for_loss(task_id, count, remains, verdict)
        caught = [kill for kill in kills if _caught(history, kill, window, at["light"].get(kill.pid, math.inf))]
        starts_again = [_next_start(history, kill) for kill in caught]
        for kill, again in zip(caught, starts_again, strict=True):
            if again is not None and _ran_again(history, kill, again):
                again_by_kill[kill.pid] += 1
                verdict.rerun_after = max(verdict.rerun_after, again.at - kill.at)
                verdict.reruns += 1
        if _kind(task_id) not in {"later", "oncelater"}:
            verdict.longest_wait = max(verdict.longest_wait, _wait(history))
        wanted = _wanted(history, at["stop"])
        excess = max(count["end"] - 1, count["start"] - wanted)
        if excess > len(caught):
            verdict.dup[task_id] = (
                f"{count['start']} starts, {count['end']} ends; {wanted} wanted, and {len(caught)} kills caught it"
            )
    for pid, tasks in again_by_kill.items():
        if tasks > concurrency:
            verdict.dup[f"process {pid}"] = f"its death made {tasks} tasks run again, at concurrency {concurrency}"
    _look_for_stuck(remains, verdict)
    return verdict


def missed(verdict: Verdict, events: Iterable[Event], doubtful: Iterable[tuple[float, float]]) -> set[str]:
    """Ids of those that are lost and were acknowledged at a doubtful time, of which each is a pair of moments."""
    acked = {event.task_id: event.at for event in events if event.name == "ack"}
    return {
        task_id for task_id in verdict.lost if any(begin <= acked.get(task_id, 0.0) <= end for begin, end in doubtful)
    }


def _kind(task_id: str) -> str:
    return task_id.partition("-")[0]


def _wanted(history: Iterable[Event], stops: Mapping[int, float]) -> int:
    """How often it has to start: once, once more for each wanted failure, and for each shutdown that gave it back."""
    kind = _kind(next(iter(history)).task_id)
    given_back = sum(event.name == "cancelled" and event.at > stops.get(event.pid, math.inf) for event in history)
    return 0 if kind in GROUPED else 1 + KINDS[kind] + given_back


def _look_for_loss(task_id: str, count: Counter[str], remains: Remains, verdict: Verdict) -> None:
    kind = _kind(task_id)
    if kind in GROUPED:
        places = remains.groups.get(task_id, [])
        if group_of(task_id) not in places or task_id not in remains.hashes:
            verdict.lost[task_id] = f"not in its group, but in {places or 'none'}"
        elif len(places) > 1:
            verdict.dup[task_id] = f"in the groups {places}"
    elif kind in ARCHIVED and kind != "bad":
        if task_id not in remains.archived:
            verdict.lost[task_id] = "it could not succeed and is not in the archive"
    elif not count["end"]:
        if task_id not in remains.hashes:
            verdict.lost[task_id] = f"{count['start']} starts, no end, and no task in Redis"
    elif kind == "bad" and task_id not in remains.archived:
        verdict.lost[task_id] = "it ended in SkipRetry and is not in the archive"
    elif kind == "keep" and task_id not in remains.completed:
        verdict.lost[task_id] = "it succeeded and is not among the completed"


def _look_for_stuck(remains: Remains, verdict: Verdict) -> None:
    for place, ids in remains.waiting.items():
        for task_id in ids:
            verdict.stuck[task_id] = f"still in {place}"
    for task_id in remains.hashes - remains.archived - remains.completed - remains.groups.keys() - verdict.stuck.keys():
        verdict.stuck[task_id] = "its hash is there, but it is in no list"
    for task_id in remains.archived:
        if _kind(task_id) not in ARCHIVED:
            verdict.archived[task_id] = "in the archive without having asked for it"


def _caught(history: Sequence[Event], kill: Event, window: float, light: float) -> bool:
    if kill.name == "dark":
        return _in_the_dark(history, kill, window, light)
    own = [event for event in history if event.pid == kill.pid and event.name in _RUNS]
    before = [event for event in own if kill.name == "kill" or event.at <= kill.at]
    if before:
        last = before[-1]
        return last.name == "start" or last.at >= kill.at - window
    # Taken, but not started when the process was frozen: the task went to somebody else, and was started all the same.
    return bool(own) and any(e.name == "start" and e.pid != kill.pid and e.at < own[0].at for e in history)


def _in_the_dark(history: Sequence[Event], dark: Event, window: float, light: float) -> bool:
    """Did it run, or had it just run, in a process that Redis could not hear?"""
    own = [event for event in history if event.pid == dark.pid and event.name in _RUNS and event.at <= light + window]
    return bool(own) and (own[-1].name == "start" or own[-1].at >= dark.at - window)


def _ran_again(history: Iterable[Event], kill: Event, again: Event) -> bool:
    """Was the start *again* due to the kill? Not if the task had failed on purpose and was to be tried again anyway."""
    until = {"kill": math.inf, "dark": again.at}.get(kill.name, kill.at)
    own = [e.name for e in history if e.pid == kill.pid and e.name in _RUNS and e.at <= until]
    return not own or own[-1] != "fail"


def _wait(history: Iterable[Event]) -> float:
    first: dict[str, float] = {}
    for event in history:
        first.setdefault(event.name, event.at)
    return first["start"] - first["ack"] if first.keys() >= {"start", "ack"} else 0.0


def _next_start(history: Iterable[Event], kill: Event) -> Event | None:
    return next((e for e in history if e.name == "start" and e.at > kill.at and e.pid != kill.pid), None)
