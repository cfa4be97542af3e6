"""F4b: Redis does what it is asked, and nobody hears of it.

For each operation two rows: ``cut``, where the connection ends with the reply, and ``hang``, where it stays open and
silent, which takes the caller two seconds to find out. Nothing is lost, nothing runs again, and nobody is refused.

| operation | when it is called |
|---|---|
| enqueue, schedule; enqueue_unique, schedule_unique; add_to_group, add_to_group_unique | a client sends a task |
| fetch, ride, wait | a worker takes tasks: when it has room, along with a wait, and the wait itself |
| done, complete, retry, kill, requeue | a worker writes how a task ended; requeue at a shutdown |
| extend_lease | every third of a lease |
| forward | a task is due |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from aioasynq.rdb.script import Script
from tests.faults.harness import FLOOD, Fault, System
from tests.faults.load import GROUPS, UNIQUE, Load
from tests.faults.shutdowns import LIMIT, SLACK, stop_workers
from tests.support.resp import Command

_SILENCE = 7.0  #: seconds more that a worker may take to end whose answers are lost in silence

Matcher = Callable[[Command], bool]
How = Literal["cut", "hang"]


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


def _lose(match: Matcher, how: How, often: int) -> Callable[[System], Awaitable[None]]:
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


def _lose_at_the_end(how: How) -> Callable[[System], Awaitable[None]]:
    """The same for what a worker gives back when it ends."""

    async def strike(system: System) -> None:
        proxy = system.proxy
        set_up = proxy.cut_after if how == "cut" else proxy.lose_reply
        fault = set_up(_in_turns(_script("requeue")), times=None)
        await stop_workers(system, within=LIMIT + (_SILENCE if how == "hang" else SLACK))
        proxy.remove(fault)
        system.struck = fault.fired

    return strike


_TRICKLE = Load(span=2.0, burst=1, share=0.3)
_UNIQUE = Load(span=1.0, mix=UNIQUE)
_GROUPS = Load(span=1.0, mix=GROUPS)

#: Operation: its calls, and the load under which they are made.
OPERATIONS: dict[str, tuple[Matcher, Load]] = {
    "enqueue": (_script("enqueue"), FLOOD),
    "schedule": (_script("schedule"), FLOOD),
    "enqueue_unique": (_script("enqueue_unique"), _UNIQUE),
    "schedule_unique": (_script("schedule_unique"), _UNIQUE),
    "add_to_group": (_script("add_to_group"), _GROUPS),
    "add_to_group_unique": (_script("add_to_group_unique"), _GROUPS),
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
#: Rows that `make test` leaves out, as they are on the same way as enqueue, done and retry.
_LIKE_OTHERS = {
    "schedule cut",
    "retry hang",
    "schedule hang",
    "enqueue_unique hang",
    "schedule_unique cut",
    "schedule_unique hang",
    "add_to_group hang",
    "add_to_group_unique cut",
    "add_to_group_unique hang",
    "complete hang",
    "kill hang",
    "forward hang",
}


def _row(name: str, how: How) -> Fault:
    match, load = OPERATIONS[name]
    slow = "on the same way as another" if f"{name} {how}" in _LIKE_OTHERS else ""
    if f"{name} {how}" == "wait hang":
        slow = "found out only after the longest wait"
    if how == "hang":
        often, text = 1, f"replies to {name} lost, on a connection that stays open"
    else:
        often, text = (
            (3 if load is _TRICKLE or load.slow else 6),
            f"replies to {name} lost, and the connection with them",
        )
    return Fault(
        name=f"F4b {name} {how}",
        text=text,
        strike=_lose(match, how, often),
        load=load,
        lease=2.0 if name == "extend_lease" else 15.0,
        slow=slow,
    )


def _requeue_row(how: How) -> Fault:
    return Fault(
        name=f"F4b requeue {how}",
        text="replies to requeue lost at a shutdown, " + ("and the connection" if how == "cut" else "in silence"),
        strike=_lose_at_the_end(how),
        load=Load(span=5.0),
        options={"shutdown_timeout": LIMIT},
        lease=15.0,
        limit=60.0,
        # Two answers lost in silence cost four seconds, and a worker that ends waits three: it cannot know by then.
        expected=("outcomes that could not be written", "Redis does not answer") if how == "hang" else (),
        slow="workers have to end and to start",
    )


_HOW: tuple[How, ...] = ("cut", "hang")
ROWS = (
    *(_row(name, how) for name in OPERATIONS for how in _HOW),
    *(_requeue_row(how) for how in _HOW),
)
