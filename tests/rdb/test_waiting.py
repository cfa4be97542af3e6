"""The connection on which an idle server waits."""

from __future__ import annotations

import asyncio
import math

import pytest

from aioasynq import keys
from aioasynq.errors import BrokerError
from aioasynq.rdb.receipts import Receipt
from aioasynq.rdb.waiting import Ride, WaitingConnection
from tests.support.build import LEASE, NOW, NOW_NS, OWNER, QUEUE, held, message
from tests.support.state import State, assert_states

TAKEN = State(active=["a"], lease={"a": LEASE})


def ride(number: int = 1) -> Ride:
    return Ride(OWNER, 15, Receipt("waiter", number))


@pytest.fixture
async def waiting(rdb):
    connection = WaitingConnection(rdb, QUEUE)
    yield connection
    await connection.close()


async def begun(waiting, *args):
    """A wait that blocks in Redis by now."""
    task = asyncio.create_task(waiting.wait(*args))
    client = waiting._rdb.client
    async with asyncio.timeout(5):
        while True:
            options = {} if waiting._node is None else {"target_nodes": waiting._node}
            info = await client.execute_command("INFO", "clients", **options) if waiting._waiting else {}
            info = info if "blocked_clients" in info else next(iter(info.values()), {})
            if int(info.get("blocked_clients", 0)):
                return task
            await asyncio.sleep(0.005)


async def test_a_task_that_is_there_ends_the_wait_and_stays(waiting, redis_target):
    state = State(pending=["a", "b"])
    await state.write(redis_target, QUEUE)
    assert await waiting.wait(5) == (True, None)
    assert await waiting.wait(5) == (True, None)
    await assert_states(redis_target, {QUEUE: state})


async def test_no_task_in_time(waiting, redis_target):
    assert await waiting.wait(0.05) == (False, None)
    assert [key async for key in redis_target.scan_iter()] == []


async def test_a_ride_takes_one_task(waiting, rdb, redis_target):
    await rdb.dequeue(QUEUE, owner="so that Redis knows the script")
    await State(pending=["a", "b"]).write(redis_target, QUEUE)
    was_there, batch = await waiting.wait(5, ride())
    assert was_there
    assert batch is not None
    assert (batch.tasks, batch.broken, batch.strays, batch.dry) == ([held("a")], [], [], False)
    await assert_states(redis_target, {QUEUE: State(pending=["b"], active=["a"], lease={"a": LEASE})})


async def test_a_task_that_comes_ends_the_wait_and_is_taken(waiting, rdb, redis_target):
    await rdb.dequeue(QUEUE, owner="so that Redis knows the script")
    wait = await begun(waiting, 5, ride())
    await rdb.enqueue([message("a")])
    async with asyncio.timeout(2):
        was_there, batch = await wait
    assert was_there
    assert batch is not None
    assert batch.tasks == [held("a")]
    await assert_states(redis_target, {QUEUE: TAKEN})


@pytest.mark.parametrize(
    ("state", "due"),
    [
        (State(), math.inf),
        (State(active=["a"], lease={"a": LEASE}, archived={"b": NOW}, completed={"c": NOW}), math.inf),
        (State(scheduled={"a": NOW + 2.5, "b": NOW + 60}, retry={"c": NOW + 9}), 2.5),
        (State(scheduled={"a": NOW + 60}, retry={"c": NOW + 0.25, "d": NOW + 9}), 0.25),
        (State(retry={"c": NOW - 1}), -1.0),
        (State(scheduled={"a": NOW + 60}, paused=True), None),
        (State(pending=["p"], scheduled={"a": NOW + 60}), None),
        (State(pending=["p"], tasks={"p": None}, scheduled={"a": NOW + 60}), None),
    ],
    ids=["nothing", "none waits", "scheduled", "retry", "late", "paused", "a task came", "a stray came"],
)
async def test_a_ride_that_takes_nothing_tells_what_is_due(waiting, rdb, redis_target, state, due):
    await rdb.dequeue(QUEUE, owner="so that Redis knows the script")
    await state.write(redis_target, QUEUE)
    _, batch = await waiting.wait(0.05, ride())
    assert batch is not None
    assert batch.due == due
    assert (await rdb.dequeue(QUEUE, owner="another")).due is None


