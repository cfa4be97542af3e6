"""The pulse of a server: quick while it holds tasks, slow while it has none."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aioasynq.rdb.lifecycle import Leased
from aioasynq.server import running
from aioasynq.server.running import Held, Pulse, Running
from tests.support.build import message


class Time:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(running, "time", time)
    return time


@pytest.fixture
async def held() -> Held:
    return Held()


@pytest.fixture
async def pulse(time: Time, held: Held) -> AsyncGenerator[Pulse, None]:
    pulse = Pulse(held)
    pulse.start()
    yield pulse
    pulse.stop()


async def test_an_idle_loop_is_not_standing_still(pulse: Pulse, time: Time) -> None:
    time.now += Pulse.IDLE_INTERVAL
    assert pulse.standing() == 0
    assert pulse.look() == 0


async def test_with_a_task_it_is_watched_closely(pulse: Pulse, time: Time) -> None:
    time.now += 3.0
    pulse.quicken()
    assert (pulse.lost, pulse.standing()) == (0, 0)
    time.now += Pulse.INTERVAL + 2.0
    assert pulse.standing() == 2
    assert pulse.look() == 2


async def test_time_that_was_lost_before_a_task_is_noted_when_it_begins(pulse: Pulse, time: Time) -> None:
    time.now += Pulse.IDLE_INTERVAL + 7.0
    pulse.quicken()
    assert pulse.lost == 7


async def test_it_stays_quick_while_there_are_tasks(pulse: Pulse, time: Time, held: Held) -> None:
    pulse.quicken()
    one = Running(Leased("default", "t", None, ""), message("t"), 0.0, 0.0, 0.0, 0.0)
    held.add(one)
    pulse._beat()
    time.now += Pulse.INTERVAL + 1.0
    assert pulse.standing() == 1
    held.discard(one)
    pulse._beat()
    time.now += Pulse.IDLE_INTERVAL
    assert pulse.standing() == 0


@pytest.mark.rows(8)
def test_threads_look_at_what_is_held_while_it_changes() -> None:
    """The heartbeat's thread takes its snapshots whenever it wants to: all that stays is in each of them."""
    held = Held()
    stays: list[Any] = [object() for _ in range(100)]
    comes: list[Any] = [object() for _ in range(100)]
    for each in stays:
        held.add(each)
    begun = threading.Barrier(4)

    def look() -> None:
        begun.wait()
        for _ in range(500):
            seen = set(held.snapshot())
            assert seen.issuperset(stays)
            assert len(seen) <= len(stays) + len(comes)

    with ThreadPoolExecutor(3) as threads:
        lookers = [threads.submit(look) for _ in range(3)]
        begun.wait()
        while not all(looker.done() for looker in lookers):
            for each in comes:
                held.add(each)
            for each in comes:
                held.discard(each)
        for looker in lookers:
            looker.result()
    assert set(held.snapshot()) == set(stays)


async def test_each_beat_is_told(pulse: Pulse, time: Time) -> None:
    beats: list[float] = []
    pulse.tell(lambda: beats.append(time.now))
    pulse.quicken()
    time.now += 0.5
    pulse._beat()
    assert beats == [time.now - 0.5, time.now]
