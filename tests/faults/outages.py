"""F3 and F5: a Redis that is gone, or that says nothing.

| row | what happens | what may run again |
|---|---|---|
| F3 | SIGKILL of Redis and a restart after 1 s, twice; it writes all to disk before it answers | nothing |
| F3 20s | the same once, with 20 s in between, longer than a lease | nothing; enqueues may be refused |
| F5 | no byte passes for 3.5 s, less than a lease | nothing |
| F5 long | the same for 5 s, longer than a lease of 2 s | nothing: owners extend before anybody recovers |
| F5p | one of two workers is cut off for longer than a lease | what it ran at the time |
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from tests.faults.harness import Fault, System, running_in
from tests.faults.load import SLOW, Load, enqueue, make_task, occupy
from tests.support.proxy import ThreadedProxy


def kill_redis(times: int, away: float) -> Callable[[System], Awaitable[None]]:
    """SIGKILL Redis and start it again after *away* seconds."""

    async def strike(system: System) -> None:
        for n in range(times):
            await asyncio.sleep(system.random.uniform(0.3, 1.0))
            await occupy(system, f"k{n}")
            system.server.kill()
            await asyncio.sleep(away)
            await asyncio.to_thread(system.server.start)
            system.struck += 1
            await _answers(system)

    return strike


async def _answers(system: System) -> None:
    async with Redis.from_url(system.server.url) as redis:
        await redis.ping()


def black_hole(seconds: float) -> Callable[[System], Awaitable[None]]:
    """Let no byte pass, for everybody."""

    async def strike(system: System) -> None:
        await occupy(system, "b")
        system.proxy.black_hole()
        await asyncio.sleep(seconds)
        system.proxy.resume()
        system.struck = system.proxy.fired["black_hole"]

    return strike


async def cut_one_off(system: System) -> None:
    """Let no byte of one worker pass until another has started what it runs."""
    proxy = system.closing.enter_context(ThreadedProxy(system.server.url))
    worker = system.start_worker(url=proxy.url)
    await worker.ready()
    count = 0
    while not running_in(system.ledger.read(), worker.pid, "slow"):
        await enqueue(system, system.client, make_task("slow", f"slow-p{count}", 2 * SLOW, system.random))
        count += 1
        await asyncio.sleep(0.1)  # time to take it
    worker.disturbed = True
    system.ledger.write("-", "dark", worker.pid)
    proxy.black_hole()
    held = running_in(system.ledger.read(), worker.pid, "slow")
    await system.until(
        lambda events: any(e.task_id in held and e.name == "start" and e.pid != worker.pid for e in events)
    )
    proxy.resume()
    system.ledger.write("-", "light", worker.pid)
    system.struck = proxy.fired["black_hole"]


_DURING = Load(span=6.0)

ROWS = (
    Fault(
        name="F3",
        text="SIGKILL of Redis, back after 1 s, twice",
        strike=kill_redis(2, 1.0),
        load=_DURING,
        proxied=False,
        durable=True,
        lease=15.0,
        slow="twice a second without Redis",
    ),
    Fault(
        name="F3 20s",
        text="SIGKILL of Redis, back after 20 s, longer than a lease",
        strike=kill_redis(1, 20.0),
        load=_DURING,
        proxied=False,
        durable=True,
        refusals="failed on|no answer",
        limit=60.0,
        slow="20 s without Redis",
        only_long=True,
    ),
    Fault(
        name="F5",
        text="not a byte passes for 3.5 s, less than a lease",
        strike=black_hole(3.5),
        load=_DURING,
        lease=15.0,
        slow="3.5 s without Redis",
    ),
    Fault(
        name="F5 long",
        text="not a byte passes for 5 s, longer than a lease",
        strike=black_hole(5.0),
        load=Load(span=6.0, slow=10),
        lease=2.0,
        refusals="failed on|no answer",
        slow="5 s without Redis",
    ),
    Fault(
        name="F5p",
        text="one of three workers is cut off until its tasks run elsewhere",
        strike=cut_one_off,
        load=_DURING,
        lease=2.0,
        proxied=False,
        slow="leases have to run out",
    ),
)
