"""F8: handlers that let nobody else run.

While a handler holds the interpreter's lock nobody can extend the leases of its process.

| row | what happens | what may run again |
|---|---|---|
| F8 | a handler blocks the event loop for longer than a lease, beside short tasks | nothing |
| F8b | a handler holds the interpreter's lock as long, at its first try | it, and what ran beside it |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.faults.harness import Fault, System
from tests.faults.load import Load, enqueue, make_task

_SHORT, _LONG, _GIL = 8.0, (25.0, 90.0), 12.0  # seconds


def block(kind: str) -> Callable[[System], Awaitable[None]]:
    """Send a task that holds a worker up, with short ones before and after it."""

    async def strike(system: System) -> None:
        times: tuple[float, ...] = _LONG if system.settings.thorough else (_SHORT,)
        if kind == "gil":
            times = (_GIL,)
        for n, seconds in enumerate(times):
            await system.next_burst()
            task = make_task(kind, f"{kind}-b{n}", int(seconds * 1000), system.random)
            await enqueue(system, system.client, task)
            holder = (await system.until_event("start", task.id)).pid
            if kind == "gil":
                for worker in system.workers:
                    worker.disturbed = worker.disturbed or worker.pid == holder
            await system.until_event("end", task.id)
            system.struck += 1

    return strike


ROWS = (
    Fault(
        name="F8",
        text="a handler blocks the event loop for longer than a lease, beside short tasks",
        strike=block("block"),
        load=Load(span=9.0, burst=40, slow=10),
        proxied=False,
        limit=180.0,
        expected=("the event loop has stood still",),
        slow="the loop stands still for 8 s",
    ),
    Fault(
        name="F8b",
        text="a handler holds the interpreter's lock for longer than a lease, beside short tasks",
        strike=block("gil"),
        load=Load(span=12.0, burst=40, slow=20),
        lease=2.0,
        proxied=False,
        limit=60.0,
        expected=("the event loop has stood still",),
        slow="the process stands still for 12 s",
    ),
)
