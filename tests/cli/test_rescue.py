"""What a dead child held, taken back by its parent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aioasynq import RDB, keys
from aioasynq.cli import rescue as module
from aioasynq.cli.line import Hello, Outgrown, Ready, decode, encode
from aioasynq.cli.rescue import rescue
from aioasynq.message import ServerInfo, TaskMessage
from aioasynq.server.recover_loop import Recovery

PATIENCE = 20  # seconds until something that has to happen counts as not happening
NAME = "a-host:17:server"
QUEUES = {"q": 2, "p": 1}


def hello(redis: str | None) -> Hello:
    return Hello(name=NAME, redis=redis, queues=QUEUES, shutdown_timeout=8, max_archive=10_000, archive_days=90)


async def hold(rdb: RDB, *ids: str, queue: str = "q") -> None:
    """Let the dead one have taken tasks."""
    for task_id in ids:
        await rdb.enqueue([TaskMessage(type="t", payload=b"", id=task_id, queue=queue, retry=25)])
        assert (await rdb.dequeue(queue, owner=f"{NAME}:{task_id}", lease=60)).tasks


async def retried(rdb: RDB, queue: str = "q") -> set[Any]:
    found: list[Any] = await rdb.client.zrange(keys.retry(queue), 0, -1)
    return set(found)


async def test_from_all_its_queues_and_its_entry_among_the_servers_goes(redis_url):
    async with RDB(redis_url) as rdb, asyncio.timeout(PATIENCE):
        await hold(rdb, "a", "b")
        await hold(rdb, "c", queue="p")
        await rdb.write_process_info(ServerInfo(host="a-host", pid=17, server_id="server"), {})
        await rescue(hello(redis_url))
        assert await retried(rdb) == {b"a", b"b"}
        assert await retried(rdb, "p") == {b"c"}
        assert await rdb.read_process_info() == []


async def test_what_reaches_redis_after_its_death_is_taken_back_too(redis_url, monkeypatch):
    take_back = Recovery.take_back
    looks = []

    async def look(self: Recovery, server: str) -> None:
        await take_back(self, server)
        looks.append(server)
        if len(looks) == 1:  # a fetch that it had sent comes only now
            async with RDB(redis_url) as rdb:
                await hold(rdb, "late")

    monkeypatch.setattr(Recovery, "take_back", look)
    async with RDB(redis_url) as rdb, asyncio.timeout(PATIENCE):
        await hold(rdb, "a")
        await rescue(hello(redis_url))
        assert await retried(rdb) == {b"a", b"late"}
    assert looks == [NAME] * 3


async def test_without_redis_it_is_tried_again(redis_url, proxy):
    way = await proxy()
    async with RDB(redis_url) as rdb, asyncio.timeout(PATIENCE):
        await hold(rdb, "a")
        way.refuse()
        rescuing = asyncio.create_task(rescue(hello(way.url)))
        await way.until(lambda: way.fired["refuse"] > 0)
        way.refuse(refuse=False)
        await rescuing
        assert await retried(rdb) == {b"a"}


async def test_in_the_end_it_is_left_to_the_leases(proxy, monkeypatch, caplog):
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    way = await proxy()
    way.refuse()
    async with asyncio.timeout(PATIENCE):
        await rescue(hello(way.url))
    assert f"what {NAME} held runs again when its leases end: " in caplog.text


@pytest.mark.parametrize("word", [hello("redis://h"), hello(None), Ready(), Outgrown("7 tasks")], ids=repr)
def test_words_on_the_line(word):
    line = encode(word)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == word
