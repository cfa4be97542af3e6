"""What the tests of client and server share: seeing what happened, waiting for it, and reading what is in Redis."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis, RedisCluster

from aioasynq import ServeMux, Task, keys
from aioasynq.rdb.script import Script

#: Seconds until a test gives up; nothing should ever take that long. Looking at all of a Cluster takes longer.
PATIENCE = 45.0 if os.environ.get("AIOASYNQ_TEST_CLUSTER") == "1" else 15.0

_LISTS = ("pending", "active")
_SETS = ("lease", "scheduled", "retry", "archived", "completed")
# ARGV: the names of lists, an empty one, those of sorted sets.
_SNAPSHOT = """
local prefix, call, members, states = KEYS[1], redis.call, {}, {}
local are_lists = true
for _, name in ipairs(ARGV) do
  if name == "" then
    are_lists = false
  else
    members[#members + 1] = call(are_lists and "LRANGE" or "ZRANGE", prefix .. name, 0, -1)
  end
end
local grouped = {}
for _, group in ipairs(call("SMEMBERS", prefix .. "groups")) do
  for _, id in ipairs(call("ZRANGE", prefix .. "g:" .. group, 0, -1)) do
    grouped[#grouped + 1] = id
  end
end
members[#members + 1] = grouped
for _, task in ipairs(call("KEYS", prefix .. "t:*")) do
  states[#states + 1] = string.sub(task, #prefix + 3)
  states[#states + 1] = call("TYPE", task).ok == "hash" and call("HGET", task, "state") or ""
end
return { members, states }
"""
_SCRIPTS = (
    "add_to_group",
    "add_to_group_unique",
    "check_and_enqueue",
    "dequeue",
    "done",
    "enqueue",
    "enqueue_several",
    "enqueue_unique",
    "extend_lease",
    "kill",
    "mark_as_complete",
    "requeue",
    "retry",
    "schedule",
    "schedule_unique",
    "write_process_info",
)


class Seen:
    """Things that happened, in order, for a test to wait for."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._more = asyncio.Event()

    def add(self, thing: Any) -> None:
        self.all.append(thing)
        self._more.set()

    async def until(self, enough: int | Callable[[list[Any]], bool]) -> list[Any]:
        """Wait until there are that many, or until what there is will do."""
        async with asyncio.timeout(PATIENCE):
            while not (len(self.all) >= enough if isinstance(enough, int) else enough(self.all)):
                self._more.clear()
                await self._more.wait()
        return self.all

    @property
    def times(self) -> Counter[Any]:
        return Counter(self.all)


class Stage:
    """A mux whose handler ``work`` notes the ids it is given, and waits at a gate that is open at first."""

    def __init__(self) -> None:
        self.mux = ServeMux()
        self.began = Seen()  #: ids
        self.ended = Seen()  #: ids of those that were not cut short
        self.gate = asyncio.Event()
        self.gate.set()
        self.raises: BaseException | None = None
        self.returns: object = None
        self.running = 0
        self.most = 0  #: that ran at once
        self.mux.add("work", self._work)

    async def _work(self, task: Task) -> object:
        self.running += 1
        self.most = max(self.most, self.running)
        self.began.add(task.id)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        self.ended.add(task.id)
        if self.raises is not None:
            raise self.raises
        return self.returns


def once_each(ids: Iterable[str]) -> Counter[str]:
    return Counter(dict.fromkeys(ids, 1))


async def eventually(holds: Callable[[], Awaitable[bool] | bool]) -> None:
    """Look until *holds*; for what nobody tells of."""
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = holds()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def patience(seconds: float = PATIENCE):
    async with asyncio.timeout(seconds):
        yield


async def places(redis: Redis, queue: str = "default") -> dict[str, list[str]]:
    """Where the ids of a queue are, ``pending`` with the next to run first; places that hold none are left out."""
    return {name: ids for name, ids in (await _snapshot(redis, queue))[0].items() if ids}


async def _snapshot(redis: Redis, queue: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Where the ids of a queue are, and each task's state, all at one moment."""
    members, states = await redis.eval(_SNAPSHOT, 1, keys.prefix(queue), *(*_LISTS, "", *_SETS))
    decoded = [[task_id.decode() for task_id in ids] for ids in members]
    found: dict[str, list[str]] = dict(zip((*_LISTS, *_SETS, "groups"), decoded, strict=True))
    state_of = {task.decode(): state.decode() for task, state in zip(states[::2], states[1::2], strict=True)}
    for name in _LISTS:
        found[name].reverse()
    found["tasks"] = list(state_of)
    return {name: ids if name == "pending" else sorted(ids) for name, ids in found.items()}, state_of


async def counted(redis: Redis, queue: str = "default") -> tuple[int, int]:
    """How many tries were counted as processed, and how many of them as failed; both in total and by day."""
    prefix = keys.prefix(queue)
    totals = [int(await redis.get(prefix + name) or 0) for name in ("processed", "failed")]
    by_day = [0, 0]
    for n, name in enumerate(("processed", "failed")):
        days = {key async for key in redis.scan_iter(match=f"{prefix}{name}:*")}  # SCAN may show a key twice
        by_day[n] = sum([int(await redis.get(key) or 0) for key in days])
    assert totals == by_day
    return totals[0], totals[1]


async def assert_in_order(redis: Redis, queue: str = "default") -> dict[str, list[str]]:
    """Each task of a queue is in exactly one place, the one that its state names; an active one has a lease."""
    everything, state_of = await _snapshot(redis, queue)
    found = {name: ids for name, ids in everything.items() if ids}
    where = {name: ids for name, ids in found.items() if name not in {"tasks", "lease"}}
    assert sorted(task_id for ids in where.values() for task_id in ids) == found.get("tasks", [])
    assert found.get("lease", []) == found.get("active", [])
    for name, ids in where.items():
        for task_id in ids:
            assert state_of[task_id] == ("aggregating" if name == "groups" else name)
    return found


async def summed(redis: Redis | RedisCluster, section: str, name: str) -> int:
    """A number of INFO; of a Cluster the sum over all nodes. ``cmdstat_…`` are numbers of calls."""
    nodes: list[Any] = list(redis.get_nodes()) if isinstance(redis, RedisCluster) else [None]
    targets: list[dict[str, Any]] = [{} if node is None else {"target_nodes": node} for node in nodes]
    total = 0
    for target in targets:
        said: Any = await redis.execute_command("INFO", section, **target)
        value: Any = said.get(name, 0)
        total += int(value["calls"] if isinstance(value, dict) else value)
    return total


async def load_scripts(redis: Redis) -> None:
    """Let Redis know all scripts, so that the first call of one is like any other."""
    for name in _SCRIPTS:
        await redis.script_load(Script(name).text)
