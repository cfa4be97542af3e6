"""Is Redis near?"""

from __future__ import annotations

import pytest

from aioasynq.server.distance import NEAR, WINDOW, Distance

QUICK, SLOW = NEAR / 2, NEAR * 2


@pytest.mark.parametrize(
    ("calls", "near"),
    [
        ([], False),
        ([(0.0, SLOW)], False),
        ([(0.0, QUICK)], True),
        ([(0.0, NEAR)], False),
        ([(0.0, SLOW), (0.1, QUICK)], True),
        ([(0.0, QUICK), (0.1, SLOW), (0.2, SLOW)], True),  # a busy moment is no distance
        ([(0.0, QUICK), (WINDOW, SLOW)], True),
        ([(0.0, QUICK), (WINDOW, SLOW), (2 * WINDOW, SLOW)], False),  # it has moved away
        ([(0.0, SLOW), (WINDOW, SLOW), (WINDOW + 1, QUICK)], True),
    ],
)
def test_the_quickest_call_of_two_windows_says_it(calls: list[tuple[float, float]], near: bool) -> None:
    distance = Distance()
    for now, seconds in calls:
        distance.answered(seconds, 1000 + now)
    assert distance.is_near is near
