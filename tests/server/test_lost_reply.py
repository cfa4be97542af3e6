"""A reply is lost, or a request: whoever asked asks again, and what was asked for happens once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import BrokerError, Client, Server, SkipRetry, Task
from aioasynq.rdb import base, waiting
from aioasynq.rdb.script import Script
from aioasynq.server import fetcher
from tests.server.stage import PATIENCE, Stage, assert_in_order, counted, eventually, load_scripts, once_each
from tests.support.proxy import Proxy, script
from tests.support.resp import Command

MakeProxy = Callable[..., Awaitable[Proxy]]

KINDS = ["lose_reply", "cut_after", "cut_before"]
IDS = ["a", "b", "c", "d", "e"]


@pytest.fixture(autouse=True)
def _short_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that does not come is given up soon, so that the tests are quick."""
    monkeypatch.setattr(base, "ATTEMPT_TIMEOUT", 0.3)
    monkeypatch.setattr(waiting, "_GRACE", 0.3)


@pytest.fixture
async def stage(redis: Redis) -> Stage:
    await load_scripts(redis)
    return Stage()


def calls_of(name: str, caller: str = "") -> Callable[[Command], bool]:
    """Match the calls of a script, by a caller whose receipts end so."""
    is_call = script(Script(name).sha)
    return lambda command: is_call(command) and command[3].endswith(caller.encode())


@dataclass
class Enqueued:
    """An operation of the client: what is asked for, and where the tasks are in the end."""

    operation: str
    options: dict[str, Any] = field(default_factory=dict)
    runs: bool = True
    after: str = ""


