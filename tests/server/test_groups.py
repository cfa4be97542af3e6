"""A server that aggregates groups."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import Client, ServeMux, Server, Task, keys
from aioasynq.mux import Aggregator
from tests.server.stage import PATIENCE, Seen, Stage, assert_in_order, eventually, places

OPTIONS: dict[str, Any] = {"group_grace_period": 1.0, "group_max_size": 3}


class Groups(Stage):
    """A stage whose mux joins payloads to a task ``work``."""

    def __init__(self, aggregator: Aggregator | None = None) -> None:
        super().__init__()
        self.joined = Seen()  #: (group, payloads)
        self.mux.aggregator(aggregator or self._join)

    async def _join(self, group: str, tasks: list[Task]) -> Task:
        self.joined.add((group, [task.payload for task in tasks]))
        return Task("work", b" ".join(task.payload for task in tasks))


async def put(client: Client, group: str, *payloads: str, **options: Any) -> None:
    """Put tasks into a group; their ids are their payloads, and so their order."""
    await client.enqueue_many(
        [Task("part", payload, task_id=f"{group}-{payload}") for payload in payloads], group=group, **options
    )


@pytest.mark.rows(130)
async def test_groups_become_tasks(redis: Redis, redis_url: str) -> None:
    """Row 130: as soon as there are enough of them, and when no more come; what is left of a group waits."""
    stage = Groups()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, Server(redis_url, stage.mux, **OPTIONS):
        await put(client, "a", "1", "2", "3", "4", unique=60)
        await put(client, "b:c", "5", process_in=0.3)
        await put(client, "b:c", "6", process_in=0.3, unique=60)
        joined = await stage.joined.until(3)
        await stage.ended.until(3)
        await eventually(lambda: _empty(redis))
        assert sorted(joined) == [("a", [b"1", b"2", b"3"]), ("a", [b"4"]), ("b:c", [b"5", b"6"])]
        await put(client, "a", "1", unique=60)  # the locks are free
    assert await redis.smembers(keys.groups("default")) == {b"a"}


async def _empty(redis: Redis) -> bool:
    return await places(redis) == {} and not await redis.exists(keys.aggregation_sets("default"))


@pytest.mark.rows(130)
async def test_the_longest_delay(redis_url: str) -> None:
    """More keep coming, so the group would never be quiet."""
    stage = Groups()
    server = Server(redis_url, stage.mux, group_grace_period={"default": 3600}, group_max_delay=1)
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        n = 0
        while not stage.joined.all:
            await put(client, "a", f"{n:03}")
            n += 1
            await asyncio.sleep(0.05)  # the pace of those who enqueue
    assert stage.joined.all[0][1][0] == b"000"


async def test_a_plain_function_runs_in_a_thread(redis_url: str) -> None:
    names: list[str] = []

    def join(group: str, tasks: list[Task]) -> Task:
        names.append(threading.current_thread().name)
        return Task("work", f"{group} {len(tasks)}", task_id="made")

    stage = Groups(join)
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, Server(redis_url, stage.mux, **OPTIONS):
        await put(client, "a", "1", "2", "3")
        assert await stage.ended.until(1) == ["made"]
    assert [name.rpartition("_")[0] for name in names] == ["aioasynq-handler"]


async def test_one_queue_has_an_aggregator_of_its_own(redis: Redis, redis_url: str) -> None:
    stage = Stage()
    mux = stage.mux

    @mux.aggregator(queue="mail")
    async def mail(group: str, tasks: list[Task]) -> Task:
        return Task("work", task_id=f"mail of {group}: {len(tasks)}")

    server = Server(redis_url, mux, queues=["mail", "other"], group_grace_period=1)
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        for queue in ("other", "mail"):
            await client.enqueue(Task("part"), queue=queue, group="g")
        assert await stage.ended.until(1) == ["mail of g: 1"]
    assert await redis.zcard(keys.group("other", "g")) == 1


def _fails(_group: str, _tasks: list[Task]) -> Task:
    raise ValueError("not today")


def _makes_nothing(_group: str, _tasks: list[Task]) -> Any:
    return None


def _makes_what_is_there(_group: str, _tasks: list[Task]) -> Task:
    return Task("work", task_id="there")


@pytest.mark.parametrize(
    ("aggregator", "said"),
    [
        (_fails, "the aggregator failed for group 'a' of queue default"),
        (_makes_nothing, "the aggregator failed for group 'a' of queue default"),
        (_makes_what_is_there, "the task made of group 'a' of queue default is refused"),
    ],
)
async def test_an_aggregator_that_fails_loses_nothing(
    redis: Redis, redis_url: str, caplog: pytest.LogCaptureFixture, aggregator: Aggregator, said: str
) -> None:
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue(Task("work"), task_id="there", process_in=3600)
        async with Server(redis_url, Groups(aggregator).mux, **OPTIONS):
            await put(client, "a", "1", "2", "3", unique=60)
            await eventually(lambda: any(said in record.getMessage() for record in caplog.records))
        found: Any = await redis.zrange(keys.aggregation_sets("default"), 0, -1, withscores=True)
        [(apart, deadline)] = found
        assert await redis.zrange(apart, 0, -1) == [b"a-1", b"a-2", b"a-3"]
        assert all([await redis.exists(keys.task("default", f"a-{n}")) for n in (1, 2, 3)])
        # two minutes later
        await redis.zadd(keys.aggregation_sets("default"), {apart: deadline - 121})
        stage = Groups()
        async with Server(redis_url, stage.mux, **OPTIONS):
            assert await stage.joined.until(1) == [("a", [b"1", b"2", b"3"])]
            await stage.ended.until(1)


async def test_at_the_end_the_tasks_go_back_to_their_group(redis: Redis, redis_url: str) -> None:
    begun = Seen()

    async def slow(group: str, tasks: list[Task]) -> Task:
        begun.add(group)
        await asyncio.Event().wait()
        return tasks[0]

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        async with Server(redis_url, Groups(slow).mux, **OPTIONS):
            await put(client, "a", "1", "2", "3")
            await begun.until(1)
        assert (await assert_in_order(redis))["groups"] == ["a-1", "a-2", "a-3"]
        assert not await redis.exists(keys.aggregation_sets("default"))


async def test_two_servers_make_each_task_part_of_one(redis: Redis, redis_url: str) -> None:
    stage = Groups()
    one, other = (Server(redis_url, stage.mux, **OPTIONS) for _ in range(2))
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, one, other:
        for group in ("a", "b"):
            await put(client, group, *(f"{n:03}" for n in range(200)))
        await stage.joined.until(lambda all_: sum(len(payloads) for _, payloads in all_) >= 400)
        await eventually(lambda: _empty(redis))
    seen = sorted((group, payload) for group, payloads in stage.joined.all for payload in payloads)
    assert seen == sorted((group, f"{n:03}".encode()) for group in ("a", "b") for n in range(200))


async def test_an_entry_that_is_no_message_is_in_nobodys_way(
    redis: Redis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Groups()
    await redis.hset(keys.task("default", "bad"), mapping={"msg": b"\xff", "state": "aggregating", "group": "a"})
    await redis.zadd(keys.group("default", "a"), {"bad": 1, "without a task": 2})
    server = Server(redis_url, stage.mux, **OPTIONS)
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await put(client, "a", "1")
        assert await stage.joined.until(1) == [("a", [b"1"])]
        await eventually(lambda: server.counts.undecodable == 1)
    assert await redis.zrange(keys.archived("default"), 0, -1) == [b"bad"]
    assert any("task bad of group 'a'" in record.getMessage() for record in caplog.records)


async def test_a_server_without_an_aggregator_leaves_groups_alone(redis: Redis, redis_url: str) -> None:
    stage = Stage()
    server = Server(redis_url, stage.mux, group_grace_period=1, group_max_size=1)
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await put(client, "a", "1")
        await client.enqueue(Task("work"))
        await stage.ended.until(1)
    assert await redis.zcard(keys.group("default", "a")) == 1


WRONG: dict[str, tuple[Callable[[Any], object], type[Exception]]] = {
    "an aggregator must be a function of the name of a group": (lambda mux: mux.aggregator(3), TypeError),
    "too many positional arguments": (lambda mux: mux.aggregator(lambda: None), TypeError),
    "queue must contain": (lambda mux: mux.aggregator(queue=""), ValueError),
    "all groups have an aggregator already": (
        lambda mux: (mux.aggregator(_fails), mux.aggregator(_fails)),
        ValueError,
    ),
    "the groups of queue 'q' have an aggregator already": (
        lambda mux: (mux.aggregator(queue="q")(_fails), mux.aggregator(queue="q")(_fails)),
        ValueError,
    ),
    "group_grace_period must be at least 1, got 0.5": (lambda _: _server(group_grace_period=0.5), ValueError),
    "group_max_delay must be at least 0, got -1": (lambda _: _server(group_max_delay=-1), ValueError),
    r"group_max_delay\['default'\] must be at least 0": (
        lambda _: _server(group_max_delay={"default": -1}),
        ValueError,
    ),
    "group_max_size must be": (lambda _: _server(group_max_size=-1), ValueError),
    "group_max_size must be .* 2.5": (lambda _: _server(group_max_size=2.5), TypeError),
    "group_max_size names queue 'q', which this server does not serve: default": (
        lambda _: _server(group_max_size={"q": 1}),
        ValueError,
    ),
}


def _server(**options: Any) -> Server:
    return Server(**options)


@pytest.mark.parametrize(("text", "does", "error"), [(text, *row) for text, row in WRONG.items()])
def test_what_is_wrong_is_named(text: str, does: Callable[[ServeMux], object], error: type[Exception]) -> None:
    with pytest.raises(error, match=text):
        does(ServeMux())
