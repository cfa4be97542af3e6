"""The pulse of a server: quick while it holds tasks, slow while it has none."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from aioasynq.server import running
from aioasynq.server.running import Held, Pulse, Running


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
    one = object.__new__(Running)
    held.add(one)
    pulse._beat()
    time.now += Pulse.INTERVAL + 1.0
    assert pulse.standing() == 1
    held.discard(one)
    pulse._beat()
    time.now += Pulse.IDLE_INTERVAL
    assert pulse.standing() == 0
