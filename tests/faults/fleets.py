"""F11: asynq's own workers beside ours, on one queue.

| row | what happens | what may run again |
|---|---|---|
| F11 | two Python workers beside one of Go; a Python one is killed, five times | what ran in those that were killed |
| F11 go | the same, and the one of Go is killed | what ran in it; no sooner than 60 s later, as among Go's own |
| F11 redis | the three of them while Redis is killed, twice | what Go's took or ended at that moment |
"""

from __future__ import annotations

from tests.faults.deaths import kill_workers
from tests.faults.harness import Fault, System
from tests.faults.load import Load
from tests.faults.outages import kill_redis
from tests.faults.processes import GoWorker


async def kill_go(system: System) -> None:
    """SIGKILL the worker of Go while it runs tasks."""
    go = _go(system)
    await system.until_running(go.pid, "slow")
    system.kill_worker(go)
    system.struck = 1


async def kill_redis_beside_go(system: System) -> None:
    """SIGKILL Redis. Go's worker does not repeat what Redis did not answer: its tasks run again when leases end."""
    go = _go(system)
    go.disturbed = True
    system.ledger.write("-", "dark", go.pid)
    await kill_redis(2, 1.0)(system)
    system.ledger.write("-", "light", go.pid)


def _go(system: System) -> GoWorker:
    (go,) = (worker for worker in system.workers if isinstance(worker, GoWorker))
    return go


ROWS = (
    Fault(
        name="F11",
        text="a Go worker beside two Python workers, of which one is killed, five times",
        strike=kill_workers,
        load=Load(span=5.0, burst=80, share=3.0, for_go=True),
        workers=("go", "python", "python"),
        needs_go=True,
        proxied=False,
        beyond_lease=20.0,
        limit=60.0,
        slow="Go's program has to be built",
    ),
    Fault(
        name="F11 go",
        text="a Go worker beside two Python workers is killed",
        strike=kill_go,
        load=Load(span=5.0, burst=80, slow=60, for_go=True),
        workers=("go", "python", "python"),
        needs_go=True,
        proxied=False,
        lease=15.0,
        beyond_lease=65.0,  # 30 s of Go's lease, 30 s of grace
        slow="leases of Go's have to run out",
    ),
    Fault(
        name="F11 redis",
        text="a Go worker beside two Python workers; SIGKILL of Redis, back after 1 s, twice",
        strike=kill_redis_beside_go,
        load=Load(span=6.0, for_go=True),
        workers=("go", "python", "python"),
        needs_go=True,
        proxied=False,
        durable=True,
        lease=15.0,
        slow="twice a second without Redis",
    ),
)
