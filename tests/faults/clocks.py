"""F9: clocks that are wrong.

| row | what happens | what may run again |
|---|---|---|
| F9 | two workers whose clocks are 60 s apart, and one of them is killed | what ran in that one |
"""

from __future__ import annotations

import asyncio

from tests.faults.deaths import kill_one
from tests.faults.harness import Fault, System
from tests.faults.load import SLOW, Load, enqueue, make_task

_RECOVERIES = 7.0  # seconds in which each worker has looked for leases that have ended


async def kill_one_later(system: System) -> None:
    """Let each see the other's tasks run for some time, then SIGKILL one of them."""
    tasks = [make_task("slow", f"slow-c{n}", 3 * SLOW, system.random) for n in range(10)]
    await asyncio.gather(*(enqueue(system, system.client, task) for task in tasks))
    await asyncio.sleep(_RECOVERIES)
    await kill_one(system)


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
)
