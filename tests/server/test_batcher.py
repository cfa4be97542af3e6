"""Enqueues that are alone, at once, or many: what they share, and what becomes of them when a connection breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import RDB, BrokerError, BrokerRefusedError, Client, Task, TaskIDConflictError, TaskInfo, keys
from aioasynq.client import batcher
from aioasynq.client.busy_poll import BusyPoll
from aioasynq.rdb import base, receipts
from aioasynq.rdb.receipts import Receipt
from aioasynq.rdb.script import Script
from aioasynq.rdb.storing import AloneError
from tests.server.stage import PATIENCE, assert_in_order, load_scripts, summed
from tests.support.build import message
from tests.support.proxy import Proxy, script

MakeProxy = Callable[..., Awaitable[Proxy]]

KINDS = ["lose_reply", "cut_after", "cut_before"]
ENQUEUE = script(Script("enqueue").sha)
ENQUEUE_SEVERAL = script(Script("enqueue_several").sha)
QUEUES = ["a", "b", "c"]


@pytest.fixture(autouse=True)
async def _ready(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    await load_scripts(redis)
    monkeypatch.setattr(base, "ATTEMPT_TIMEOUT", 0.3)  # a reply that does not come is given up soon


async def calls(redis: Redis) -> int:
    return await summed(redis, "commandstats", "cmdstat_evalsha")


async def pending(redis: Redis, queue: str = "default") -> list[str]:
    return (await assert_in_order(redis, queue)).get("pending", [])


async def test_one_after_the_other_takes_a_call_each(redis: Redis, redis_url: str) -> None:
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        before = await calls(redis)
        for n in range(20):
            await client.enqueue(Task("work"), task_id=str(n))
        assert await calls(redis) - before == 20
    assert await pending(redis) == [str(n) for n in range(20)]


async def test_many_at_once_share_calls(redis: Redis, redis_url: str) -> None:
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        many = batcher.FULL
        await client.enqueue(Task("work"), task_id="first")
        before = await calls(redis)
        await asyncio.gather(*(client.enqueue(Task("work"), task_id=str(n)) for n in range(many)))
        assert await calls(redis) - before == 2  # the first alone, the others while it was under way
        await asyncio.gather(*(client.enqueue(Task("work"), task_id=str(n)) for n in range(many, 2 * many)))
        assert await calls(redis) - before == 3  # many were there before, so all are waited for that are ready
    assert await pending(redis) == ["first", *map(str, range(2 * many))]


@pytest.mark.no_cluster("calls are not written one behind the other there")
async def test_of_very_many_a_few_calls_are_under_way_and_the_rest_share_the_next(redis: Redis, redis_url: str) -> None:
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue(Task("work"), task_id="first")
        before = await calls(redis)
        count = 1 + batcher.FULL * (batcher.CALLS - 1) + 40
        await asyncio.gather(*(client.enqueue(Task("work"), task_id=str(n)) for n in range(count)))
        assert await calls(redis) - before == batcher.CALLS + 1
    assert await pending(redis) == ["first", *map(str, range(count))]


@pytest.mark.no_cluster("calls are not written one behind the other there")
@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, [1]), (2, [2]), (24, [24]), (30, [24, 6]), (100, [25] * 4), (1000, [250] * 4), (1030, [256] * 4 + [6])],
)
async def test_a_bulk_is_as_few_calls_as_may_be_under_way(
    redis: Redis, redis_url: str, count: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the first and the last of its tasks wait for no answer to others, unless they are very many."""
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue(Task("work"), task_id="first")
        assert client._batcher is not None
        sent: list[int] = []
        start = client._batcher._start

        def spy(lane: Any, batch: list[Any], *more: Any) -> None:
            sent.append(len(batch))
            start(lane, batch, *more)

        monkeypatch.setattr(client._batcher, "_start", spy)
        await client.enqueue_many([Task("work", task_id=str(n)) for n in range(count)])
    assert sent == sizes
    assert await pending(redis) == ["first", *map(str, range(count))]


