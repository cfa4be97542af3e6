"""What servers say about themselves, who stands in line for a queue, and cancelation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aioasynq import keys
from aioasynq.message import ServerInfo, WorkerInfo
from aioasynq.proto.codec import decode_server, decode_worker
from aioasynq.rdb.rdb import RDB
from tests.support.build import NOW, NOW_S, QUEUE, Clock
from tests.support.state import State, assert_states

SERVER = ServerInfo(
    host="host",
    pid=123,
    server_id="id",
    concurrency=10,
    queues={"q": 2, "p": 1},
    strict_priority=True,
    status="active",
    start_time=NOW_S * 10**9 + 7,
    active_worker_count=1,
)
ANOTHER = ServerInfo(host="host", pid=124, server_id="id", status="active")
KEY, WORKERS_KEY = "asynq:servers:{host:123:id}", "asynq:workers:{host:123:id}"


def worker(task_id: str) -> WorkerInfo:
    return WorkerInfo(
        host="host",
        pid=123,
        server_id="id",
        task_id=task_id,
        task_type="t",
        task_payload=b"p",
        queue="q",
        deadline=NOW_S,
    )


@pytest.mark.rows(55)
async def test_row_55_a_server_without_workers(rdb, redis_target):
    await rdb.write_process_info(SERVER, {})
    assert decode_server(await redis_target.get(KEY)) == SERVER
    assert 8_000 < await redis_target.pttl(KEY) <= 10_000
    assert not await redis_target.exists(WORKERS_KEY)
    assert await redis_target.zrange(keys.servers(), 0, -1, withscores=True) == [(KEY.encode(), NOW_S + 10)]
    assert await redis_target.zrange(keys.workers(), 0, -1, withscores=True) == [(WORKERS_KEY.encode(), NOW_S + 10)]
    assert await rdb.read_process_info() == [(SERVER, {})]


@pytest.mark.rows(55)
async def test_row_55_workers_are_replaced_at_each_write(rdb, redis_target):
    await rdb.write_process_info(SERVER, {"a": worker("a"), "b": worker("b")}, ttl=20)
    assert 18_000 < await redis_target.pttl(WORKERS_KEY) <= 20_000
    assert await rdb.read_process_info() == [(SERVER, {"a": worker("a"), "b": worker("b")})]

    await rdb.write_process_info(SERVER, {"b": worker("b"), "c": worker("c")})
    stored = await redis_target.hgetall(WORKERS_KEY)
    assert {field: decode_worker(data) for field, data in stored.items()} == {b"b": worker("b"), b"c": worker("c")}

    await rdb.write_process_info(SERVER, {})
    assert not await redis_target.exists(WORKERS_KEY)


async def test_workers_that_are_as_they_were_are_kept_alive(rdb, redis_target):
    await rdb.write_process_info(SERVER, {"a": worker("a")}, ttl=3)
    await rdb.write_process_info(SERVER, None, ttl=30)
    assert 28_000 < await redis_target.pttl(WORKERS_KEY) <= 30_000
    assert 28_000 < await redis_target.pttl(KEY) <= 30_000
    assert await rdb.read_process_info() == [(SERVER, {"a": worker("a")})]


async def test_workers_that_are_gone_are_told_of(rdb, redis_target):
    assert await rdb.write_process_info(SERVER, {"a": worker("a")})
    assert await rdb.write_process_info(SERVER, None)
    await redis_target.delete(WORKERS_KEY)  # as with all else, when Redis is emptied
    assert not await rdb.write_process_info(SERVER, None)
    assert not await rdb.write_process_info(SERVER, {})


@pytest.mark.rows(56)
async def test_row_56_a_server_takes_back_only_what_is_its_own(rdb, redis_target):
    await rdb.write_process_info(SERVER, {"a": worker("a")})
    await rdb.write_process_info(ANOTHER, {})
    await rdb.clear_process_info(SERVER)
    another = b"asynq:servers:{host:124:id}"
    assert sorted([key async for key in redis_target.scan_iter()]) == [b"asynq:servers", another, b"asynq:workers"]
    assert await redis_target.zrange(keys.servers(), 0, -1) == [another]
    assert await rdb.read_process_info() == [(ANOTHER, {})]
    await rdb.clear_process_info(SERVER)


async def test_only_living_servers_are_read(rdb, redis_target, clock: Clock):
    await rdb.write_process_info(SERVER, {})
    clock.now = NOW + 5
    await rdb.write_process_info(ANOTHER, {})
    assert [info.pid for info, _ in await rdb.read_process_info()] == [123, 124]
    clock.now = NOW + 11
    assert [info.pid for info, _ in await rdb.read_process_info()] == [124]
    await redis_target.delete("asynq:servers:{host:124:id}")
    assert await rdb.read_process_info() == []


async def test_what_cannot_be_read_is_left_out(rdb, redis_target):
    await rdb.write_process_info(SERVER, {"a": worker("a")})
    await rdb.write_process_info(ANOTHER, {})
    await redis_target.set("asynq:servers:{host:124:id}", b"\xff")
    await redis_target.hset(WORKERS_KEY, "junk", b"\xff")
    assert await rdb.read_process_info() == [(SERVER, {"a": worker("a")})]


# ── cancelation ──


@pytest.mark.rows(57)
async def test_row_57_every_id_reaches_a_subscriber_in_order(rdb, redis_target):
    ids = [f"{n}" for n in range(50)]
    pubsub = rdb.pubsub()
    async with asyncio.timeout(10):
        await pubsub.subscribe(keys.CANCEL)
        await pubsub.get_message(timeout=5)  # that it is subscribed
        for task_id in ids:
            await rdb.publish_cancelation(task_id)
        got: list[str] = []
        while len(got) < len(ids):
            if heard := await pubsub.get_message(timeout=5):
                got.append(heard["data"].decode())
    await pubsub.aclose()
    assert got == ids


async def test_nobody_hears_a_cancelation(rdb):
    assert await rdb.publish_cancelation("a") == 0


# ── the line of idle servers ──


async def test_wait_rank(rdb, redis_target, clock: Clock):
    assert await rdb.wait_rank(QUEUE, "2", ttl=10) == 0
    assert await rdb.wait_rank(QUEUE, "3", ttl=10) == 1
    assert await rdb.wait_rank(QUEUE, "1", ttl=30) == 0
    assert await rdb.wait_rank(QUEUE, "3", ttl=20) == 2
    await assert_states(redis_target, {QUEUE: State(waiting={"1": NOW + 30, "2": NOW + 10, "3": NOW + 20})})

    clock.now = NOW + 10  # who does not come again leaves the line
    assert await rdb.wait_rank(QUEUE, "3", ttl=20) == 1
    await rdb.leave_line(QUEUE, "1")
    assert await rdb.wait_rank(QUEUE, "3", ttl=20) == 0
    assert await rdb.wait_rank("another", "3", ttl=20) == 0


async def test_a_twin_works_on_its_own(redis_target):
    async with RDB(redis_target) as rdb, rdb.twin() as twin:
        await twin.write_process_info(SERVER, {"a": worker("a")})
        assert twin.client is not rdb.client
        assert twin.address == rdb.address
        assert await rdb.read_process_info() == [(SERVER, {"a": worker("a")})]


async def test_what_a_server_has_handlers_for(redis_target: Any, rdb: RDB) -> None:
    """Told with its record and kept as long; not by Go's servers, nor by those with very many."""
    await rdb.write_process_info(SERVER, {})
    assert await rdb.read_patterns(SERVER) is None
    await rdb.write_process_info(SERVER, {}, patterns=("mail:", "ü"))
    assert await rdb.read_patterns(SERVER) == ["mail:", "ü"]
    key = keys.server_patterns(SERVER.host, SERVER.pid, SERVER.server_id)
    assert 0 < await redis_target.ttl(key) <= 10
    await redis_target.set(key, "no JSON")
    assert await rdb.read_patterns(SERVER) is None
    await redis_target.delete(key)
    await rdb.write_process_info(SERVER, {}, patterns=[f"type:{n}" for n in range(10_000)])
    assert await rdb.read_patterns(SERVER) is None
    await rdb.write_process_info(SERVER, {}, patterns=["mail"])
    await rdb.clear_process_info(SERVER)
    assert await rdb.read_patterns(SERVER) is None


async def test_records_of_dead_servers_are_counted_until_somebody_looks(redis_target: Any, rdb: RDB) -> None:
    assert await rdb.count_stale_servers() == 0
    await redis_target.zadd(keys.servers(), {"asynq:servers:{gone:1:s}": 1.0})
    assert await rdb.count_stale_servers() == 1
    await rdb.read_process_info()
    assert await rdb.count_stale_servers() == 0
