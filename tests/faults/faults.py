"""The faults. Each row is a function and a line that registers it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from aioasynq.rdb.script import Script
from tests.faults.harness import FLOOD, Fault, Load, System
from tests.faults.ledger import Event
from tests.support.resp import Command

KILLS = 5
CUT_INTERVAL = 0.3  #: seconds
CUTS_LAST = 5.0  #: seconds

Matcher = Callable[[Command], bool]

#: All rows, by name, in the order in which they run.
FAULTS: dict[str, Fault] = {}


def register(row: Fault) -> None:
    """Add *row* to the suite."""
    if row.name in FAULTS:
        raise ValueError(f"there is a fault {row.name!r} already")
    FAULTS[row.name] = row


async def kill_workers(system: System) -> None:
    """SIGKILL one worker or the other at random moments, when there is much to do; each is replaced at once."""
    for _ in range(KILLS):
        await asyncio.sleep(system.random.uniform(0.0, 2 * system.row.load.span / KILLS))
        await system.next_burst()
        await asyncio.sleep(system.random.uniform(0.0, 0.02))
        system.kill_worker(system.random.choice(system.workers))
        system.struck += 1
        system.start_worker()
    await asyncio.gather(*(worker.ready() for worker in system.workers))


async def freeze_worker(system: System) -> None:
    """SIGSTOP a worker in the middle of its tasks, until another has started one of them; then let it go on."""
    await system.next_burst()

    def started(events: Sequence[Event], *, here: bool) -> set[str]:
        slow = (e for e in events if e.name == "start" and e.task_id.startswith("slow"))
        return {e.task_id for e in slow if (e.pid == worker.pid) == here}

    worker = system.random.choice(system.workers)
    await system.until(lambda events: bool(started(events, here=True)))
    system.freeze_worker(worker)
    await system.until(lambda events: bool(started(events, here=True) & started(events, here=False)))
    worker.process.send_signal(signal.SIGCONT)
    system.struck = 1


async def cut_connections(system: System) -> None:
    """Cut every connection, again and again."""
    proxy = system.proxy
    proxy.cut_every(CUT_INTERVAL)
    await asyncio.sleep(CUTS_LAST)
    proxy.cut_every(None)
    system.struck = proxy.fired["cut_every"]


register(
    Fault(
        name="F1",
        text="SIGKILL of one of two workers, five times",
        strike=kill_workers,
        load=Load(span=5.0, burst=80, share=3.0),
        proxied=False,
    )
)
register(
    Fault(
        name="F1b",
        text="SIGSTOP of one of two workers until its tasks run elsewhere",
        strike=freeze_worker,
        load=Load(span=5.0, slow=10),
        lease=2.0,
        proxied=False,
    )
)
register(
    Fault(name="F4", text="all connections cut every 300 ms for 5 s", strike=cut_connections, lease=15.0),
)


# Lost replies


def _script(name: str, receipt: bytes = b"") -> Matcher:
    """Calls of one script; with *receipt* only those whose receipt is named like that."""
    wanted = Script(name).sha.encode()

    def is_call(command: Command) -> bool:
        return command[0] == b"EVALSHA" and command[1] == wanted and (not receipt or command[3].endswith(receipt))

    return is_call


def _in_turns(match: Matcher) -> Matcher:
    """Two of five calls in a row, so that the reply to a repeat is lost too."""
    seen = 0

    def is_next(command: Command) -> bool:
        nonlocal seen
        if not match(command):
            return False
        seen += 1
        return seen % 5 in {1, 2}

    return is_next


def _lose(match: Matcher, how: Literal["cut", "hang"], often: int) -> Callable[[System], Awaitable[None]]:
    """Let Redis do what it is asked, and swallow its answers.

    Args:
        how: the connection is cut, or stays open and silent, which takes the caller two seconds to find out.
        often: how many replies are lost; three times as many in a thorough run.
    """

    async def strike(system: System) -> None:
        proxy = system.proxy
        wanted = often * (3 if system.settings.thorough else 1)
        set_up = proxy.cut_after if how == "cut" else proxy.lose_reply
        fault = set_up(_in_turns(match), times=None)
        try:
            await proxy.until(lambda: fault.fired >= wanted)
        finally:
            proxy.remove(fault)
            system.struck = fault.fired

    return strike


_TRICKLE = Load(span=2.0, burst=1, share=0.3)

#: Operation: its calls, and the load under which they are made.
OPERATIONS: dict[str, tuple[Matcher, Load]] = {
    "enqueue": (_script("enqueue"), FLOOD),
    "schedule": (_script("schedule"), FLOOD),
    "fetch": (_script("dequeue", b":fetch"), FLOOD),
    "ride": (_script("dequeue", b":ride"), _TRICKLE),
    "wait": (lambda command: command[0] == b"BLMOVE", _TRICKLE),
    "done": (_script("done"), FLOOD),
    "retry": (_script("retry"), FLOOD),
    "complete": (_script("mark_as_complete"), FLOOD),
    "kill": (_script("kill"), FLOOD),
    "extend_lease": (_script("extend_lease"), Load(span=1.0, slow=4)),
    "forward": (_script("check_and_enqueue"), FLOOD),
}

for _name, (_match, _load) in OPERATIONS.items():
    register(
        Fault(
            name=f"F4b {_name} cut",
            text=f"replies to {_name} lost, and the connection with them",
            strike=_lose(_match, "cut", 6 if _load is FLOOD else 3),
            load=_load,
            lease=2.0 if _name == "extend_lease" else 15.0,
        )
    )
    register(
        Fault(
            name=f"F4b {_name} hang",
            text=f"replies to {_name} lost, on a connection that stays open",
            strike=_lose(_match, "hang", 1),
            load=_load,
            lease=2.0 if _name == "extend_lease" else 15.0,
        )
    )
