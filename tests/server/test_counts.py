"""What a server counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from aioasynq import Client, RetryAfter, RevokeTask, Server, SkipRetry, Task, keys
from aioasynq.devserver import DevServer
from aioasynq.server import heartbeat
from aioasynq.server.counts import Counts
from tests.server.stage import PATIENCE, Stage, eventually

ENDS: dict[str, tuple[BaseException | None, Counts]] = {
    "it succeeds": (None, Counts(processed=1)),
    "it fails": (ValueError("no"), Counts(processed=1, failed=1)),
    "it is archived": (SkipRetry("no"), Counts(processed=1, failed=1)),
    "it is revoked": (RevokeTask(), Counts(processed=1)),
    "it comes back later": (RetryAfter(60), Counts(processed=1)),
}


@pytest.mark.parametrize(("raises", "counts"), ENDS.values(), ids=ENDS)
async def test_how_handlers_end(redis_url: str, raises: BaseException | None, counts: Counts) -> None:
    stage = Stage()
    stage.raises = raises
    server = Server(redis_url, stage.mux)
    assert server.counts == Counts()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("work"))
        await stage.ended.until(1)
    assert server.counts == counts


async def test_what_is_no_task_and_what_is_no_message(redis: Redis, redis_url: str) -> None:
    await redis.lpush(keys.pending("default"), "a stray", "broken")
    await redis.hset(keys.task("default", "broken"), mapping={"msg": b"\xff", "state": "pending"})
    server = Server(redis_url, Stage().mux)
    async with asyncio.timeout(PATIENCE), server:
        await eventually(lambda: server.counts == Counts(repaired=1, undecodable=1))


async def test_a_handler_that_does_not_end(redis_url: str) -> None:
    server = Server(redis_url, cancel_grace=0.05)
    release = asyncio.Event()

    @server.handler("stubborn")
    async def stubborn(_: Task) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("stubborn"), timeout=1)
        await eventually(lambda: server.counts == Counts(processed=1, failed=1, abandoned=1))
        release.set()


async def test_a_loop_that_stands_still(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BLOCKED", 0.2)
    monkeypatch.setattr(heartbeat, "LOOK_INTERVAL", 0.1)
    monkeypatch.setattr(heartbeat, "IDLE_LOOK_INTERVAL", 0.1)
    server = Server(redis_url)

    @server.handler("block")
    async def block(_: Task) -> None:
        end = time.monotonic() + PATIENCE
        while not server.counts.blocked and time.monotonic() < end:
            time.sleep(0.01)

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("block"))
        await eventually(lambda: server.counts == Counts(processed=1, blocked=1))


async def test_redis_is_away(own_server: Callable[..., DevServer]) -> None:
    redis_server = own_server()
    server = Server(redis_server.url, Stage().mux)
    async with asyncio.timeout(PATIENCE), server:
        redis_server.kill()
        await eventually(lambda: server.counts.contact_lost == 1)
        await asyncio.to_thread(redis_server.restart)
        await eventually(lambda: server._engine is not None and server._engine.contact.there)
        assert server.counts == Counts(contact_lost=1)
