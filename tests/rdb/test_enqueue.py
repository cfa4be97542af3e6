"""Into a queue: enqueue, schedule, add_to_group, each with and without a uniqueness lock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from aioasynq import keys
from aioasynq.errors import BrokerError, DuplicateTaskError, TaskError, TaskIDConflictError
from aioasynq.rdb import storing
from aioasynq.rdb.base import MAX_BATCH
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.receipts import Receipt
from aioasynq.rdb.storing import Scheduled, ScheduledUnique, Unique
from tests.support.build import IN_A_MINUTE, LOCK, NOW, NOW_NS, NOW_S, QUEUE, message, unique
from tests.support.state import State, assert_states, write_all


class Row(NamedTuple):
    before: State
    call: Callable[[RDB], Awaitable[list[TaskError | None]]]
    answers: list[type[TaskError] | None]
    after: State


STORED = {"pending_since": NOW_NS}
STORED_UNIQUE = {"msg": unique("a"), "unique_key": LOCK}
IN_G = {"group_key": "g"}
AT_60 = f"{NOW + 60:.3f}"

ROWS = {
    "row 13: enqueue puts the id in pending, and message, state and pending_since in the hash": Row(
        State(),
        lambda rdb: rdb.enqueue([message("a")]),
        [None],
        State(pending=["a"], tasks={"a": STORED}),
    ),
    "row 13: enqueue puts tasks behind those that wait": Row(
        State(pending=["x"]),
        lambda rdb: rdb.enqueue([message("a"), message("b")]),
        [None, None],
        State(pending=["x", "a", "b"], tasks={"a": STORED, "b": STORED}),
    ),
    "enqueue works while the queue is paused": Row(
        State(paused=True),
        lambda rdb: rdb.enqueue([message("a")]),
        [None],
        State(paused=True, pending=["a"], tasks={"a": STORED}),
    ),
    "row 14: enqueue stores the others of a batch where one id is taken": Row(
        State(completed={"b": NOW}),
        lambda rdb: rdb.enqueue([message("a"), message("b", payload=b"new"), message("c")]),
        [None, TaskIDConflictError, None],
        State(completed={"b": NOW}, pending=["a", "c"], tasks={"a": STORED, "c": STORED}),
    ),
    "row 14: enqueue takes an id once in a batch": Row(
        State(),
        lambda rdb: rdb.enqueue([message("a"), message("a", payload=b"second")]),
        [None, TaskIDConflictError],
        State(pending=["a"], tasks={"a": STORED}),
    ),
    "row 14: enqueue finds an id taken by something that is no hash": Row(
        State(other={"t:a": "junk"}),
        lambda rdb: rdb.enqueue([message("a")]),
        [TaskIDConflictError],
        State(other={"t:a": "junk"}),
    ),
    "row 16: enqueue_unique takes the lock, the second is a duplicate": Row(
        State(),
        lambda rdb: rdb.enqueue_unique([Unique(unique("a"), 60), Unique(unique("b"), 60)]),
        [None, DuplicateTaskError],
        State(pending=["a"], tasks={"a": STORED | STORED_UNIQUE}, locks={LOCK: "a"}),
    ),
    "row 16: enqueue_unique finds the lock held": Row(
        State(retry={"x": NOW}, locks={LOCK: "x"}),
        lambda rdb: rdb.enqueue_unique([Unique(unique("a"), 60)]),
        [DuplicateTaskError],
        State(retry={"x": NOW}, locks={LOCK: "x"}),
    ),
    "row 17: enqueue_unique with an id that is taken takes no lock": Row(
        State(archived={"a": NOW}),
        lambda rdb: rdb.enqueue_unique([Unique(unique("a"), 60)]),
        [TaskIDConflictError],
        State(archived={"a": NOW}),
    ),
    "row 17: the lock is looked at before the id": Row(
        State(pending=["a"], locks={LOCK: "a"}),
        lambda rdb: rdb.enqueue_unique([Unique(unique("a"), 60)]),
        [DuplicateTaskError],
        State(pending=["a"], locks={LOCK: "a"}),
    ),
    "row 18: schedule puts the id in scheduled, without pending_since": Row(
        State(),
        lambda rdb: rdb.schedule([Scheduled(message("a"), AT_60), Scheduled(message("b"), "+12.5")]),
        [None, None],
        State(scheduled={"a": IN_A_MINUTE, "b": NOW_S + 13}),
    ),
    "schedule is never early: scores are rounded up, near ones to a millisecond, far ones to a second": Row(
        State(),
        lambda rdb: rdb.schedule([Scheduled(message("a"), "4000000060.1231"), Scheduled(message("b"), "+0.0004")]),
        [None, None],
        State(scheduled={"a": 4000000061, "b": 4000000000.251}),
    ),
    "schedule takes what is due already": Row(
        State(),
        lambda rdb: rdb.schedule([Scheduled(message("a"), "0.000")]),
        [None],
        State(scheduled={"a": 0}),
    ),
    "row 19: schedule stores the others of a batch where one id is taken": Row(
        State(pending=["b"]),
        lambda rdb: rdb.schedule([Scheduled(message(task_id), AT_60) for task_id in "abc"]),
        [None, TaskIDConflictError, None],
        State(pending=["b"], scheduled={"a": IN_A_MINUTE, "c": IN_A_MINUTE}),
    ),
    "row 20: schedule_unique takes the lock, the second is a duplicate": Row(
        State(),
        lambda rdb: rdb.schedule_unique([ScheduledUnique(unique(task_id), AT_60, 120) for task_id in "ab"]),
        [None, DuplicateTaskError],
        State(scheduled={"a": IN_A_MINUTE}, tasks={"a": STORED_UNIQUE}, locks={LOCK: "a"}),
    ),
    "row 21: schedule_unique with an id that is taken takes no lock": Row(
        State(scheduled={"a": NOW}),
        lambda rdb: rdb.schedule_unique([ScheduledUnique(unique("a"), AT_60, 120)]),
        [TaskIDConflictError],
        State(scheduled={"a": NOW}),
    ),
    "row 22: add_to_group keeps the task in its group, by the whole second": Row(
        State(),
        lambda rdb: rdb.add_to_group([message("a", **IN_G), message("b", group_key="h")]),
        [None, None],
        State(groups={"g": {"a": NOW_S}, "h": {"b": NOW_S}}),
    ),
    "row 23: add_to_group stores the others of a batch where one id is taken": Row(
        State(groups={"h": {"b": NOW_S - 9}}),
        lambda rdb: rdb.add_to_group([message(task_id, **IN_G) for task_id in "abc"]),
        [None, TaskIDConflictError, None],
        State(groups={"h": {"b": NOW_S - 9}, "g": {"a": NOW_S, "c": NOW_S}}),
    ),
    "row 24: add_to_group_unique takes the lock, which its hash does not name": Row(
        State(),
        lambda rdb: rdb.add_to_group_unique([Unique(unique(task_id, **IN_G), 60) for task_id in "ab"]),
        [None, DuplicateTaskError],
        State(groups={"g": {"a": NOW_S}}, tasks={"a": {"msg": unique("a", **IN_G)}}, locks={LOCK: "a"}),
    ),
    "row 25: add_to_group_unique with an id that is taken takes no lock": Row(
        State(pending=["a"]),
        lambda rdb: rdb.add_to_group_unique([Unique(unique("a", **IN_G), 60)]),
        [TaskIDConflictError],
        State(pending=["a"]),
    ),
}


@pytest.mark.rows(13, 14, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25)
@pytest.mark.parametrize(("before", "call", "answers", "after"), ROWS.values(), ids=ROWS)
async def test_into_a_queue(rdb, redis_target, before, call, answers, after):
    await before.write(redis_target, QUEUE)
    found = await call(rdb)
    assert [answer and type(answer) for answer in found] == answers
    assert {(answer.queue, answer.task_id) for answer in found if answer} <= {(QUEUE, task_id) for task_id in "abc"}
    await assert_states(redis_target, {QUEUE: after})
    assert await redis_target.smembers(keys.queues()) == {QUEUE.encode()}


TAKEN = {
    "pending": State(pending=["a"]),
    "active": State(active=["a"], lease={"a": NOW}),
    "scheduled": State(scheduled={"a": NOW}),
    "retry": State(retry={"a": NOW}),
    "archived": State(archived={"a": NOW}),
    "completed": State(completed={"a": NOW}),
    "aggregating": State(groups={"g": {"a": NOW}}),
}


@pytest.mark.rows(14)
@pytest.mark.parametrize("state", TAKEN.values(), ids=[f"row 14: {name}" for name in TAKEN])
async def test_an_id_is_taken_in_every_state(rdb, redis_target, state):
    await state.write(redis_target, QUEUE)
    [answer] = await rdb.enqueue([message("a", payload=b"new")])
    assert isinstance(answer, TaskIDConflictError)
    assert str(answer) == "task id 'a' conflicts with another task in queue 'q'"
    await assert_states(redis_target, {QUEUE: state})


# ── each way in, alike ──

WAYS: dict[str, Callable[..., Awaitable[list[TaskError | None]]]] = {
    "enqueue": lambda rdb, *msgs, **kw: rdb.enqueue(msgs, **kw),
    "enqueue_unique": lambda rdb, *msgs, **kw: rdb.enqueue_unique([Unique(m, 60) for m in msgs], **kw),
    "schedule": lambda rdb, *msgs, **kw: rdb.schedule([Scheduled(m, "+60") for m in msgs], **kw),
    "schedule_unique": lambda rdb, *msgs, **kw: rdb.schedule_unique(
        [ScheduledUnique(m, "+10", 70) for m in msgs], **kw
    ),
    "add_to_group": lambda rdb, *msgs, **kw: rdb.add_to_group(msgs, **kw),
    "add_to_group_unique": lambda rdb, *msgs, **kw: rdb.add_to_group_unique([Unique(m, 60) for m in msgs], **kw),
}
way = pytest.mark.parametrize("into", WAYS.values(), ids=WAYS)


def anything(task_id: str, queue: str = QUEUE) -> Any:
    """A message for every way in; no two compete for a lock."""
    return unique(task_id, queue, group_key="g", payload=task_id.encode())


@pytest.mark.rows(16, 20, 24)
@pytest.mark.parametrize(
    ("name", "ttl"),
    [("enqueue_unique", 60), ("schedule_unique", 70), ("add_to_group_unique", 60)],
    ids=["row 16: enqueue_unique", "row 20: schedule_unique", "row 24: add_to_group_unique"],
)
async def test_a_lock_lasts_as_long_as_was_said(rdb, redis_target, name, ttl):
    await WAYS[name](rdb, anything("a"))
    assert ttl * 1000 - 5000 < await redis_target.pttl(anything("a").unique_key) <= ttl * 1000


@way
async def test_a_repeat_with_the_same_receipt_is_answered_and_writes_nothing(rdb, redis_target, into):
    await State(pending=["b"]).write(redis_target, QUEUE)
    receipt = Receipt("caller", 7)
    first = await into(rdb, anything("a"), anything("b"), receipt=receipt)
    assert [answer and type(answer) for answer in first] == [None, TaskIDConflictError]
    await forget_all_but_receipts(redis_target)

    again = await into(rdb, anything("a"), anything("b"), receipt=receipt)
    assert [answer and type(answer) for answer in again] == [None, TaskIDConflictError]
    await assert_states(redis_target, {})


@way
async def test_a_receipt_that_is_too_old_is_refused(rdb, redis_target, into):
    await into(rdb, anything("a"), receipt=Receipt("caller", 8))
    before = await State.read(redis_target, QUEUE)
    with pytest.raises(BrokerError, match="STALE call 7 after call 8"):
        await into(rdb, anything("b"), receipt=Receipt("caller", 7))
    assert await State.read(redis_target, QUEUE) == before
    assert await into(rdb, anything("b"), receipt=Receipt("caller", 9)) == [None]
    assert await into(rdb, anything("c"), receipt=Receipt("another", 1)) == [None]


@way
async def test_a_receipt_lives_for_two_minutes_from_the_first_call(rdb, redis_target, into):
    place = keys.receipt(QUEUE, "caller")
    await into(rdb, anything("a"), receipt=Receipt("caller", 1))
    assert 115_000 < await redis_target.pttl(place) <= 120_000
    await redis_target.pexpire(place, 50_000)
    await into(rdb, anything("b"), receipt=Receipt("caller", 2))
    assert 45_000 < await redis_target.pttl(place) <= 50_000  # who goes on under one name is not told for ever
    await redis_target.delete(place)  # or lost, in a failover
    await into(rdb, anything("c"), receipt=Receipt("caller", 3))
    assert 115_000 < await redis_target.pttl(place) <= 120_000
    assert await redis_target.get(place) == b"3"


@way
async def test_a_call_that_failed_was_not_done(rdb, redis_target, into):
    """Whoever makes it again is not told that it was, and nothing of it is left."""
    place = keys.receipt(QUEUE, "caller")
    await into(rdb, anything("a"), receipt=Receipt("caller", 1))
    junk = {QUEUE: State(other={"pending": "junk", "scheduled": "junk", "groups": "junk"})}
    await redis_target.flushall()
    await write_all(redis_target, junk)
    await redis_target.set(place, 1)
    for _ in range(2):
        with pytest.raises(BrokerError, match="WRONGTYPE"):
            await into(rdb, anything("b"), anything("c"), receipt=Receipt("caller", 2))
    assert await redis_target.get(place) == b"1"
    await redis_target.delete(place)
    await assert_states(redis_target, junk)
    await redis_target.flushall()
    assert await into(rdb, anything("b"), anything("c"), receipt=Receipt("caller", 2)) == [None, None]
    assert await into(rdb, anything("b"), anything("c"), receipt=Receipt("caller", 2)) == [None, None]


@way
async def test_answers_are_kept_when_a_task_was_refused(rdb, into):
    await into(rdb, anything("a"), receipt=Receipt("caller", 1))
    [ours, theirs] = await into(rdb, anything("b"), anything("a"), receipt=Receipt("caller", 2))
    assert ours is None
    assert isinstance(theirs, TaskError)
    again = await into(rdb, anything("b"), anything("a"), receipt=Receipt("caller", 2))
    assert [type(each) for each in again] == [type(None), type(theirs)]
    assert await into(rdb, anything("c"), receipt=Receipt("caller", 3)) == [None]
    assert await into(rdb, anything("c"), receipt=Receipt("caller", 3)) == [None]
    with pytest.raises(BrokerError, match="STALE call 2 after call 3"):
        await into(rdb, anything("b"), anything("a"), receipt=Receipt("caller", 2))


@way
async def test_a_full_batch_goes_in(rdb, redis_target, into):
    answers = await into(rdb, *(anything(f"{n:03}") for n in range(MAX_BATCH)))
    assert answers == [None] * MAX_BATCH
    state = await State.read(redis_target, QUEUE)
    ids = [f"{n:03}" for n in range(MAX_BATCH)]
    assert [*state.pending, *state.scheduled, *state.groups.get("g", {})] == ids
    assert sorted(state.tasks) == ids


@way
async def test_too_many_tasks_are_refused(rdb, redis_target, into):
    with pytest.raises(ValueError, match="at most 256 tasks go in one call, got 257"):
        await into(rdb, *(anything(str(n)) for n in range(MAX_BATCH + 1)))
    assert [key async for key in redis_target.scan_iter()] == []


@way
async def test_tasks_of_two_queues_are_refused(rdb, redis_target, into):
    with pytest.raises(ValueError, match="the tasks of one call must be of one queue"):
        await into(rdb, anything("a"), anything("b", "another"))
    assert [key async for key in redis_target.scan_iter()] == []


@way
async def test_no_tasks_are_refused(rdb, into):
    with pytest.raises(ValueError, match="a call needs at least one task"):
        await into(rdb)


@way
async def test_a_place_that_is_something_else_is_found_before_anything_is_written(rdb, redis_target, into):
    junk = {QUEUE: State(other={"pending": "junk", "scheduled": "junk", "groups": "junk"})}
    await write_all(redis_target, junk)
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await into(rdb, anything("a"))
    await assert_states(redis_target, junk)


@way
async def test_ids_types_and_payloads_may_be_anything(rdb, redis_target, into):
    msg = unique("{a}:ü\n\x00", "grüße 1", type="{t}:\r\n", payload=bytes(range(256)), group_key="{g}:ü")
    assert await into(rdb, msg) == [None]
    state = await State.read(redis_target, "grüße 1")
    assert state.other == {}
    fields = state.tasks["{a}:ü\n\x00"]
    assert fields is not None
    assert fields["msg"] == msg


# ── the set of all queues ──


@pytest.mark.rows(15)
async def test_row_15_a_queue_is_registered_once_and_again_when_it_was_forgotten(rdb, redis_target):
    await rdb.enqueue([message("a")])
    await redis_target.delete(keys.queues())
    await rdb.schedule([Scheduled(message("b"), "+1")])
    assert await redis_target.smembers(keys.queues()) == set()
    rdb.forget_queue(QUEUE)
    await rdb.enqueue([message("c")])
    assert await redis_target.smembers(keys.queues()) == {b"q"}


@pytest.mark.rows(15)
async def test_row_15_a_queue_is_registered_again_after_a_while(rdb, redis_target, monkeypatch):
    monkeypatch.setattr(storing, "REGISTER_AGAIN", 0.0)
    await rdb.enqueue([message("a")])
    await redis_target.delete(keys.queues())
    await rdb.enqueue([message("b")])
    assert await redis_target.smembers(keys.queues()) == {b"q"}


@pytest.mark.rows(13)
async def test_row_13_each_queue_is_registered(rdb, redis_target):
    await rdb.enqueue([message("a", "low")])
    await rdb.enqueue([message("a", "high")])
    assert await redis_target.smembers(keys.queues()) == {b"low", b"high"}
    state = State(pending=["a"], tasks={"a": STORED})
    await assert_states(redis_target, {"low": state, "high": state})


async def test_without_a_clock_redis_is_asked_for_the_time(redis_target):
    async with RDB(redis_target) as rdb:
        before = await rdb._redis_now()
        await rdb.enqueue([message("a")])
        await rdb.schedule([Scheduled(message("b"), "+60")])
        after = await rdb._redis_now()
    state = await State.read(redis_target, QUEUE)
    fields = state.tasks["a"]
    assert fields is not None
    assert before - 0.01 <= int(fields["pending_since"]) / 1e9 <= after + 0.01  # the nodes of a Cluster are one machine
    assert before + 60 - 0.01 <= state.scheduled["b"] <= after + 61 + 0.01


async def forget_all_but_receipts(redis: Any) -> None:
    async for key in redis.scan_iter():
        if b":receipt:" not in key:
            await redis.delete(key)
