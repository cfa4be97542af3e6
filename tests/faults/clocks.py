"""F9: clocks that are wrong.

| row | what happens | what may run again |
|---|---|---|
| F9 | two workers whose clocks are 60 s apart, and one of them is killed | what ran in that one |
| F9 go ahead | a Go worker whose clock is 45 s ahead joins two of Python; one of them is killed | what ran in it |
| F9 go behind | the same with a clock that is 45 s behind | what ran in it |

Leases last 30 s beside Go's workers: one that is 45 s ahead recovers what ends within 15 s, whoever holds it.
"""

from __future__ import annotations

import asyncio

from tests.faults.deaths import kill_one
from tests.faults.harness import Fault, System
from tests.faults.load import SLOW, Load, enqueue, make_task

_RECOVERIES = 7.0  # seconds in which each worker has looked for leases that have ended
_WRONG = 45.0  # seconds


async def _send_slow(system: System, count: int = 30) -> None:
    go = system.row.load.for_go
    tasks = [make_task("slow", f"slow-c{n}-{system.struck}", 3 * SLOW, system.random, go=go) for n in range(count)]
    await asyncio.gather(*(enqueue(system, system.client, task) for task in tasks))


async def kill_one_later(system: System) -> None:
    """Let each see the other's tasks run for some time, then SIGKILL one of them."""
    await _send_slow(system)
    await asyncio.sleep(_RECOVERIES)
    await kill_one(system)


def join(clock: float) -> Fault:
    """A row in which a Go worker with a wrong clock starts beside workers of Python that run tasks.

    It looks for leases that have ended when it starts, and again a minute later.
    """

    async def strike(system: System) -> None:
        await _send_slow(system)
        for worker in system.workers:
            await system.until_running(worker.pid, "slow")
        theirs = list(system.workers)
        go = system.start_worker("go", clock=clock)
        await go.ready()
        system.struck = 1
        await _send_slow(system, 4 * system.settings.concurrency)  # those of Python have no places for all
        await system.until_running(go.pid, "slow")
        await asyncio.sleep(_RECOVERIES)  # in which Python's look at its leases
        system.kill_worker(system.random.choice(theirs))
        system.struck = 2

    where = "ahead" if clock > 0 else "behind"
    return Fault(
        name=f"F9 go {where}",
        text=f"a Go worker whose clock is {abs(clock):g} s {where} joins two of Python; one of these is killed",
        strike=strike,
        load=Load(span=4.0, burst=40, slow=10, for_go=True),
        needs_go=True,
        lease=30.0,
        proxied=False,
        limit=60.0,
        beyond_lease=20.0,
        slow="leases have to run out, and Go's program has to be built",
    )


ROWS = (
    Fault(
        name="F9",
        text="two workers whose clocks are 60 s apart; one is killed",
        strike=kill_one_later,
        load=Load(span=4.0, burst=40, slow=10),
        clocks=(-30.0, 30.0),
        lease=2.0,
        proxied=False,
        beyond_lease=20.0,
        slow="leases have to run out",
    ),
    join(_WRONG),
    join(-_WRONG),
)
