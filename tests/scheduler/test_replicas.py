"""Several schedulers with the same entries, restarts, wrong clocks and lost replies: each firing happens once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster

from aioasynq import DuplicateTaskError, Inspector, Scheduler, Task, TaskInfo, keys
from aioasynq.cronspec import parse
from aioasynq.rdb import base
from aioasynq.rdb.script import Script
from aioasynq.scheduler import clock as clock_module
from aioasynq.scheduler.clock import RedisClock
from aioasynq.scheduler.due import CatchUp, firings, following
from tests.server.stage import PATIENCE, Seen, eventually, places
from tests.support.proxy import Proxy, script

MakeProxy = Callable[..., Awaitable[Proxy]]

SPEC, TASK = "@every 1s", Task("work")
ID = Scheduler("redis://nowhere").register(SPEC, TASK)
FIRED = keys.fired("default", ID)


async def claim(redis: Redis, moment: float) -> int:
    """Let all firings up to *moment* be over; so the next one is the first that counts."""
    await redis.set(FIRED, f"{int(moment)} 1 test")
    return int(moment)


async def fired(redis: Redis) -> int:
    """The moment of the last firing."""
    return int((await redis.get(FIRED) or b"0").split()[0])


async def pending_since(redis: Redis, id_: str) -> float:
    stored: Any = await redis.hget(keys.task("default", id_), "pending_since")
    return int(stored) / 1e9


async def assert_each_once(redis: Redis, since: int) -> list[str]:
    """Each second after *since* has its task, up to the last firing; ids, the first fired first."""
    ids = (await places(redis))["pending"]
    assert len(ids) == len(set(ids)) == await fired(redis) - since
    return ids


async def test_each_firing_happens_once_however_many_schedulers_there_are(redis_url: str, redis: Redis):
    seen = Seen()
    since = await claim(redis, time.time() + 0.5)
    async with AsyncExitStack() as opened:
        for _ in range(5):
            scheduler = Scheduler(redis_url, post_enqueue=lambda info, _: seen.add(info))
            assert scheduler.register(SPEC, TASK) == ID
            await opened.enter_async_context(scheduler)
        await seen.until(3)
    ids = await assert_each_once(redis, since)
    assert [info.id for info in seen.all] == ids
    events = await redis.zcard(keys.scheduler_history(ID))
    assert events == len(ids)
    assert await redis.ttl(FIRED) > 30 * 24 * 3600 - 100


async def test_a_hook_before_is_called_by_each_and_after_by_the_one_that_enqueued(redis_url: str):
    before, after = Seen(), Seen()
    async with AsyncExitStack() as opened:
        for number in range(3):
            scheduler = Scheduler(
                redis_url,
                pre_enqueue=lambda *_, number=number: before.add(number),
                post_enqueue=lambda info, _: after.add(info.id if info else None),
            )
            scheduler.register(SPEC, TASK)
            await opened.enter_async_context(scheduler)
        await before.until(lambda numbers: set(numbers) == {0, 1, 2})
        await after.until(2)
    assert len(set(after.all)) == len(after.all) < len(before.all)
    assert None not in after.all


async def test_every_replica_enqueues_its_own(redis_url: str, redis: Redis):
    seen = Seen()

    def note(number: int) -> Callable[[TaskInfo | None, Exception | None], None]:
        return lambda _, __: seen.add(number)

    async with AsyncExitStack() as opened:
        for number in range(2):
            scheduler = Scheduler(redis_url, post_enqueue=note(number))
            scheduler.register(SPEC, TASK, every_replica=True)
            await opened.enter_async_context(scheduler)
        await seen.until(lambda numbers: min(numbers.count(0), numbers.count(1)) >= 2)
    assert len((await places(redis))["pending"]) == len(seen.all)
    assert await redis.keys("asynq:scheduler*") == []  # the history goes with its scheduler, as in Go
    assert await redis.keys("asynq:{default}:fired:*") == []


# ── catching up ──

HOUR = 3600


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("catch_up", "expected"), [("skip", 0), ("once", 1), ("all", 5)])
@pytest.mark.parametrize("kind", ["every", "cron"])
async def test_what_was_missed_while_no_scheduler_ran(
    redis_url: str, redis: Redis, kind: str, catch_up: CatchUp, expected: int, count: int
):
    spec, interval, last = far_from_a_firing(kind)
    schedulers = [Scheduler(redis_url) for _ in range(count)]
    [id_] = {scheduler.register(spec, TASK, catch_up=catch_up) for scheduler in schedulers}
    key = keys.fired("default", id_)
    await redis.set(key, f"{last - 5 * interval} 1 test")
    async with AsyncExitStack() as opened:
        for scheduler in schedulers:
            await opened.enter_async_context(scheduler)
        if expected:
            await eventually(lambda: _is_at(redis, key, last))
        entries = [scheduler._entries[id_] for scheduler in schedulers]
        await eventually(lambda: all(entry.is_recalled and entry.cursor >= last for entry in entries))
    assert len((await places(redis)).get("pending", [])) == expected


def far_from_a_firing(kind: str) -> tuple[str, int, int]:
    """A spec that comes about once an hour, but not in the next minutes: with its interval, and when it came last."""
    now = int(time.time())
    if kind == "cron":
        last = (now // 60 - 30) * 60
        return f"{last // 60 % 60} * * * *", HOUR, last
    interval = next(seconds for seconds in range(HOUR, 0, -60) if 60 < now % seconds < seconds - 600)
    return f"@every {interval}s", interval, now - now % interval


@pytest.mark.parametrize("now", [0, 1, 59, 3000, 3580, 3599])
@pytest.mark.parametrize("kind", ["every", "cron"])
def test_there_is_such_a_spec_at_any_time(kind: str, now: int, monkeypatch: pytest.MonkeyPatch):
    hour = 1795662000
    monkeypatch.setattr(time, "time", lambda: hour + now)
    spec, interval, last = far_from_a_firing(kind)
    schedule = parse(spec)
    assert firings(schedule, last - 1, last + 1, 2) == [last]
    assert following(schedule, last) == last + interval > hour + now + 300


async def _is_at(redis: Redis, key: str, moment: int) -> bool:
    kept: Any = await redis.get(key) or b""
    return bool(kept.startswith(b"%d " % moment))


async def test_an_entry_that_is_registered_anew_does_not_take_a_firing_for_its_own(redis_url: str, redis: Redis):
    """As when a manager replaces it just as it fires: the new one looks back, and asks for that firing too."""
    seen = Seen()
    async with Scheduler(redis_url, post_enqueue=lambda info, error: seen.add(info or error)) as scheduler:
        id_ = scheduler.register(SPEC, TASK)
        await seen.until(1)
        moment = await fired(redis)
        scheduler.unregister(id_)
        scheduler.register(SPEC, TASK, catch_up="all")
        entry = scheduler._entries[id_]
        entry.is_recalled = True
        entry.cursor = moment - 1  # what it would recall had the other one not come so far
        await seen.until(2)
    assert [info.id for info in seen.all] == (await places(redis))["pending"]
    assert await redis.zcard(keys.scheduler_history(ID)) == len(seen.all)


@pytest.mark.parametrize("catch_up", ["skip", "once", "all"])
async def test_a_new_entry_has_nothing_to_catch_up(redis_url: str, redis: Redis, catch_up: CatchUp):
    scheduler = Scheduler(redis_url)
    id_ = scheduler.register("@every 1h", TASK, catch_up=catch_up)
    async with scheduler:
        await eventually(lambda: scheduler._entries[id_].is_recalled)
    assert await places(redis) == {}


async def test_an_entry_with_a_name_goes_on_where_another_spec_ended(redis_url: str, redis: Redis):
    hour = int(time.time() // HOUR) * HOUR
    scheduler = Scheduler(redis_url)
    id_ = scheduler.register("@every 1h", Task("new"), name="report", catch_up="all")
    assert Scheduler().register("@daily", Task("old"), name="report") == id_
    await redis.set(keys.fired("default", id_), f"{hour - HOUR} 1 test")
    async with scheduler:
        await eventually(lambda: _is_at(redis, keys.fired("default", id_), int(time.time() // HOUR) * HOUR))
    assert len((await places(redis))["pending"]) in {1, 2}  # an hour may have ended meanwhile


async def test_on_a_cluster(cluster_client: RedisCluster):
    seen = Seen()
    async with AsyncExitStack() as opened:
        for _ in range(2):
            scheduler = Scheduler(cluster_client, post_enqueue=lambda info, error: seen.add(info or error))
            for number in range(4):
                scheduler.register(SPEC, Task(f"{number}"), queue=f"q{number}", unique=600)
            await opened.enter_async_context(scheduler)
        await seen.until(lambda told: sum(isinstance(each, TaskInfo) for each in told) == 4)
        async with Inspector(cluster_client) as inspector:
            await eventually(lambda: _are_shown(inspector, 8))
            [first, *_] = await inspector.scheduler_entries()
            assert len(await inspector.list_scheduler_enqueue_events(first.id)) == 1
    for number in range(4):
        assert await cluster_client.llen(keys.pending(f"q{number}")) == 1
    assert {type(each) for each in seen.all} <= {TaskInfo, DuplicateTaskError}


async def _are_shown(inspector: Inspector, count: int) -> bool:
    return len(await inspector.scheduler_entries()) == count


# ── clocks ──


@pytest.mark.parametrize("wrong_by", [-HOUR, HOUR])
async def test_the_clock_of_the_machine_does_not_count(
    redis_url: str, redis: Redis, wrong_by: float, monkeypatch: pytest.MonkeyPatch
):
    right = time.time

    class Wrong:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def time() -> float:
            return right() + wrong_by

    monkeypatch.setattr(clock_module, "time", Wrong)
    seen = Seen()
    since = await claim(redis, right() + 0.5)
    async with Scheduler(redis_url, post_enqueue=lambda info, _: seen.add(info)) as scheduler:
        scheduler.register(SPEC, TASK)
        await seen.until(2)
    for n, id_ in enumerate(await assert_each_once(redis, since), 1):
        stored = await pending_since(redis, id_)
        assert since + n <= stored  # never early
        assert seen.all[n - 1].next_process_at.timestamp() == pytest.approx(stored, abs=1)


async def test_who_believes_in_another_time_is_put_right(redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch):
    """As when Redis fails over to a machine whose clock is behind."""
    seen = Seen()

    async def ask(self: RedisClock, rdb: object) -> None:
        self._set(time.time() + 3 - time.monotonic())

    monkeypatch.setattr(RedisClock, "ask", ask)
    since = await claim(redis, time.time())
    async with Scheduler(redis_url, post_enqueue=lambda info, _: seen.add(info)) as scheduler:
        scheduler.register(SPEC, TASK)
        await seen.until(1)
        assert abs(scheduler._engine.clock.now() - time.time()) < 1  # type: ignore[union-attr]
    [id_, *_] = (await places(redis))["pending"]
    stored = await pending_since(redis, id_)
    assert stored >= since + 1


async def test_redis_whose_clock_was_far_ahead_and_is_put_right(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch, caplog
):
    """What was claimed ahead of time does not keep the entry silent until that time comes."""
    ahead = 2 * HOUR

    async def wrong(self: RedisClock, rdb: object) -> None:
        self._set(time.time() + ahead - time.monotonic())

    monkeypatch.setattr(RedisClock, "ask", wrong)
    monkeypatch.setattr(base.Operations, "clock_argument", lambda _: str(time.time() + ahead))
    seen = Seen()
    async with Scheduler(redis_url, heartbeat_interval=0.1, post_enqueue=lambda info, _: seen.add(info)) as scheduler:
        scheduler.register(SPEC, TASK)
        await seen.until(2)
        assert await fired(redis) > time.time() + HOUR
        monkeypatch.undo()
        await seen.until(len(seen.all) + 2)
        assert await fired(redis) <= time.time()
    assert "Redis's clock has been put back" in caplog.text


# ── what is lost ──


@pytest.mark.parametrize("kind", ["lose_reply", "cut_after", "cut_before"])
async def test_a_call_that_is_lost_is_made_again_and_counts_once(
    redis_url: str, redis: Redis, proxy: MakeProxy, kind: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(base, "ATTEMPT_TIMEOUT", 0.3)
    fire = Script("fire")
    await redis.script_load(fire.text)
    middle = await proxy()
    lost = getattr(middle, kind)(script(fire.sha))
    seen = Seen()
    since = await claim(redis, time.time() + 0.5)
    async with (
        asyncio.timeout(PATIENCE),
        Scheduler(middle.url, post_enqueue=lambda info, error: seen.add(info or error)) as scheduler,
    ):
        scheduler.register(SPEC, TASK)
        await seen.until(2)
    assert [info.id for info in seen.all] == await assert_each_once(redis, since)
    assert lost.fired == 1
    assert await redis.zcard(keys.scheduler_history(ID)) == len(seen.all)


async def test_a_reply_that_never_comes_is_asked_for_until_it_does(
    redis_url: str, redis: Redis, proxy: MakeProxy, monkeypatch: pytest.MonkeyPatch
):
    """The call fails, is told as failed, and was done; whoever repeats it hears so."""
    monkeypatch.setattr(base, "ATTEMPT_TIMEOUT", 0.1)
    fire = Script("fire")
    await redis.script_load(fire.text)
    middle = await proxy()
    lost = middle.lose_reply(script(fire.sha), times=None)
    infos, errors = Seen(), Seen()
    since = await claim(redis, time.time() + 0.5)
    async with (
        asyncio.timeout(PATIENCE),
        Scheduler(
            middle.url,
            operation_timeout=0.3,
            post_enqueue=lambda info, error: infos.add(info.id) if info else errors.add(error),
        ) as scheduler,
    ):
        scheduler.register(SPEC, TASK)
        await errors.until(1)
        assert errors.all[0].maybe_done
        middle.remove(lost)
        await infos.until(2)
    assert infos.all == await assert_each_once(redis, since)
