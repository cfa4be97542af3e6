"""A migration is cut short: killed, cut off, told nothing, done twice at once. Each task is there once."""

from __future__ import annotations

import asyncio
import copy
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis as redis_py
from redis.asyncio import Redis

from aioasynq import BrokerError, Inspector
from aioasynq.devserver import DevServer
from aioasynq.inspector import migrate
from aioasynq.inspector.migrate import MAX_LISTED
from aioasynq.rdb import base
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.script import Script
from tests.support.layout_2020 import Old, left_behind, of_today, old
from tests.support.proxy import Proxy, ThreadedProxy, script
from tests.support.resp import Command
from tests.support.state import State

pytestmark = pytest.mark.no_cluster("the old layout has no hash tags, so a Cluster is refused")

MakeProxy = Callable[..., Awaitable[Proxy]]
AT = 1583000000.0
PATIENCE = 30
KILLS = 20
SEED = 2020
SLICE = 20  #: instead of 256, so that few tasks are many slices
COUNT = 60  #: tasks of each place


def named(place: str, count: int, queues: int = 3) -> list[bytes]:
    """Messages of some queues, with one that is none after each twenty."""
    msgs: list[bytes] = []
    for n in range(count):
        queue = f"q{n % queues}"
        lock = f"t:{place}{n}:{queue}" if n % 10 == 0 else ""
        msgs.append(old(f"{place}{n}", queue, payload=b'{"n":%d,"p":"%s"}' % (n, place.encode()), UniqueKey=lock))
        if n % 20 == 19:
            msgs.append(b"no message %d of " % n + place.encode())
    return msgs


def full(count: int = COUNT) -> Old:
    """All states and counters, in more than one slice each."""
    scores = {place: {msg: AT + n for n, msg in enumerate(named(place, count))} for place in ("s", "r", "d")}
    locks = {f"t:{place}{n}:q{n % 3}": f"{place}{n}" for place in ("s", "p", "i") for n in range(0, count, 10)}
    return Old(
        queues={f"q{n}": [msg for msg in named("p", count) if f'"q{n}"'.encode() in msg] for n in range(3)},
        in_progress=named("i", count),
        scheduled=scores["s"],
        retry=scores["r"],
        dead=scores["d"],
        counters={f"{kind}:2020-02-{day:02}": str(day) for kind in ("processed", "failure") for day in range(1, 5)},
        strings=locks,
    )


TASKS = 5 * COUNT
UNREADABLE = 4 * COUNT // 20
LOCKS = 3 * COUNT // 10

Everything = tuple[dict[str, State], dict[str, Any]]
_known: list[Everything] = []  # the same for all tests of a process


async def everything(redis: Redis) -> Everything:
    return await of_today(redis), await left_behind(redis)


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "MAX_BATCH", SLICE)


@pytest.fixture
async def undisturbed(redis: Redis) -> Everything:
    """What is there after a migration that nothing went wrong with; then it is taken away again."""
    if not _known:
        await full().write(redis)
        async with Inspector(redis) as inspector:
            report = await inspector.migrate()
        assert (report.total, report.left_total, report.remaining) == (TASKS, UNREADABLE, 0)
        states, left = await everything(redis)
        assert sum(len(state.tasks) for state in states.values()) == TASKS
        assert sum(len(state.locks) for state in states.values()) == LOCKS
        assert sum(map(len, left.values())) == UNREADABLE
        _known.append((states, left))
        await redis.flushall()
    return copy.deepcopy(_known[0])


# ── slices ──


async def test_in_slices_with_progress(redis: Redis):
    await full().write(redis)
    told: list[tuple[int, int]] = []
    async with Inspector(redis) as inspector:
        await inspector.migrate(progress=lambda done, total: told.append((done, total)))
    assert len(told) >= 5 * COUNT / SLICE
    assert told == sorted(set(told))
    assert told[-1] == (TASKS + UNREADABLE, TASKS + UNREADABLE)