ENQUEUED = {
    "enqueue": Enqueued("enqueue"),
    "enqueue_unique": Enqueued("enqueue_unique", {"unique": 60}),
    "schedule": Enqueued("schedule", {"process_in": 0.1}),
    "schedule_unique": Enqueued("schedule_unique", {"process_in": 0.1, "unique": 60}),
    "add_to_group": Enqueued("add_to_group", {"group": "g"}, runs=False, after="groups"),
    "add_to_group_unique": Enqueued("add_to_group_unique", {"group": "g", "unique": 60}, runs=False, after="groups"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", ENQUEUED.values(), ids=ENQUEUED)
async def test_an_enqueue_whose_reply_is_lost(
    redis: Redis, redis_url: str, proxy: MakeProxy, stage: Stage, row: Enqueued, kind: str
) -> None:
    between = await proxy()
    fault = getattr(between, kind)(calls_of(row.operation))
    async with asyncio.timeout(PATIENCE), Server(redis_url, stage.mux), Client(between.url) as client:
        infos = await asyncio.gather(
            *(client.enqueue(Task("work", name.encode()), task_id=name, **row.options) for name in IDS)
        )
        assert [info.id for info in infos] == IDS
        assert fault.fired == 1
        if row.runs:
            await stage.ended.until(len(IDS))
    assert stage.began.times == (once_each(IDS) if row.runs else {})
    assert await assert_in_order(redis) == ({row.after: IDS, "tasks": IDS} if row.after else {})
    assert await counted(redis) == (len(IDS) if row.runs else 0, 0)


@dataclass
class Ended:
    """An operation of the server: how the handler ends, and where the tasks are in the end."""

    operation: str
    caller: str
    raises: BaseException | None = None
    options: dict[str, Any] = field(default_factory=dict)
    after: str = ""
    failed: bool = False


ENDED = {
    "a fetch": Ended("dequeue", ":fetch"),
    "done": Ended("done", ":done"),
    "mark_as_complete": Ended("mark_as_complete", ":completed", options={"retention": 600}, after="completed"),
    "retry": Ended("retry", ":failed", raises=ValueError("no"), after="retry", failed=True),
    "kill": Ended("kill", ":killed", raises=SkipRetry("never"), after="archived", failed=True),
    "check_and_enqueue": Ended("check_and_enqueue", "", options={"process_in": 0.05}),
}


@pytest.mark.rows(127)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", ENDED.values(), ids=ENDED)
async def test_a_server_whose_reply_is_lost(
    redis: Redis, redis_url: str, proxy: MakeProxy, stage: Stage, row: Ended, kind: str
) -> None:
    async with Client(redis_url) as client:
        for name in IDS:
            await client.enqueue(Task("work"), task_id=name, **row.options)
    stage.raises = row.raises
    between = await proxy()
    fault = getattr(between, kind)(calls_of(row.operation, row.caller))
    async with asyncio.timeout(PATIENCE), Server(between.url, stage.mux, retry_delay=lambda *_: 3600.0):
        await stage.ended.until(len(IDS))
        await between.until(lambda: fault.fired == 1)
        if row.after:  # a shutdown leaves outcomes half a second only
            await eventually(lambda: _all_ended(redis, row))
        else:
            await eventually(lambda: _nothing_left(redis))
    assert stage.began.times == once_each(IDS)
    assert await assert_in_order(redis) == ({row.after: IDS, "tasks": IDS} if row.after else {})
    assert await counted(redis) == (len(IDS), len(IDS) if row.failed else 0)


async def _all_ended(redis: Redis, row: Ended) -> bool:
    return int(await redis.zcard(f"asynq:{{default}}:{row.after}")) == len(IDS)


async def _nothing_left(redis: Redis) -> bool:
    return not await redis.llen("asynq:{default}:active") and not await redis.llen("asynq:{default}:pending")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_riding_fetch_whose_reply_is_lost(
    redis: Redis, redis_url: str, proxy: MakeProxy, stage: Stage, kind: str
) -> None:
    between = await proxy()
    fault = getattr(between, kind)(calls_of("dequeue", ":ride"))
    async with asyncio.timeout(PATIENCE), Server(between.url, stage.mux), Client(redis_url) as client:
        await between.until(lambda: between.commands["BLMOVE"] >= 1)
        for name in IDS:
            await client.enqueue(Task("work"), task_id=name)
        await stage.ended.until(len(IDS))
        assert fault.fired == 1
        await eventually(lambda: _nothing_left(redis))
    assert stage.began.times == once_each(IDS)
    assert await assert_in_order(redis) == {}
    assert await counted(redis) == (len(IDS), 0)


async def test_no_two_riding_fetches_that_take_a_task_are_the_same(
    redis_url: str, proxy: MakeProxy, stage: Stage
) -> None:
    between = await proxy()
    is_ride, rides = calls_of("dequeue", ":ride"), list[tuple[bytes, ...]]()

    def listen(command: Command) -> bool:
        rides.extend([tuple(command)] * is_ride(command))
        return False

    between.lose_reply(listen)
    async with asyncio.timeout(PATIENCE), Server(between.url, stage.mux), Client(redis_url) as client:
        for count, name in enumerate(IDS, start=1):
            seen = len(rides)
            await between.until(lambda seen=seen: len(rides) > seen)  # type: ignore[misc]
            await client.enqueue(Task("work"), task_id=name)
            await stage.ended.until(count)
    assert len(set(rides)) >= len(IDS)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_riding_fetch_that_took_nothing_often_and_whose_reply_is_lost_at_last(
    redis: Redis, redis_url: str, proxy: MakeProxy, stage: Stage, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "LOOK_INTERVAL", 0.3)
    is_ride, rides = calls_of("dequeue", ":ride"), list[Command]()

    def listen(command: Command) -> bool:
        rides.extend([command] * is_ride(command))
        return is_ride(command)

    between = await proxy()
    fault = getattr(between, kind)(listen, nth=4)
    async with asyncio.timeout(PATIENCE), Server(between.url, stage.mux), Client(redis_url) as client:
        await between.until(lambda: fault.seen == 4)
        assert rides == rides[:1] * 4, "what took nothing is asked again as it was"
        for name in IDS:
            await client.enqueue(Task("work"), task_id=name)
        await stage.ended.until(len(IDS))
        assert fault.fired == 1
        await eventually(lambda: _nothing_left(redis))
    assert stage.began.times == once_each(IDS)
    assert await assert_in_order(redis) == {}
    assert await counted(redis) == (len(IDS), 0)


@pytest.mark.parametrize("kind", ["cut_after", "cut_before"])
async def test_a_requeue_whose_reply_is_lost(
    redis: Redis, redis_url: str, proxy: MakeProxy, stage: Stage, kind: str
) -> None:
    async with Client(redis_url) as client:
        for name in IDS:
            await client.enqueue(Task("work"), task_id=name)
    between = await proxy()
    fault = getattr(between, kind)(calls_of("requeue", ":requeued"))
    stage.gate.clear()
    async with asyncio.timeout(PATIENCE), Server(between.url, stage.mux, shutdown_timeout=0):
        await stage.began.until(len(IDS))
    assert fault.fired == 1
    assert await assert_in_order(redis) == {"pending": IDS, "tasks": IDS}
    assert await counted(redis) == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lease_whose_extension_is_lost(
    redis: Redis, redis_url: str, proxy: MakeProxy, stage: Stage, kind: str
) -> None:
    between = await proxy()
    stage.gate.clear()
    async with Client(redis_url) as client:
        await client.enqueue(Task("work"), task_id="a")
    async with asyncio.timeout(PATIENCE), Server(between.url, stage.mux, lease=1.5):
        await stage.began.until(1)
        fault = getattr(between, kind)(calls_of("extend_lease"))
        await between.until(lambda: fault.fired == 1 and fault.seen >= 4)
        stage.gate.set()
        await stage.ended.until(1)
    assert stage.began.times == once_each(["a"])
    assert await assert_in_order(redis) == {}
    assert await counted(redis) == (1, 0)


@pytest.mark.parametrize("operation", ["enqueue", "schedule"])
async def test_when_no_reply_comes_at_all_the_caller_is_told_that_it_may_be_done(
    redis: Redis, proxy: MakeProxy, stage: Stage, operation: str
) -> None:
    between = await proxy()
    fault = between.cut_after(calls_of(operation), times=None)
    async with Client(between.url, operation_timeout=0.5) as client:
        options: dict[str, Any] = {"process_in": 60} if operation == "schedule" else {}
        with pytest.raises(BrokerError) as caught:
            await client.enqueue(Task("work"), task_id="a", **options)
        assert caught.value.maybe_done
        assert fault.fired > 1
    found = await assert_in_order(redis)
    assert found["tasks"] == ["a"]


async def test_when_no_request_arrived_the_caller_is_told_that_it_is_not_done(redis: Redis, proxy: MakeProxy) -> None:
    between = await proxy()
    await between.down()
    async with Client(between.url, operation_timeout=0.3) as client:
        with pytest.raises(BrokerError) as caught:
            await client.enqueue(Task("work"), task_id="a")
        assert not caught.value.maybe_done
    assert await assert_in_order(redis) == {}


@pytest.mark.parametrize(("caller", "waits"), [(":fetch", 1), (":ride", 2)])
async def test_a_fetch_that_arrives_late_takes_nothing(
    redis: Redis, redis_url: str, proxy: MakeProxy, stage: Stage, caller: str, waits: int
) -> None:
    """It is held up on the way, given up and repeated; when it arrives in the end, nobody waits for its answer."""
    between = await proxy()
    late: list[Command] = []
    is_dequeue = calls_of("dequeue", caller)

    def is_first(command: Command) -> bool:
        if late or not is_dequeue(command):
            return False
        late.append(command)
        return True

    fault = between.cut_before(is_first)
    async with asyncio.timeout(PATIENCE), Server(between.url, stage.mux):
        await between.until(lambda: fault.fired == 1 and between.commands["BLMOVE"] >= waits)
    async with Client(redis_url) as client:
        await client.enqueue(Task("work"), task_id="a")
    await redis.execute_command(*late[0])
    assert await assert_in_order(redis) == {"pending": ["a"], "tasks": ["a"]}
