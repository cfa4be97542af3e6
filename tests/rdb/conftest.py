"""The store under test: on one server, or on a Cluster with ``AIOASYNQ_TEST_CLUSTER=1``."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis, RedisCluster

from aioasynq.rdb.rdb import RDB
from tests.support.build import Clock


@pytest.fixture
def clock() -> Clock:
    """The time that ``rdb`` goes by; it stands at NOW."""
    return Clock()


@pytest.fixture
async def rdb(redis_target: Redis | RedisCluster, clock: Clock) -> AsyncIterator[RDB]:
    """An RDB on a Redis that holds nothing, with a clock that stands."""
    async with RDB(redis_target, clock=clock) as store:
        yield store
