"""F1: workers that die or stand still.

| row | what happens | who brings the tasks back |
|---|---|---|
| F1 | SIGKILL of one of two workers, five times; each is replaced | the others, when leases end |
| F1 alone | SIGKILL of one of two workers, which nobody replaces | the other one |
| F1b | SIGSTOP until its tasks run elsewhere, then SIGCONT | the other one |
| F1p | SIGKILL of a child of `aioasynq worker --processes 3`, five times | the parent, at once |
| F1c | SIGKILL of a child process in which a handler runs, twenty times | its server, as after a failure |
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence

from tests.faults.harness import Fault, System
from tests.faults.ledger import Event
from tests.faults.load import Load
from tests.faults.processes import CommandLine

KILLS = 5
CHILD_KILLS = 20
_LATEST = 20.0  # seconds after the end of a lease; 8 where the machine has nothing else to do


async def kill_workers(system: System) -> None:
    """SIGKILL one Python worker or the other at random moments, when there is much to do; each is replaced at once."""
    for _ in range(KILLS):
        await asyncio.sleep(system.random.uniform(0.0, 2 * system.row.load.span / KILLS))
        await system.next_burst()
        await asyncio.sleep(system.random.uniform(0.0, 0.02))
        system.kill_worker(system.random.choice(system.workers[-2:]))
        system.struck += 1
        system.start_worker()
    await system.ready()


async def kill_one(system: System) -> None:
    """SIGKILL a worker with tasks in hand."""
    await system.next_burst()
    system.kill_worker(await system.busy_worker("slow"))
    system.struck = 1


async def kill_children(system: System) -> None:
    """SIGKILL a child that has just begun a task, five times."""
    (parent,) = system.workers
    assert isinstance(parent, CommandLine)
    for n in range(KILLS):
        await asyncio.sleep(system.random.uniform(0.0, system.row.load.span / KILLS))
        await system.next_burst()
        started = await _next_start(system)
        system.kill_child(parent, started.pid)
        system.struck += 1
        await parent.until_logged(" started: redis://", system.row.processes + n + 1)


async def kill_processes(system: System) -> None:
    """SIGKILL a child process that has just begun a task, or has none, at random moments."""
    killed: set[int] = set()
    for _ in range(CHILD_KILLS):
        await asyncio.sleep(system.random.uniform(0.0, 2 * system.row.load.span / CHILD_KILLS))

        def others(events: Sequence[Event]) -> list[int]:
            ran = {event.pid: None for event in events if event.name == "start" and event.task_id.startswith("child-")}
            return [pid for pid in ran if pid not in killed]

        await system.until(lambda events: bool(others(events)))
        pid = system.random.choice(others(system.ledger.read()))
        killed.add(pid)
        system.ledger.write("-", "kill", pid)
        os.kill(pid, signal.SIGKILL)
        system.struck += 1


async def _next_start(system: System) -> Event:
    before = len(system.ledger.read())
    while True:
        for event in system.ledger.read()[before:]:
            if event.name == "start":
                return event
        await asyncio.sleep(0.01)


async def freeze_worker(system: System) -> None:
    """SIGSTOP a worker in the middle of its tasks, until another has started one of them; then let it go on."""
    await system.next_burst()

    def started(events: Sequence[Event], *, here: bool) -> set[str]:
        slow = (e for e in events if e.name == "start" and e.task_id.startswith("slow"))
        return {e.task_id for e in slow if (e.pid == worker.pid) == here}

    worker = await system.busy_worker("slow")
    system.freeze_worker(worker)
    await system.until(lambda events: bool(started(events, here=True) & started(events, here=False)))
    worker.process.send_signal(signal.SIGCONT)
    system.struck = 1


ROWS = (
    Fault(
        name="F1",
        text="SIGKILL of one of two workers, five times",
        strike=kill_workers,
        load=Load(span=5.0, burst=80, share=3.0),
        proxied=False,
        beyond_lease=_LATEST,
        limit=60.0,
    ),
    Fault(
        name="F1 alone",
        text="SIGKILL of one of two workers, and nobody replaces it",
        strike=kill_one,
        load=Load(span=3.0, burst=40, slow=10),
        proxied=False,
        beyond_lease=_LATEST,
        slow="leases have to run out",
    ),
    Fault(
        name="F1b",
        text="SIGSTOP of one of two workers until its tasks run elsewhere",
        strike=freeze_worker,
        load=Load(span=5.0, slow=10),
        lease=2.0,
        proxied=False,
        slow="leases have to run out",
    ),
    Fault(
        name="F1p",
        text="SIGKILL of a child of aioasynq worker --processes 3, five times, with leases of 60 s",
        strike=kill_children,
        load=Load(span=5.0, burst=40, slow=12),
        workers=("command",),
        processes=3,
        proxied=False,
        lease=60.0,
        limit=90.0,
        beyond_lease=-40.0,  # well before its end: only the parent can have brought them back
        slow="processes have to start",
    ),
    Fault(
        name="F1c",
        text="SIGKILL of a child process in which a handler runs, twenty times",
        strike=kill_processes,
        load=Load(span=8.0, share=2.5, mix={"child": 80, "quick": 20}),
        options={"max_processes": 2},
        proxied=False,
        limit=60.0,
        slow="processes have to start",
    ),
)