async def test_large_messages_come_in_smaller_slices(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    payload = b'{"n":"' + b"x" * 100_000 + b'"}'
    await Old(queues={"default": [old(str(n), payload=payload) for n in range(40)]}).write(redis)
    sizes: list[int] = []
    real = RDB.move_old_tasks

    async def move(self: RDB, place: Any, tasks: Any, **options: Any) -> list[int]:
        sizes.append(len(tasks))
        return await real(self, place, tasks, **options)

    monkeypatch.setattr(RDB, "move_old_tasks", move)
    async with Inspector(redis) as inspector:
        assert (await inspector.migrate()).total == 40
    assert max(sizes) * 2 * len(payload) <= base.MAX_BATCH_BYTES
    assert (await of_today(redis))["default"].pending == [str(n) for n in range(40)]


async def test_of_much_that_cannot_be_read_some_is_listed(redis: Redis):
    await Old(dead={b"x" * 500 + str(n).encode(): 1.0 for n in range(MAX_LISTED + 5)} | {old("a"): 2.0}).write(redis)
    async with Inspector(redis) as inspector:
        report = await inspector.migrate()
    assert (report.total, report.left_total, len(report.left)) == (1, MAX_LISTED + 5, MAX_LISTED)
    assert {(left.place, left.data) for left in report.left} == {("asynq:dead", b"x" * 100)}
    assert await redis.zcard("asynq:dead") == MAX_LISTED + 5


# ── others at work ──


async def test_two_at_once(redis: Redis, redis_url: str, undisturbed: Everything):
    await full().write(redis)
    async with Inspector(redis_url) as one, Inspector(redis_url) as two, asyncio.timeout(PATIENCE):
        reports = await asyncio.gather(one.migrate(), two.migrate())
    assert sum(report.total for report in reports) == TASKS
    assert sum(report.counters["processed"] for report in reports) == 1 + 2 + 3 + 4
    states, left = await everything(redis)
    assert left == undisturbed[1]
    # Slices of the two take turns, so the order within a list is not that of one alone.
    assert {queue: sorted(state.pending) for queue, state in states.items()} == {
        queue: sorted(state.pending) for queue, state in undisturbed[0].items()
    }
    for queue, state in states.items():
        state.pending = undisturbed[0][queue].pending
    assert states == undisturbed[0]


async def test_an_old_client_goes_on(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    await Old(queues={"default": [old("a")]}).write(redis)
    real = RDB.read_old_tasks
    added = iter(range(1000))

    async def read(self: RDB, *args: Any, **options: Any) -> Any:
        found = await real(self, *args, **options)
        await redis.lpush("asynq:queues:default", old(f"n{next(added)}"))
        return found

    monkeypatch.setattr(RDB, "read_old_tasks", read)
    async with Inspector(redis) as inspector, asyncio.timeout(PATIENCE):
        report = await inspector.migrate()
        assert (report.total, report.remaining) == (5, 1), "it comes to an end, and says what is left"
        monkeypatch.undo()
        assert (await inspector.migrate()).total == 1


# ── replies that are lost ──


@pytest.mark.parametrize("kind", ["lose_reply", "cut_after", "cut_before"])
@pytest.mark.parametrize("name", ["move_old_tasks", "move_old_counter"])
async def test_replies_are_lost(
    redis: Redis,
    proxy: MakeProxy,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Everything,
    name: str,
    kind: str,
):
    monkeypatch.setattr(base, "ATTEMPT_TIMEOUT", 0.3)
    await full().write(redis)
    between = await proxy()
    fault = getattr(between, kind)(script(Script(name).sha), nth=3, times=3)
    async with Inspector(between.url) as inspector, asyncio.timeout(PATIENCE):
        report = await inspector.migrate()
    assert fault.fired == 3
    assert await everything(redis) == undisturbed
    assert (report.total, report.left_total, report.same) == (TASKS, UNREADABLE, 0)
    assert report.counters == {"processed": 10, "failed": 10}


async def test_redis_is_away_too_long(redis: Redis, proxy: MakeProxy, undisturbed: Everything):
    await full().write(redis)
    between = await proxy()
    between.cut_before(script(Script("move_old_tasks").sha), nth=4, times=None)
    async with Inspector(between.url, operation_timeout=0.5) as inspector:
        with pytest.raises(BrokerError):
            await inspector.migrate()
    async with Inspector(redis) as inspector:
        report = await inspector.migrate()
    assert 0 < report.total < TASKS
    assert await everything(redis) == undisturbed


async def test_memory_is_full(own_server: Callable[..., DevServer], undisturbed: Everything):
    server = own_server()
    async with Redis.from_url(server.url) as redis, Inspector(redis) as inspector:
        await full().write(redis)

        def fill(done: int, _: int) -> None:
            if done > TASKS / 2:
                with redis_py.Redis.from_url(server.url) as other:
                    other.config_set("maxmemory", "1mb")

        with pytest.raises(BrokerError, match="maxmemory"):
            await inspector.migrate(progress=fill)
        done = sum(len(state.tasks) for state in (await of_today(redis)).values())
        assert 0 < done < TASKS
        await redis.config_set("maxmemory", "0")
        assert (await inspector.migrate()).total == TASKS - done
        assert await everything(redis) == undisturbed


async def test_cancelled(redis: Redis, undisturbed: Everything):
    await full().write(redis)
    async with Inspector(redis) as inspector:
        reports: list[int] = []

        def progress(done: int, _: int) -> None:
            reports.append(done)
            if done > TASKS / 2:
                task.cancel()

        task = asyncio.create_task(inspector.migrate(progress=progress))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reports[-1] < TASKS
        await inspector.migrate()
    assert await everything(redis) == undisturbed


# ── killed ──

#: It forks for each URL on a line, so that Python is started once, and says the pid; the child migrates at the next
#: line, and the code with which it ended is the answer.
_NURSERY = """
import asyncio, os, sys
from aioasynq import Inspector
from aioasynq.inspector import migrate as module
module.MAX_BATCH = int(sys.argv[1])
async def migrate(url):
    async with Inspector(url) as inspector:
        await inspector.migrate()
for line in sys.stdin:
    wait, go = os.pipe()
    if not (pid := os.fork()):
        os.read(wait, 1)
        asyncio.run(migrate(line.strip()))
        os._exit(0)
    print(pid, flush=True)
    sys.stdin.readline()
    os.write(go, b"g")
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture
async def nursery() -> AsyncIterator[Process]:
    process = await create_subprocess_exec(sys.executable, "-c", _NURSERY, str(SLICE), stdin=PIPE, stdout=PIPE)
    yield process
    assert process.stdin is not None
    process.stdin.close()
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 0


async def _born(nursery: Process, url: str) -> int:
    assert nursery.stdin is not None
    nursery.stdin.write(url.encode() + b"\n")
    return await _number(nursery)


async def _migrates(nursery: Process) -> int:
    assert nursery.stdin is not None
    nursery.stdin.write(b"\n")
    return await _number(nursery)


async def _number(nursery: Process) -> int:
    assert nursery.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return int(await nursery.stdout.readline())


@pytest.mark.timeout(180)
async def test_killed_at_any_point_and_run_again(
    redis: Redis, threaded_proxy: Callable[..., Awaitable[ThreadedProxy]], undisturbed: Everything, nursery: Process
):
    chance = random.Random(SEED)
    between = await threaded_proxy()
    await full().write(redis)
    await _born(nursery, between.url)
    assert await _migrates(nursery) == 0
    commands = sum(between.commands.values())
    assert commands > 60, "there are enough points at which it can be killed"
    halves = 0
    for number in range(KILLS):
        await redis.flushall()
        await full().write(redis)
        fatal, seen = chance.randrange(1, commands), 0
        where = f"kill {number} at command {fatal} of {commands}"
        victim = await _born(nursery, between.url)

        def kill(_: Command, victim: int = victim, fatal: int = fatal) -> bool:
            nonlocal seen
            seen += 1
            if seen == fatal:
                os.kill(victim, signal.SIGKILL)
            return seen == fatal

        # The command arrives although its sender is dead, or does not.
        fault = (between.cut_after if chance.random() < 0.5 else between.cut_before)(kill)
        assert await _migrates(nursery) == -signal.SIGKILL, where
        await between.until(lambda: not between.connections)
        between.remove(fault)
        await redis.ping()
        await redis.ping()  # what came before the first has been done

        done = sum(len(state.tasks) for state in (await of_today(redis)).values())
        halves += 0 < done < TASKS
        async with Inspector(redis) as inspector:
            report = await inspector.migrate()
        assert (report.total, report.left_total, report.same) == (TASKS - done, UNREADABLE, 0), where
        assert await everything(redis) == undisturbed, where
    assert halves > KILLS / 3
