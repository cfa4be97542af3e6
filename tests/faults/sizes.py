"""F10: much of everything.

| row | what there is | what has to hold |
|---|---|---|
| F10 payload | a task of 50 MB among small ones | a worker needs at most four times as much memory for it |
| F10 pending | 100,000 tasks that wait, for one worker with one place | it needs no more memory for them |
| F10 scheduled | 1,000,000 tasks that are due in an hour | the same, and scripts take no longer |
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from aioasynq import Client, Task, keys
from tests.faults.harness import QUEUE, Fault, System
from tests.faults.load import Load, enqueue

PAYLOAD = 50_000_000  #: bytes
PENDING = 100_000
SCHEDULED = 1_000_000
_CHUNK = 10_000
_FLAT = 30_000_000  # bytes of memory that may come and go in a worker for other reasons
_SLOWER = 5.0  # times as long as before a script may take on average

# In one step, because others push to the list at the same time.
_KEEP_OTHERS = """
local waiting = redis.call("LRANGE", KEYS[1], 0, -1)
redis.call("DEL", KEYS[1])
for _, id in ipairs(waiting) do
  if id:sub(1, #ARGV[1]) ~= ARGV[1] then
    redis.call("RPUSH", KEYS[1], id)
  end
end
"""


async def large_payload(system: System) -> None:
    """Send one very large task."""
    before = [_memory(worker.pid, "VmRSS") for worker in system.workers]
    await system.next_burst()
    task = Task("quick", b"5 " + bytes(PAYLOAD), task_id="quick-large")
    async with Client(system.url, max_payload=2 * PAYLOAD) as client:
        await enqueue(system, client, task)
    await system.until_event("end", task.id)
    _compare(system, before, 4 * PAYLOAD + _FLAT)
    system.struck = 1


async def long_queue(system: System) -> None:
    """Let many tasks wait for one place."""
    await system.next_burst()
    tasks = [Task("slow", "1", task_id=f"slow-q{n}") for n in range(PENDING)]
    before = [_memory(worker.pid, "VmRSS") for worker in system.workers]
    async with Client(system.url) as client:
        for n in range(0, PENDING, _CHUNK):
            await client.enqueue_many(tasks[n : n + _CHUNK])
    async with Redis.from_url(system.server.url) as redis:
        system.struck = await redis.llen(keys.pending(QUEUE))
        await asyncio.sleep(2.0)  # so that it works with such a queue for a while
        _compare(system, before, _FLAT)
        await redis.eval(_KEEP_OTHERS, 1, keys.pending(QUEUE), "slow-q")  # the rest would take minutes
        running: Any = await redis.lrange(keys.active(QUEUE), 0, -1)
        gone = [keys.task(QUEUE, task.id) for task in tasks if task.id.encode() not in running]
        for n in range(0, len(gone), _CHUNK):
            await redis.unlink(*gone[n : n + _CHUNK])


async def long_schedule(system: System) -> None:
    """Let many tasks be due much later."""
    before = [_memory(worker.pid, "VmRSS") for worker in system.workers]
    async with Redis.from_url(system.server.url) as redis:
        usual = await _script_time(redis)
        later = int(time.time()) + 3600
        for n in range(0, SCHEDULED, _CHUNK):
            await redis.zadd(keys.scheduled(QUEUE), {f"quick-l{n + i}": later + n + i for i in range(_CHUNK)})
        crowded = await _script_time(redis)
        system.struck = await redis.zcard(keys.scheduled(QUEUE))
        _compare(system, before, _FLAT)
        system.notes.append(f"a script takes {usual:.0f} µs, with them {crowded:.0f} µs")
        if crowded > _SLOWER * usual:
            system.problems.append(f"scripts take {crowded:.0f} µs instead of {usual:.0f} µs")
        await redis.zremrangebyscore(keys.scheduled(QUEUE), later - 60, "+inf")


async def _script_time(redis: Redis) -> float:
    """Microseconds that a script takes, on the average of three seconds."""
    await redis.config_resetstat()
    await asyncio.sleep(3.0)
    stats: Any = await redis.info("commandstats")
    return float(stats["cmdstat_evalsha"]["usec_per_call"])


def _memory(pid: int, which: str) -> int:
    """Bytes: ``VmRSS``, those a process holds now; ``VmHWM``, the most it ever held."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"the system does not tell {which} of process {pid}")


def _compare(system: System, before: list[int], allowed: int) -> None:
    grown = max(_memory(worker.pid, "VmHWM") - size for worker, size in zip(system.workers, before, strict=True))
    system.notes.append(f"{grown / 1e6:.0f} MB more in a worker")
    if grown > allowed:
        system.problems.append(f"a worker took {grown / 1e6:.0f} MB more; {allowed / 1e6:.0f} are allowed")


ROWS = (
    Fault(
        name="F10 payload",
        text="a task of 50 MB among small ones",
        strike=large_payload,
        load=Load(span=3.0),
        lease=15.0,
        proxied=False,
        limit=60.0,
        slow="50 MB, several times",
    ),
    Fault(
        name="F10 pending",
        text="100,000 tasks that wait for one place",
        strike=long_queue,
        load=Load(span=3.0, share=0.1),
        workers=("python",),
        options={"concurrency": 1},
        lease=15.0,
        proxied=False,
        limit=120.0,
        slow="so many tasks",
        only_long=True,
    ),
    Fault(
        name="F10 scheduled",
        text="1,000,000 tasks that are due in an hour",
        strike=long_schedule,
        load=Load(span=6.0),
        lease=15.0,
        proxied=False,
        limit=120.0,
        slow="so many tasks",
        only_long=True,
    ),
)
