"""Names of everything in Redis: keys, hash fields, the cancelation channel. No other module spells one.

All keys of one queue carry its name in braces, so that a Cluster keeps them in one slot.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import lru_cache
from hashlib import md5
from typing import ParamSpec, cast

# Fields of a task's hash. The first six are asynq's; the others are ours and survive Go's rewrites of the message.
MSG = "msg"
STATE = "state"
PENDING_SINCE = "pending_since"
UNIQUE_KEY = "unique_key"
GROUP = "group"
RESULT = "result"
JOIN = "join"
OWNER = "owner"
RECOVERED = "recovered"
ERROR = "error"
PROGRESS = "progress"
PROGRESS_TEXT = "progress_text"

CANCEL = "asynq:cancel"  #: Pub/Sub channel; a message is the id of the task to cancel, and nothing else

# asynq's layout of 2020: one place for the tasks of all queues, whose members are messages in JSON. No braces, so no
# Cluster. The set of all queues had today's name, and the keys of lists in it.
OLD_QUEUE = "asynq:queues:"  #: what the key of a queue's list begins with; the next task to run is on the right
OLD_IN_PROGRESS = "asynq:in_progress"  #: list of what runs; the task that was taken first is on the right
OLD_SCHEDULED = "asynq:scheduled"
OLD_RETRY = "asynq:retry"
OLD_DEAD = "asynq:dead"
OLD_PROCESSED = "asynq:processed:"  #: what the key of a day's counter begins with, of all queues together
OLD_FAILED = "asynq:failure:"
OLD_PROCESSES = "asynq:ps"  #: sorted set: the key of each process's record, by its expiry in unix seconds
OLD_PAUSED = "asynq:paused"  #: set: the keys of lists from which nothing is taken

_P = ParamSpec("_P")


def _kept(make: Callable[_P, str]) -> Callable[_P, str]:
    """For keys that nearly every call needs."""
    return cast("Callable[_P, str]", lru_cache(maxsize=1024)(make))


def check_queue_name(name: str) -> None:
    """Refuse a name that cannot be a queue's.

    Braces are refused because they move the hash tag: the queue's keys would lie in different slots of a Cluster.

    Raises:
        TypeError: *name* is not a string.
        ValueError: *name* is empty, blank, has a brace in it, or is not valid Unicode.
    """
    if not isinstance(name, str):
        raise TypeError(f"queue must be a str, got {name!r}")
    if not name or name.isspace():
        raise ValueError(f"queue must contain one or more characters that are not blank, got {name!r}")
    if "{" in name or "}" in name:
        raise ValueError(f"queue must not contain braces, got {name!r}")
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"queue must be valid Unicode text, got {name!r}") from None


# Global keys


def queues() -> str:
    """Set: the names of all queues."""
    return "asynq:queues"


def servers() -> str:
    """Sorted set: the key of each server's record, by its expiry in unix seconds."""
    return "asynq:servers"


def workers() -> str:
    """Sorted set: the key of each server's workers, by its expiry in unix seconds."""
    return "asynq:workers"


def schedulers() -> str:
    """Sorted set: the key of each scheduler's entries, by its expiry in unix seconds."""
    return "asynq:schedulers"


def server(host: str, pid: int, server_id: str) -> str:
    """String: what a server says about itself."""
    return f"asynq:servers:{{{host}:{pid}:{server_id}}}"


def server_workers(host: str, pid: int, server_id: str) -> str:
    """Hash: the tasks a server is running, by task id."""
    return f"asynq:workers:{{{host}:{pid}:{server_id}}}"


def server_patterns(host: str, pid: int, server_id: str) -> str:
    """String: the patterns of the task types that a server of ours has handlers for, as a JSON list; not asynq's."""
    return f"asynq:servers:{{{host}:{pid}:{server_id}}}:patterns"


def scheduler_entries(scheduler_id: str) -> str:
    """List: the entries of a scheduler, whose id is ``host:pid:uuid``."""
    return f"asynq:schedulers:{{{scheduler_id}}}"


def scheduler_history(entry_id: str) -> str:
    """Sorted set: what an entry has enqueued, by unix seconds."""
    return f"asynq:scheduler_history:{entry_id}"


def semaphore(scope: str) -> str:
    """Sorted set: the ids of the tasks that hold a token of a semaphore, by the unix second at which they lose it."""
    return f"asynq:sema:{scope}"


# Keys of a queue


def prefix(queue: str) -> str:
    """What all keys of *queue* begin with."""
    return f"asynq:{{{queue}}}:"


@_kept
def pending(queue: str) -> str:
    """List: ids that wait; the next one to run is on the right."""
    return f"asynq:{{{queue}}}:pending"


