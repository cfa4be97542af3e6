"""What a scheduler enqueues, when, and who hears of it."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from redis.asyncio import Redis

from aioasynq import (
    RDB,
    BrokerError,
    BrokerRefusedError,
    DuplicateTaskError,
    EntryNotFoundError,
    Inspector,
    PeriodicTaskManager,
    Scheduler,
    SchedulerStateError,
    ServeMux,
    Server,
    Task,
    TaskIDConflictError,
    TaskInfo,
    keys,
)
from aioasynq.devserver import DevServer, free_port
from aioasynq.options import Options
from aioasynq.scheduler import hooks as hooks_module
from aioasynq.scheduler.engine import RECALLS, Engine
from tests.server.stage import PATIENCE, Seen, eventually, places

MakeServer = Callable[..., DevServer]


class Told:
    """Hooks that note what they hear."""

    def __init__(self) -> None:
        self.before: list[tuple[str, Options]] = []
        self.infos = Seen()  #: TaskInfo
        self.errors = Seen()  #: (type of the task, error)

    @property
    def hooks(self) -> dict[str, Any]:
        return {"pre_enqueue": self._before, "post_enqueue": self._after, "error_handler": self._failed}

    def _before(self, task: Task, options: Options) -> None:
        self.before.append((task.type, options))

    async def _after(self, info: TaskInfo | None, error: Exception | None) -> None:
        await asyncio.sleep(0)
        assert (info is None) != (error is None)
        if info is not None:
            self.infos.add(info)

    async def _failed(self, task: Task, options: Options, error: Exception) -> None:
        self.errors.add((task.type, error))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def inspector(redis_url: str) -> AsyncIterator[Inspector]:
    async with Inspector(redis_url) as inspector:
        yield inspector


@pytest.mark.rows(138)
async def test_each_interval_enqueues_a_task_with_its_options(redis_url: str, told: Told, inspector: Inspector):
    began = time.time()
    async with Scheduler(redis_url, **told.hooks) as scheduler:
        entry = scheduler.register(
            "@every 1s", Task("work", b"p", max_retry=7, timeout=30), queue="low", timeout=60, headers={"a": "b"}
        )
        infos = (await told.infos.until(3))[:3]
        ended = time.time()
    assert int(ended) - int(began) - 1 <= len(told.infos.all) <= int(ended) - int(began) + 1
    for info in infos:
        stored = await inspector.get_task_info("low", info.id)
        assert (stored.type, stored.payload, stored.max_retry, stored.timeout, stored.headers) == (
            "work", b"p", 7, 60, {"a": "b"},
        )  # fmt: skip
        assert stored.state == info.state == "pending"
    events = await inspector.list_scheduler_enqueue_events(entry)
    assert [event.task_id for event in events] == [info.id for info in reversed(told.infos.all)]
    moments = [event.enqueued_at.timestamp() for event in reversed(events) if event.enqueued_at]
    assert all(moment % 1 < 0.9 for moment in moments)
    assert [int(moment) - int(moments[0]) for moment in moments] == list(range(len(moments)))


@pytest.mark.rows(141)
async def test_hooks_are_called_once_around_each_firing(redis_url: str, told: Told):
    async with Scheduler(redis_url, **told.hooks) as scheduler:
        scheduler.register("@every 1s", Task("work", max_retry=1), queue="low")
        await told.infos.until(2)
    assert told.before == [("work", Options(queue="low"))] * len(told.infos.all)
    assert told.errors.all == []
    assert {info.type for info in told.infos.all} == {"work"}


@pytest.mark.rows(141)
@pytest.mark.parametrize(
    ("options", "error"), [({"task_id": "x"}, TaskIDConflictError), ({"unique": 60}, DuplicateTaskError)], ids=str
)
async def test_who_is_refused_is_told_to_the_hooks_alone(
    redis_url: str, told: Told, options: dict[str, Any], error: type[Exception], caplog
):
    async with Scheduler(redis_url, **told.hooks) as scheduler:
        entry = scheduler.register("@every 1s", Task("work"), **options)
        await told.errors.until(2)
        async with Inspector(redis_url) as inspector:
            [event] = await inspector.list_scheduler_enqueue_events(entry)
    [info] = told.infos.all
    assert event.task_id == info.id
    for type_, found in told.errors.all:
        assert type_ == "work"
        assert type(found) is error
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_hook_that_fails_or_hangs_stops_nothing(redis_url: str, caplog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hooks_module, "LIMIT", 0.05)
    seen = Seen()

    def before(task: Task, options: Options) -> None:
        raise RuntimeError("before")

    async def after(info: TaskInfo | None, error: Exception | None) -> None:
        seen.add(info)
        if len(seen.all) == 1:
            raise RuntimeError("after")
        await asyncio.sleep(60)

    async with Scheduler(redis_url, pre_enqueue=before, post_enqueue=after) as scheduler:
        scheduler.register("@every 1s", Task("work"))
        await seen.until(2)
    failed = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert "the hook pre_enqueue of a scheduler failed" in failed
    assert failed.count("the hook post_enqueue of a scheduler failed") == len(seen.all) >= 2


class NoError(BaseException):
    """What no ``except Exception`` catches."""


@pytest.mark.parametrize("raised", [asyncio.CancelledError, NoError])
async def test_a_hook_that_raises_what_is_no_exception_stops_nothing(
    redis_url: str, told: Told, caplog, raised: type[BaseException]
):
    def before(task: Task, options: Options) -> None:
        raise raised

    hooks: dict[str, Any] = {**told.hooks, "pre_enqueue": before}
    async with Scheduler(redis_url, **hooks) as scheduler:
        scheduler.register("@every 1s", Task("work"))
        await told.infos.until(2)
    assert "the hook pre_enqueue of a scheduler" in caplog.text


@pytest.mark.rows(140)
async def test_an_entry_that_was_taken_out_enqueues_nothing_more(redis_url: str, told: Told, inspector: Inspector):
    async with Scheduler(redis_url, **told.hooks) as scheduler:
        first = scheduler.register("@every 1s", Task("first"))
        scheduler.register("@every 1s", Task("second"))
        await told.infos.until(lambda infos: {info.type for info in infos} == {"first", "second"})
        scheduler.unregister(first)
        count = len(told.infos.all)
        await told.infos.until(lambda infos: [info.type for info in infos[count:]].count("second") == 2)
        later = [info.type for info in told.infos.all[count:]]
        assert later.count("first") <= 1  # one that was under way
        await eventually(lambda: _entries_are(inspector, ["second"]))
        for unknown in (first, "x"):
            with pytest.raises(EntryNotFoundError, match=f"this scheduler has no entry '{unknown}'") as caught:
                scheduler.unregister(unknown)
            assert caught.value.entry_id == unknown


async def _entries_are(inspector: Inspector, types: list[str]) -> bool:
    return [entry.task_type for entry in await inspector.scheduler_entries()] == types


@pytest.mark.rows(85, 135)
async def test_entries_are_shown_while_it_runs(redis_url: str, redis: Redis, inspector: Inspector):
    scheduler = Scheduler(redis_url, location="Europe/Berlin", heartbeat_interval=1)
    daily = scheduler.register("0 12 * * *", Task("daily", b"\x00", max_retry=2), queue="low", unique=60)
    async with scheduler:
        await eventually(lambda: _entries_are(inspector, ["daily"]))
        often = scheduler.register("TZ=Asia/Tokyo @every 1h", Task("often"))
        await eventually(lambda: _entries_are(inspector, ["daily", "often"]))
        first, second = await inspector.scheduler_entries()
        assert (first.id, first.spec, first.task_payload) == (daily, "0 12 * * *", b"\x00")
        assert first.options == ["MaxRetry(2)", 'Queue("low")', "Unique(1m0s)"]
        assert first.enqueue_options == {"max_retry": 2, "queue": "low", "unique": 60.0}
        assert first.next is not None
        assert first.next.astimezone(ZoneInfo("Europe/Berlin")).hour == 12
        assert timedelta() < first.next - datetime.now(UTC) <= timedelta(hours=25)
        assert first.prev is None
        assert (second.id, second.options) == (often, [])
        place = keys.scheduler_entries(scheduler.id)
        assert await redis.zrange(keys.schedulers(), 0, -1) == [place.encode()]
        assert 0 < await redis.ttl(place) <= 2
    assert await redis.keys("asynq:schedulers*") == []


async def test_what_was_fired_last_is_known_after_a_restart(redis_url: str, told: Told, inspector: Inspector):
    async with Scheduler(redis_url, **told.hooks) as scheduler:
        entry = scheduler.register("@every 1s", Task("work"))
        await told.infos.until(2)
    history = await inspector.list_scheduler_enqueue_events(entry)
    async with Scheduler(redis_url) as again:
        assert again.register("@every 1s", Task("work")) == entry
        await eventually(lambda: _has_prev(inspector, history[0].enqueued_at))
    assert set(map(str, history)) <= set(map(str, await inspector.list_scheduler_enqueue_events(entry)))


async def _has_prev(inspector: Inspector, at: datetime | None) -> bool:
    assert at is not None
    return any(
        entry.prev is not None and entry.prev >= at.replace(microsecond=0)
        for entry in await inspector.scheduler_entries()
    )


async def test_a_server_runs_what_a_scheduler_enqueues(redis_url: str):
    mux = ServeMux()
    ran = Seen()

    @mux.task("count", queue="low")
    async def count(number: int) -> None:
        ran.add(number)

    async with Server(redis_url, mux, queues=["low"]), Scheduler(redis_url) as scheduler:
        scheduler.register("@every 1s", count.task(number=7))
        assert set(await ran.until(2)) == {7}


# ── Redis is away ──


@pytest.mark.rows(139)
async def test_without_redis_each_enqueue_that_failed_is_told(told: Told, caplog):
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with asyncio.timeout(PATIENCE), Scheduler(url, operation_timeout=0.1, **told.hooks) as scheduler:
        began = time.time()
        scheduler.register("@every 1s", Task("work"))
        await told.errors.until(3)
        ended = time.time()
    assert told.infos.all == []
    assert len(told.before) >= 1
    assert len(told.errors.all) <= int(ended) - int(began) + 1
    assert {type_ for type_, _ in told.errors.all} == {"work"}
    assert all(type(error) is BrokerError for _, error in told.errors.all)
    warnings = [record.message for record in caplog.records if "no contact with Redis" in record.message]
    assert len(warnings) == 1


async def test_it_goes_on_when_redis_comes(own_server: MakeServer, told: Told):
    server = own_server()
    server.stop()
    async with asyncio.timeout(PATIENCE), Scheduler(server.url, operation_timeout=0.2, **told.hooks) as scheduler:
        entry = scheduler.register("@every 1s", Task("work"))
        await told.errors.until(1)
        await asyncio.to_thread(server.start)
        await told.infos.until(2)
        async with Inspector(server.url) as inspector:
            await eventually(lambda: _entries_are(inspector, ["work"]))
            assert await inspector.list_scheduler_enqueue_events(entry) != []


async def test_redis_is_killed_and_comes_back(own_server: MakeServer, told: Told):
    """What was due meanwhile and can be made up for is; nothing is there twice."""
    server = own_server(appendonly=True, config={"appendfsync": "always"})
    async with asyncio.timeout(PATIENCE), Scheduler(server.url, operation_timeout=0.3, **told.hooks) as scheduler:
        scheduler.register("@every 1s", Task("work"), catch_up="all")
        await told.infos.until(1)
        server.kill()
        await told.errors.until(2)
        await asyncio.to_thread(server.restart)
        await told.infos.until(len(told.infos.all) + 3)
    async with Redis.from_url(server.url) as redis:
        pending = (await places(redis))["pending"]
        since: Any = [await redis.hget(keys.task("default", id_), "pending_since") for id_ in pending]
        stamps = [int(nanoseconds) // 10**9 for nanoseconds in since]
    assert len(pending) == len(set(pending))
    assert {info.id for info in told.infos.all} <= set(pending)
    assert len(pending) == stamps[-1] - stamps[0] + 1  # one a second, the late ones too


async def test_redis_that_refuses_is_told_at_the_start(own_server: MakeServer):
    server = own_server(config={"requirepass": "secret"})
    scheduler = Scheduler(server.url.replace("secret", "wrong"))
    with pytest.raises(BrokerRefusedError):
        await scheduler.start()
    assert scheduler.status == "new"


# ── life ──


async def test_states(redis_url: str):
    scheduler = Scheduler(redis_url)
    assert scheduler.status == "new"
    with pytest.raises(SchedulerStateError, match="only a scheduler that runs asks Redis; this one is new"):
        await scheduler.ping()
    async with scheduler:
        assert scheduler.status == "active"
        await scheduler.ping()
        with pytest.raises(SchedulerStateError, match="a scheduler is started once; this one is active"):
            await scheduler.start()
        assert "active, 0 entries" in repr(scheduler)
    assert scheduler.status == "closed"
    with pytest.raises(SchedulerStateError, match="a scheduler is started once; this one is closed"):
        await scheduler.start()
    with pytest.raises(SchedulerStateError, match="has ended; nothing can be registered any more"):
        scheduler.register("@every 1s", Task("work"))
    await scheduler.shutdown()


async def test_one_that_never_started_can_be_ended(redis_url: str):
    scheduler = Scheduler(redis_url)
    await scheduler.shutdown()
    assert scheduler.status == "closed"


async def test_one_that_is_cancelled_while_it_ends_ends(redis_url: str, redis: Redis):
    scheduler = Scheduler(redis_url)
    scheduler.register("@every 1s", Task("work"))
    await scheduler.start()
    await eventually(lambda: _is_there(redis, keys.scheduler_entries(scheduler.id)))
    ending = asyncio.create_task(scheduler.shutdown())
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    await eventually(lambda: _is_gone(redis, keys.scheduler_entries(scheduler.id)))
    await scheduler.shutdown()
    assert scheduler.status == "closed"


async def _is_there(redis: Redis, key: str) -> bool:
    return bool(await redis.exists(key))


async def _is_gone(redis: Redis, key: str) -> bool:
    return not await redis.exists(key)


@pytest.mark.parametrize("kind", ["url", "client", "rdb"])
async def test_what_is_handed_in_stays_open(redis_url: str, redis: Redis, told: Told, kind: str):
    rdb = RDB(redis)
    given: Any = {"url": redis_url, "client": redis, "rdb": rdb}[kind]
    async with Scheduler(given, **told.hooks) as scheduler:
        scheduler.register("@every 1s", Task("work"))
        await told.infos.until(1)
    assert await redis.ping()
    await rdb.ping()
    await rdb.aclose()


# ── arguments ──

OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no such zone": ({"location": "Mars/Olympus"}, ValueError, "there is no time zone 'Mars/Olympus'"),
    "a zone that is none": (
        {"location": 5},
        TypeError,
        "location must be the name of a time zone or a ZoneInfo, got 5",
    ),
    "no beat": ({"heartbeat_interval": 0}, ValueError, "heartbeat_interval must be from 0.1 to 1e.09 seconds, got 0"),
    "a beat in words": ({"heartbeat_interval": "1s"}, TypeError, "heartbeat_interval must be .* got '1s'"),
    "no hook": ({"pre_enqueue": 5}, TypeError, "pre_enqueue must be callable or None, got 5"),
    "no hook after": ({"post_enqueue": "x"}, TypeError, "post_enqueue must be callable or None, got 'x'"),
    "no handler": ({"error_handler": 1}, TypeError, "error_handler must be callable or None, got 1"),
    "no time": ({"operation_timeout": -1}, ValueError, "operation_timeout must be from 0.01 to 50 seconds, got -1"),
    "seconds": ({"seconds": 1}, TypeError, "seconds must be True or False, got 1"),
}


@pytest.mark.parametrize(("options", "error", "text"), OPTIONS.values(), ids=OPTIONS)
def test_wrong_options(options: dict[str, Any], error: type[Exception], text: str):
    with pytest.raises(error, match=text):
        Scheduler("redis://nowhere", **options)


ENTRIES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no expression": ({"spec": "* *"}, ValueError, r"spec must have 5 fields .*, got 2 in '\* \*'"),
    "seconds unasked": ({"spec": "* * * * * *"}, ValueError, "a second in front is taken with seconds=True"),
    "no text": ({"spec": None}, TypeError, "spec must be a str, got None"),
    "no task": ({"task": "work"}, TypeError, "task must be a Task .*, got 'work'"),
    "a bad queue": ({"queue": "a}b"}, ValueError, "queue must not contain braces, got 'a}b'"),
    "no such option": ({"color": "red"}, TypeError, "unknown option 'color'; an entry has name, .* max_retry, "),
    "a zone": ({"timezone": "Asia/Tokyo"}, TypeError, "unknown option 'timezone'; .* the zone stands in the spec"),
    "two times": ({"process_in": 1, "process_at": 1}, ValueError, "exclude each other"),
    "a blank name": ({"name": " "}, ValueError, "name must contain one or more characters .*, got ' '"),
    "a number as name": ({"name": 5}, TypeError, "name must be a str or None, got 5"),
    "no such policy": ({"catch_up": "twice"}, ValueError, "catch_up must be one of skip, once, all, got 'twice'"),
    "every replica": ({"every_replica": 1}, TypeError, "every_replica must be True or False, got 1"),
    "both": ({"every_replica": True, "name": "n"}, ValueError, "every_replica has nothing in .* got name='n' too"),
    "both, too": ({"every_replica": True, "catch_up": "all"}, ValueError, "got catch_up='all' too"),
    "too large": ({"task": Task("t", b"x" * 10_000_001)}, ValueError, "payload must have at most 10,000,000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "text"), ENTRIES.values(), ids=ENTRIES)
def test_wrong_entries(arguments: dict[str, Any], error: type[Exception], text: str):
    scheduler = Scheduler("redis://nowhere")
    usual: dict[str, Any] = {"spec": "@daily", "task": Task("work")}
    usual.update(arguments)
    with pytest.raises(error, match=text):
        scheduler.register(**usual)
    assert "0 entries" in repr(scheduler)


def test_the_same_entry_twice_needs_names():
    scheduler = Scheduler("redis://nowhere")
    first = scheduler.register("@daily", Task("work", b"p"), queue="low", max_retry=1)
    with pytest.raises(ValueError, match=f"registered already, as {first}; give one of the two a name"):
        scheduler.register("@daily", Task("work", b"p", max_retry=1), queue="low")
    named = scheduler.register("@daily", Task("work", b"p"), queue="low", max_retry=1, name="second")
    with pytest.raises(ValueError, match="name 'second' is taken in queue 'low', by '@daily' with task 'work'; choose"):
        scheduler.register("@hourly", Task("other"), queue="low", name="second")
    others = {
        scheduler.register("@hourly", Task("work", b"p"), queue="low", max_retry=1),
        scheduler.register("@daily", Task("work"), queue="low", max_retry=1),
        scheduler.register("@daily", Task("work", b""), queue="low", max_retry=1),
        scheduler.register("@daily", Task("work", b"p"), max_retry=1),
        scheduler.register("@daily", Task("work", b"p"), queue="low", max_retry=2),
        scheduler.register("@daily", Task("work", b"p"), queue="low", max_retry=1, headers={"a": "b"}),
        scheduler.register("@daily", Task("work", b"p"), queue="low", max_retry=1, every_replica=True),
        scheduler.register("@daily", Task("work", b"p"), queue="low", max_retry=1, every_replica=True),
    }
    assert len({first, named, *others}) == 10


def test_an_entry_is_the_same_in_every_scheduler():
    one, two = Scheduler("redis://nowhere"), Scheduler("redis://elsewhere")
    task = Task("work", b"p", headers={"a": "b"}, timeout=30)
    id_ = one.register("@daily", task, queue="low", max_retry=1)
    assert two.register("@daily", Task("work", "p"), max_retry=1, timeout=30, headers={"a": "b"}, queue="low") == id_
    assert Scheduler(location="Europe/Berlin").register("@daily", task, queue="low", max_retry=1) != id_
    zone = Scheduler(location=ZoneInfo("Europe/Berlin")).register("@daily", task, queue="low")
    assert zone == Scheduler(location="Europe/Berlin").register("@daily", task, queue="low")


async def test_thousands_of_entries_ask_redis_in_turn(redis_url: str, monkeypatch: pytest.MonkeyPatch):
    asking, most, asked = 0, 0, Seen()
    last_fired = RDB.last_fired

    async def counted(rdb: RDB, *args: Any) -> Any:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        try:
            return await last_fired(rdb, *args)
        finally:
            asking -= 1
            asked.add(args)

    monkeypatch.setattr(RDB, "last_fired", counted)
    async with Scheduler(redis_url) as scheduler:
        for number in range(3 * RECALLS):
            scheduler.register("0 0 1 1 *", Task("work", b"%d" % number))
        await asked.until(3 * RECALLS)
    assert most == RECALLS


async def test_thousands_of_entries_do_not_ask_a_redis_that_is_gone_one_after_another(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    asked, answered = Seen(), asyncio.Event()

    async def lost(rdb: RDB, *args: Any) -> Any:
        asked.add(args)
        await answered.wait()
        raise BrokerError("gone")

    async def silent(rdb: RDB, *args: Any, **options: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(RDB, "last_fired", lost)
    monkeypatch.setattr(RDB, "write_scheduler_entries", silent)  # no heartbeat says that Redis is back
    async with Scheduler(redis_url) as scheduler:
        for number in range(3 * RECALLS):
            scheduler.register("0 0 1 1 *", Task("work", b"%d" % number))
        await asked.until(RECALLS)
        answered.set()
        for _ in range(20):  # turns of the loop, in which the others would ask
            await asyncio.sleep(0)
    assert len(asked.all) == RECALLS


def test_what_never_comes_is_said(caplog):
    Scheduler("redis://nowhere").register("0 0 30 2 *", Task("work"))
    assert "'0 0 30 2 *' does not come within five years" in caplog.text


@pytest.mark.parametrize("kind", ["scheduler", "manager"])
async def test_a_bug_ends_it_and_is_raised(redis_url: str, kind: str, monkeypatch: pytest.MonkeyPatch, caplog):
    async def broken(self: Engine) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Engine, "run", broken)
    one: Any = Scheduler(redis_url) if kind == "scheduler" else PeriodicTaskManager(redis_url, list)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ZeroDivisionError):
            await one.run()
    assert one.status == "closed"
    assert caplog.text.count("ended by a bug") == 1


# ── a process of its own ──


@pytest.mark.parametrize(("kind", "number"), [("scheduler", signal.SIGTERM), ("manager", signal.SIGINT)])
async def test_a_signal_ends_it(redis_url: str, redis: Redis, kind: str, number: signal.Signals):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, Path(__file__).with_name("process.py"), redis_url, "@every 1s", "low", kind),
        stdin=PIPE,
        stdout=PIPE,
    )
    said: list[dict[str, Any]] = []
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while not said or said[-1]["event"] != "enqueued":
                said.append(json.loads(await process.stdout.readline()))
            assert len(await redis.keys("asynq:schedulers:*")) == 1
            process.send_signal(number)
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1]) == {"event": "stopped", "status": "closed"}
    assert await redis.keys("asynq:schedulers*") == []
