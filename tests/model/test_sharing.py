"""What shares a call, under any order of callers, cancelled callers and broken connections.

Of enqueues: what was acknowledged is in Redis exactly once, all else at most once, and not at all where the error says
so. Of outcomes: each is applied exactly once. Nothing hangs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from redis.asyncio import Redis

from aioasynq import BrokerError, Client, Task
from aioasynq.rdb import base
from aioasynq.rdb.lifecycle import Completed, Failed, Killed, Leased
from aioasynq.rdb.rdb import RDB
from aioasynq.server.config import Config
from aioasynq.server.contact import Contact
from aioasynq.server.outcome import Done, Outcome, Requeued
from aioasynq.server.running import Running
from aioasynq.server.settler import Settler
from tests.server.stage import PATIENCE, assert_in_order, counted, load_scripts
from tests.support.build import message
from tests.support.proxy import Proxy

SHORT = settings(
    deadline=None,
    max_examples=12,
    derandomize=True,
    database=None,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
LONG = settings(SHORT, max_examples=500, derandomize=False)

KINDS = st.sampled_from(["lose_reply", "cut_after", "cut_before"])
FAULTS = st.lists(st.tuples(KINDS, st.integers(1, 6)), max_size=4)
MOMENTS = st.integers(0, 12)  # turns of the event loop, and some of them a moment in which others can answer
OPTIONS: list[dict[str, Any]] = [
    {},
    {"unique": 60},
    {"process_in": 60},
    {"process_in": 60, "unique": 90},
    {"group": "g"},
    {"group": "g", "unique": 60},
]


@pytest.fixture(autouse=True)
def _short_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that does not come is given up soon."""
    monkeypatch.setattr(base, "ATTEMPT_TIMEOUT", 0.3)


async def moments(count: int) -> None:
    for n in range(count):
        await asyncio.sleep(0.0005 if n % 4 == 3 else 0)


async def disturb(between: Proxy, faults: list[tuple[str, int]], cuts: list[int]) -> None:
    for kind, nth in faults:
        getattr(between, kind)("EVALSHA", nth=nth)
    for wait in cuts:
        await moments(wait)
        between.cut_all()


# ── enqueue ──


@dataclass
class Caller:
    """Somebody who enqueues one task or some, and may be cancelled."""

    wait: int
    options: int
    tasks: int
    cancelled: int | None


CALLERS = st.lists(
    st.builds(
        Caller,
        wait=MOMENTS,
        options=st.integers(0, len(OPTIONS) - 1),
        tasks=st.integers(1, 4),
        cancelled=st.none() | MOMENTS,
    ),
    min_size=1,
    max_size=12,
)


async def enqueue(redis_url: str, callers: list[Caller], faults: list[tuple[str, int]], cuts: list[int]) -> None:
    stored: list[str] = []  # acknowledged
    refused: list[str] = []  # certainly not there

    async def call(number: int, caller: Caller) -> None:
        await moments(caller.wait)
        options = OPTIONS[caller.options]
        tasks = [Task("work", name, task_id=name) for name in (f"{number}.{n}" for n in range(caller.tasks))]
        if caller.tasks == 1:
            try:
                stored.append((await client.enqueue(tasks[0], **options)).id)
            except BrokerError as exc:
                if not exc.maybe_done:
                    refused.append(tasks[0].id)
            return
        for task, answer in zip(tasks, await client.enqueue_many(tasks, **options), strict=True):
            if not isinstance(answer, Exception):
                stored.append(answer.id)
            elif isinstance(answer, BrokerError) and not answer.maybe_done:
                refused.append(task.id)
            else:
                assert isinstance(answer, BrokerError)

    async def cancel(task: asyncio.Task[None], caller: Caller) -> None:
        if caller.cancelled is not None:
            await moments(caller.cancelled)
            task.cancel()

    async with asyncio.timeout(PATIENCE), Redis.from_url(redis_url) as redis:
        await redis.flushall()
        await load_scripts(redis)
        async with Proxy(redis_url) as between, Client(between.url) as client:
            work = [asyncio.create_task(call(number, caller)) for number, caller in enumerate(callers)]
            ends = [cancel(task, caller) for task, caller in zip(work, callers, strict=True)]
            await asyncio.gather(disturb(between, faults, cuts), *ends)
            for result in await asyncio.gather(*work, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError), result
        found = await assert_in_order(redis)
    times = Counter(name for place, names in found.items() if place not in {"tasks", "lease"} for name in names)
    assert set(times.values()) <= {1}
    assert set(stored) <= set(times)
    assert not set(refused) & set(times)
    assert set(Counter(stored).values()) <= {1}


