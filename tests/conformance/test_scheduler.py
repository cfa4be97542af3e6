"""Our schedulers beside Go's: each shows the other's entries. A firing happens once though a scheduler is killed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from aioasynq import RDB, Inspector, Scheduler, Task, keys
from aioasynq.message import SchedulerEnqueueEvent, SchedulerEntry
from aioasynq.proto.codec import decode_scheduler_entry, decode_scheduler_event
from tests.conformance.go_side import Asynqmon, GoInspector, GoPlayer, GoScheduler, GoServer, Program
from tests.conformance.history import Json
from tests.unit.test_option_text import OPTIONS

PROCESS = Path(__file__).parents[1] / "scheduler" / "process.py"


class SchedulerProcess(Program):
    """A Scheduler in a process of its own, to be killed. Its block begins when it is ready."""

    def __init__(self, redis_url: str, spec: str, queue: str) -> None:
        super().__init__(sys.executable, str(PROCESS), redis_url, spec, queue)
        self.entry = ""

    async def start(self) -> None:
        await super().start()
        self.entry = (await self.wait("ready"))["entry"]


async def entries_of(inspector: GoInspector, queue: str, count: int) -> list[Json]:
    """Entries as Go sees them, once there are so many: nobody tells when they are written."""
    async with asyncio.timeout(10):
        while True:
            found = [
                entry for entry in await inspector.call("scheduler_entries") if f'Queue("{queue}")' in entry["opts"]
            ]
            if len(found) == count and all(entry["prev"] for entry in found):
                return found


@pytest.mark.timeout(120, func_only=True)
@pytest.mark.rows(85, 86)
async def test_three_schedulers_one_killed_and_every_firing_is_there_once(
    go_inspector: GoInspector, asynqmon: Asynqmon, redis: Redis, redis_url: str, queue: str
):
    three = [SchedulerProcess(redis_url, "@every 1s", queue) for _ in range(3)]
    async with AsyncExitStack() as opened:
        for scheduler in three:
            await opened.enter_async_context(scheduler)
        [entry_id] = {scheduler.entry for scheduler in three}
        fired = keys.fired(queue, entry_id)
        since = (
            int(time.time()) + 1
        )  # firings up to then are over, so that from the first one that counts all three run
        await redis.set(fired, f"{since} 1 test")
        before = await pending(redis, queue)
        async with asyncio.timeout(10):
            while said(three) != before:
                await asyncio.sleep(0.01)
        # Killed as soon as it has said so; it is then in the midst of what comes after
        winner = await first_to_fire(three, 2)
        await winner.kill()
        others = [scheduler for scheduler in three if scheduler is not winner]
        await first_to_fire(others, 2)
        entries = await entries_of(go_inspector, queue, 2)  # that of the killed one runs out
        events = await go_inspector.call("list_scheduler_enqueue_events", entry=entry_id, size=100)
        async with httpx.AsyncClient(base_url=f"{asynqmon.url}/api/") as http:
            shown = (await http.get("scheduler_entries")).json()["entries"]
            history = (await http.get(f"scheduler_entries/{entry_id}/enqueue_events")).json()["events"]
        assert [await scheduler.terminate() for scheduler in others] == [0, 0]
    last = int((await redis.get(fired) or b"0").split()[0])
    ids = await pending(redis, queue)
    assert len(ids - before) == last - since >= 4
    assert said(three) <= ids
    assert len(ids - said(three)) <= 1  # what the one that was killed could not say any more

    for entry in entries:
        assert (entry["id"], entry["spec"], entry["task"]["type"]) == (entry_id, "@every 1s", "ok")
        assert entry["opts"] == ["MaxRetry(3)", f'Queue("{queue}")', "Timeout(1m30s)"]
        assert entry["next"] - entry["prev"] >= 1
    assert {event["task_id"] for event in events} <= ids
    assert len(events) >= 3
    assert {(entry["id"], entry["spec"], entry["task_type"]) for entry in shown} == {(entry_id, "@every 1s", "ok")}
    assert {event["task_id"] for event in history} <= ids


async def pending(redis: Redis, queue: str) -> set[str]:
    ids = await redis.lrange(keys.pending(queue), 0, -1)
    assert len(ids) == len(set(ids))
    return {id_.decode() for id_ in ids}  # type: ignore[union-attr]


def said(schedulers: list[SchedulerProcess]) -> set[str]:
    """What they said that they have enqueued; no two the same."""
    ids = [event["id"] for scheduler in schedulers for event in scheduler.events("enqueued")]
    assert len(ids) == len(set(ids))
    return set(ids)


async def first_to_fire(schedulers: list[SchedulerProcess], times: int) -> SchedulerProcess:
    """Whichever has fired so often from now on, first."""
    waiting = {
        asyncio.create_task(each.wait("enqueued", times=len(each.events("enqueued")) + times)): each
        for each in schedulers
    }
    done, others = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return waiting[done.pop()]


@pytest.fixture
async def ours(redis_url: str) -> AsyncIterator[Scheduler]:
    async with Scheduler(redis_url, heartbeat_interval=1, location="Europe/Berlin") as scheduler:
        yield scheduler


@pytest.mark.rows(85, 135, 136)
async def test_options_are_written_as_go_writes_them(go_programs: Path, ours: Scheduler, redis: Redis, redis_url: str):
    spec = "CRON_TZ=Asia/Tokyo 0 4 * * *"
    async with GoScheduler(redis_url) as theirs:
        # Go 0.26 has no option for headers
        wanted = {name: options for name, (options, _) in OPTIONS.items() if "headers" not in options}
        ids = {await theirs.register(spec, name, **_for_go(options)): name for name, options in wanted.items()}
        async with asyncio.timeout(10):
            while not (written := await _written(redis, set(ids))):
                await asyncio.sleep(0.02)
    expected = {ids[id_]: texts for id_, texts in written.items()}
    for name, (options, texts) in OPTIONS.items():
        ours.register(spec, Task(name), **options)
        if name in expected:
            assert sorted(texts) == sorted(expected[name])


def _for_go(options: dict[str, Any]) -> dict[str, Any]:
    durations = {"timeout", "unique", "process_in", "retention"}
    return {key: timedelta(seconds=value) if key in durations else value for key, value in options.items()}


async def _written(redis: Redis, ids: set[str]) -> dict[str, list[str]]:
    """The texts of options of these entries, once all are there."""
    found: dict[str, list[str]] = {}
    for key in await redis.keys("asynq:schedulers:*"):
        for data in await redis.lrange(key, 0, -1):
            entry = decode_scheduler_entry(data)  # type: ignore[arg-type]
            if entry.id in ids:
                found[entry.id] = entry.enqueue_options
    return found if set(found) == ids else {}


@pytest.mark.rows(85, 86, 135)
async def test_python_and_go_schedulers_show_each_other(
    go_programs: Path, go_inspector: GoInspector, ours: Scheduler, redis_url: str, queue: str
):
    mine = ours.register("0 12 * * *", Task("ours", b"\x00\xff"), queue=queue, max_retry=2)
    async with (
        GoScheduler(redis_url) as theirs,
        GoServer(redis_url, queues=[queue]) as server,
        Inspector(redis_url) as inspector,
    ):
        entry = await theirs.register("@every 1s", "ok", b"p", queue=queue, timeout=90)
        event = await theirs.wait("enqueued")
        await server.settled(event["task"]["id"])
        async with asyncio.timeout(10):
            while len(shown := await go_inspector.call("scheduler_entries")) < 2:
                await asyncio.sleep(0.02)
        seen = {each.id: each for each in await inspector.scheduler_entries()}
        go = {each["id"]: each for each in shown}
        assert set(seen) == set(go) == {mine, entry}
        for id_, each in go.items():
            assert (seen[id_].spec, seen[id_].task_type, seen[id_].options) == (
                each["spec"], each["task"]["type"], each["opts"],
            )  # fmt: skip
        assert go[mine]["prev"] is None
        assert go[mine]["next"] == pytest.approx(seen[mine].next.timestamp())  # type: ignore[union-attr]
        assert go[mine]["task"]["payload"] == b"\x00\xff"
        [first, *_] = await inspector.list_scheduler_enqueue_events(entry)
        assert first.task_id in {each["task"]["id"] for each in theirs.events("enqueued")}


# ── the operations ──


@pytest.mark.rows(85, 86)
async def test_the_same_is_left_in_redis(go_player: GoPlayer, redis: Redis, redis_url: str):
    at = int(time.time()) + 60
    entries = [
        SchedulerEntry(
            id=f"e{n}", spec="@every 30s", task_type="t", task_payload=b"p", enqueue_options=['Queue("q")'],
            next_enqueue_time=at * 10**9,
        )
        for n in range(3)
    ]  # fmt: skip
    theirs = [
        {"id": each.id, "spec": each.spec, "type": "t", "payload": b"p", "opts": ['Queue("q")'], "next": at}
        for each in entries
    ]
    async with RDB(redis_url) as rdb:
        await go_player.step("write_scheduler_entries", scheduler_id="h:1:go", entries=theirs, ttl=20)
        await rdb.write_scheduler_entries("h:1:py", entries, ttl=20)
        lists: list[list[SchedulerEntry]] = []
        for id_ in ("h:1:go", "h:1:py"):
            place = keys.scheduler_entries(id_)
            stored: Any = await redis.lrange(place, 0, -1)
            lists.append([decode_scheduler_entry(data) for data in stored])
            assert 18 <= await redis.ttl(place) <= 20
            assert await redis.zscore(keys.schedulers(), place) == pytest.approx(time.time() + 20, abs=2)
        assert lists == [entries[::-1]] * 2

        event = SchedulerEnqueueEvent(task_id="x", enqueue_time=at * 10**9)
        told = {"task_id": "x", "enqueued_at": at}
        await go_player.step("record_scheduler_enqueue_event", entry_id="go", event=told)
        await rdb.record_scheduler_enqueue_event("py", event)
        histories: list[Any] = [
            await redis.zrange(keys.scheduler_history(id_), 0, -1, withscores=True) for id_ in ("go", "py")
        ]
        assert histories[0] == histories[1]
        [(data, score)] = histories[0]
        assert (decode_scheduler_event(data), score) == (event, at)

        await go_player.step("clear_scheduler_entries", scheduler_id="h:1:py")
        await rdb.clear_scheduler_entries("h:1:go")
        await go_player.step("clear_scheduler_history", entry_id="py")
        await rdb.clear_scheduler_history("go")
        assert await redis.keys("asynq:sched*") == []
