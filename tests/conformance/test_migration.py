"""What asynq of January 2020 left behind, carried over: today's asynq sees it all, and works on it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import Inspector, keys
from tests.conformance.go_side import GoInspector, GoProgram, GoServer
from tests.conformance.history import PATIENCE

QUEUE = "default"


async def fill(redis: Redis, redis_url: str) -> None:
    """Let v0.1.0 do its work, until it is killed with two tasks in progress."""
    async with GoProgram("go_2020", "--redis", redis_url) as program:
        await program.wait("filled")
        async with asyncio.timeout(PATIENCE):
            while await redis.llen(keys.OLD_IN_PROGRESS) < 2:  # it takes a second one while its worker is busy
                await asyncio.sleep(0.01)
        await program.kill()


def number_of(payload: bytes | None) -> int | None:
    found: dict[str, Any] | None = json.loads(payload or b"null")
    return found["number"] if found else None


@pytest.mark.usefixtures("go_2020_program", "go_programs")
async def test_asynq_works_on_what_asynq_of_2020_left(redis: Redis, redis_url: str, go_inspector: GoInspector):
    await fill(redis, redis_url)
    old: dict[str, list[Any]] = {
        "pending": (await redis.lrange("asynq:queues:default", 0, -1))[::-1],
        "in_progress": (await redis.lrange("asynq:in_progress", 0, -1))[::-1],
        **{state: await redis.zrange(f"asynq:{state}", 0, -1) for state in ("scheduled", "retry", "dead")},
    }
    assert {state: len(msgs) for state, msgs in old.items()} == {
        "pending": 5, "in_progress": 2, "scheduled": 2, "retry": 1, "dead": 1,
    }  # fmt: skip
    scored: Any = await redis.zrange("asynq:scheduled", 0, -1, withscores=True)
    scores = dict(scored)

    async with Inspector(redis_url) as inspector:
        report = await inspector.migrate()
        assert report.tasks == {QUEUE: {"pending": 7, "scheduled": 2, "retry": 1, "archived": 1}}
        assert (report.counters, report.left, report.remaining) == ({"processed": 3, "failed": 2}, [], 0)
        assert [key async for key in redis.scan_iter() if not key.startswith(b"asynq:{")] == [b"asynq:queues"]

        # Go's Inspector sees each, with its bytes, its error, its time.
        found = {
            state: await go_inspector.tasks(QUEUE, state) for state in ("pending", "scheduled", "retry", "archived")
        }
        names = {"pending": ["in_progress", "pending"], "archived": ["dead"]}
        for state, infos in found.items():
            before = [msg for name in names.get(state, [state]) for msg in old[name]]
            assert [info["id"] for info in infos] == [json.loads(msg)["ID"] for msg in before]
            for info, msg in zip(infos, before, strict=True):
                assert b'"Payload":' + info["payload"] + b',"ID"' in msg
        assert [number_of(info["payload"]) for info in found["pending"]] == [3, 4, 5, 6, 7, 8, 9]
        assert [info["next_process_at"] for info in found["scheduled"]] == [scores[msg] for msg in old["scheduled"]]
        [retried] = found["retry"]
        assert (retried["retried"], retried["max_retry"], retried["last_err"]) == (1, 3, "boom: ok:fails")
        [dead] = found["archived"]
        assert (dead["max_retry"], dead["last_err"]) == (0, "boom: ok:dies")
        queue = await go_inspector.queue(QUEUE)
        assert (queue["size"], queue["processed_total"], queue["failed_total"]) == (11, 3, 2)

        # Go's Server runs them, those that were in progress first.
        for state in ("scheduled", "retry", "archived"):
            assert await inspector.run_tasks(QUEUE, state) == len(found[state])
    async with GoServer(redis_url, queues=[QUEUE], concurrency=1) as server:
        await server.wait("settled", times=11)
        started = server.events("started")
        assert [number_of(event["payload"]) for event in started[:7]] == [3, 4, 5, 6, 7, 8, 9]
        assert {event["id"] for event in started} == {info["id"] for infos in found.values() for info in infos}
        assert {event["as"] for event in server.events("settled")} == {"done"}
    assert (await go_inspector.queue(QUEUE))["size"] == 0