def active(queue: str) -> str:
    """List: ids that run."""
    return f"asynq:{{{queue}}}:active"


def lease(queue: str) -> str:
    """Sorted set: ids that run, by the unix second at which they are given up for lost."""
    return f"asynq:{{{queue}}}:lease"


def scheduled(queue: str) -> str:
    """Sorted set: ids by the unix second at which they become pending."""
    return f"asynq:{{{queue}}}:scheduled"


def retry(queue: str) -> str:
    """Sorted set: ids that failed, by the unix second at which they become pending again."""
    return f"asynq:{{{queue}}}:retry"


def archived(queue: str) -> str:
    """Sorted set: ids that are out of retries, by the unix second at which they were archived."""
    return f"asynq:{{{queue}}}:archived"


def completed(queue: str) -> str:
    """Sorted set: ids that succeeded and are kept, by the unix second at which they are deleted."""
    return f"asynq:{{{queue}}}:completed"


def paused(queue: str) -> str:
    """String: there while the queue is paused; holds the unix second since when."""
    return f"asynq:{{{queue}}}:paused"


@_kept
def task_prefix(queue: str) -> str:
    """What the keys of all tasks of *queue* begin with."""
    return f"asynq:{{{queue}}}:t:"


def task(queue: str, task_id: str) -> str:
    """Hash: a task."""
    return f"asynq:{{{queue}}}:t:{task_id}"


def unique(queue: str, task_type: str, payload: bytes | None) -> str:
    """String: the lock of a unique task; holds the id of the task that has it.

    A payload of no bytes and no payload at all (None) make different locks, as in asynq.
    """
    if payload is None:
        return f"asynq:{{{queue}}}:unique:{task_type}:"
    return f"asynq:{{{queue}}}:unique:{task_type}:{md5(payload, usedforsecurity=False).hexdigest()}"


def groups(queue: str) -> str:
    """Set: names of the groups with waiting tasks."""
    return f"asynq:{{{queue}}}:groups"


def group_prefix(queue: str) -> str:
    """What the keys of all groups of *queue* begin with."""
    return f"asynq:{{{queue}}}:g:"


def group(queue: str, name: str) -> str:
    """Sorted set: ids that wait in a group, by the unix second at which they joined."""
    return f"asynq:{{{queue}}}:g:{name}"


def aggregation_set(queue: str, group: str, set_id: str) -> str:
    """Sorted set: ids of a group that are being made into one task, by the unix second at which they joined."""
    return f"asynq:{{{queue}}}:g:{group}:{set_id}"


def aggregation_sets(queue: str) -> str:
    """Sorted set: the keys of all aggregation sets, by the unix second at which they go back to their group."""
    return f"asynq:{{{queue}}}:aggregation_sets"


def processed_total(queue: str) -> str:
    """String: attempts ever made, successes and failures."""
    return f"asynq:{{{queue}}}:processed"


def failed_total(queue: str) -> str:
    """String: attempts that ever failed."""
    return f"asynq:{{{queue}}}:failed"


def processed(queue: str, day: date | str) -> str:
    """String: attempts made on a UTC day; *day* is a date, an aware datetime or what :func:`day` gave."""
    return f"asynq:{{{queue}}}:processed:{_day_text(day)}"


def failed(queue: str, day: date | str) -> str:
    """String: attempts that failed on a UTC day; *day* as in :func:`processed`."""
    return f"asynq:{{{queue}}}:failed:{_day_text(day)}"


def day(now: float) -> str:
    """The UTC day of a moment in unix seconds, as ``YYYY-MM-DD``."""
    return time.strftime("%Y-%m-%d", time.gmtime(now))


@_kept
def receipt(queue: str, caller: str) -> str:
    """String: number and answer of the last write of *caller*, so that a repeated write is answered, not done twice."""
    return f"asynq:{{{queue}}}:receipt:{caller}"


def fired(queue: str, entry_id: str) -> str:
    """String: the last moment at which a periodic task was fired, by whom, and what came of it; not asynq's."""
    return f"asynq:{{{queue}}}:fired:{entry_id}"


def awaited(queue: str) -> str:
    """String, there while somebody waits for the ends of tasks; and the channel on which they are told, by id."""
    return f"asynq:{{{queue}}}:awaited"


def waiting(queue: str) -> str:
    """Sorted set: the idle servers of a queue; the first ones wait for its next task, the others look now and then."""
    return f"asynq:{{{queue}}}:waiting"


def _day_text(day: date | str) -> str:
    if isinstance(day, str):
        return day
    if isinstance(day, datetime):
        if day.tzinfo is None:
            raise ValueError(f"day must be a date or an aware datetime, got the naive {day!r}")
        day = day.astimezone(UTC).date()
    return day.isoformat()
