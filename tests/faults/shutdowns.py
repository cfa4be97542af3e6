"""F2: workers that are told to end while tasks run.

| row | what happens | when it ends, with exit code 0 and nothing held any more |
|---|---|---|
| F2 | SIGTERM, with tasks that take longer than the shutdown limit | soon after the limit |
| F2b | a second SIGTERM, with handlers that do not heed their cancellation | at once |
"""

from __future__ import annotations

import asyncio

from tests.faults.harness import Fault, System
from tests.faults.load import SLOW, Load, enqueue, make_task

LIMIT = 1.0  #: seconds that tasks may go on
SLACK = 4.0  # seconds; a process takes its time to end on a machine with much to do


async def stop_workers(system: System, within: float = LIMIT + SLACK) -> None:
    """SIGTERM to a worker with long tasks in hand; another takes its place. Three times."""
    for n in range(3):
        worker = system.workers[0]
        await _give_slow(system, worker.pid, "slow", n)
        await system.stop_worker(worker, within=within)
        system.start_worker()
        await system.ready()


async def stop_stubborn(system: System) -> None:
    """SIGTERM twice."""
    worker = system.workers[0]
    await _give_slow(system, worker.pid, "stubborn", 0, 3 * SLOW)
    await system.stop_worker(worker, within=0.5 + SLACK, again=0.5)


async def _give_slow(system: System, pid: int, kind: str, n: int, runs_for: int = SLOW) -> None:
    """Send tasks of *runs_for* milliseconds until process *pid* has some of them."""
    count = 0
    while True:
        for _ in range(4):
            await enqueue(system, system.client, make_task(kind, f"{kind}-s{n}x{count}", runs_for, system.random))
            count += 1
        try:
            async with asyncio.timeout(0.5):
                await system.until_running(pid, kind, 2)
        except TimeoutError:
            continue
        return


ROWS = (
    Fault(
        name="F2",
        text="SIGTERM of one of two workers with tasks that outlast the shutdown limit, three times",
        strike=stop_workers,
        load=Load(span=5.0),
        options={"shutdown_timeout": LIMIT},
        proxied=False,
        lease=15.0,
        limit=60.0,
        slow="each worker takes its time to end and to start",
    ),
    Fault(
        name="F2b",
        text="SIGTERM twice, with handlers that do not heed their cancellation",
        strike=stop_stubborn,
        load=Load(span=2.0),
        workers=("command", "command"),
        options={"shutdown_timeout": 60.0},
        proxied=False,
        lease=15.0,
        expected=("did not end when cancelled", "the process ends although"),
        slow="handlers of 9 s",
    ),
)
