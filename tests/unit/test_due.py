"""Which firings are due, and which were missed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from aioasynq.cronspec import parse
from aioasynq.scheduler.due import MOST, PATIENCE, CatchUp, due, firings, following

NOON = int(datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp())


class Row(NamedTuple):
    """Seconds are counted from noon."""

    spec: str
    after: float
    now: float
    skip: tuple[Sequence[int], Sequence[int]]
    once: tuple[Sequence[int], Sequence[int]]
    all: tuple[Sequence[int], Sequence[int]]


NOTHING: tuple[list[int], list[int]] = ([], [])
ON_TIME: tuple[list[int], list[int]] = ([0], [])

ROWS = {
    "nothing is due": Row("@every 10s", 0, 9.9, NOTHING, NOTHING, NOTHING),
    "one is due": Row("@every 10s", -10, 0.01, ON_TIME, ON_TIME, ON_TIME),
    "one of a cron expression": Row("* * * * *", -60, 0, ON_TIME, ON_TIME, ON_TIME),
    "what is seen to is not due again": Row("* * * * *", 0, 59.9, NOTHING, NOTHING, NOTHING),
    "five seconds are no delay": Row("@every 1s", -1, 4.9, (range(5), []), (range(5), []), (range(5), [])),
    "what is later was missed": Row(
        "@every 1s", -1, 7.5, ([3, 4, 5, 6, 7], [0, 1, 2]), ([3, 4, 5, 6, 7], [0, 1, 2]), (range(8), [])
    ),
    "the last one is tried for a while": Row(
        "@every 60s", -60, 179, ([120], [0, 60]), ([120], [0, 60]), ([0, 60, 120], [])
    ),
    "but not for ever": Row("@daily", 0, 12 * 3600 + PATIENCE + 1, ([], [43200]), ([43200], []), ([43200], [])),
    "many are bounded": Row(
        "@every 1s", -1_000_000, 0, (range(-5, 1), range(1 - MOST, -5)), (range(-5, 1), range(1 - MOST, -5)),
        (range(1 - MOST, 1), []),
    ),
    "many of a cron expression": Row(
        "* * * * *", -10_000_000, 0, ([0], range(-60 * (MOST - 1), 0, 60)), ([0], range(-60 * (MOST - 1), 0, 60)),
        (range(-60 * (MOST - 1), 1, 60), []),
    ),
    "few over a long time": Row(
        "0 12 * * *", -3 * 86400, 1, ([0], [-172800, -86400]), ([0], [-172800, -86400]), ([-172800, -86400, 0], [])
    ),
    "none ever": Row("0 0 30 2 *", -1_000_000, 0, NOTHING, NOTHING, NOTHING),
}  # fmt: skip


@pytest.mark.parametrize("catch_up", ["skip", "once", "all"])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_due(row: Row, catch_up: CatchUp):
    found = due(parse(row.spec), NOON + row.after, NOON + row.now, catch_up)
    moments, missed = getattr(row, catch_up)
    assert [moment - NOON for moment in found.moments] == list(moments)
    assert [moment - NOON for moment in found.missed] == list(missed)


def test_an_interval_of_one_s_own_counts_from_the_last_one():
    every = parse("@every 10s")
    assert firings(every, 3.5, 40, MOST, shared=False) == [13, 23, 33]
    assert firings(every, 3.5, 40, MOST, shared=True) == [10, 20, 30, 40]
    assert firings(every, 3.5, 40, 2, shared=False) == [23, 33]
    assert (following(every, 3.5, shared=False), following(every, 3.5)) == (13, 10)


def test_the_last_ones_are_the_same_however_long_ago_it_began():
    schedule = parse("*/7 3-5 * * 1,3")
    all_of_them = firings(schedule, NOON - 90 * 86400, NOON, 10_000)
    assert len(all_of_them) > 500
    assert firings(schedule, NOON - 90 * 86400, NOON, 50) == all_of_them[-50:]
