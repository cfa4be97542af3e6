"""A Redis whose memory is full can still be worked empty, and says so to whoever wants to put something in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import keys
from aioasynq.errors import BrokerError
from aioasynq.rdb.lifecycle import Completed, Failed, Killed
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.receipts import Receipt
from aioasynq.rdb.storing import Scheduled, Unique
from tests.support.build import (
    IN_A_MINUTE,
    LEASE,
    NOW,
    NOW_NS,
    NOW_S,
    OWNER,
    QUEUE,
    Clock,
    counted,
    held,
    message,
    unique,
)
from tests.support.state import State, assert_states

FAILED: dict[str, Any] = {"error_msg": "boom", "last_failed_at": NOW_S}
ACTIVE = State(active=["a"], lease={"a": LEASE})

PASSES: dict[str, tuple[State, Callable[[RDB], Awaitable[object]], State]] = {
    "dequeue": (State(pending=["a"]), lambda rdb: rdb.dequeue(QUEUE, owner=OWNER), ACTIVE),
    "dequeue of strays": (
        State(pending=["a"], tasks={"a": None}),
        lambda rdb: rdb.dequeue(QUEUE, owner=OWNER),
        State(),
    ),
    "a repeated dequeue of nothing": (State(), lambda rdb: rdb.dequeue(QUEUE, owner=OWNER, again=True), State()),
    "a repeated dequeue of a paused queue": (
        State(pending=["a"], paused=True),
        lambda rdb: rdb.dequeue(QUEUE, owner=OWNER, again=True),
        State(pending=["a"], paused=True),
    ),
    "done": (ACTIVE, lambda rdb: rdb.done([held("a")]), State(counters=counted(1))),
    "mark_as_complete": (
        ACTIVE,
        lambda rdb: rdb.mark_as_complete([Completed(held("a"), b"result")]),
        State(
            completed={"a": NOW_S},
            tasks={"a": {"msg": message("a", completed_at=NOW_S), "result": "result"}},
            counters=counted(1),
        ),
    ),
    "requeue": (ACTIVE, lambda rdb: rdb.requeue([held("a")]), State(pending=["a"])),
    "retry": (
        ACTIVE,
        lambda rdb: rdb.retry([Failed(held("a"), 60, "boom")]),
        State(
            retry={"a": IN_A_MINUTE}, tasks={"a": {"msg": message("a", retried=1, **FAILED)}}, counters=counted(1, 1)
        ),
    ),
    "kill": (
        ACTIVE,
        lambda rdb: rdb.kill([Killed(held("a"), "boom")]),
        State(archived={"a": NOW_S}, tasks={"a": {"msg": message("a", **FAILED)}}, counters=counted(1, 1)),
    ),
    "check_and_enqueue": (
        State(scheduled={"a": NOW}, retry={"b": NOW}, tasks={"b": {"group": "g"}}),
        lambda rdb: rdb.check_and_enqueue(QUEUE),
        State(
            pending=["a"],
            groups={"g": {"b": NOW_S}},
            tasks={"a": {"pending_since": NOW_NS}, "b": {"msg": message("b")}},
        ),
    ),
    "extend_lease": (
        State(active=["a"], lease={"a": NOW + 1.5}),
        lambda rdb: rdb.extend_lease([held("a")]),
        ACTIVE,
    ),
    "repair": (
        State(active=["a"]),
        lambda rdb: rdb.repair(QUEUE),
        State(active=["a"], lease={"a": NOW}, tasks={"a": {"owner": None}}),
    ),
    "restore_unfinished": (
        State(active=["a"]),
        lambda rdb: rdb.restore_unfinished(QUEUE),
        State(pending=["a"]),
    ),
    "delete_expired_completed": (
        State(completed={"a": NOW}),
        lambda rdb: rdb.delete_expired_completed(QUEUE),
        State(),
    ),
}

REFUSED: dict[str, Callable[[RDB], Awaitable[object]]] = {
    "enqueue": lambda rdb: rdb.enqueue([message("b")]),
    "enqueue_unique": lambda rdb: rdb.enqueue_unique([Unique(unique("b"), 60)]),
    "schedule": lambda rdb: rdb.schedule([Scheduled(message("b"), "+1")]),
    "add_to_group": lambda rdb: rdb.add_to_group([message("b", group_key="g")]),
}


@pytest.fixture(scope="module")
def full_server(server_program):
    """A server whose memory is filled by ``fill``."""
    from aioasynq.devserver import DevServer

    with DevServer(server_program, config={"maxmemory-policy": "noeviction"}) as server:
        yield server


@pytest.fixture
async def client(full_server):
    async with Redis.from_url(full_server.url) as client:
        await client.config_set("maxmemory", 0)
        await client.flushall()
        yield client


@pytest.fixture
async def rdb(client):
    async with RDB(client, clock=Clock()) as rdb:
        yield rdb


async def fill(client: Redis) -> None:
    await client.config_set("maxmemory", 1)


@pytest.mark.parametrize(("before", "call", "after"), PASSES.values(), ids=PASSES)
async def test_what_passes(client, rdb, before, call, after):
    await before.write(client, QUEUE)
    await fill(client)
    await call(rdb)
    await assert_states(client, {QUEUE: after})


@pytest.mark.parametrize("known", [False, True], ids=["a new queue", "a known queue"])
@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
async def test_what_is_refused_writes_nothing(client, rdb, call, known):
    before = State()
    if known:
        await rdb.enqueue([message("a")])
        before = State(pending=["a"], tasks={"a": {"pending_since": NOW_NS}})
    await fill(client)
    with pytest.raises(BrokerError, match=r"(?i)(OOM|used memory > 'maxmemory')") as caught:
        await call(rdb)
    assert not caught.value.maybe_done
    await assert_states(client, {QUEUE: before})


async def test_a_write_that_was_refused_may_be_repeated_once_there_is_room(client, rdb):
    await rdb.enqueue([message("a")])
    await fill(client)
    receipt = Receipt("caller", 1)
    with pytest.raises(BrokerError):
        await rdb.enqueue([message("b")], receipt=receipt)
    await client.config_set("maxmemory", 0)
    assert await rdb.enqueue([message("b")], receipt=receipt) == [None]
    assert await client.llen(keys.pending(QUEUE)) == 2