@pytest.mark.parametrize("place", [keys.scheduled(QUEUE), keys.retry(QUEUE)], ids=["scheduled", "retry"])
async def test_a_ride_takes_a_task_whatever_is_wrong_with_what_is_due(waiting, rdb, redis_target, place):
    await rdb.dequeue(QUEUE, owner="so that Redis knows the script")
    await redis_target.set(place, "junk")
    _, batch = await waiting.wait(0.05, ride(1))
    assert batch is not None
    assert batch.due is None
    await rdb.enqueue([message("a")])
    _, batch = await waiting.wait(5, ride(2))
    assert batch is not None
    assert batch.tasks == [held("a")]


async def test_a_ride_that_took_nothing_may_be_made_again_as_it_was(waiting, rdb, redis_target):
    await rdb.dequeue(QUEUE, owner="so that Redis knows the script")
    for seconds in (0.05, 0.05):
        assert (await waiting.wait(seconds, ride()))[1] is not None
        assert [key async for key in redis_target.scan_iter()] == []
    wait = await begun(waiting, 5, ride())
    await rdb.enqueue([message("a"), message("b")])
    async with asyncio.timeout(2):
        _, batch = await wait
    assert batch is not None
    assert batch.tasks == [held("a")]
    again = await rdb.dequeue(QUEUE, count=1, owner=OWNER, receipt=ride().receipt, again=True)
    assert again == batch, "its receipt tells of the task it took"
    left = State(pending=["b"], tasks={"b": {"pending_since": NOW_NS}}, active=["a"], lease={"a": LEASE})
    await assert_states(redis_target, {QUEUE: left})


async def test_what_is_asked_next_is_not_what_was_asked_before(waiting, rdb, redis_target):
    await rdb.dequeue(QUEUE, owner="so that Redis knows the script")
    await State(pending=["a", "b", "c"]).write(redis_target, QUEUE)
    assert await waiting.wait(5) == (True, None)
    for number, task_id in enumerate("abc", start=1):
        _, batch = await waiting.wait(5, ride(number))
        assert batch is not None
        assert batch.tasks == [held(task_id)]
    assert await waiting.wait(0.05) == (False, None)


async def test_a_repeat_of_a_ride_brings_its_task(waiting, rdb, redis_target):
    await rdb.dequeue(QUEUE, owner="so that Redis knows the script")
    await State(pending=["a", "b"]).write(redis_target, QUEUE)
    _, batch = await waiting.wait(5, ride())
    again = await rdb.dequeue(QUEUE, count=1, owner=OWNER, receipt=ride().receipt, again=True)
    assert again == batch


async def test_a_ride_takes_nothing_when_redis_has_forgotten_the_script(waiting, rdb, redis_target):
    for node in [None] if not hasattr(redis_target, "get_primaries") else redis_target.get_primaries():
        await redis_target.execute_command("SCRIPT FLUSH", **({} if node is None else {"target_nodes": node}))
    assert await waiting.wait(0.05, ride()) == (True, None), "whoever asks next brings the script"
    await rdb.enqueue([message("a")])
    assert await waiting.wait(5, ride(2)) == (True, None)
    await assert_states(redis_target, {QUEUE: State(pending=["a"], tasks={"a": {"pending_since": NOW_NS}})})


async def test_a_wait_is_ended(waiting, rdb, redis_target):
    await rdb.dequeue(QUEUE, owner="so that Redis knows the script")
    wait = await begun(waiting, 30, ride())
    async with asyncio.timeout(2):
        await waiting.unblock()
        was_there, batch = await wait
    assert not was_there
    assert batch is not None
    assert (batch.tasks, batch.dry) == ([], True)
    assert await waiting.wait(0.05) == (False, None)  # the same connection again


async def test_a_wait_that_is_not_under_way_is_not_ended(waiting):
    await waiting.unblock()
    assert waiting.may_unblock


async def test_a_list_that_is_none_is_an_error(waiting, redis_target):
    await redis_target.set(keys.pending(QUEUE), "junk")
    with pytest.raises(BrokerError, match=r"waiting for tasks of 'q' failed on .*WRONGTYPE"):
        await waiting.wait(5)
    await redis_target.delete(keys.pending(QUEUE))
    assert await waiting.wait(0.05) == (False, None)


async def test_a_cancelled_wait_leaves_a_connection_that_works(waiting, rdb):
    wait = await begun(waiting, 30)
    wait.cancel()
    await asyncio.wait({wait})
    assert wait.cancelled()
    await rdb.enqueue([message("a")])
    assert await waiting.wait(5) == (True, None)
