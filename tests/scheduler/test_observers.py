"""What observers are told of the tasks that a scheduler enqueues."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import BrokerError, DuplicateTaskError, PeriodicTaskManager, Scheduler, Task, keys
from aioasynq.devserver import HOST, free_port
from aioasynq.message import TaskMessage
from aioasynq.observer import Observer, Sent
from tests.server.stage import eventually, patience, places

HOUR = 3600
whose = contextvars.ContextVar("whose", default="nobody's")


class Recorder(Observer):
    """What was told; with *mark* in the headers of each task."""

    def __init__(self, mark: str = "") -> None:
        self.begun: list[tuple[str, str]] = []  # id of the task, and in whose context
        self.ended: list[tuple[str, BaseException | None]] = []
        self._mark = mark

    def sending(self, messages: Sequence[TaskMessage], *, address: str, made_of: Sequence[Task] = ()) -> Sent:
        [msg] = messages
        msg.headers["mark"] = self._mark
        self.begun.append((msg.id, whose.get()))
        return lambda answers: self.ended.append((msg.id, answers[0]))


async def last_hour(redis: Redis, scheduler: Scheduler, task: Task, **options: Any) -> str:
    """Register what is due once, now; return its id."""
    same = Scheduler("redis://nowhere").register("@every 1h", task, **options)
    hour = int(time.time() // HOUR) * HOUR
    await redis.set(keys.fired("default", same), f"{hour - 2 * HOUR} 1 test")  # before one that runs looks there
    return scheduler.register("@every 1h", task, catch_up="once", **options)


async def test_one_scheduler_tells_of_a_firing_and_writes_to_its_headers(redis_url: str, redis: Redis):
    recorders = [Recorder(f"{number}") for number in range(3)]
    schedulers = [Scheduler(redis_url, observers=[recorder]) for recorder in recorders]
    ids = [await last_hour(redis, scheduler, Task("work")) for scheduler in schedulers]
    async with patience(), schedulers[0], schedulers[1], schedulers[2]:
        entries = [scheduler._entries[ids[0]] for scheduler in schedulers]
        hour = int(time.time() // HOUR) * HOUR
        await eventually(lambda: all(entry.cursor >= hour for entry in entries))
        assert [entry.sending for entry in entries] == [None] * 3
    pending = (await places(redis))["pending"]
    ended = {recorder._mark: recorder.ended for recorder in recorders if recorder.ended}
    told = [end for ends in ended.values() for end in ends]
    assert sorted(told) == sorted((id_, None) for id_ in pending)  # one, or two when an hour has just ended
    stored: Any = await redis.hget(keys.task("default", pending[0]), keys.MSG)
    assert any(f"\x04mark\x12\x01{mark}".encode() in stored for mark in ended)


async def test_it_runs_in_no_context_of_whoever_registered(redis_url: str, redis: Redis):
    recorder = Recorder()
    async with patience(), Scheduler(redis_url, observers=[recorder]) as scheduler:
        token = whose.set("a request's")
        await last_hour(redis, scheduler, Task("work"))
        whose.reset(token)
        await eventually(lambda: bool(recorder.ended))
    assert {context for _, context in recorder.begun} == {"nobody's"}


async def test_a_refusal_is_told(redis_url: str, redis: Redis):
    recorder = Recorder()
    await redis.set(keys.unique("default", "work", b"7"), "another")
    scheduler = Scheduler(redis_url, observers=[recorder])
    await last_hour(redis, scheduler, Task("work", b"7"), unique=60)
    async with patience(), scheduler:
        await eventually(lambda: bool(recorder.ended))
    [(_, error)] = recorder.ended[:1]
    assert isinstance(error, DuplicateTaskError)


@pytest.mark.parametrize(
    "make",
    [
        lambda url, observer: Scheduler(url, observers=[observer], operation_timeout=0.1),
        lambda url, observer: PeriodicTaskManager(url, list, observers=[observer], operation_timeout=0.1),
    ],
    ids=["Scheduler", "PeriodicTaskManager"],
)
async def test_a_firing_that_is_given_up_is_told_once(make: Callable[[str, Observer], Any]):
    recorder = Recorder()
    made = make(f"redis://{HOST}:{free_port()}", recorder)
    scheduler: Scheduler = getattr(made, "scheduler", made)
    async with patience(), made:
        scheduler.register("@every 1s", Task("work"))
        await eventually(lambda: len(recorder.ended) >= 2)
    told = [id_ for id_, _ in recorder.ended]
    assert len(told) == len(set(told))
    assert set(told) == {id_ for id_, _ in recorder.begun}  # the last one is, at the end
    assert {type(error) for _, error in recorder.ended} == {BrokerError}


@pytest.mark.parametrize("wrong", [Observer(), "otel", [1]])
def test_what_is_no_list_of_observers_is_refused(wrong: Any):
    with pytest.raises(TypeError, match="observers must be a list of Observers, got"):
        Scheduler("redis://nowhere", observers=wrong)
