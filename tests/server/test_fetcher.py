"""How many tasks a server asks for at a time."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import RDB, BrokerError, Client, Server, Task
from aioasynq.rdb.lifecycle import Batch, Leased
from aioasynq.server import distance
from tests.server.stage import PATIENCE, Stage, load_scripts


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For how many tasks Redis was asked, call by call."""
    counts: list[int] = []
    dequeue = RDB.dequeue

    async def spy(self: RDB, *queues: str, count: int = 1, **more: Any) -> Batch:
        counts.append(count)
        return await dequeue(self, *queues, count=count, **more)

    monkeypatch.setattr(RDB, "dequeue", spy)
    return counts


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("queues", [["a"], ["a", "b", "c"]], ids=len)
@pytest.mark.parametrize(
    ("near", "takes_time", "in_order"),
    [
        (math.inf, True, [1, 4, 16, 50, 20, 9]),  # when the fourth fetch is answered 21 are at work, 5 were before
        (-math.inf, True, [1, 4, 16, 64, 15]),
        (math.inf, False, [1, 4, 16, 50, 50, 50]),
    ],
    ids=["near", "far", "near and quick"],
)
async def test_near_a_fetch_is_for_a_fifth_of_the_places_or_half_of_them_where_handlers_are_quick(
    redis: Redis,
    redis_url: str,
    asked: list[int],
    monkeypatch: pytest.MonkeyPatch,
    near: float,
    takes_time: bool,
    in_order: list[int],
    queues: list[str],
    strict: bool,
) -> None:
    monkeypatch.setattr(distance, "NEAR", near)
    await load_scripts(redis)
    stage = Stage()
    if takes_time:
        stage.gate.clear()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue_many([Task("work", queue=queue) for queue in queues for _ in range(250)])
        async with Server(redis_url, stage.mux, queues=queues, strict_priority=strict, concurrency=100):
            await stage.began.until(100)
            if len(queues) == 1:
                assert asked[: len(in_order)] == in_order
            stage.gate.set()
            await stage.began.until(250 * len(queues))
    assert stage.most <= 100
    assert max(stage.began.times.values()) == 1
    if near > 0:
        assert max(asked) <= 50


async def test_what_the_event_loop_computes_meanwhile_makes_redis_no_farther(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    answered = distance.Distance.answered
    computed = itertools.count(step=1000.0)  # seconds, between any two looks

    def listen(self: distance.Distance, seconds: float, now: float) -> None:
        told.append(seconds)
        answered(self, seconds, now)

    monkeypatch.setattr(time, "thread_time", lambda: next(computed))
    monkeypatch.setattr(distance.Distance, "answered", listen)
    await load_scripts(redis)
    stage = Stage()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue_many([Task("work") for _ in range(50)])
        async with Server(redis_url, stage.mux, concurrency=5):
            await stage.began.until(50)
    assert told
    assert max(told) < -900


@pytest.mark.parametrize("concurrency", [1, 2, 10])
@pytest.mark.parametrize("queues", [["a"], ["a", "b", "c"]], ids=len)
async def test_what_runs_and_what_waits_to_be_written_are_fewer_than_twice_the_concurrency(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, queues: list[str], concurrency: int
) -> None:
    may_write = asyncio.Event()
    held: list[int] = []
    written = 0
    dequeue, done = RDB.dequeue, RDB.done

    async def count(self: RDB, *asked: str, **more: Any) -> Batch:
        batch = await dequeue(self, *asked, **more)
        held.append(len(stage.began.all) - written + len(batch.tasks))
        return batch

    async def late(self: RDB, tasks: Sequence[Leased], **more: Any) -> list[bool]:
        nonlocal written
        await may_write.wait()
        answers = await done(self, tasks, **more)
        written += len(tasks)
        return answers

    monkeypatch.setattr(RDB, "dequeue", count)
    monkeypatch.setattr(RDB, "done", late)
    await load_scripts(redis)
    stage = Stage()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue_many([Task("work", queue=queue) for queue in queues for _ in range(5 * concurrency)])
        async with Server(redis_url, stage.mux, queues=queues, concurrency=concurrency):
            await stage.began.until(concurrency + (concurrency > 1))  # full of outcomes it still takes more
            may_write.set()
            await stage.began.until(5 * concurrency * len(queues))
    assert max(held) < 2 * concurrency


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("concurrency", [1, 2, 10])
async def test_a_queue_whose_outcomes_redis_refuses_gives_no_more_tasks_and_others_do(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, concurrency: int, strict: bool
) -> None:
    refuses = True
    done = RDB.done

    async def refuse(self: RDB, tasks: Sequence[Leased], **more: Any) -> list[bool]:
        if refuses and tasks[0].queue == "bad":
            await asyncio.sleep(0.05)  # all that may run has ended by then
            raise BrokerError("done failed: OOM", answered=True)
        return await done(self, tasks, **more)

    monkeypatch.setattr(RDB, "done", refuse)
    await load_scripts(redis)
    stage = Stage()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue_many([Task("work", queue="bad", task_id=f"bad-{n}") for n in range(100)])
        async with Server(
            redis_url, stage.mux, queues=["bad", "good"], strict_priority=strict, concurrency=concurrency
        ):
            await stage.began.until(concurrency)
            await client.enqueue_many([Task("work", queue="good", task_id=f"good-{n}") for n in range(200)])
            await stage.began.until(lambda ids: sum(task.startswith("good") for task in ids) == 200)
            assert sum(task.startswith("bad") for task in stage.began.all) < 2 * concurrency
            refuses = False
            await stage.began.until(300)
    assert max(stage.began.times.values()) == 1


async def test_a_queue_that_is_asked_has_no_timer(redis_url: str) -> None:
    """With one, a strict round would pass it by, and nothing would let the event loop come to the timer."""
    async with asyncio.timeout(PATIENCE), Server(redis_url, Stage().mux, queues=["a"], strict_priority=True) as server:
        assert server._engine is not None
        asks = server._engine.fetcher
        [state] = asks._queues.values()
        asks._awaken(state)
        asks._look_later(state)
        assert state.timer is None
        asks._sleep(state)
        asks._look_later(state)
        assert state.timer is not None
