"""The store under test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from aioasynq.rdb.rdb import RDB


@pytest.fixture
async def rdb_here(redis: Redis) -> AsyncIterator[RDB]:
    """An RDB on a Redis that holds nothing, with Redis's own clock."""
    async with RDB(redis) as store:
        yield store