async def test_full_batches_do_not_wait_for_each_other(redis: Redis, proxy: MakeProxy) -> None:
    between = await proxy()
    async with asyncio.timeout(PATIENCE), Client(between.url, operation_timeout=10) as client:
        await client.enqueue(Task("work"), task_id="first")
        between.black_hole()
        under_way = asyncio.create_task(client.enqueue_many([Task("work", task_id=str(n)) for n in range(1000)]))
        for _ in range(10):  # it lets others have a turn now and then
            await asyncio.sleep(0)
        assert client._batcher is not None
        [lane] = client._batcher._lanes.values()
        assert [len(call.batch) for call in lane.calls] == [1000 // batcher.CALLS] * batcher.CALLS
        between.resume()
        infos = await under_way
    assert [info.id for info in infos if isinstance(info, TaskInfo)] == [str(n) for n in range(1000)]
    assert await pending(redis) == ["first", *map(str, range(1000))]


async def test_calls_without_an_order_go_one_at_a_time(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a Cluster, where each call takes a connection of its own."""
    async with asyncio.timeout(PATIENCE), RDB(redis_url) as rdb:
        monkeypatch.setattr(rdb, "_shared", False)
        async with Client(rdb) as client:
            client._rdb._shared = False
            infos = await client.enqueue_many([Task("work", task_id=str(n)) for n in range(1000)])
    assert [info.id for info in infos if isinstance(info, TaskInfo)] == [str(n) for n in range(1000)]
    assert await pending(redis) == [str(n) for n in range(1000)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
async def test_a_connection_breaks_under_several_calls(redis: Redis, proxy: MakeProxy, kind: str, nth: int) -> None:
    """Each is repeated with its own receipt, and each task is there once."""
    between = await proxy()
    async with asyncio.timeout(PATIENCE), Client(between.url) as client:
        await client.enqueue(Task("work"), task_id="first")
        fault = getattr(between, kind)(ENQUEUE, nth=nth)
        infos, alone = await asyncio.gather(
            client.enqueue_many([Task("work", task_id=str(n)) for n in range(1000)]),
            client.enqueue(Task("work"), task_id="alone"),
        )
        assert fault.fired == 1
    assert [info.id for info in infos if isinstance(info, TaskInfo)] == [str(n) for n in range(1000)]
    assert alone.id == "alone"
    assert sorted(await pending(redis)) == sorted(["first", "alone", *map(str, range(1000))])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lone_one_that_is_refused_and_whose_reply_is_lost(redis: Redis, proxy: MakeProxy, kind: str) -> None:
    """The receipt tells the refusal too."""
    between = await proxy()
    async with asyncio.timeout(PATIENCE), Client(between.url) as client:
        await client.enqueue(Task("work"), task_id="a")
        fault = getattr(between, kind)(ENQUEUE)
        with pytest.raises(TaskIDConflictError):
            await client.enqueue(Task("work"), task_id="a")
        assert fault.fired == 1
        fault = getattr(between, kind)(ENQUEUE)
        answers = await client.enqueue_many([Task("work", task_id=name) for name in ("b", "a", "c", "b")])
        assert fault.fired == 1
    assert [type(answer) for answer in answers] == [TaskInfo, TaskIDConflictError, TaskInfo, TaskIDConflictError]
    assert await pending(redis) == ["a", "b", "c"]


async def test_a_lone_one_that_was_cancelled_under_way_stands(redis: Redis, proxy: MakeProxy) -> None:
    between = await proxy()
    async with asyncio.timeout(PATIENCE), Client(between.url, operation_timeout=10) as client:
        await client.enqueue(Task("work"), task_id="first")
        fault = between.cut_before(ENQUEUE)
        sent = asyncio.create_task(client.enqueue(Task("work"), task_id="sent"))
        await asyncio.sleep(0)
        waits = asyncio.create_task(client.enqueue(Task("work"), task_id="waits"))
        stays = asyncio.create_task(client.enqueue(Task("work"), task_id="stays"))
        await asyncio.sleep(0)
        sent.cancel()
        waits.cancel()
        ended = await asyncio.gather(sent, waits, return_exceptions=True)
        assert [type(end) for end in ended] == [asyncio.CancelledError] * 2
        await stays
        assert fault.fired == 1  # what nobody waits for is repeated all the same
    assert await pending(redis) == ["first", "sent", "stays"]


async def test_a_bulk_that_was_cancelled_withdraws_what_was_not_sent(redis: Redis, proxy: MakeProxy) -> None:
    between = await proxy()
    async with asyncio.timeout(PATIENCE), Client(between.url, operation_timeout=10) as client:
        await client.enqueue(Task("work"), task_id="first")
        between.black_hole()
        bulk = asyncio.create_task(client.enqueue_many([Task("work", task_id=str(n)) for n in range(1000)]))
        await asyncio.sleep(0)
        bulk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await bulk
        between.resume()
        await client.enqueue(Task("work"), task_id="last")
    sent = 1000 // batcher.CALLS  # the others were still to be handed over
    assert await pending(redis) == ["first", *map(str, range(sent)), "last"]


@pytest.mark.no_cluster("a key is renamed into another slot")
async def test_an_error_of_one_call_is_not_the_next_ones(redis: Redis, redis_url: str) -> None:
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue(Task("work"), task_id="first")
        await redis.rename(keys.pending("default"), "aside")
        await redis.set(keys.pending("default"), "no list")
        with pytest.raises(BrokerError, match="WRONGTYPE") as caught:
            await client.enqueue(Task("work"), task_id="wrong")
        assert not caught.value.maybe_done
        [error] = await client.enqueue_many([Task("work")])
        assert isinstance(error, BrokerError)
        await redis.rename("aside", keys.pending("default"))
        await client.enqueue(Task("work"), task_id="right")
    assert await pending(redis) == ["first", "right"]


@pytest.mark.no_cluster("receipts are looked for on one server")
async def test_a_lane_has_another_name_after_a_minute(redis: Redis, redis_url: str, monkeypatch) -> None:
    """Redis knows a caller that stores tasks for two minutes from its first call."""
    places = keys.receipt("default", "*")
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        for n in range(3):
            await client.enqueue(Task("work"), task_id=f"before {n}")
        [name] = await redis.keys(places)
        assert await redis.get(name) == b"3"
        monkeypatch.setattr(receipts, "STORING_CALLER", 0.0)
        [lane] = client._batcher._lanes.values()  # type: ignore[union-attr]
        for own in lane.free:
            own._end = 0.0
        for n in range(3):
            await client.enqueue(Task("work"), task_id=f"after {n}")
        counts = [int(count or 0) for count in await redis.mget(await redis.keys(places))]
        assert sorted(counts) == [1, 1, 1, 3]


async def test_a_number_too_large_for_the_wire_is_the_callers(redis: Redis, redis_url: str) -> None:
    """What cannot be encoded is told to whom it concerns, and the client goes on."""
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        assert client._batcher is not None
        task = Task("work")
        task.type = None  # type: ignore[assignment]
        with pytest.raises(TypeError):
            await client.enqueue(task)
        await client.enqueue(Task("work"), task_id="right")
    assert await pending(redis) == ["right"]


async def test_a_client_that_is_given_up_leaves_nobody_waiting(redis: Redis, proxy: MakeProxy) -> None:
    between = await proxy()
    client = Client(between.url, operation_timeout=10)
    async with asyncio.timeout(PATIENCE):
        await client.enqueue(Task("work"), task_id="first")
        between.black_hole()
        enqueues = [asyncio.create_task(client.enqueue(Task("work"), task_id=str(n))) for n in range(3)]
        await asyncio.sleep(0)
        client._rdb.abort()
        answers = await asyncio.gather(*enqueues, return_exceptions=True)
        assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 3
        between.resume()
        await client.aclose()


# ── several queues ──


async def enqueue_to_all(client: Client, ids: range) -> list[TaskInfo | BaseException]:
    """One of these ids into each queue after the other, all at once."""
    return await asyncio.gather(
        *(client.enqueue(Task("work"), task_id=str(n), queue=QUEUES[n % len(QUEUES)]) for n in ids),
        return_exceptions=True,
    )


@pytest.mark.no_cluster("each queue is a call of its own there")
async def test_tasks_of_several_queues_share_calls(redis: Redis, redis_url: str) -> None:
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await enqueue_to_all(client, range(9))  # the queues are named, and the lone first one has gone
        before = await calls(redis)
        infos = await enqueue_to_all(client, range(9, 30))
        assert await calls(redis) - before == 1
        assert [(info.id, info.queue) for info in infos if isinstance(info, TaskInfo)] == [
            (str(n), QUEUES[n % 3]) for n in range(9, 30)
        ]
    for n, queue in enumerate(QUEUES):
        assert await pending(redis, queue) == [str(each) for each in range(n, 30, 3)]


async def test_an_id_that_is_taken_in_one_of_several_queues(redis: Redis, redis_url: str) -> None:
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue(Task("work", queue="b"), task_id="x")
        tasks = [("a", "x"), ("b", "x"), ("c", "x"), ("c", "x"), ("a", "y")]
        answers = await client.enqueue_many([Task("work", queue=queue, task_id=name) for queue, name in tasks])
        assert [type(answer) for answer in answers] == [
            TaskInfo, TaskIDConflictError, TaskInfo, TaskIDConflictError, TaskInfo,
        ]  # fmt: skip
        assert [
            (refused.queue, refused.task_id) for refused in answers if isinstance(refused, TaskIDConflictError)
        ] == [
            ("b", "x"),
            ("c", "x"),
        ]
    assert [await pending(redis, queue) for queue in QUEUES] == [["x", "y"], ["x"], ["x"]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_connection_breaks_under_calls_of_several_queues(
    redis: Redis, proxy: MakeProxy, kind: str, nth: int
) -> None:
    between = await proxy()
    async with asyncio.timeout(PATIENCE), Client(between.url) as client:
        await enqueue_to_all(client, range(9))
        fault = getattr(between, kind)(ENQUEUE_SEVERAL, nth=nth)
        infos = await enqueue_to_all(client, range(9, 99))
        assert fault.fired == 1
    assert all(isinstance(info, TaskInfo) for info in infos)
    for n, queue in enumerate(QUEUES):
        assert sorted(await pending(redis, queue)) == sorted(str(each) for each in range(n, 99, 3))


@pytest.mark.parametrize("kind", KINDS)
async def test_one_of_several_queues_is_none_and_the_reply_is_lost(redis: Redis, proxy: MakeProxy, kind: str) -> None:
    """Its tasks are told what Redis says of it, the others are stored; also by a repeat."""
    between = await proxy()
    await redis.set(keys.pending("b"), "no list")
    async with asyncio.timeout(PATIENCE), Client(between.url) as client:
        await client.enqueue(Task("work", queue="a"), task_id="first")
        fault = getattr(between, kind)(ENQUEUE_SEVERAL)
        answers = await client.enqueue_many(
            [Task("work", queue=queue, task_id=name) for name in ("1", "2", "1") for queue in QUEUES]
        )
        assert fault.fired == 1
    refused = [answer for answer in answers if isinstance(answer, BrokerError)]
    assert len(refused) == 3
    assert all("enqueue failed" in str(error) and "WRONGTYPE" in str(error) for error in refused)
    assert not any(error.maybe_done for error in refused)
    assert [type(answers[place]) for place in (6, 8)] == [TaskIDConflictError] * 2
    assert [await pending(redis, queue) for queue in ("a", "c")] == [["first", "1", "2"], ["1", "2"]]
    assert await redis.keys(keys.task_prefix("b") + "*") == []


@pytest.mark.one_server("rights are given on one")
async def test_a_user_who_may_not_use_one_of_several_queues(redis: Redis, redis_url: str) -> None:
    """Others' tasks are stored, also in the same turn, and from then on each queue goes alone."""
    rights = ["+@all", "-@dangerous", "~asynq:{a}:*", "~asynq:{c}:*", "~asynq:queues"]
    await redis.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "resetkeys", *rights)
    try:
        url = redis_url.replace("redis://", "redis://limited:secret@")
        async with asyncio.timeout(PATIENCE), Client(url) as client:
            for start in (0, 30):
                answers = await enqueue_to_all(client, range(start, start + 30))
                for n, answer in enumerate(answers):
                    assert isinstance(answer, BrokerRefusedError if QUEUES[n % 3] == "b" else TaskInfo)
    finally:
        await redis.execute_command("ACL", "DELUSER", "limited")
    for n, queue in enumerate(QUEUES):
        ids = [str(each) for each in range(n, 60, 3)] if queue != "b" else []
        assert sorted(await pending(redis, queue)) == sorted(ids)


@pytest.mark.no_cluster("each queue is a call of its own there")
async def test_the_queues_of_a_call_are_named_together(redis: Redis, redis_url: str) -> None:
    queues = [f"q{number}" for number in range(200)]
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue(Task("work", queue="lone"))
        await redis.config_resetstat()
        infos = await client.enqueue_many([Task("work", queue=queue) for queue in queues])
        assert all(isinstance(info, TaskInfo) for info in infos)
        assert await summed(redis, "commandstats", "cmdstat_sadd") <= len(queues) // batcher.FULL + 1  # as calls
    assert await redis.smembers(keys.queues()) == {b"lone", *(queue.encode() for queue in queues)}


@pytest.mark.no_cluster("each queue is a call of its own there")
async def test_a_call_that_waits_for_a_name_is_answered_whatever_becomes_of_others(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(PATIENCE), RDB(redis_url) as rdb:
        register = rdb._register

        async def register_and_close(*queues: str) -> None:
            await register(*queues)
            rdb._closed = True  # as aclose() does, while the name is on its way

        monkeypatch.setattr(rdb, "_register", register_and_close)
        answers: list[asyncio.Future[object]] = [asyncio.get_running_loop().create_future() for _ in range(3)]
        for number, queues in enumerate(["a", "ab", "a"]):
            msgs = [message(f"{number}", queue) for queue in queues]
            operation = "enqueue_several" if len(queues) > 1 else "enqueue"
            rdb.start_to(operation, msgs, Receipt(f"{number}", 1), answers[number].set_result)
        first, second, third = await asyncio.gather(*answers)
        rdb._closed = False
    assert (first, third) == ([None], [None])
    assert isinstance(second, BrokerError)
    assert "closed" in str(second)


async def test_one_of_several_queues_cannot_be_named(redis: Redis, proxy: MakeProxy) -> None:
    """Calls wait until all of their queues are named, behind those that came before."""
    between = await proxy()
    async with asyncio.timeout(PATIENCE), Client(between.url) as client:
        fault = between.cut_before(lambda command: command[0] == b"SADD" and command[2] == b"b")
        infos = await enqueue_to_all(client, range(30))
        assert fault.fired == 1
        assert all(isinstance(info, TaskInfo) for info in infos)
    assert await redis.smembers(keys.queues()) == {b"a", b"b", b"c"}
    for n, queue in enumerate(QUEUES):
        assert sorted(await pending(redis, queue)) == sorted(str(each) for each in range(n, 30, 3))


@pytest.mark.no_cluster("each queue is a call of its own there")
async def test_a_queue_may_have_several_runs_in_a_call(redis: Redis, redis_url: str) -> None:
    """The batcher puts them side by side; whoever does not gets the same answers, if a little later."""
    await redis.set(keys.pending("b"), "no list")
    tasks = [("1", "a"), ("1", "b"), ("2", "a"), ("1", "b"), ("1", "a"), ("3", "a")]
    async with asyncio.timeout(PATIENCE), RDB(redis_url) as rdb:
        for number, again in ((1, False), (1, True), (2, False)):
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            msgs = [message(task_id, queue) for task_id, queue in tasks]
            rdb.start_to("enqueue_several", msgs, Receipt("me", number), answer.set_result)
            told = [type(each) for each in await answer]
            stored = type(None) if number == 1 else TaskIDConflictError
            assert told == [stored, AloneError, stored, AloneError, TaskIDConflictError, stored], (number, again)
    assert await pending(redis, "a") == ["1", "2", "3"]
    assert await redis.keys(keys.task_prefix("b") + "*") == []


@pytest.mark.no_cluster("there it is a call like any other")
async def test_a_lone_one_is_tried_for_as_long_as_any_call(proxy: MakeProxy) -> None:
    """Its limit counts from when it was made, although what it takes to repeat it is made later."""
    between = await proxy()
    async with asyncio.timeout(PATIENCE), RDB(between.url, operation_timeout=0.5) as rdb:
        assert await rdb.enqueue([message("first", "a")]) == [None]
        await rdb.ping()
        between.cut_before(ENQUEUE, times=None)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        rdb.start_one(message("second", "a"), Receipt("me", 1), answer.set_result, asyncio.get_running_loop().time())
        failed = await answer
    assert isinstance(failed, BrokerError)
    assert failed.maybe_done


async def test_the_loop_is_kept_awake_for_a_lone_enqueue_only(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = 0
    begin = BusyPoll.begin

    def count(self: BusyPoll, call: object) -> None:
        nonlocal begun
        begun += 1
        begin(self, call)

    monkeypatch.setattr(BusyPoll, "begin", count)
    async with Client(redis_url) as client:
        for _ in range(4):
            await client.enqueue(Task("t"))
        assert begun == 4
        await asyncio.gather(*(client.enqueue(Task("t")) for _ in range(20)))
        assert begun == 5, "the first of them is alone yet"
        await asyncio.gather(*(client.enqueue(Task("t")) for _ in range(20)))
        await client.enqueue_many([Task("t")] * 50)
        assert begun == 5
