"""Weights and orders of queues (asynq's processor tests, rows 110 and 113)."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

from aioasynq.queues import MAX_WEIGHT, draw, in_priority_order, normalise, weighted_order

NORMALISED = {
    "row 113, one queue": ({"default": 7}, {"default": 1}),
    "row 113, nothing in common": ({"high": 6, "default": 3, "low": 1}, {"high": 6, "default": 3, "low": 1}),
    "row 113, a common divisor": ({"high": 60, "default": 30, "low": 20}, {"high": 6, "default": 3, "low": 2}),
    "row 113, all the same": ({"a": 5, "b": 5}, {"a": 1, "b": 1}),
    "row 113, one divides all": ({"a": 8, "b": 2, "c": 4}, {"a": 4, "b": 1, "c": 2}),
    "the largest weight": ({"a": MAX_WEIGHT, "b": 1}, {"a": MAX_WEIGHT, "b": 1}),
    "names alone weigh the same": (["b", "a"], {"b": 1, "a": 1}),
    "a tuple": (("b", "a"), {"b": 1, "a": 1}),
}


@pytest.mark.rows(113)
@pytest.mark.parametrize(("queues", "weights"), NORMALISED.values(), ids=NORMALISED)
def test_normalise(queues, weights):
    assert list(normalise(queues).items()) == list(weights.items())


REFUSED = {
    "a single name": ("default", TypeError, "'default'"),
    "none, as a mapping": ({}, ValueError, "at least one queue"),
    "none, as a sequence": ([], ValueError, "at least one queue"),
    "a name twice": (["a", "b", "a"], ValueError, "each queue once"),
    "a name that is no text": ([b"a"], TypeError, "b'a'"),
    "weight 0": ({"a": 0}, ValueError, "got 0 for 'a'"),
    "a negative weight": ({"a": 1, "b": -1}, ValueError, "got -1 for 'b'"),
    "a weight that is too large": ({"a": 2**31}, ValueError, "got 2147483648 for 'a'"),
    "a weight with a fraction": ({"a": 1.5}, TypeError, "got 1.5 for 'a'"),
    "a truth value": ({"a": True}, TypeError, "got True for 'a'"),
    "a text": ({"a": "1"}, TypeError, "got '1' for 'a'"),
}


@pytest.mark.parametrize(("queues", "error", "text"), REFUSED.values(), ids=REFUSED)
def test_normalise_refuses(queues, error, text):
    with pytest.raises(error, match=r"^queues must ") as caught:
        normalise(queues)
    assert text in str(caught.value)


@pytest.mark.rows(113)
@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.integers(1, MAX_WEIGHT), min_size=1, max_size=8))
def test_normalise_keeps_ratios_and_is_done_at_once(queues):
    weights = normalise(queues)
    assert normalise(weights) == weights
    (name, weight), *_ = queues.items()
    assert all(weight * weights[other] == queues[other] * weights[name] for other in queues)


PRIORITY_ORDER = {
    "row 110, strict: heaviest first": ({"low": 1, "high": 6, "default": 3}, ["high", "default", "low"]),
    "those of one weight stay in order": ({"b": 1, "c": 2, "a": 1}, ["c", "b", "a"]),
    "one queue": ({"a": 1}, ["a"]),
}


@pytest.mark.rows(110)
@pytest.mark.parametrize(("weights", "order"), PRIORITY_ORDER.values(), ids=PRIORITY_ORDER)
def test_in_priority_order(weights, order):
    assert in_priority_order(weights) == order


@pytest.mark.rows(110)
@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.integers(1, 1000), max_size=8), st.randoms(use_true_random=False))
def test_weighted_order_has_each_queue_once_row_110(weights, chance):
    assert Counter(weighted_order(weights, chance)) == Counter(weights.keys())


@pytest.mark.rows(110)
def test_weighted_order_is_by_weight_row_110():
    weights = {"high": 6, "default": 3, "low": 1}
    chance, rounds = random.Random(110), 20_000
    seen = Counter(tuple(weighted_order(weights, chance)) for _ in range(rounds))
    # What a shuffled pack with each name as often as it weighs gives: by weight first, then by weight among the rest.
    expected = {
        (first, second, third): weights[first] / 10 * weights[second] / (10 - weights[first])
        for first in weights
        for second in weights
        for third in weights
        if len({first, second, third}) == 3
    }
    assert {order: seen[order] / rounds for order in expected} == pytest.approx(expected, abs=0.01)


DRAWN_FROM_ONE_OR_NONE = {
    "one queue gets all places": ({"a": 3}, 100, {"a": 100}),
    "no place": ({"a": 3, "b": 1}, 0, {}),
    "no queue": ({}, 5, {}),
}


@pytest.mark.parametrize(("weights", "places", "drawn"), DRAWN_FROM_ONE_OR_NONE.values(), ids=DRAWN_FROM_ONE_OR_NONE)
def test_draw_without_chance(weights, places, drawn):
    assert draw(weights, places, random.Random(1)) == drawn


@settings(deadline=None)
@given(
    st.dictionaries(st.text(min_size=1), st.integers(1, 1000), min_size=1, max_size=8),
    st.integers(0, 200),
    st.randoms(use_true_random=False),
)
def test_draw_gives_every_place_to_a_queue(weights, places, chance):
    drawn = draw(weights, places, chance)
    assert sum(drawn.values()) == places
    assert drawn.keys() <= weights.keys()
    assert 0 not in drawn.values()


def test_draw_is_by_weight():
    drawn = draw({"high": 6, "default": 3, "low": 1}, 20_000, random.Random(1))
    assert {name: count / 20_000 for name, count in drawn.items()} == pytest.approx(
        {"high": 0.6, "default": 0.3, "low": 0.1}, abs=0.01
    )
