"""For how long, and how often, an event loop is kept awake for an answer."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import pytest

from aioasynq.client import busy_poll
from aioasynq.client.busy_poll import LONGEST, RAREST, BusyPoll

CALL = object()


class Loop:
    """What the next turn of an event loop is to call, and a clock that goes on with each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ready: list[Callable[[], Any]] = []
        self.now = 100.0
        monkeypatch.setattr(busy_poll, "perf_counter", lambda: self.now)

    def call_soon(self, callback: Callable[[], Any]) -> None:
        self.ready.append(callback)

    def turn(self, seconds: float = LONGEST / 10) -> bool:
        """One turn; whether it had anything to do, so that it did not sleep."""
        self.now += seconds
        ready, self.ready = self.ready, []
        assert len(ready) <= 1
        for callback in ready:
            callback()
        return bool(ready)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    monkeypatch.setattr(busy_poll, "_cpus", lambda: 2)
    return Loop(monkeypatch)


@pytest.fixture
def poll(loop: Loop) -> BusyPoll:
    return BusyPoll(loop)  # type: ignore[arg-type]


def misses(loop: Loop, poll: BusyPoll) -> bool:
    """Make a call whose answer comes too late; whether the loop was kept awake for it."""
    poll.begin(CALL)
    awake = loop.turn()
    while loop.turn():
        pass
    poll.answered(CALL)
    return awake


def test_a_loop_is_awake_until_the_answer_comes(loop: Loop, poll: BusyPoll) -> None:
    assert not loop.turn()
    poll.begin(CALL)
    assert [loop.turn() for _ in range(5)] == [True] * 5
    poll.answered(CALL)
    assert [loop.turn() for _ in range(3)] == [True, False, False]


def test_it_is_awake_for_a_moment_at_most(loop: Loop, poll: BusyPoll) -> None:
    poll.begin(CALL)
    end = loop.now + LONGEST
    while loop.turn():
        assert loop.now <= end + LONGEST / 5
    assert loop.now > end


def test_calls_that_follow_each_other_at_once_are_waited_for_one_by_one(loop: Loop, poll: BusyPoll) -> None:
    for _ in range(50):  # longer in all than a moment
        poll.begin(CALL)
        assert loop.turn()
        poll.answered(CALL)
    assert loop.turn()
    assert not loop.turn()


def test_what_comes_too_late_is_waited_for_ever_more_rarely(loop: Loop, poll: BusyPoll) -> None:
    awake = [n for n in range(5 * RAREST) if misses(loop, poll)]
    between = [after - before for before, after in itertools.pairwise(awake)]
    assert between[:9] == [2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert set(between[9:]) == {RAREST}


def test_what_comes_in_time_is_waited_for_again_each_time(loop: Loop, poll: BusyPoll) -> None:
    for _ in range(20):
        misses(loop, poll)
    while not loop.ready:  # until it is tried again
        poll.begin(CALL)
    poll.answered(CALL)
    loop.turn()
    for _ in range(3):
        poll.begin(CALL)
        assert loop.turn()
        poll.answered(CALL)
        loop.turn()


def test_an_answer_that_comes_too_late_is_none_in_time(loop: Loop, poll: BusyPoll) -> None:
    assert misses(loop, poll)
    assert not misses(loop, poll)
    assert misses(loop, poll)
    assert [misses(loop, poll) for _ in range(4)] == [False, False, False, True]


def test_the_answer_to_another_call_is_none(loop: Loop, poll: BusyPoll) -> None:
    poll.begin(CALL)
    poll.answered(object())
    assert loop.turn()
    assert loop.turn()
    while loop.turn():
        poll.begin(object())  # and its moment is no longer for the sake of others
        assert loop.now < 100.0 + 2 * LONGEST
    assert poll._every == 2


def test_with_one_cpu_it_never_waits_awake(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy_poll, "_cpus", lambda: 1)
    poll = BusyPoll(loop)  # type: ignore[arg-type]
    assert not any(misses(loop, poll) for _ in range(2 * RAREST))


def test_cpus_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert busy_poll._cpus() == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert busy_poll._cpus() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert busy_poll._cpus() == 1
