"""The load of a run: bursts of tasks of many kinds, and what the client is told of each."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioasynq import Client, Task
from aioasynq.errors import AioasynqError, BrokerError
from tests.faults.ledger import group_of

if TYPE_CHECKING:
    from tests.faults.harness import System

MIX = {"quick": 55, "fails": 15, "later": 15, "keep": 10, "bad": 5}
UNIQUE = {"once": 50, "oncelater": 30, "quick": 20}
GROUPS = {"group": 40, "groupone": 40, "quick": 20}
SLOW = 3000  # milliseconds
_OCCUPIED = 20  # tasks

_OPTIONS: dict[str, dict[str, Any]] = {
    "keep": {"retention": 3600},
    "odd": {"retention": 3600},
    "once": {"unique": 3600},
    "oncelater": {"unique": 3600},
    "groupone": {"unique": 3600},
    "raises": {"max_retry": 1},
    "nobody": {"max_retry": 1},
}
# What Go's programs know under another name.
_GO_TYPES = {"fails": "fail:1", "bad": "skip"}


@dataclass(frozen=True, kw_only=True)
class Load:
    """In which shape tasks come."""

    span: float  #: seconds over which they are spread
    burst: int = 20  #: most that come at once
    slow: int = 0  #: tasks of 3 s that come first
    share: float = 1.0  #: of the tasks in the settings
    mix: Mapping[str, int] = field(default_factory=lambda: dict(MIX))  #: weight by kind
    for_go: bool = False  #: of types that Go's programs know


async def send(system: System, client: Client, over: asyncio.Event) -> None:
    """Send bursts of tasks, until all are sent and the fault is over."""
    load, chance, sent = system.row.load, system.random, 0
    pace = load.span / system.tasks
    batch: list[Task] = [make_task("slow", f"slow-{n}", SLOW, chance, go=load.for_go) for n in range(load.slow)]
    while True:
        while len(batch) < chance.randint(1, load.burst):
            kind = chance.choices(list(load.mix), list(load.mix.values()))[0]
            task_id = f"{kind}-{sent + len(batch)}"
            batch.append(make_task(kind, task_id, chance.randint(0, 20), chance, go=load.for_go))
        started = time.monotonic()
        if chance.random() < 0.3:
            await _enqueue_many(system, client, batch)
        else:
            await asyncio.gather(*(enqueue(system, client, task) for task in batch))
        system.note_burst()
        sent += len(batch)
        wait = len(batch) * pace - (time.monotonic() - started)
        batch = []
        if sent >= system.tasks and over.is_set():
            return
        await asyncio.sleep(max(0.0, wait))


def make_task(kind: str, task_id: str, runs_for: int, chance: random.Random, *, go: bool = False) -> Task:
    """A task whose handler takes *runs_for* milliseconds."""
    options = dict(_OPTIONS.get(kind, {}))
    if kind in {"later", "oncelater"}:
        options["process_in"] = chance.uniform(0.05, 1.0)
    if kind in {"group", "groupone"}:
        options["group"] = group_of(task_id)
    payload = f"{runs_for} {task_id}" if "unique" in options else str(runs_for)
    task_type = _GO_TYPES.get(kind, f"sleep:{runs_for}") if go else kind
    return Task(task_type, payload, task_id=task_id, **options)


async def enqueue(system: System, client: Client, task: Task) -> None:
    """Send one task, and note the answer."""
    try:
        await client.enqueue(task)
    except AioasynqError as exc:
        _note(system, task, exc)
    else:
        _note(system, task, None)


async def occupy(system: System, name: str) -> None:
    """Send tasks that end some half a second later, and wait until most of them run: their outcomes meet the fault."""
    kinds = ("quick", "keep", "fails")
    ids = [f"{kinds[n % 3]}-{name}x{n}" for n in range(_OCCUPIED)]
    tasks = [
        make_task(i.partition("-")[0], i, system.random.randint(300, 800), system.random, go=system.row.load.for_go)
        for i in ids
    ]
    await _enqueue_many(system, system.client, tasks)
    await system.until(lambda events: sum(e.name == "start" and e.task_id in ids for e in events) > _OCCUPIED // 2)


async def _enqueue_many(system: System, client: Client, tasks: Sequence[Task]) -> None:
    for task, answer in zip(tasks, await client.enqueue_many(tasks), strict=True):
        _note(system, task, answer if isinstance(answer, AioasynqError) else None)


def _note(system: System, task: Task, refusal: AioasynqError | None) -> None:
    assert task.id
    system.ledger.write(task.id, "ack" if refusal is None else "refused")
    if refusal is None:
        return
    wanted = system.row.refusals
    if wanted is None or not isinstance(refusal, BrokerError) or not re.search(wanted, str(refusal)):
        system.problems.append(f"{task.id} refused: {refusal!r}")
