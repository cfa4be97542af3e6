"""Steps that are played by Go's Redis operations and by ours, and what they leave behind in Redis.

A step is a dict as Go's program ``rdb`` takes it (README.md): ``{"op": "retry", "msg": "a", "process_at": 60, …}``; but
moments are in seconds from the start of the story, which :func:`with_moments` adds. Beside Go's operations there is
``{"op": "redis", "command": ["SET", "key", "value"]}``.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from msgspec.structs import replace
from redis.asyncio import Redis

from aioasynq import RDB, DuplicateTaskError, TaskError, TaskIDConflictError, keys
from aioasynq.message import ServerInfo, TaskMessage, WorkerInfo
from aioasynq.proto.codec import decode_server, decode_task, decode_worker
from aioasynq.rdb.lifecycle import Completed, Failed, Killed, Leased
from aioasynq.rdb.storing import Scheduled, ScheduledUnique, Unique
from tests.conformance.go_side import GoError, GoPlayer

Step = dict[str, Any]
State = dict[str, Any]

GO_LEASE = 30.0
_MOMENTS = ("now", "process_at", "cutoff")


def with_moments(steps: Sequence[Step], start: float) -> list[Step]:
    """The same steps with moments in unix seconds."""
    return [{name: start + value if name in _MOMENTS else value for name, value in step.items()} for step in steps]


async def play_go(player: GoPlayer, redis: Redis, steps: Sequence[Step]) -> list[Any]:
    """Play *steps* with Go's operations; for each its answer, in the form of :func:`answer`."""
    return [await answer(_go_step(player, redis, step)) for step in steps]


async def play_python(redis: Redis, steps: Sequence[Step]) -> list[Any]:
    """The same with our operations."""
    async with PythonPlayer(redis) as player:
        return [await answer(player.step(**step)) for step in steps]


async def answer(call: Awaitable[Any]) -> Any:
    """What a step answered, or ``error: `` and the name of its refusal."""
    try:
        return await call
    except GoError as refused:
        if refused.name == "other":
            raise
        return f"error: {refused.name}"
    except DuplicateTaskError:
        return "error: duplicate"
    except TaskIDConflictError:
        return "error: id_conflict"


async def _go_step(player: GoPlayer, redis: Redis, step: Step) -> Any:
    if step["op"] == "redis":
        await redis.execute_command(*step["command"])
        return None
    value = await player.step(**step)
    match step["op"]:
        case "dequeue":
            return value[0]["id"]
        case "list_lease_expired":
            return sorted(msg["id"] for msg in value)
        case "write_result":
            return value
        case _:
            return None


