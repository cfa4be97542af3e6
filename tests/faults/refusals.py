"""F6: a Redis that answers, and refuses.

| row | what happens | what clients are told |
|---|---|---|
| F6 memory | its memory is full for 3 s, and it evicts nothing | a BrokerError that names maxmemory |
| F6 replica | it is a replica of a master that does not answer, for 3 s | a BrokerError that says it is read-only |
"""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from aioasynq.devserver import HOST, free_port
from tests.faults.harness import Fault, System
from tests.faults.load import Load, occupy

LASTS = 3.0  #: seconds
# Commands a second, of all, which nobody who waits between two tries comes near; and for each task that is sent.
_BUSY, _BUSY_EACH = 400, 3


async def fill_memory(system: System) -> None:
    """Let Redis believe that its memory is full."""
    async with Redis.from_url(system.server.url) as redis:
        await redis.config_set("maxmemory-policy", "noeviction")
        await occupy(system, "r")
        await redis.config_set("maxmemory", 1)
        await _wait_and_count(system, redis)
        await redis.config_set("maxmemory", 0)


async def become_replica(system: System) -> None:
    """Let Redis look for a master that is not there."""
    async with Redis.from_url(system.server.url) as redis:
        await occupy(system, "r")
        await redis.replicaof(HOST, free_port())
        await _wait_and_count(system, redis)
        await redis.replicaof("NO", "ONE")


async def _wait_and_count(system: System, redis: Redis) -> None:
    before = await redis.info()
    await asyncio.sleep(LASTS)
    after = await redis.info()
    system.struck = after["total_error_replies"] - before["total_error_replies"]
    each = (after["total_commands_processed"] - before["total_commands_processed"]) / LASTS
    system.notes.append(f"{each:.0f} commands a second meanwhile")
    allowed = _BUSY + _BUSY_EACH * system.tasks / system.row.load.span
    if each > allowed:
        system.problems.append(f"{each:.0f} commands a second while Redis refused; {allowed:.0f} are allowed")


ROWS = (
    Fault(
        name="F6 memory",
        text="no memory left in Redis for 3 s",
        strike=fill_memory,
        load=Load(span=5.0),
        lease=15.0,
        proxied=False,
        refusals="maxmemory",
        slow="3 s of refusals",
    ),
    Fault(
        name="F6 replica",
        text="Redis is a replica without a master for 3 s",
        strike=become_replica,
        load=Load(span=5.0),
        lease=15.0,
        proxied=False,
        refusals="read.?only",
        slow="3 s of refusals",
    ),
)
