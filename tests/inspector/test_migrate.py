"""From asynq's layout of 2020 to today's: what becomes of each thing, and of what cannot be read."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from redis.asyncio import Redis, RedisCluster

from aioasynq import Inspector, MigrationRefusedError, keys
from tests.support.layout_2020 import Old, expected, left_behind, of_today, old, today
from tests.support.state import State

pytestmark = pytest.mark.no_cluster("the old layout has no hash tags, so a Cluster is refused")

DAY = "2020-02-29"
AT = 1583000000.0
LOCK = "t:n=1:default"  # as asynq named it then
NEW_LOCK = keys.unique("default", "t", b'{"n":1}')
COUNTERS = {"processed": 0, "failed": 0}


@pytest.fixture
async def inspector(redis: Redis) -> AsyncIterator[Inspector]:
    """An Inspector on one server, as the old layout was never on another."""
    async with Inspector(redis) as inspector:
        yield inspector


def of(task_id: str, queue: str = "default", **others: Any) -> dict[str, Any]:
    """The fields of a task that was carried over."""
    msg = today(task_id, queue, **others)
    return {"msg": msg} | ({"unique_key": msg.unique_key} if msg.unique_key else {})


class Row(NamedTuple):
    before: Old
    after: dict[str, State]
    left: dict[str, Any] = {}  # noqa: RUF012 - never changed
    reasons: tuple[str, ...] = ()
    counters: dict[str, int] = COUNTERS
    more_left: int = 0  #: entries of which one reason stands for several
    same: int = 0
    foretold: bool = True  #: by a dry run; that two have one id shows when one of them has been carried over


def ids(*names: str, queue: str = "default", **others: Any) -> dict[str, Any]:
    return {name: of(name, queue, **others) for name in names}


UNIQUE = old("u", UniqueKey=LOCK)
ROWS = {
    "nothing": Row(Old(), {}),
    "a list keeps its order": Row(
        Old(queues={"default": [old("a"), old("b"), old("c")]}),
        {"default": State(pending=["a", "b", "c"], tasks=ids("a", "b", "c"))},
    ),
    "a list that the set does not name, as in v0.1": Row(
        Old(queues={"default": [old("a", early=True)]}, names=()),
        {"default": State(pending=["a"], tasks=ids("a"))},
    ),
    "each list by its own name": Row(
        Old(queues={"low": [old("a", "LOW")], "a:b": [old("b", "a:b")]}),
        {
            "low": State(pending=["a"], tasks=ids("a", queue="low")),
            "a:b": State(pending=["b"], tasks=ids("b", queue="a:b")),
        },
    ),
    "an empty queue keeps its name": Row(Old(names=["asynq:queues:low"]), {"low": State()}),
    "names of old and of today together": Row(
        Old(names=["asynq:queues:low", "high"]), {"low": State(), "high": State()}
    ),
    "in progress goes to the head, the first taken first": Row(
        Old(queues={"default": [old("c")]}, in_progress=[old("a"), old("x", "low"), old("b")]),
        {
            "default": State(pending=["a", "b", "c"], tasks=ids("a", "b", "c")),
            "low": State(pending=["x"], tasks=ids("x", queue="low")),
        },
    ),
    "scores stay": Row(
        Old(
            scheduled={old("s"): 4102444800.0, old("s2", "low"): AT},
            retry={old("r", Retried=3, Retry=5, ErrorMsg="boom"): AT},
            dead={old("d", Retried=25, ErrorMsg="bang"): AT + 0.5},
        ),
        {
            "default": State(
                scheduled={"s": 4102444800.0},
                retry={"r": AT},
                archived={"d": AT + 0.5},
                tasks=ids("s")
                | {"r": of("r", retried=3, retry=5, error_msg="boom")}
                | {"d": of("d", retried=25, error_msg="bang")},
            ),
            "low": State(scheduled={"s2": AT}, tasks=ids("s2", queue="low")),
        },
    ),
    "a lock moves with its task": Row(
        Old(queues={"default": [UNIQUE]}, strings={LOCK: "u"}),
        {"default": State(pending=["u"], tasks={"u": of("u", unique_key=NEW_LOCK)}, locks={NEW_LOCK: "u"})},
    ),
    "a lock of a task that is to come": Row(
        Old(scheduled={UNIQUE: AT}, strings={LOCK: "u"}),
        {"default": State(scheduled={"u": AT}, tasks={"u": of("u", unique_key=NEW_LOCK)}, locks={NEW_LOCK: "u"})},
    ),
    "a lock that has ended": Row(
        Old(queues={"default": [UNIQUE]}),
        {"default": State(pending=["u"], tasks={"u": of("u", unique_key=NEW_LOCK)})},
    ),
    "a lock of another task is left": Row(
        Old(queues={"default": [UNIQUE]}, strings={LOCK: "another"}),
        {"default": State(pending=["u"], tasks={"u": of("u", unique_key=NEW_LOCK)})},
        {LOCK: b"another"},
    ),
    "a key that is no lock is left": Row(
        Old(queues={"default": [old("u", UniqueKey="asynq:queues:low")], "low": [old("a", "low")]}),
        {
            "default": State(pending=["u"], tasks={"u": of("u", unique_key=NEW_LOCK)}),
            "low": State(pending=["a"], tasks=ids("a", queue="low")),
        },
    ),
    "counters": Row(
        Old(counters={f"processed:{DAY}": "7", f"failure:{DAY}": "2", "processed:2020-03-01": "1"}),
        {
            "default": State(
                counters={
                    "processed": 8,
                    "failed": 2,
                    f"processed:{DAY}": 7,
                    f"failed:{DAY}": 2,
                    "processed:2020-03-01": 1,
                }
            )
        },
        counters={"processed": 8, "failed": 2},
    ),
    "counters that are none": Row(
        Old(counters={f"processed:{DAY}": "many", "processed:today": "1", f"failure:{DAY}": "9" * 16}),
        {"default": State()},
        {
            f"asynq:processed:{DAY}": b"many",
            "asynq:processed:today": b"1",
            f"asynq:failure:{DAY}": b"9" * 16,
        },
        ("its name does not end in a day", "it is no count", "it is no count"),
    ),
    "a pause, of v0.9": Row(
        Old(queues={"low": [old("a", "low")]}, paused=["asynq:queues:low", "asynq:queues:gone"]),
        {"low": State(pending=["a"], paused=True, tasks=ids("a", queue="low"))},
        {"asynq:paused": {b"asynq:queues:gone"}},
    ),
    "one message twice is one task": Row(
        Old(queues={"default": [old("a"), old("a")]}, retry={old("a"): AT}),
        {"default": State(pending=["a"], tasks=ids("a"))},
        same=2,
        foretold=False,
    ),
    "two messages with one id": Row(
        Old(queues={"default": [old("a")]}, retry={old("a", Retried=1): AT}),
        {"default": State(pending=["a"], tasks=ids("a"))},
        {"asynq:retry": {old("a", Retried=1): AT}},
        ("its queue holds another task with this id",),
        foretold=False,
    ),
    "what cannot be read stays, between what can": Row(
        Old(
            queues={"default": [b"\xff\x00", old("a"), b"{}", old("b"), b""]},
            in_progress=[b"1", old("i"), b"2"],
            scheduled={b"3": 1.0, old("s"): 2.0, b"4": 3.0},
            retry={old("r", "{r}"): AT},
            dead={b"5": AT},
        ),
        {"default": State(pending=["i", "a", "b"], scheduled={"s": 2.0}, tasks=ids("i", "a", "b", "s"))},
        {
            "asynq:queues:default": [b"\xff\x00", b"{}", b""],
            "asynq:in_progress": [b"1", b"2"],
            "asynq:scheduled": {b"3": 1.0, b"4": 3.0},
            "asynq:retry": {old("r", "{r}"): AT},
            "asynq:dead": {b"5": AT},
        },
        (
            "Expected `object`, got `int`",
            "Expected `object`, got `int`",
            "JSON is malformed: invalid character (byte 0)",
            "Object missing required field `ID`",
            "Input data was truncated",
            "Expected `object`, got `int`",
            "Expected `object`, got `int`",
            "queue must not contain braces, got '{r}'",
            "Expected `object`, got `int`",
        ),
    ),
    "a queue whose name cannot be": Row(
        Old(queues={"{x}": [old("a"), old("b")]}, names=()),
        {},
        {"asynq:queues:{x}": [old("a"), old("b")]},
        ("queue must not contain braces, got '{x}'",),
        more_left=1,
    ),
    "places of another kind": Row(
        Old(strings={"asynq:dead": "x", "asynq:in_progress": "y", "asynq:queues:low": "z"}),
        {},
        {"asynq:dead": b"x", "asynq:in_progress": b"y", "asynq:queues:low": b"z"},
        ("it is a string, where a list belongs",) * 2 + ("it is a string, where a zset belongs",),
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_what_becomes_of_it(inspector: Inspector, redis: Redis, row: Row):
    await row.before.write(redis)
    before = await left_behind(redis), await redis.smembers(keys.queues())
    seen = await inspector.migrate(dry_run=True)
    assert (await left_behind(redis), await redis.smembers(keys.queues())) == before, "a dry run changes nothing"
    done = await inspector.migrate()

    after = await of_today(redis)
    assert after == expected(row.after)
    assert await left_behind(redis) == row.left
    assert tuple(left.reason for left in done.left) == row.reasons
    assert done.left_total == len(row.reasons) + row.more_left
    assert done.tasks == {queue: found for queue, state in after.items() if (found := sizes(state))}
    assert (done.counters, done.same, done.remaining) == (row.counters, row.same, 0)
    if row.foretold:
        told = (seen.tasks, seen.left, seen.left_total, seen.counters)
        assert told == (done.tasks, done.left, done.left_total, done.counters)

    again = await inspector.migrate()
    assert (again.tasks, again.left, again.counters) == ({}, done.left, COUNTERS)
    assert await of_today(redis) == after
    assert await left_behind(redis) == row.left


def sizes(state: State) -> dict[str, int]:
    places = ("pending", "scheduled", "retry", "archived")
    return {place: len(getattr(state, place)) for place in places if getattr(state, place)}


# ── what today's layout holds already ──


async def test_old_tasks_go_behind_those_that_are_there(inspector: Inspector, redis: Redis):
    await State(pending=["new"]).write(redis, "default")
    await Old(queues={"default": [old("a"), old("b")]}, in_progress=[old("i")]).write(redis)
    await inspector.migrate()
    state = (await of_today(redis))["default"]
    assert state.pending == ["i", "new", "a", "b"]


THERE = {
    "another task": (State(pending=["a"]), {"a": 0}, "its queue holds another task with this id"),
    "the same, retried meanwhile": (
        State(retry={"a": AT}, tasks={"a": {"msg": today("a", retried=1)}}),
        {"a": 0},
        "its queue holds another task with this id",
    ),
    "the same, but it stands nowhere": (
        State(tasks={"a": {"msg": today("a"), "state": "pending"}}),
        {"a": 0},
        "its queue holds another task with this id",
    ),
    "something else under its key": (State(other={"t:a": "x"}), {"a": 0}, "its queue holds another task with this id"),
    "a place of another kind": (State(other={"pending": "x"}), {"a": 0}, "the key of its new place is of another kind"),
    "the same, pending": (State(pending=["a"], tasks={"a": {"msg": today("a")}}), {"same": 1}, None),
    "the same, running": (
        State(active=["a"], lease={"a": 4102444800.5}, tasks={"a": {"msg": today("a")}}),
        {"same": 1},
        None,
    ),
    "the same, completed": (
        State(completed={"a": 4102444800.0}, tasks={"a": {"msg": today("a")}}),
        {"same": 1},
        None,
    ),
}


@pytest.mark.parametrize(("there", "counted", "why"), THERE.values(), ids=THERE)
async def test_an_id_that_is_there(inspector: Inspector, redis: Redis, there, counted, why):
    await there.write(redis, "default")
    await Old(queues={"default": [old("a")]}).write(redis)
    before = await State.read(redis, "default")
    seen, done = await inspector.migrate(dry_run=True), await inspector.migrate()
    assert await State.read(redis, "default") == before
    assert (seen.left, seen.same, seen.tasks) == (done.left, done.same, done.tasks)
    assert (done.tasks, done.same) == ({}, counted.get("same", 0))
    assert [left.reason for left in done.left] == ([why] if why else [])
    assert await left_behind(redis) == ({"asynq:queues:default": [old("a")]} if why else {})


async def test_todays_counters_are_added_to(inspector: Inspector, redis: Redis):
    await State(counters={"processed": 10, f"processed:{DAY}": 4}).write(redis, "low")
    await Old(counters={f"processed:{DAY}": "7"}).write(redis)
    await inspector.migrate(counters_queue="low")
    assert (await of_today(redis))["low"].counters == {"processed": 17, f"processed:{DAY}": 11}
    assert 3590 < await redis.ttl(keys.processed("low", DAY)) <= 3600


async def test_the_life_of_a_counter_and_of_a_lock_goes_on(inspector: Inspector, redis: Redis):
    await Old(queues={"default": [UNIQUE]}, strings={LOCK: "u"}, counters={f"failure:{DAY}": "1"}).write(redis)
    await redis.expire(LOCK, 1000)
    await redis.expire(f"asynq:failure:{DAY}", 2000)
    await Old(counters={f"processed:{DAY}": "1"}).write(redis)
    await redis.persist(f"asynq:processed:{DAY}")
    await inspector.migrate()
    assert 990 < await redis.ttl(NEW_LOCK) <= 1000
    assert 1990 < await redis.ttl(keys.failed("default", DAY)) <= 2000
    assert 89 * 86400 < await redis.ttl(keys.processed("default", DAY)) <= 90 * 86400


async def test_todays_counters_that_are_none(inspector: Inspector, redis: Redis):
    await redis.set(keys.processed_total("default"), "many")
    await Old(counters={f"processed:{DAY}": "7"}).write(redis)
    done = await inspector.migrate()
    assert [left.reason for left in done.left] == ["the counters of queue 'default' are no counts"]
    assert await left_behind(redis) == {f"asynq:processed:{DAY}": b"7"}


async def test_a_lock_that_another_task_has_by_now(inspector: Inspector, redis: Redis):
    await State(locks={NEW_LOCK: "new"}).write(redis, "default")
    await Old(queues={"default": [UNIQUE]}, strings={LOCK: "u"}).write(redis)
    await inspector.migrate()
    state = (await of_today(redis))["default"]
    assert (state.pending, state.locks) == (["u"], {NEW_LOCK: "new"})
    assert await left_behind(redis) == {}


async def test_a_queue_of_today_that_has_an_old_name(inspector: Inspector, redis: Redis):
    await State(pending=["a"]).write(redis, "asynq:queues:low")
    await redis.sadd(keys.queues(), "asynq:queues:low")
    await inspector.migrate()
    assert await redis.smembers(keys.queues()) == {b"asynq:queues:low", b"low"}


# ── processes ──

RECORD = "asynq:ps:host:7"


async def write_process(
    redis: Redis, record: str = RECORD, *, ttl: int | None = 10, expiry: float | None = None
) -> None:
    place = record.rpartition(":host")[0]
    await redis.set(record, "{}", ex=ttl)
    await redis.zadd(place, {record: time.time() + (ttl or 10) if expiry is None else expiry})


@pytest.mark.parametrize(
    ("record", "ttl", "expiry"),
    [(RECORD, 10, None), (RECORD, None, 4e9), ("asynq:servers:host:7:uuid", 10, None)],
    ids=["it expires", "it does not expire", "of v0.8"],
)
async def test_while_old_processes_live(inspector: Inspector, redis: Redis, record, ttl, expiry):
    await write_process(redis, record, ttl=ttl, expiry=expiry)
    await Old(queues={"default": [old("a")]}).write(redis)
    name = record.split(":", 2)[2]
    with pytest.raises(
        MigrationRefusedError, match=f"live, or did a minute ago: {name}; stop them, or force it"
    ) as refused:
        await inspector.migrate()
    assert refused.value.processes == (name,)
    assert await redis.lrange("asynq:queues:default", 0, -1) == [old("a")]
    assert (await inspector.migrate(dry_run=True)).processes == [record]
    done = await inspector.migrate(force=True)
    assert done.total == 1
    assert await redis.exists(record), "what lives writes it again anyway"


async def test_of_many_processes_some_are_named(inspector: Inspector, redis: Redis):
    for number in range(7):
        await write_process(redis, f"asynq:ps:host:{number}")
    with pytest.raises(MigrationRefusedError, match="host:0, host:1, host:2, host:3, host:4 and 2 more; stop them"):
        await inspector.migrate()


async def test_what_dead_processes_said_is_removed_and_todays_stays(inspector: Inspector, redis: Redis):
    server, workers = "asynq:servers:{host:1:x}", "asynq:workers:{host:1:x}"
    await redis.zadd("asynq:ps", {RECORD: AT, "asynq:ps:host:8": 4e9})  # the other's record is gone
    await redis.set(RECORD, "{}")  # it does not expire, but its time is over
    await redis.hset("asynq:workers:host:7", "a", "{}")
    await redis.zadd("asynq:workers", {"asynq:workers:host:7": AT, workers: AT})
    await redis.set(server, "x")
    await redis.zadd("asynq:servers", {server: AT})
    await inspector.migrate(dry_run=True)
    assert await redis.exists(RECORD)
    await inspector.migrate()
    assert await left_behind(redis) == {
        "asynq:workers": {workers.encode(): AT},
        server: b"x",
        "asynq:servers": {server.encode(): AT},
    }


async def test_processes_in_a_set(inspector: Inspector, redis: Redis):
    await redis.sadd("asynq:ps", RECORD, "asynq:ps:host:8")
    await redis.set(RECORD, "{}", ex=10)
    with pytest.raises(MigrationRefusedError, match="host:7"):
        await inspector.migrate()
    await redis.delete(RECORD)
    await inspector.migrate()
    assert await left_behind(redis) == {}


# ── wrong use ──


async def test_a_cluster_is_refused(cluster_client: RedisCluster):
    async with Inspector(cluster_client) as inspector:
        with pytest.raises(
            MigrationRefusedError, match=r"is a Cluster, on which asynq's layout of 2020 cannot be: connect"
        ):
            await inspector.migrate(dry_run=True)


WRONG = {
    "no queue": ({"counters_queue": " "}, ValueError, "counters_queue must contain one or more characters"),
    "braces": ({"counters_queue": "{a}"}, ValueError, "counters_queue must not contain braces, got '{a}'"),
    "no text": ({"counters_queue": 7}, TypeError, "counters_queue must be a str, got 7"),
    "no time": ({"timeout": 0}, ValueError, "timeout must be more than 0 seconds, got 0"),
    "a negative time": ({"timeout": -1}, ValueError, "timeout must be 0 or more seconds, got -1"),
    "a time that is text": ({"timeout": "5"}, TypeError, "timeout must be seconds or a timedelta, got '5'"),
}


@pytest.mark.parametrize(("options", "kind", "text"), WRONG.values(), ids=WRONG)
async def test_a_wrong_argument(inspector: Inspector, redis: Redis, options, kind, text):
    await Old(queues={"default": [old("a")]}).write(redis)
    with pytest.raises(kind, match=text):
        await inspector.migrate(**options)
    assert await left_behind(redis) == {"asynq:queues:default": [old("a")]}


async def test_a_timeout_of_ones_own(inspector: Inspector, redis: Redis):
    await Old(queues={"default": [old("a"), old("b", Timeout="5s")]}).write(redis)
    await inspector.migrate(timeout=86400.5)
    infos = [await inspector.get_task_info("default", task_id) for task_id in "ab"]
    assert [info.timeout for info in infos] == [86401, 5]
