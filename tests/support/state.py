"""All there is of a queue in Redis as one value, to be written before an operation and compared after it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from redis.asyncio import Redis, RedisCluster

from aioasynq import keys
from aioasynq.errors import MessageDecodeError
from aioasynq.message import TaskMessage
from aioasynq.proto.codec import decode_task, encode_task
from tests.support.build import OWNER, message

Fields = dict[str, Any]  #: of a task's hash; ``msg`` a TaskMessage, or bytes that are none; the others are text

_QUEUE = re.compile(rb"asynq:\{([^}]*)\}:")
_DAILY = re.compile(r"(processed|failed):\d{4}-\d\d-\d\d")
_LOCK_TTL = 3600  # seconds, of a lock that is written
_SETS = ("lease", "scheduled", "retry", "archived", "completed", "aggregation_sets", "waiting")


@dataclass(kw_only=True)
class State:
    """The complete content of one queue; receipts alone are left out.

    A row of a table says where tasks stand. Their hashes follow from that: an ordinary message, the state of that
    place, an owner where the lease is one of ours. ``tasks`` names only what is different: a field, None for a field
    that is missing, or None for a hash that is missing. Hashes of tasks that stand nowhere are given in full.
    """

    pending: list[str] = field(default_factory=list)  #: the next to run first
    active: list[str] = field(default_factory=list)  #: the first taken first
    lease: dict[str, float] = field(default_factory=dict)
    scheduled: dict[str, float] = field(default_factory=dict)
    retry: dict[str, float] = field(default_factory=dict)
    archived: dict[str, float] = field(default_factory=dict)
    completed: dict[str, float] = field(default_factory=dict)
    groups: dict[str, dict[str, float]] = field(default_factory=dict)  #: by name; aggregation sets by name:id
    group_names: set[str] | None = None  #: None: those of all groups that are no aggregation sets
    aggregation_sets: dict[str, float] = field(default_factory=dict)  #: by name:id
    tasks: dict[str, Fields | None] = field(default_factory=dict)
    locks: dict[str, str] = field(default_factory=dict)  #: id by the lock's full name
    paused: bool = False
    counters: dict[str, int] = field(default_factory=dict)  #: processed, failed, processed:2096-10-02 …
    waiting: dict[str, float] = field(default_factory=dict)  #: idle servers
    other: dict[str, Any] = field(
        default_factory=dict
    )  #: what should not be there, by the end of its name; text is written

    def full(self, queue: str) -> State:
        """The same with every hash and every field named."""
        names = self.group_names
        if names is None:
            names = {name for name in self.groups if name not in self.aggregation_sets}
        tasks: dict[str, Fields | None] = {}
        for task_id, usual in self._by_place(queue):
            changed = self.tasks.get(task_id, {})
            if task_id not in tasks and changed is not None:
                tasks[task_id] = {name: value for name, value in (usual | changed).items() if value is not None}
        homeless: dict[str, Fields | None] = {
            task_id: content for task_id, content in self.tasks.items() if task_id not in tasks and content
        }
        return replace(self, group_names=names, tasks=tasks | homeless)

    def _by_place(self, queue: str) -> Iterator[tuple[str, Fields]]:
        """Each id with the hash that goes with its place; where an id is in two, the first counts."""
        places: dict[str, Iterable[str]] = {
            "pending": self.pending,
            "scheduled": self.scheduled,
            "retry": self.retry,
            "archived": self.archived,
            "completed": self.completed,
            "active": self.active,
        }
        for state, ids in places.items():
            for task_id in ids:
                usual: Fields = {"msg": message(task_id, queue), "state": state}
                if state == "active" and self.lease.get(task_id, 0) % 1:
                    usual["owner"] = OWNER
                yield task_id, usual
        for name, ids in self.groups.items():
            group = name.rpartition(":")[0] if name in self.aggregation_sets else name
            for task_id in ids:
                yield task_id, {"msg": message(task_id, queue, group_key=group), "state": "aggregating", "group": group}

    async def write(self, redis: Redis | RedisCluster, queue: str) -> None:
        """Make Redis, which holds nothing of *queue*, hold this."""
        state = self.full(queue)
        prefix = keys.prefix(queue)
        pipe = redis.pipeline(transaction=False)
        for name, ids in (("pending", state.pending), ("active", state.active)):
            if ids:
                pipe.lpush(prefix + name, *ids)
        for key, members in state._sorted_sets(queue).items():
            if members:
                pipe.zadd(key, members)
        if state.group_names:
            pipe.sadd(keys.groups(queue), *state.group_names)
        for task_id, content in state.tasks.items():
            assert content is not None
            pipe.hset(keys.task(queue, task_id), mapping={name: _stored(value) for name, value in content.items()})
        for lock, task_id in state.locks.items():
            pipe.set(lock, task_id, ex=_LOCK_TTL)
        if state.paused:
            pipe.set(keys.paused(queue), 1)
        for name, count in state.counters.items():
            pipe.set(prefix + name, count, ex=_LOCK_TTL if _DAILY.fullmatch(name) else None)
        for name, text in state.other.items():
            pipe.set(prefix + name, text, ex=_LOCK_TTL if _DAILY.fullmatch(name) else None)
        await pipe.execute()

    def _sorted_sets(self, queue: str) -> dict[str, dict[str, float]]:
        sets: dict[str, dict[str, float]] = {keys.prefix(queue) + name: getattr(self, name) for name in _SETS}
        sets |= {keys.group(queue, name): members for name, members in self.groups.items()}
        full_names = {keys.group(queue, name): score for name, score in self.aggregation_sets.items()}
        return sets | {keys.aggregation_sets(queue): full_names}

    @classmethod
    async def read(cls, redis: Redis | RedisCluster, queue: str) -> State:
        """What Redis holds of *queue*, every key of it."""
        prefix = keys.prefix(queue)
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
        return await cls._read(redis, queue, [key async for key in redis.scan_iter(match=pattern, count=1000)])

    @classmethod
    async def read_all(cls, redis: Redis | RedisCluster) -> dict[str, State]:
        """What Redis holds, by queue; nothing else may be there but the set of their names."""
        found: dict[str, list[bytes]] = {}
        async for key in redis.scan_iter(count=1000):
            if matched := _QUEUE.match(key):
                found.setdefault(matched[1].decode(), []).append(key)
            else:
                assert key == keys.queues().encode(), f"{key!r} belongs to no queue"
        states = {queue: await cls._read(redis, queue, names) for queue, names in found.items()}
        return {queue: state for queue, state in states.items() if state != State(group_names=set())}

    @classmethod
    async def read_all_named(cls, redis: Redis | RedisCluster) -> dict[str, State]:
        """What Redis holds of each queue that has a name among all queues, also of those that are empty."""
        names = await redis.smembers(keys.queues())
        return {_text(name): await cls.read(redis, _text(name)) for name in sorted(names)}

    @classmethod
    async def _read(cls, redis: Redis | RedisCluster, queue: str, names: list[bytes]) -> State:
        state = cls(group_names=set())
        prefix = keys.prefix(queue)
        ends = {key: _text(key).removeprefix(prefix) for key in set(names)}
        ends = {key: end for key, end in ends.items() if not end.startswith("receipt:")}
        pipe = redis.pipeline(transaction=False)
        for key in ends:
            pipe.type(key)
            pipe.ttl(key)
        answers = await pipe.execute() if ends else []
        kinds = [_text(kind) for kind in answers[::2]]
        pipe = redis.pipeline(transaction=False)
        for key, kind in zip(ends, kinds, strict=True):
            match kind:
                case "list":
                    pipe.lrange(key, 0, -1)
                case "zset":
                    pipe.zrange(key, 0, -1, withscores=True)
                case "set":
                    pipe.smembers(key)
                case "hash":
                    pipe.hgetall(key)
                case _:
                    pipe.get(key)
        values = await pipe.execute() if ends else []
        for end, kind, ttl, value in zip(ends.values(), kinds, answers[1::2], values, strict=True):
            state._take(prefix, end, kind, value)
            if (ttl >= 0) != (end.startswith("unique:") or _DAILY.fullmatch(end) is not None):
                state.other[end + (" expires" if ttl >= 0 else " does not expire")] = True
        return state

    def _take(self, prefix: str, end: str, kind: str, value: Any) -> None:
        """Find the place of one key's content."""
        match kind:
            case "list" if end in {"pending", "active"}:
                setattr(self, end, [_text(task_id) for task_id in reversed(value)])
            case "zset" if end in _SETS:
                strip = f"{prefix}g:" if end == "aggregation_sets" else ""
                setattr(self, end, {_text(member).removeprefix(strip): score for member, score in value})
            case "zset" if end.startswith("g:"):
                self.groups[end[2:]] = {_text(task_id): score for task_id, score in value}
            case "set" if end == "groups":
                self.group_names = {_text(name) for name in value}
            case "hash" if end.startswith("t:"):
                self.tasks[end[2:]] = {_text(name): _field(_text(name), content) for name, content in value.items()}
            case "string" if end.startswith("unique:"):
                self.locks[prefix + end] = _text(value)
            case "string" if end == "paused":
                self.paused = True
            case "string" if value.isdigit() and (end in {"processed", "failed"} or _DAILY.fullmatch(end)):
                self.counters[end] = int(value)
            case "string":
                self.other[end] = _text(value)
            case _:
                self.other[end] = value


async def write_all(redis: Redis | RedisCluster, states: Mapping[str, State]) -> None:
    """Make Redis hold these queues."""
    for queue, state in states.items():
        await state.write(redis, queue)


async def assert_states(redis: Redis | RedisCluster, states: Mapping[str, State]) -> None:
    """Redis holds these queues, and nothing else."""
    expected = {queue: state.full(queue) for queue, state in states.items() if state != State()}
    found = await State.read_all(redis)
    assert found == expected, "\n".join(_differences(found, expected))


def _differences(found: Mapping[str, State], expected: Mapping[str, State]) -> Iterator[str]:
    for queue in sorted({*found, *expected}):
        here, there = found.get(queue, State(group_names=set())), expected.get(queue, State(group_names=set()))
        for part in fields(State):
            is_, should = getattr(here, part.name), getattr(there, part.name)
            if is_ != should:
                yield f"{queue} {part.name}: is {is_!r}, should be {should!r}"


def _stored(value: Any) -> bytes | str:
    return encode_task(value) if isinstance(value, TaskMessage) else value


def _field(name: str, value: bytes) -> Any:
    if name != keys.MSG:
        return _text(value)
    try:
        return decode_task(value)
    except MessageDecodeError:
        return value


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
