"""asynq's default delay."""

from __future__ import annotations

import random

import pytest

from aioasynq.retry import default_delay


class Dice:
    """Chance that always falls the same way."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.asked: list[int] = []

    def randrange(self, stop: int, /) -> int:
        self.asked.append(stop)
        return self.value


# retried: (shortest, longest), in seconds
DELAYS = {0: (15, 44), 1: (16, 74), 2: (31, 118), 3: (96, 212), 10: (10015, 10334), 25: (390640, 391394)}


@pytest.mark.parametrize(("retried", "bounds"), DELAYS.items())
def test_delay_at_both_ends(retried, bounds):
    low, high = Dice(0), Dice(29)
    assert (default_delay(retried, random=low), default_delay(retried, random=high)) == bounds
    assert low.asked == high.asked == [30]


def test_delay_is_in_bounds_and_uses_them():
    chance = random.Random(1)
    delays = {default_delay(0, ValueError("boom"), object(), random=chance) for _ in range(2000)}
    assert delays == set(range(15, 45))


def test_delay_by_default_is_by_chance():
    assert len({default_delay(3) for _ in range(200)}) > 1


def test_delay_of_a_task_that_was_retried_very_often():
    assert default_delay(2**31 - 1, random=Dice(0)) == pytest.approx(2.13e37, rel=0.01)
