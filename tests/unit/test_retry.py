"""asynq's default delay, and rules of one's own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from aioasynq import Task
from aioasynq.retry import Exponential, check_dont_retry, default_delay, retry_delay


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


# Rules of one's own

TASK = Task("t")


@pytest.mark.parametrize("retried", [0, 1, 5, 2**31 - 1])
def test_full_jitter_is_anything_up_to_the_limit(retried):
    rule = Exponential(first=2, factor=3, longest=timedelta(minutes=1))
    limit = min(60.0, 2.0 * 3.0 ** min(retried, 10))
    delays = [rule(retried, ValueError(), TASK) for _ in range(500)]
    assert 0 <= min(delays) < limit / 10
    assert limit * 0.9 < max(delays) <= limit


def test_without_jitter_it_is_the_limit():
    rule = Exponential(first=0.5, factor=2, longest=3, jitter=False)
    assert [rule(retried) for retried in range(5)] == [0.5, 1, 2, 3, 3]
    assert Exponential() == Exponential(1.0, 2.0, 3600.0, True)


RULES: dict[str, tuple[Any, list[float]]] = {
    "a constant": (5, [5, 5, 5, 5]),
    "a timedelta": (timedelta(minutes=1), [60, 60, 60, 60]),
    "none at all": (0.0, [0, 0, 0, 0]),
    "a list, whose last one stays": ([1, timedelta(seconds=5), 30], [1, 5, 30, 30]),
    "a tuple": ((7,), [7, 7, 7, 7]),
    "a function": (lambda retried, error, task: retried * 10, [0, 10, 20, 30]),
    "a rule": (Exponential(first=1, jitter=False), [1, 2, 4, 8]),
}


@pytest.mark.parametrize(("given", "delays"), RULES.values(), ids=RULES)
def test_what_retry_takes(given, delays):
    rule = retry_delay(given)
    assert [rule(retried, ValueError(), TASK) for retried in range(4)] == delays


async def later(retried: int, error: BaseException, task: Task) -> float:
    return 1.0


WRONG: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "negative": (lambda: retry_delay(-1), ValueError, "retry must be from 0 to 9223372036 seconds, got -1"),
    "infinite": (lambda: retry_delay(math.inf), ValueError, "retry must be from 0 to 9223372036 seconds, got inf"),
    "no number": (lambda: retry_delay(math.nan), ValueError, "retry must be .* got nan"),
    "text": (lambda: retry_delay("5s"), TypeError, "retry must be seconds, a timedelta, a list .* got '5s'"),
    "true": (lambda: retry_delay(True), TypeError, "retry must be seconds, a timedelta, a list .* got True"),
    "no delays": (lambda: retry_delay([]), ValueError, r"retry must have at least one delay, got \[\]"),
    "one is wrong": (lambda: retry_delay([1, "x"]), TypeError, r"retry\[1\] must be a number of seconds .* got 'x'"),
    "a function of nothing": (
        lambda: retry_delay(lambda: 1),
        TypeError,
        r"a function \(retried, error, task\) of them",
    ),
    "an async function": (
        lambda: retry_delay(later),
        TypeError,
        r"a function \(retried, error, task\) .* got <function",
    ),
    "first": (lambda: Exponential(first=-1), ValueError, "first must be from 0 to 9223372036 seconds, got -1"),
    "longest": (lambda: Exponential(longest="x"), TypeError, "longest must be a number of seconds or a .* got 'x'"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "factor": (lambda: Exponential(factor=0.5), ValueError, "factor must be at least 1 and finite, got 0.5"),
    "factor of text": (lambda: Exponential(factor="x"), TypeError, "factor must be a number, got 'x'"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    "errors by name": (lambda: check_dont_retry("ValueError"), TypeError, "dont_retry must be classes .* 'ValueError'"),
    "an error itself": (
        lambda: check_dont_retry([ValueError()]),
        TypeError,
        r"dont_retry must be .* got ValueError\(\)",
    ),
    "no error": (lambda: check_dont_retry((int,)), TypeError, "dont_retry must be classes .* got <class 'int'>"),
}


@pytest.mark.parametrize(("make", "error", "text"), WRONG.values(), ids=WRONG)
def test_wrong_rules(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_one_class_of_errors_will_do():
    assert check_dont_retry(KeyError) == (KeyError,)
    assert set(check_dont_retry({KeyError, OSError})) == {KeyError, OSError}
