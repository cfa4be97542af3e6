"""``aioasynq worker --burst``: until nothing is left to do now."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping

import pytest

from aioasynq import RDB, Client, Task, keys
from aioasynq.cli import burst
from aioasynq.cli.burst import Left, until_empty
from tests.cli.stage import Start

CHAIN = """
import os
from aioasynq import Client, ServeMux, Task

mux = ServeMux()

@mux.handler("count:")
async def count(task):
    print("count", os.getpid(), flush=True)
    number = int(task.type.removeprefix("count:"))
    if number:
        async with Client() as client:
            await client.enqueue(Task(f"count:{number - 1}"), queue="low")

@mux.handler("fail")
async def fail(task):
    raise ValueError("never")
"""
NOTHING = Left(pending=0, due=0, running=0, processed=3)


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["alone", "two"])
async def test_it_ends_when_nothing_is_left_to_do_now(run_worker, redis_url, redis, tmp_path, processes):
    (tmp_path / "chain.py").write_text(CHAIN)
    variables = {"AIOASYNQ_REDIS_URL": redis_url}
    async with Client(redis_url) as client, RDB(redis_url) as rdb:
        await client.enqueue(Task("count:3"))
        await client.enqueue(Task("fail"))
        later = await client.enqueue(Task("count:0"), process_in=1000)
        paused = await client.enqueue(Task("count:0"), queue="paused")
        await rdb.pause_queue("paused")
        due = await client.enqueue(Task("count:0"), process_in=1000)
        await redis.zadd(keys.scheduled("default"), {due.id: time.time() - 1})
    options = ("--burst", "--queues", "default,low,paused", *processes)
    async with run_worker("chain:mux", *options, env=variables) as worker:
        for _ in range(5):
            assert (await worker.line()).startswith("count ")
        assert await worker.end() == 0
    assert "  burst        ends when nothing is pending, running or due\n" in worker.said
    assert worker.said.count("burst: nothing is left to do now\n") == 1
    assert ("burst: 6 tries, 1 of them failed\n" in worker.said) == (not processes)
    assert await redis.zrange(keys.scheduled("default"), 0, -1) == [later.id.encode()]
    assert await redis.zcard(keys.retry("default")) == 1
    assert await redis.lrange(keys.pending("paused"), 0, -1) == [paused.id.encode()]


async def test_at_a_terminal_it_begins_in_colour(terminal: Start, tmp_path):
    (tmp_path / "chain.py").write_text(CHAIN)
    async with terminal("worker", "chain:mux", "--burst", "--queues", "critical:6,default:3") as running:
        assert await running.end() == 0
        await asyncio.sleep(0)
        assert "\x1b[36m  queues" in running.raw.decode()
        assert "critical 6, default 3 (weighted)" in running.text
        assert "burst: nothing is left to do now" in running.text


#: Rounds of what each process has left: it ends after the last one, not before.
ROUNDS: dict[str, list[Mapping[int, Left | None]]] = {
    "one look is not enough": [{1: NOTHING}, {1: NOTHING}],
    "something is left": [
        {1: Left(pending=1, due=0, running=0, processed=3)},
        {1: Left(pending=0, due=1, running=0, processed=3)},
        {1: Left(pending=0, due=0, running=1, processed=3)},
        *[{1: NOTHING}] * 2,
    ],
    "a handler has ended in between": [{1: Left(0, 0, 0, 2)}, *[{1: NOTHING}] * 2],
    "another process has something": [{1: NOTHING, 2: Left(0, 0, 1, 0)}, *[{1: NOTHING, 2: Left(0, 0, 0, 1)}] * 2],
    "one does not answer": [{1: NOTHING, 2: None}, {1: NOTHING, 2: None}, *[{1: NOTHING}] * 2],
    "none is there yet": [{}, {}, *[{1: NOTHING}] * 2],
    "Redis is away": [*[{1: Left(0, 0, 0, 3, is_known=False)}] * 2, *[{1: NOTHING}] * 2],
    "one has come in between": [{1: NOTHING}, *[{1: NOTHING, 2: NOTHING}] * 2],
}


@pytest.mark.parametrize("rounds", ROUNDS.values(), ids=ROUNDS)
async def test_when_it_ends(rounds: list[Mapping[int, Left | None]], monkeypatch):
    monkeypatch.setattr(burst, "EVERY", 0.0)
    left = iter(rounds)

    async def ask() -> Mapping[int, Left | None]:
        return next(left)  # one too many is an error

    await until_empty(ask)
    assert next(left, None) is None


async def test_it_says_how_many_are_left(monkeypatch, caplog):
    monkeypatch.setattr(burst, "EVERY", 0.0)
    monkeypatch.setattr(burst, "SAY_EVERY", 0.0)
    caplog.set_level(logging.INFO, "aioasynq")
    rounds: Iterator[Mapping[int, Left | None]] = iter(
        [{1: Left(40, 0, 2, 0), 2: Left(38, 1, 3, 1), 3: None}, *[{1: NOTHING}] * 2]
    )

    async def ask() -> Mapping[int, Left | None]:
        return next(rounds)

    await until_empty(ask)
    assert [record.message for record in caplog.records] == [
        "burst: 40 pending and 5 running are left",
        "burst: nothing is left to do now",
    ]
