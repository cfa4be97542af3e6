"""When the scheduler loop looks at which queue."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import RDB, Client, Server, Task
from aioasynq.server import scheduler_loop
from aioasynq.server.contact import Contact
from aioasynq.server.scheduler_loop import SchedulerLoop
from tests.server.stage import PATIENCE, Seen, Stage, load_scripts

NEVER = 1000.0


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The queues of each look."""
    looks, next_due = Seen(), RDB.next_due

    async def seen(rdb: RDB, *queues: str) -> Any:
        answer = await next_due(rdb, *queues)
        looks.add(queues)
        return answer

    monkeypatch.setattr(RDB, "next_due", seen)
    return looks


@pytest.fixture
async def loop(
    redis: Redis, redis_url: str, looks: Seen, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SchedulerLoop]:
    """One that has looked once, and does not look by itself."""
    await load_scripts(redis)
    monkeypatch.setattr(scheduler_loop, "LONGEST_SLEEP", NEVER)
    monkeypatch.setattr(scheduler_loop, "SEEN_FOR", 2 * NEVER)
    async with RDB(redis_url) as rdb:
        loop = SchedulerLoop(rdb, ("a", "b"), Contact(redis_url), lambda _: None)
        running = asyncio.create_task(loop.run())
        await looks.until(1)
        yield loop
        running.cancel()
        await asyncio.wait({running})


async def test_what_somebody_else_saw_is_looked_at_when_it_is_due(loop: SchedulerLoop, looks: Seen) -> None:
    loop.seen("b", 0.02)
    await looks.until(2)
    loop.seen("a", -1.0)
    await looks.until(3)
    # All that would be looked at soon is looked at at once.
    assert looks.all == [("a", "b")] * 3


async def test_a_queue_that_was_just_seen_is_left_alone(loop: SchedulerLoop, looks: Seen) -> None:
    loop.seen("a", math.inf)
    loop.seen("b", 0.02)
    await looks.until(2)
    assert looks.all[1] == ("b",)


async def test_what_this_server_wrote_is_not_put_off_by_who_looked_before(loop: SchedulerLoop, looks: Seen) -> None:
    loop.due_in(0.02)
    loop.seen("a", math.inf)
    loop.seen("b", math.inf)
    await looks.until(2)
    assert looks.all[1] == ("a", "b")


async def test_an_idle_server_leaves_the_looking_to_its_wait(
    redis: Redis, redis_url: str, looks: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    await load_scripts(redis)
    told, seen = Seen(), SchedulerLoop.seen

    def noted(loop: SchedulerLoop, queue: str, seconds: float) -> None:
        seen(loop, queue, seconds)
        told.add((queue, seconds))

    monkeypatch.setattr(SchedulerLoop, "seen", noted)
    async with Server(redis_url, Stage().mux):
        await told.until(3)
    assert told.all[:3] == [("default", math.inf)] * 3
    assert len(looks.all) <= 2, "once at the start, and perhaps while the first wait was on its way"


async def test_a_task_that_the_wait_saw_runs_when_it_is_due(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await load_scripts(redis)
    monkeypatch.setattr(scheduler_loop, "LONGEST_SLEEP", NEVER)  # nobody else looks
    monkeypatch.setattr(scheduler_loop, "SEEN_FOR", NEVER)
    stage = Stage()
    async with Server(redis_url, stage.mux), Client(redis_url) as client:
        for number in range(3):
            await client.enqueue(Task("work"), task_id=f"{number}", process_in=0.3 * (3 - number))
        async with asyncio.timeout(PATIENCE):
            await stage.began.until(3)
    assert stage.began.all == ["2", "1", "0"]
