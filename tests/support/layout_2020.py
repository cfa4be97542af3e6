"""A Redis as asynq left it in 2020: messages letter by letter as its Go wrote them, in the places they had then."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from redis.asyncio import Redis

from aioasynq import keys
from aioasynq.message import DEFAULT_TIMEOUT, TaskMessage
from tests.support.state import Fields, State

#: Of fields in the order of Go's struct, as of v0.1 and of v0.7.
EARLY = {"Type": "t", "Payload": {"n": 1}, "ID": "", "Queue": "default", "Retry": 25, "Retried": 0, "ErrorMsg": ""}
LATE = EARLY | {"Timeout": "0s", "Deadline": "0001-01-01T00:00:00Z", "UniqueKey": ""}
PAYLOAD = b'{"n":1}'


def old(task_id: str, queue: str = "default", *, payload: bytes = PAYLOAD, early: bool = False, **others: Any) -> bytes:
    """A message; *payload* stands in it as it is."""
    known = (EARLY if early else LATE) | {"ID": task_id, "Queue": queue} | others
    parts = [
        _go(name) + b":" + (payload if name == "Payload" and "Payload" not in others else _go(value))
        for name, value in known.items()
    ]
    return b"{" + b",".join(parts) + b"}"


def today(task_id: str, queue: str = "default", **others: Any) -> TaskMessage:
    """What becomes of an ordinary one."""
    ordinary: dict[str, Any] = {"type": "t", "payload": PAYLOAD, "retry": 25, "timeout": DEFAULT_TIMEOUT}
    return TaskMessage(id=task_id, queue=queue, **(ordinary | others))


def _go(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode()


@dataclass(kw_only=True)
class Old:
    """The content of the old layout. Lists are in the order in which tasks were to run, or were taken."""

    queues: dict[str, Sequence[bytes]] = field(default_factory=dict)
    in_progress: Sequence[bytes] = ()
    scheduled: Mapping[bytes, float] = field(default_factory=dict)
    retry: Mapping[bytes, float] = field(default_factory=dict)
    dead: Mapping[bytes, float] = field(default_factory=dict)
    names: Sequence[str] | None = None  #: members of the set of all queues; None: the keys of the lists
    counters: dict[str, str] = field(default_factory=dict)  #: by the end of their name, with a life of an hour
    strings: dict[str, str] = field(default_factory=dict)  #: locks, and others, with a life of an hour
    paused: Sequence[str] = ()

    async def write(self, redis: Redis) -> None:
        """Make Redis hold this."""
        pipe = redis.pipeline(transaction=False)
        lists = {keys.OLD_QUEUE + name: msgs for name, msgs in self.queues.items()}
        names = list(lists) if self.names is None else self.names
        for key, msgs in {**lists, keys.OLD_IN_PROGRESS: self.in_progress}.items():
            if msgs:
                pipe.lpush(key, *msgs)
        sets = {keys.OLD_SCHEDULED: self.scheduled, keys.OLD_RETRY: self.retry, keys.OLD_DEAD: self.dead}
        for key, members in sets.items():
            if members:
                pipe.zadd(key, dict(members))
        if names:
            pipe.sadd(keys.queues(), *names)
        if self.paused:
            pipe.sadd(keys.OLD_PAUSED, *self.paused)
        for key, text in {**{f"asynq:{end}": text for end, text in self.counters.items()}, **self.strings}.items():
            pipe.set(key, text, ex=3600)
        await pipe.execute()


async def left_behind(redis: Redis) -> dict[str, Any]:
    """The old keys that are there, with their content; lists in the order in which tasks were to run."""
    found: dict[str, Any] = {}
    key: Any
    async for key in redis.scan_iter(count=1000):
        name = key.decode("utf-8", "surrogateescape")
        if name == keys.queues() or name.startswith("asynq:{"):
            continue
        kind: Any = await redis.type(key)
        match kind.decode():
            case "list":
                found[name] = (await redis.lrange(key, 0, -1))[::-1]
            case "zset":
                members: Any = await redis.zrange(key, 0, -1, withscores=True)
                found[name] = dict(members)
            case "set":
                found[name] = await redis.smembers(key)
            case _:
                found[name] = await redis.get(key)
    return found


async def of_today(redis: Redis) -> dict[str, State]:
    """Today's queues as they are, each with its name, but for the moment since when tasks are pending."""
    states = await State.read_all_named(redis)
    return {queue: _timeless(state) for queue, state in states.items()}


def expected(states: Mapping[str, State]) -> dict[str, State]:
    """The same of states that a test says."""
    return {queue: _timeless(state.full(queue)) for queue, state in states.items()}


def _timeless(state: State) -> State:
    tasks: dict[str, Fields | None] = {
        task_id: {name: value for name, value in (content or {}).items() if name != keys.PENDING_SINCE}
        for task_id, content in state.tasks.items()
    }
    return replace(state, tasks=tasks)