class PythonPlayer:
    """Our Redis operations, on a clock that can be set."""

    def __init__(self, redis: Redis) -> None:
        self._now = 0.0
        self._client = redis
        self._rdb = RDB(redis, clock=lambda: self._now)
        self._messages: dict[str, TaskMessage] = {}
        self._leased: dict[str, Leased] = {}
        self._fetches = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._rdb.aclose()

    async def step(self, op: str, **arguments: Any) -> Any:
        """Play one operation, with the arguments that Go's has."""
        play: Callable[..., Awaitable[Any]] = getattr(self, f"_{op}")
        return await play(**arguments)

    async def _set_clock(self, now: float) -> None:
        self._now = now

    async def _redis(self, command: Sequence[Any]) -> None:
        await self._client.execute_command(*command)

    async def _enqueue(self, msg: str | Mapping[str, Any]) -> None:
        _only(await self._rdb.enqueue([self._message(msg)]))

    async def _enqueue_unique(self, msg: str | Mapping[str, Any], ttl: int) -> None:
        _only(await self._rdb.enqueue_unique([Unique(self._message(msg), ttl)]))

    # Moments at which tasks are due are cut to whole seconds here: ours are rounded up, Go's down.

    async def _schedule(self, msg: str | Mapping[str, Any], process_at: float) -> None:
        _only(await self._rdb.schedule([Scheduled(self._message(msg), f"{math.floor(process_at)}")]))

    async def _schedule_unique(self, msg: str | Mapping[str, Any], process_at: float, ttl: int) -> None:
        _only(await self._rdb.schedule_unique([ScheduledUnique(self._message(msg), f"{math.floor(process_at)}", ttl)]))

    async def _add_to_group(self, msg: str | Mapping[str, Any], group: str) -> None:
        _only(await self._rdb.add_to_group([replace(self._message(msg), group_key=group)]))

    async def _add_to_group_unique(self, msg: str | Mapping[str, Any], group: str, ttl: int) -> None:
        _only(await self._rdb.add_to_group_unique([Unique(replace(self._message(msg), group_key=group), ttl)]))

    async def _dequeue(self, queues: Sequence[str]) -> str:
        self._fetches += 1
        batch = await self._rdb.dequeue(*queues, owner=f"h:1:s:{self._fetches}", lease=GO_LEASE)
        if not batch.tasks:
            return "error: nothing_pending"
        [leased] = batch.tasks
        self._leased[leased.id] = leased
        assert leased.msg is not None
        self._messages[leased.id] = leased.msg
        return leased.id

    async def _done(self, msg: str) -> str | None:
        return _held(await self._rdb.done([self._hold(msg)]))

    async def _mark_as_complete(self, msg: str) -> str | None:
        return _held(await self._rdb.mark_as_complete([Completed(self._hold(msg))]))

    async def _requeue(self, msg: str) -> str | None:
        return _held(await self._rdb.requeue([self._hold(msg)]))

    async def _retry(self, msg: str, process_at: float, error: str, is_failure: bool) -> str | None:
        failed = Failed(self._hold(msg), math.floor(process_at) - self._now, error, is_failure)
        return _held(await self._rdb.retry([failed]))

    async def _kill(self, msg: str, error: str) -> str | None:
        return _held(await self._rdb.kill([Killed(self._hold(msg), error)]))

    async def _write_result(self, queue: str, id: str, data: bytes) -> int:  # noqa: A002
        return await self._rdb.write_result(queue, id, data)

    async def _check_and_enqueue(self, queues: Sequence[str]) -> None:
        await self._rdb.check_and_enqueue(*queues)

    async def _extend_lease(self, queue: str, ids: Sequence[str]) -> None:
        unknown = [Leased(queue, id_, None, "nobody") for id_ in ids]
        await self._rdb.extend_lease([self._leased.get(one.id, one) for one in unknown], lease=GO_LEASE)

    async def _list_lease_expired(self, cutoff: float, queues: Sequence[str]) -> list[str]:
        ago = self._now - cutoff
        expired = await self._rdb.list_lease_expired(*queues, ours=ago, theirs=ago)
        return sorted(one.leased.id for one in expired)

    async def _delete_expired_completed_tasks(self, queue: str, batch_size: int) -> None:
        await self._rdb.delete_expired_completed(queue, limit=batch_size)

    async def _write_process_info(
        self, info: Mapping[str, Any], workers: Sequence[Mapping[str, Any]], ttl: int
    ) -> None:
        server = ServerInfo(**{_NAMES.get(name, name): _record_value(name, value) for name, value in info.items()})
        records = {
            worker["id"]: WorkerInfo(
                **{_WORKER_NAMES.get(name, name): _record_value(name, value) for name, value in worker.items()}
            )
            for worker in workers
        }
        await self._rdb.write_process_info(server, records, ttl=ttl)

    async def _clear_process_info(self, host: str, pid: int, server_id: str) -> None:
        await self._rdb.clear_process_info(ServerInfo(host=host, pid=pid, server_id=server_id))

    def _message(self, msg: str | Mapping[str, Any]) -> TaskMessage:
        message = self._messages[msg] if isinstance(msg, str) else TaskMessage(**msg)
        self._messages[message.id] = message
        if message.id in self._leased:  # Go's program takes the message that it has seen last, too
            self._leased[message.id] = replace(self._leased[message.id], msg=message)
        return message

    def _hold(self, id_: str) -> Leased:
        """The task as it was last taken, or as nobody holds it."""
        msg = self._messages[id_]
        return self._leased.get(id_) or Leased(msg.queue, id_, msg, "nobody")


_NAMES = {"started": "start_time"}
_WORKER_NAMES = {
    "id": "task_id",
    "type": "task_type",
    "payload": "task_payload",
    "started": "start_time",
}


def _record_value(name: str, value: Any) -> Any:
    return int(value * 10**9) if name in {"started", "deadline"} else value


def _only(answers: Sequence[TaskError | None]) -> None:
    [refused] = answers
    if refused is not None:
        raise refused


