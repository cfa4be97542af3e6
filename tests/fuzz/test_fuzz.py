"""A short run of every target, with the same examples each time. `make fuzz` goes on for longer, with new ones."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.fuzz.targets import TARGETS

SHORT = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_fuzz(target):
    SHORT(target)()
