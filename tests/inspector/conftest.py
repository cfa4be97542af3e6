"""An Inspector on the Redis under test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aioasynq import Inspector
from aioasynq.rdb.rdb import RDB
from tests.support.build import Clock


@pytest.fixture
def clock() -> Clock:
    """The time that ``inspector`` goes by; it stands at NOW."""
    return Clock()


@pytest.fixture
async def inspector(redis_target: Any, clock: Clock) -> AsyncIterator[Inspector]:
    """An Inspector on a Redis that holds nothing, one server or a Cluster, with a clock that stands."""
    async with RDB(redis_target, clock=clock) as rdb, Inspector(rdb) as inspector:
        yield inspector
