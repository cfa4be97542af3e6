"""F12: a master is lost and its replica takes over; a queue moves to another node.

| row | what happens | what may be missing |
|---|---|---|
| F12 sentinel | SIGKILL of the master under Sentinel | acknowledged and not replicated yet |
| F12 sentinel frozen | SIGSTOP of it until it is replaced, then SIGCONT | the same |
| F12 sentinel wait | SIGKILL, and each enqueue waits for a replica | nothing |
| F12 cluster | SIGKILL of the master that holds the queue | acknowledged and not replicated yet |
| F12 cluster frozen | SIGSTOP of it until it is replaced, then SIGCONT | the same |
| F12 cluster wait | SIGKILL, and each enqueue waits for the replica | nothing |
| F12 move | the queue's slot moves from node to node, three times | nothing |

What runs or was settled just before may run again: the new master does not know of it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence

from aioasynq import keys
from aioasynq.devserver import DevServer
from tests.faults.harness import QUEUE, Fault, System
from tests.faults.ledger import Event
from tests.faults.load import Load, occupy

_KEY = keys.pending(QUEUE)
_LAG = 2.0  # seconds that a replica may be behind its master
_GOES_ON = 10.0  # seconds after a failover until tasks run again, at most
_MOVES = 3


def lose_master(how: signal.Signals) -> Callable[[System], Awaitable[None]]:
    """Kill or freeze the master that holds the queue, until it is replaced; then it comes back."""

    async def strike(system: System) -> None:
        await occupy(system, "m")
        old = await asyncio.to_thread(_holder, system)
        for worker in system.workers:
            worker.disturbed = True
            system.ledger.write("-", "dark", worker.pid)
        began = time.monotonic()
        if how == signal.SIGKILL:
            old.kill()
        else:
            os.kill(old.pid, how)
        await _until_replaced(system, old)
        replaced = time.monotonic()
        system.notes.append(f"replaced after {replaced - began:.1f} s")
        for worker in system.workers:
            system.ledger.write("-", "light", worker.pid)
        went_on = await _until_work_goes_on(system, replaced)
        system.notes.append(f"tasks ran {went_on:.1f} s later")
        if went_on > _GOES_ON:
            system.problems.append(f"tasks ran {went_on:.1f} s after the failover; {_GOES_ON:g} s are allowed")
        if how == signal.SIGKILL:
            await asyncio.to_thread(old.start)
        else:
            os.kill(old.pid, signal.SIGCONT)
        await _until_in_order(system, old)
        system.doubtful.append((began - _LAG, time.monotonic()))
        system.struck = 1
        if system.row.site == "sentinel" and (often := await asyncio.to_thread(lambda: system.sentinels.failovers)) > 1:
            system.notes.append(f"{often} failovers, as the machine was too busy for Redis to answer its Sentinels")

    return strike


async def move_queue(system: System) -> None:
    """Move the queue's slot to each of the other masters in turn, while tasks come and go."""
    cluster, moved = system.cluster, 0
    for n in range(_MOVES):
        await occupy(system, f"v{n}")
        source = await asyncio.to_thread(cluster.holder, _KEY)
        to = system.random.choice([master for master in cluster.masters if master is not source])
        moved += await cluster.move_slot(_KEY, to, step=5, pause=0.02)
        system.struck += 1
    system.notes.append(f"{moved} keys moved")


def _holder(system: System) -> DevServer:
    return system.sentinels.master if system.row.site == "sentinel" else system.cluster.holder(_KEY)


async def _until_replaced(system: System, old: DevServer) -> None:
    if system.row.site == "sentinel":
        await system.sentinels.until_failed_over(old)
    else:
        await system.cluster.until_failed_over(old, _KEY)


async def _until_work_goes_on(system: System, since: float) -> float:
    """Seconds from *since* to the next start and end of one task."""

    def done(events: Sequence[Event]) -> list[Event]:
        started = {event.task_id for event in events if event.name == "start" and event.at > since}
        return [event for event in events if event.name == "end" and event.at > since and event.task_id in started]

    await system.until(lambda events: bool(done(events)))
    return done(system.ledger.read())[0].at - since


async def _until_in_order(system: System, old: DevServer) -> None:
    """Wait until the one that came back follows the new master."""
    if system.row.site == "sentinel":
        await system.sentinels.until_replica(old)
    else:
        await system.cluster.until_complete()


_UNDER_WAY = Load(span=8.0, slow=10)
_SLOW = "many servers have to start, and a failover takes seconds"
_REFUSED = "failed on|no answer|replicas have it"


def _row(site: str, name: str, text: str, how: signal.Signals, *, wait: bool = False) -> Fault:
    return Fault(
        name=f"F12 {name}",
        text=text,
        strike=lose_master(how),
        site=site,  # type: ignore[arg-type]  # one of its words
        load=_UNDER_WAY,
        client={"wait_replicas": 1} if wait else {},
        may_miss=not wait,
        proxied=False,
        rescues=True,
        refusals=_REFUSED,
        limit=90.0,
        slow=_SLOW,
    )


ROWS = (
    _row("sentinel", "sentinel", "SIGKILL of the master under Sentinel", signal.SIGKILL),
    _row("sentinel", "sentinel frozen", "SIGSTOP of the master under Sentinel", signal.SIGSTOP),
    _row("sentinel", "sentinel wait", "SIGKILL of it, with wait_replicas=1", signal.SIGKILL, wait=True),
    _row("cluster", "cluster", "SIGKILL of a master of a Cluster", signal.SIGKILL),
    _row("cluster", "cluster frozen", "SIGSTOP of a master of a Cluster", signal.SIGSTOP),
    _row("cluster", "cluster wait", "SIGKILL of a master, with wait_replicas=1", signal.SIGKILL, wait=True),
    Fault(
        name="F12 move",
        text="the slot of the queue moves from node to node, three times",
        strike=move_queue,
        site="cluster",
        load=Load(span=6.0),
        proxied=False,
        slow=_SLOW,
        rescues=True,
        limit=60.0,
    ),
)