# ── settle ──


@dataclass
class End:
    """How a task ends, and after how many moments."""

    wait: int
    kind: int


ENDS: list[Callable[[Leased], Outcome]] = [
    Done,
    lambda leased: Completed(leased, b"r"),
    lambda leased: Failed(leased, 60.0, "why"),
    lambda leased: Failed(leased, 60.0, "later", is_failure=False),
    lambda leased: Killed(leased, "why"),
    Requeued,
]
PLACES = [None, "completed", "retry", "retry", "archived", "pending"]
COUNTS = [(1, 0), (1, 0), (1, 1), (0, 0), (1, 1), (0, 0)]


async def settle(redis_url: str, ends: list[End], faults: list[tuple[str, int]], cuts: list[int]) -> None:
    names = [str(n) for n in range(len(ends))]
    settled: list[tuple[str, bool]] = []

    async def end(leased: Leased, how: End) -> None:
        await moments(how.wait)
        settler.add(ENDS[how.kind](leased), cast("Running", leased.id))

    async def drain_for_a_moment(wait: int) -> None:
        task = asyncio.create_task(settler.drain(PATIENCE))
        await moments(wait)
        task.cancel()
        await asyncio.wait({task})

    async with asyncio.timeout(PATIENCE), Redis.from_url(redis_url) as redis, RDB(redis) as direct:
        await redis.flushall()
        await load_scripts(redis)
        await direct.enqueue([message(name, "default", retention=60) for name in names])
        tasks = (await direct.dequeue("default", count=len(names), owner="owner", lease=600.0)).tasks
        async with Proxy(redis_url) as between, RDB(between.url, operation_timeout=0.8) as rdb:
            settler = Settler(
                rdb,
                Config(),
                Contact(rdb.address),
                "server",
                lambda running, ours: settled.append((cast("str", running), ours)),
                lambda: None,
                lambda _: None,
            )
            work = [end(leased, how) for leased, how in zip(tasks, ends, strict=True)]
            await asyncio.gather(disturb(between, faults, cuts), *map(drain_for_a_moment, cuts), *work)
            assert await settler.drain(PATIENCE) == 0
        found = await assert_in_order(redis)
        counts = await counted(redis)
    assert sorted(settled) == sorted((name, True) for name in names)
    for place in ("completed", "retry", "archived", "pending"):
        assert sorted(found.get(place, [])) == sorted(
            name for name, how in zip(names, ends, strict=True) if PLACES[how.kind] == place
        )
    assert counts == tuple(sum(COUNTS[how.kind][n] for how in ends) for n in (0, 1))


ALL_ENDS = st.lists(st.builds(End, wait=MOMENTS, kind=st.integers(0, len(ENDS) - 1)), min_size=1, max_size=12)
CUTS = st.lists(MOMENTS, max_size=3)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all examples of a test."""
    with asyncio.Runner() as one:
        yield one


@SHORT
@given(callers=CALLERS, faults=FAULTS, cuts=CUTS)
def test_every_enqueue_is_there_once_or_not_at_all(redis_url, runner, callers, faults, cuts):
    runner.run(enqueue(redis_url, callers, faults, cuts))


@SHORT
@given(ends=ALL_ENDS, faults=FAULTS, cuts=CUTS)
def test_every_outcome_is_applied_once(redis_url, runner, ends, faults, cuts):
    runner.run(settle(redis_url, ends, faults, cuts))


@pytest.mark.long
@pytest.mark.timeout(0)
@LONG
@given(callers=CALLERS, faults=FAULTS, cuts=CUTS)
def test_every_enqueue_is_there_once_or_not_at_all_at_length(redis_url, runner, callers, faults, cuts):
    runner.run(enqueue(redis_url, callers, faults, cuts))


@pytest.mark.long
@pytest.mark.timeout(0)
@LONG
@given(ends=ALL_ENDS, faults=FAULTS, cuts=CUTS)
def test_every_outcome_is_applied_once_at_length(redis_url, runner, ends, faults, cuts):
    runner.run(settle(redis_url, ends, faults, cuts))
