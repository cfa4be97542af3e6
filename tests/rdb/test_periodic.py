"""Firing periodic tasks, and what schedulers say about themselves."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest

from aioasynq import keys
from aioasynq.compose import Composed
from aioasynq.errors import BrokerError
from aioasynq.message import SchedulerEnqueueEvent, SchedulerEntry, TaskMessage
from aioasynq.rdb.periodic import Answer, Fired
from aioasynq.rdb.rdb import RDB
from aioasynq.task import TaskState
from tests.support.build import IN_A_MINUTE, LOCK, NOW, NOW_NS, NOW_S, QUEUE, Clock, message, unique
from tests.support.state import State, assert_states, write_all

KEEP = 600


def claimed(text: str) -> dict[str, Any]:
    return {"fired:e": text, "fired:e expires": True}


KEPT = {"fired:e": f"{NOW_S} 1 me"}
FIRED = claimed(f"{NOW_S} 1 me")


def composed(
    msg: TaskMessage, state: TaskState = TaskState.PENDING, when: str = "", *, unique_ttl: int = 0
) -> Composed:
    return Composed(msg, "enqueue", when, unique_ttl, state, None)


async def fire(rdb: RDB, task: Composed, moment: int = NOW_S, claimant: str = "me") -> Fired:
    return await rdb.fire(task, "e", moment, claimant=claimant, keep=KEEP)


class Row(NamedTuple):
    before: State
    task: Composed
    answer: Answer
    after: State


IN_G = message("a", group_key="g")
ROWS = {
    "a task becomes pending": Row(
        State(pending=["x"]),
        composed(message("a")),
        Answer.STORED,
        State(pending=["x", "a"], tasks={"a": {"pending_since": NOW_NS}}, other=FIRED),
    ),
    "a unique task takes its lock": Row(
        State(),
        composed(unique("a"), unique_ttl=60),
        Answer.STORED,
        State(
            pending=["a"],
            tasks={"a": {"msg": unique("a"), "pending_since": NOW_NS, "unique_key": LOCK}},
            locks={LOCK: "a"},
            other=FIRED,
        ),
    ),
    "where the lock is held the firing is over": Row(
        State(locks={LOCK: "x"}),
        composed(unique("a"), unique_ttl=60),
        Answer.DUPLICATE,
        State(locks={LOCK: "x"}, other=claimed(f"{NOW_S} -1 me")),
    ),
    "where the id is taken the firing is over": Row(
        State(archived={"a": NOW}),
        composed(message("a", payload=b"new")),
        Answer.CONFLICT,
        State(archived={"a": NOW}, other=claimed(f"{NOW_S} 0 me")),
    ),
    "a task for later is scheduled, and takes its lock": Row(
        State(),
        composed(unique("a"), TaskState.SCHEDULED, "+60.000", unique_ttl=90),
        Answer.STORED,
        State(
            scheduled={"a": IN_A_MINUTE},
            tasks={"a": {"msg": unique("a"), "unique_key": LOCK}},
            locks={LOCK: "a"},
            other=FIRED,
        ),
    ),
    "a task for later joins its group then": Row(
        State(),
        composed(IN_G, TaskState.SCHEDULED, "+60.000"),
        Answer.STORED,
        State(scheduled={"a": IN_A_MINUTE}, tasks={"a": {"msg": IN_G, "join": "g"}}, other=FIRED),
    ),
    "a task waits in its group": Row(
        State(),
        composed(IN_G, TaskState.AGGREGATING),
        Answer.STORED,
        State(groups={"g": {"a": NOW_S}}, tasks={"a": {"msg": IN_G}}, other=FIRED),
    ),
    "a unique task waits in its group": Row(
        State(),
        composed(unique("a", group_key="g"), TaskState.AGGREGATING, unique_ttl=60),
        Answer.STORED,
        State(
            groups={"g": {"a": NOW_S}},
            tasks={"a": {"msg": unique("a", group_key="g")}},
            locks={LOCK: "a"},
            other=FIRED,
        ),
    ),
    "another has fired": Row(
        State(other={"fired:e": f"{NOW_S} 1 another"}),
        composed(message("a")),
        Answer.CLAIMED,
        State(other={"fired:e": f"{NOW_S} 1 another"}),
    ),
    "another has fired the next one": Row(
        State(other={"fired:e": f"{NOW_S + 1} 1 me"}),
        composed(message("a")),
        Answer.CLAIMED,
        State(other={"fired:e": f"{NOW_S + 1} 1 me"}),
    ),
    "whoever has fired is told so again": Row(
        State(other=KEPT), composed(message("a")), Answer.STORED, State(other=KEPT)
    ),
    "whoever was refused is told so again": Row(
        State(other={"fired:e": f"{NOW_S} -1 me"}),
        composed(message("a")),
        Answer.DUPLICATE,
        State(other={"fired:e": f"{NOW_S} -1 me"}),
    ),
    "an earlier one is no hindrance": Row(
        State(other={"fired:e": f"{NOW_S - 1} 1 another"}),
        composed(message("a")),
        Answer.STORED,
        State(pending=["a"], tasks={"a": {"pending_since": NOW_NS}}, other=FIRED),
    ),
    "one of the future, by a clock that was put right by less than an hour": Row(
        State(other={"fired:e": f"{NOW_S + 3600} 1 another"}),
        composed(message("a")),
        Answer.CLAIMED,
        State(other={"fired:e": f"{NOW_S + 3600} 1 another"}),
    ),
    "one of a future that is further away is void": Row(
        State(other={"fired:e": f"{NOW_S + 3601} 1 me"}),
        composed(message("a")),
        Answer.STORED,
        State(pending=["a"], tasks={"a": {"pending_since": NOW_NS}}, other=FIRED),
    ),
    "what is kept is none of ours": Row(
        State(other={"fired:e": "junk"}),
        composed(message("a")),
        Answer.STORED,
        State(pending=["a"], tasks={"a": {"pending_since": NOW_NS}}, other=FIRED),
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_fire(rdb: RDB, redis_target: Any, row: Row):
    await write_all(redis_target, {QUEUE: row.before})
    fired = await fire(rdb, row.task)
    assert (fired.answer, fired.now) == (row.answer, NOW)
    await assert_states(redis_target, {QUEUE: row.after})


async def test_a_firing_is_not_due_before_its_moment(rdb: RDB, redis_target: Any, clock: Clock):
    assert await fire(rdb, composed(message("a")), NOW_S + 1) == (Answer.EARLY, 0, NOW)
    await assert_states(redis_target, {QUEUE: State()})
    clock.now = NOW_S + 1
    assert await fire(rdb, composed(message("a")), NOW_S + 1) == (Answer.STORED, 0, NOW_S + 1)
    assert await fire(rdb, composed(message("b")), NOW_S, "another") == (Answer.CLAIMED, NOW_S + 1, NOW_S + 1)


async def test_a_claim_names_its_queue_and_is_forgotten_in_time(rdb: RDB, redis_target: Any):
    await fire(rdb, composed(message("a")))
    assert await redis_target.smembers(keys.queues()) == {QUEUE.encode()}
    assert KEEP - 5 < await redis_target.ttl(keys.fired(QUEUE, "e")) <= KEEP


async def test_of_many_who_fire_at_once_one_does(rdb: RDB, redis_target: Any):
    answers = await asyncio.gather(
        *(fire(rdb, composed(message(f"{n}")), claimant=f"{n}") for n in range(50)), return_exceptions=False
    )
    assert sorted(each.answer for each in answers) == [Answer.STORED] + [Answer.CLAIMED] * 49
    assert await redis_target.llen(keys.pending(QUEUE)) == 1


async def test_where_the_place_is_of_another_kind_nothing_is_claimed(rdb: RDB, redis_target: Any):
    await redis_target.set(keys.pending(QUEUE), "x")
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await fire(rdb, composed(message("a")))
    assert await rdb.last_fired(QUEUE, "e") is None
    assert not await redis_target.exists(keys.task(QUEUE, "a"))


async def test_the_last_firing(rdb: RDB, redis_target: Any):
    assert await rdb.last_fired(QUEUE, "e") is None
    await fire(rdb, composed(message("a")))
    assert await rdb.last_fired(QUEUE, "e") == NOW_S
    await redis_target.set(keys.fired(QUEUE, "e"), "junk")
    assert await rdb.last_fired(QUEUE, "e") is None
    await rdb.forget_fired(QUEUE, "e")
    assert not await redis_target.exists(keys.fired(QUEUE, "e"))


async def test_a_queue_that_is_deleted_takes_its_claims_along(rdb: RDB, redis_target: Any):
    await fire(rdb, composed(message("a")))
    await rdb.delete_queue(QUEUE, force=True)
    assert await rdb.last_fired(QUEUE, "e") is None


# ── what schedulers tell ──


def entry(name: str) -> SchedulerEntry:
    return SchedulerEntry(
        id=name,
        spec="@every 30s",
        task_type="t",
        task_payload=b"\x00p",
        enqueue_options=['Queue("q")', "MaxRetry(3)"],
        next_enqueue_time=NOW_S * 10**9 + 5,
        prev_enqueue_time=(NOW_S - 30) * 10**9,
    )


@pytest.mark.rows(85)
async def test_row_85_entries_are_written_listed_and_taken_back(rdb: RDB, redis_target: Any, clock: Clock):
    place, index = keys.scheduler_entries("host:1:a"), keys.schedulers()
    await rdb.write_scheduler_entries("host:1:a", [entry("a1"), entry("a2")], ttl=20)
    await rdb.write_scheduler_entries("host:1:b", [entry("b1")], ttl=40)
    assert 18_000 < await redis_target.pttl(place) <= 20_000
    assert await redis_target.zrange(index, 0, -1, withscores=True) == [
        (place.encode(), NOW_S + 20),
        (keys.scheduler_entries("host:1:b").encode(), NOW_S + 40),
    ]
    assert await rdb.read_scheduler_entries() == [entry("a2"), entry("a1"), entry("b1")]

    await rdb.write_scheduler_entries("host:1:a", [entry("a3")])
    assert await rdb.read_scheduler_entries() == [entry("a3"), entry("b1")]
    clock.now = NOW + 30
    assert await rdb.read_scheduler_entries() == [entry("b1")]
    await rdb.clear_scheduler_entries("host:1:b")
    assert await rdb.read_scheduler_entries() == []
    assert not await redis_target.exists(keys.scheduler_entries("host:1:b"))
    await rdb.clear_scheduler_entries("host:1:b")


@pytest.mark.rows(85)
async def test_row_85_a_scheduler_without_entries(rdb: RDB, redis_target: Any):
    await rdb.write_scheduler_entries("host:1:a", [entry("a")])
    await rdb.write_scheduler_entries("host:1:a", [])
    assert not await redis_target.exists(keys.scheduler_entries("host:1:a"))
    assert await rdb.read_scheduler_entries() == []


@pytest.mark.rows(86)
async def test_row_86_events_are_listed_the_newest_first(rdb: RDB, redis_target: Any):
    events = [SchedulerEnqueueEvent(task_id=f"{n}", enqueue_time=(NOW_S + n) * 10**9 + n) for n in range(10)]
    for event in events:
        await rdb.record_scheduler_enqueue_event("e", event, ttl=100)
    await rdb.record_scheduler_enqueue_event("e", events[3])  # a repeat
    listed = events[::-1]
    assert await rdb.read_scheduler_events("e", 0, 30) == listed
    assert await rdb.read_scheduler_events("e", 3, 3) == listed[3:6]
    assert await rdb.read_scheduler_events("e", 9, 3) == listed[9:]
    assert await rdb.read_scheduler_events("another", 0, 30) == []
    assert 0 < await redis_target.ttl(keys.scheduler_history("e")) <= 90 * 24 * 3600
    await rdb.clear_scheduler_history("e")
    assert await rdb.read_scheduler_events("e", 0, 30) == []


@pytest.mark.rows(87)
async def test_row_87_the_last_thousand_events_are_kept(rdb: RDB, redis_target: Any):
    for first in range(0, 1005, 67):
        await asyncio.gather(
            *(
                rdb.record_scheduler_enqueue_event(
                    "e", SchedulerEnqueueEvent(task_id=f"{n}", enqueue_time=(NOW_S + n) * 10**9)
                )
                for n in range(first, first + 67)
            )
        )
    assert await redis_target.zcard(keys.scheduler_history("e")) == 1000
    assert [event.task_id for event in await rdb.read_scheduler_events("e", 0, 2)] == ["1004", "1003"]
    assert [event.task_id for event in await rdb.read_scheduler_events("e", 998, 10)] == ["6", "5"]