def _held(answers: Sequence[bool]) -> str | None:
    return None if answers == [True] else "error: not_active"


# ── what is left in Redis ──


async def state_of(redis: Redis) -> State:
    """All that is in Redis: for each key its value, and its life in seconds, -1 when it has no end."""
    state: State = {}
    found: list[Any] = await redis.keys("*")
    for key in sorted(found):
        name = key.decode()
        kind = await redis.type(key)
        value: Any
        match kind:
            case b"string":
                value = await redis.get(key)
            case b"list":
                value = await redis.lrange(key, 0, -1)
            case b"set":
                value = await redis.smembers(key)
            case b"zset":
                members: Any = await redis.zrange(key, 0, -1, withscores=True)
                value = dict(members)
            case b"hash":
                value = await redis.hgetall(key)
            case _:
                raise AssertionError(f"{name} is a {kind!r}")
        state[name] = (value, await redis.ttl(key))
    return state


@dataclass(eq=False, frozen=True)
class Life:
    """How many seconds a key has left, -1 when it has no end; two are the same when they are five seconds apart."""

    seconds: int

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Life):
            return NotImplemented
        return (self.seconds < 0) == (other.seconds < 0) and abs(self.seconds - other.seconds) <= 5

    __hash__ = None  # type: ignore[assignment]


def normalised(state: State) -> State:
    """*state* without that in which we and Go differ, as the only differences that there may be:

    1. Scores have whole seconds; ours carry fractions, and those of our leases always do.
    2. ``pending_since`` is cut to whole seconds; our clock is a float, which has no nanoseconds.
    3. Fields ``join``, ``owner``, ``recovered`` and ``error`` of a task's hash are ours.
    4. Keys ``receipt:…`` and ``waiting`` of a queue are ours.
    5. Messages and records of servers are compared decoded: the order of headers and queues is Go's whim.
    6. A lock whose task was archived, or whose task has another lock or none, is left out: Go lets it stay (after
       archiving, or after an enqueue that found the id taken); we release or do not take it.
    7. Names of groups with waiting tasks are in ``groups``: Go forgets to put them back when it forwards a task.
    8. Lives that are left to keys may differ by five seconds: time goes by between the two plays.
    """
    out: State = {}
    groups: dict[str, set[bytes]] = {}
    for name, (value, ttl) in state.items():
        prefix, _, rest = name.rpartition("}:") if name.startswith("asynq:{") else (name, "", "")
        if rest.startswith("receipt:") or rest == "waiting":  # 4
            continue
        if rest.startswith("unique:") and not _locks(state, f"{prefix}}}:t:{value.decode()}", name):  # 6
            continue
        if rest.startswith("g:"):
            groups.setdefault(f"{prefix}}}:groups", set()).add(rest.removeprefix("g:").encode())
        if rest.startswith("t:"):
            value = _task(value)  # noqa: PLW2901
        elif name.startswith("asynq:servers:"):
            value = decode_server(value)  # noqa: PLW2901 - 5
        elif name.startswith("asynq:workers:"):
            value = {task: decode_worker(data) for task, data in value.items()}  # noqa: PLW2901 - 5
        elif isinstance(value, dict):
            value = {member: int(score) for member, score in value.items()}  # noqa: PLW2901 - 1
        out[name] = (value, Life(ttl))  # 8
    for name, names in groups.items():  # 7
        known, ttl = out.get(name, (set(), Life(-1)))
        out[name] = (known | names, ttl)
    return out


def _locks(state: State, task: str, lock: str) -> bool:
    stored = state.get(task, ({}, -1))[0]
    return bool(stored) and stored[b"state"] != b"archived" and decode_task(stored[b"msg"]).unique_key == lock


def _task(stored: Mapping[bytes, bytes]) -> dict[str, Any]:
    fields: dict[str, Any] = {name.decode(): value for name, value in stored.items()}
    for ours in (keys.JOIN, keys.OWNER, keys.RECOVERED, keys.ERROR):  # 3
        fields.pop(ours, None)
    if keys.PENDING_SINCE in fields:  # 2
        fields[keys.PENDING_SINCE] = int(fields[keys.PENDING_SINCE]) // 10**9
    fields[keys.MSG] = decode_task(fields[keys.MSG])  # 5
    return fields
