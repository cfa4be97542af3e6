"""Connections say whose they are, and look nothing up to say it. redis-py 5 and 6 say only that they are redis-py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from redis.asyncio.cluster import RedisCluster

from aioasynq import __version__
from aioasynq.rdb import driver
from aioasynq.rdb.connection import connection_for
from aioasynq.rdb.url import open_url

HAS_NAMES = find_spec("redis.driver_info") is not None
NAME = f"redis-py(aioasynq_v{__version__})" if HAS_NAMES else "redis-py"


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    driver._ours.cache_clear()
    yield
    driver._ours.cache_clear()


def said(connection: Any) -> str:
    return str(connection.driver_info.formatted_name if HAS_NAMES else connection.lib_name)


@pytest.mark.parametrize(
    "url", ["redis://localhost:1/0", "rediss://localhost:1/0", "unix:///no/socket", "redis-sentinel://localhost:1/main"]
)
async def test_a_connection_says_whose_it_is(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = open_url(url)
    monkeypatch.setattr("redis.utils.get_lib_version", lambda: pytest.fail("looked up again"))
    connection, _ = await connection_for(client, "")
    assert said(connection) == NAME
    await client.aclose()


async def test_a_connection_to_a_cluster_says_whose_it_is() -> None:
    client, _ = open_url("redis-cluster://localhost:1")
    assert isinstance(client, RedisCluster)
    info = client.nodes_manager.connection_kwargs.get("driver_info")
    assert (None if info is None else info.formatted_name) == (NAME if HAS_NAMES else None)
    await client.aclose()


@pytest.mark.filterwarnings("ignore:.*lib_name.*:DeprecationWarning")
async def test_a_name_in_the_url_wins() -> None:
    client, _ = open_url("redis://localhost:1/0?lib_name=mine")
    connection, _ = await connection_for(client, "")
    assert said(connection) == "mine"
    await client.aclose()


async def test_a_redis_py_without_names_is_told_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.driver_info", None)
    assert driver.introduction({}) == {}
    client, _ = open_url("redis://localhost:1/0")
    await connection_for(client, "")
    await client.aclose()
