"""Ends of a task: done, mark_as_complete, requeue, retry, kill; and what guards them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from aioasynq import keys
from aioasynq.errors import BrokerError, TaskNotFoundError
from aioasynq.rdb.base import MAX_BATCH
from aioasynq.rdb.lifecycle import MAX_ARCHIVE, Completed, Failed, Killed, Leased
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.receipts import Receipt
from aioasynq.task import Progress
from tests.support.build import (
    DAY,
    GO_LEASE,
    IN_A_MINUTE,
    LEASE,
    LOCK,
    NOW,
    NOW_S,
    OWNER,
    QUEUE,
    Clock,
    counted,
    held,
    message,
    unique,
)
from tests.support.state import State, assert_states, write_all

MAXINT = 2**63 - 1
NINETY_DAYS = 90 * 24 * 3600


class Row(NamedTuple):
    before: State
    call: Callable[[RDB], Awaitable[list[bool]]]
    after: State
    answers: tuple[bool, ...] = (True,)


def active(*ids: str, **fields: Any) -> State:
    """Tasks that OWNER holds."""
    return State(active=[*ids], lease=dict.fromkeys(ids, LEASE), **fields)


LOCKED = {"msg": unique("a"), "unique_key": LOCK}
KEPT = message("a", retention=3600)
KEPT_UNIQUE = unique("a", retention=3600)
FAILED: dict[str, Any] = {"error_msg": "boom", "last_failed_at": NOW_S}

ROWS = {
    "row 30: done removes the task and counts it": Row(
        active("a", "b"),
        lambda rdb: rdb.done([held("a")]),
        active("b", counters=counted(1)),
    ),
    "row 30: done gives the lock back": Row(
        active("a", tasks={"a": LOCKED}, locks={LOCK: "a"}),
        lambda rdb: rdb.done([held("a", msg=unique("a"))]),
        State(counters=counted(1)),
    ),
    "row 30: done leaves a lock that somebody else holds": Row(
        active("a", tasks={"a": LOCKED}, locks={LOCK: "b"}),
        lambda rdb: rdb.done([held("a", msg=unique("a"))]),
        State(counters=counted(1), locks={LOCK: "b"}),
    ),
    "row 30: done counts on": Row(
        active("a", counters={"processed": 41, f"processed:{DAY}": 4, "processed:2096-10-01": 37}),
        lambda rdb: rdb.done([held("a")]),
        State(counters={"processed": 42, f"processed:{DAY}": 5, "processed:2096-10-01": 37}),
    ),
    "row 31: done at the largest number resets the total to 1": Row(
        active("a", counters={"processed": MAXINT, f"processed:{DAY}": 1}),
        lambda rdb: rdb.done([held("a")]),
        State(counters={"processed": 1, f"processed:{DAY}": 2}),
    ),
    "row 31: near the largest number the total counts on": Row(
        active("a", counters={"processed": MAXINT - 1}),
        lambda rdb: rdb.done([held("a")]),
        State(counters={"processed": MAXINT, f"processed:{DAY}": 1}),
    ),
    "row 31: a batch that goes past the largest number resets the total to its size": Row(
        active("a", "b", counters={"processed": MAXINT - 1}),
        lambda rdb: rdb.done([held("a"), held("b")]),
        State(counters={"processed": 2, f"processed:{DAY}": 2}),
        (True, True),
    ),
    "row 31: totals of failures overflow alike": Row(
        active("a", counters={"processed": MAXINT, "failed": MAXINT}),
        lambda rdb: rdb.kill([Killed(held("a"), "boom")]),
        State(archived={"a": NOW_S}, tasks={"a": {"msg": message("a", **FAILED)}}, counters=counted(1, 1)),
    ),
    "row 32: mark_as_complete keeps the task until its retention is over": Row(
        active("a", tasks={"a": {"msg": KEPT}}),
        lambda rdb: rdb.mark_as_complete([Completed(held("a", msg=KEPT))]),
        State(
            completed={"a": NOW_S + 3600},
            tasks={"a": {"msg": message("a", retention=3600, completed_at=NOW_S)}},
            counters=counted(1),
        ),
    ),
    "row 32: mark_as_complete stores a result and gives the lock back": Row(
        active("a", tasks={"a": {"msg": KEPT_UNIQUE, "unique_key": LOCK, "recovered": "2"}}, locks={LOCK: "a"}),
        lambda rdb: rdb.mark_as_complete([Completed(held("a", msg=KEPT_UNIQUE), b"done")]),
        State(
            completed={"a": NOW_S + 3600},
            tasks={
                "a": {
                    "msg": unique("a", retention=3600, completed_at=NOW_S),
                    "unique_key": LOCK,
                    "result": "done",
                }
            },
            counters=counted(1),
        ),
    ),
    "row 32: mark_as_complete leaves a result that was written before": Row(
        active("a", tasks={"a": {"msg": KEPT, "result": "early"}}),
        lambda rdb: rdb.mark_as_complete([Completed(held("a", msg=KEPT))]),
        State(
            completed={"a": NOW_S + 3600},
            tasks={"a": {"msg": message("a", retention=3600, completed_at=NOW_S), "result": "early"}},
            counters=counted(1),
        ),
    ),
    "mark_as_complete stores an empty result": Row(
        active("a", tasks={"a": {"msg": KEPT, "result": "early"}}),
        lambda rdb: rdb.mark_as_complete([Completed(held("a", msg=KEPT), b"")]),
        State(
            completed={"a": NOW_S + 3600},
            tasks={"a": {"msg": message("a", retention=3600, completed_at=NOW_S), "result": ""}},
            counters=counted(1),
        ),
    ),
    "row 33: requeue puts the task first in line": Row(
        State(pending=["x"], active=["a", "y"], lease={"a": LEASE, "y": LEASE}),
        lambda rdb: rdb.requeue([held("a")]),
        State(pending=["a", "x"], active=["y"], lease={"y": LEASE}),
    ),
    "row 33: requeue keeps the order of a batch": Row(
        State(pending=["x"], active=["a", "b", "c"], lease=dict.fromkeys("abc", LEASE)),
        lambda rdb: rdb.requeue([held("a"), held("b"), held("c")]),
        State(pending=["a", "b", "c", "x"]),
        (True, True, True),
    ),
    "row 33: requeue leaves the lock": Row(
        active("a", tasks={"a": LOCKED}, locks={LOCK: "a"}),
        lambda rdb: rdb.requeue([held("a", msg=unique("a"))]),
        State(pending=["a"], tasks={"a": LOCKED}, locks={LOCK: "a"}),
    ),
    "requeue takes a message that is none": Row(
        active("a", tasks={"a": {"msg": b"\xff"}}),
        lambda rdb: rdb.requeue([Leased(QUEUE, "a", None, OWNER)]),
        State(pending=["a"], tasks={"a": {"msg": b"\xff"}}),
    ),
    "row 34: retry waits, says why, and counts a failure": Row(
        active("a", "b"),
        lambda rdb: rdb.retry([Failed(held("a"), 60, "boom")]),
        active(
            "b",
            retry={"a": IN_A_MINUTE},
            tasks={"a": {"msg": message("a", retried=1, **FAILED)}},
            counters=counted(1, 1),
        ),
    ),
    "row 34: retry counts on": Row(
        active("a", tasks={"a": {"msg": message("a", retried=3, error_msg="old")}}),
        lambda rdb: rdb.retry([Failed(held("a", msg=message("a", retried=3, error_msg="old")), 0, "boom")]),
        State(retry={"a": NOW}, tasks={"a": {"msg": message("a", retried=4, **FAILED)}}, counters=counted(1, 1)),
    ),
    "row 34: retry leaves the lock and a result": Row(
        active("a", tasks={"a": LOCKED | {"result": "half"}}, locks={LOCK: "a"}),
        lambda rdb: rdb.retry([Failed(held("a", msg=unique("a")), 1.5, "boom")]),
        State(
            retry={"a": NOW + 1.5},
            tasks={"a": {"msg": unique("a", retried=1, **FAILED), "unique_key": LOCK, "result": "half"}},
            locks={LOCK: "a"},
            counters=counted(1, 1),
        ),
    ),
    "row 35: retry that is no failure records the error and counts nothing": Row(
        active("a"),
        lambda rdb: rdb.retry([Failed(held("a"), 60, "boom", is_failure=False)]),
        State(retry={"a": IN_A_MINUTE}, tasks={"a": {"msg": message("a", **FAILED)}}),
    ),
    "retry counts only the failures of a batch": Row(
        active("a", "b", "c"),
        lambda rdb: rdb.retry([Failed(held(task_id), 60, "boom", task_id != "b") for task_id in "abc"]),
        State(
            retry=dict.fromkeys("abc", IN_A_MINUTE),
            tasks={task_id: {"msg": message(task_id, retried=int(task_id != "b"), **FAILED)} for task_id in "abc"},
            counters=counted(2, 2),
        ),
        (True, True, True),
    ),
    "retry keeps how often a task was recovered": Row(
        active("a", "b", tasks={"a": {"recovered": "1"}, "b": {"recovered": "5"}}),
        lambda rdb: rdb.retry([Failed(held("a"), 60, "boom", recovered=2), Failed(held("b"), 60, "boom")]),
        State(
            retry=dict.fromkeys("ab", IN_A_MINUTE),
            tasks={
                "a": {"msg": message("a", retried=1, **FAILED), "recovered": "2"},
                "b": {"msg": message("b", retried=1, **FAILED), "recovered": "5"},
            },
            counters=counted(2, 2),
        ),
        (True, True),
    ),
    "retry takes an error that is no valid text": Row(
        active("a"),
        lambda rdb: rdb.retry([Failed(held("a"), 60, "bad \udcff text")]),
        State(
            retry={"a": IN_A_MINUTE},
            tasks={"a": {"msg": message("a", retried=1, error_msg="bad ? text", last_failed_at=NOW_S)}},
            counters=counted(1, 1),
        ),
    ),
    "row 36: kill archives the task, says why, and counts a failure": Row(
        active("a", "b", archived={"x": NOW_S - 9}),
        lambda rdb: rdb.kill([Killed(held("a", msg=message("a", retried=25)), "boom")]),
        active(
            "b",
            archived={"x": NOW_S - 9, "a": NOW_S},
            tasks={"a": {"msg": message("a", retried=25, **FAILED)}},
            counters=counted(1, 1),
        ),
    ),
    "row 36: kill gives the lock back, and forgets how often the task was recovered": Row(
        active("a", tasks={"a": LOCKED | {"recovered": "3"}}, locks={LOCK: "a"}),
        lambda rdb: rdb.kill([Killed(held("a", msg=unique("a")), "boom")]),
        State(
            archived={"a": NOW_S},
            tasks={"a": {"msg": unique("a", **FAILED), "unique_key": LOCK}},
            counters=counted(1, 1),
        ),
    ),
    "kill keeps bytes that are no message, and the error beside them": Row(
        active("a", tasks={"a": {"msg": b"\xff\xfe"}}),
        lambda rdb: rdb.kill([Killed(Leased(QUEUE, "a", None, OWNER), "undecodable \udcff")]),
        State(
            archived={"a": NOW_S},
            tasks={"a": {"msg": b"\xff\xfe", "error": "undecodable ?"}},
            counters=counted(1, 1),
        ),
    ),
    "kill takes a hash without a message": Row(
        active("a", tasks={"a": {"msg": None}}),
        lambda rdb: rdb.kill([Killed(Leased(QUEUE, "a", None, OWNER), "no message")]),
        State(archived={"a": NOW_S}, tasks={"a": {"msg": None, "error": "no message"}}, counters=counted(1, 1)),
    ),
    "row 37: kill lets go of what is older than 90 days": Row(
        active("a", archived={"old": NOW_S - NINETY_DAYS, "young": NOW_S - NINETY_DAYS + 1}),
        lambda rdb: rdb.kill([Killed(held("a"), "boom")]),
        State(
            archived={"young": NOW_S - NINETY_DAYS + 1, "a": NOW_S},
            tasks={"a": {"msg": message("a", **FAILED)}},
            counters=counted(1, 1),
        ),
    ),
    "row 37: what is let go gives its lock back": Row(
        active(
            "a",
            archived={"old": 1, "other": 2},
            tasks={"old": {"unique_key": LOCK}, "other": {"unique_key": f"{LOCK}2"}},
            locks={LOCK: "old", f"{LOCK}2": "somebody"},
        ),
        lambda rdb: rdb.kill([Killed(held("a"), "boom")]),
        State(
            archived={"a": NOW_S},
            tasks={"a": {"msg": message("a", **FAILED)}},
            locks={f"{LOCK}2": "somebody"},
            counters=counted(1, 1),
        ),
    ),
    "row 38: a full archive lets go of its oldest, and of its hash and lock": Row(
        active(
            "a",
            archived={"x": NOW_S - 3, "y": NOW_S - 2, "z": NOW_S - 1},
            tasks={"x": {"unique_key": LOCK}},
            locks={LOCK: "x"},
        ),
        lambda rdb: rdb.kill([Killed(held("a"), "boom")], max_size=3),
        State(
            archived={"y": NOW_S - 2, "z": NOW_S - 1, "a": NOW_S},
            tasks={"a": {"msg": message("a", **FAILED)}},
            counters=counted(1, 1),
        ),
    ),
    "row 38: an archive that is just full keeps all": Row(
        active("a", archived={"x": NOW_S - 3, "y": NOW_S - 2}),
        lambda rdb: rdb.kill([Killed(held("a"), "boom")], max_size=3),
        State(
            archived={"x": NOW_S - 3, "y": NOW_S - 2, "a": NOW_S},
            tasks={"a": {"msg": message("a", **FAILED)}},
            counters=counted(1, 1),
        ),
    ),
    "kill lets go of junk in the archive": Row(
        active("a", archived={"gone": 1, "bad": 2}, tasks={"gone": None, "bad": None}, other={"t:bad": "junk"}),
        lambda rdb: rdb.kill([Killed(held("a"), "boom")]),
        State(archived={"a": NOW_S}, tasks={"a": {"msg": message("a", **FAILED)}}, counters=counted(1, 1)),
    ),
    "a counter that is none does not keep a task from being settled": Row(
        active("a", other={"processed": "junk", f"failed:{DAY}": "junk"}),
        lambda rdb: rdb.kill([Killed(held("a"), "boom")]),
        State(
            archived={"a": NOW_S},
            tasks={"a": {"msg": message("a", **FAILED)}},
            counters={"processed": 1, f"processed:{DAY}": 1, "failed": 1},
            other={f"failed:{DAY}": "junk"},
        ),
    ),
}


@pytest.mark.rows(30, 31, 32, 33, 34, 35, 36, 37, 38)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_settle(rdb, redis_target, row):
    other = State(active=["a"], lease={"a": LEASE})  # of the same name in another queue: it must not be touched
    await write_all(redis_target, {QUEUE: row.before, "another": other})
    assert await row.call(rdb) == [*row.answers]
    await assert_states(redis_target, {QUEUE: row.after, "another": other})


@pytest.mark.rows(30, 34)
@pytest.mark.parametrize("failed", [False, True], ids=["row 30: processed", "row 36: processed and failed"])
async def test_the_count_of_a_day_is_kept_for_90_days(rdb, redis_target, failed):
    await active("a").write(redis_target, QUEUE)
    await (rdb.kill([Killed(held("a"), "boom")]) if failed else rdb.done([held("a")]))
    for counter in (keys.processed(QUEUE, DAY), *([keys.failed(QUEUE, DAY)] if failed else [])):
        async with RDB(redis_target) as clockless:
            expires = await clockless._redis_now() + await redis_target.pttl(counter) / 1000
        assert abs(expires - (NOW_S + NINETY_DAYS)) < 2


async def test_the_day_is_that_of_utc(rdb, redis_target, clock: Clock):
    for second, (task_id, day) in enumerate({"a": "2096-10-02", "b": "2096-10-03"}.items()):
        clock.now = 4_000_060_799.5 + second  # half a second before and after midnight
        await State(active=[task_id], lease={task_id: clock.now + 15}).write(redis_target, QUEUE)
        await rdb.done([held(task_id)])
        assert day == keys.day(clock.now)
        assert await redis_target.get(keys.processed(QUEUE, day)) == b"1"


# ── each end, alike ──


ENDS: dict[str, Callable[..., Awaitable[list[bool]]]] = {
    "done": lambda rdb, *held, **kw: rdb.done(held, **kw),
    "mark_as_complete": lambda rdb, *held, **kw: rdb.mark_as_complete([Completed(h, b"result") for h in held], **kw),
    "requeue": lambda rdb, *held, **kw: rdb.requeue(held, **kw),
    "retry": lambda rdb, *held, **kw: rdb.retry([Failed(h, 60, "boom") for h in held], **kw),
    "kill": lambda rdb, *held, **kw: rdb.kill([Killed(h, "boom") for h in held], **kw),
}
end = pytest.mark.parametrize("settle", ENDS.values(), ids=ENDS)
HOLDS: dict[str, Callable[..., Awaitable[list[bool]]]] = {
    **ENDS,
    "extend_lease": lambda rdb, *held: rdb.extend_lease(held),
}

NOT_HELD = {
    "it is not active": (State(pending=["a"]), OWNER),
    "there is no such task": (State(), OWNER),
    "another of ours has it": (active("a", tasks={"a": {"owner": "host:1:server:2"}}), OWNER),
    "Go has it, which leaves our owner in the hash": (
        State(active=["a"], lease={"a": GO_LEASE}, tasks={"a": {"owner": OWNER}}),
        OWNER,
    ),
    "Go had it from the beginning": (State(active=["a"], lease={"a": GO_LEASE}), OWNER),
    "it waits for a retry, and its owner was left in the hash": (
        State(retry={"a": NOW}, tasks={"a": {"owner": OWNER}}),
        OWNER,
    ),
    "its hash is gone": (active("a", tasks={"a": None}), OWNER),
    "its lease is not the one that was seen": (active("a"), f"lease={LEASE + 1}"),
    "its lease is gone, and was seen": (State(active=["a"]), f"lease={LEASE}"),
    "no owner is not an owner": (active("a", tasks={"a": {"owner": None}}), ""),
}


@pytest.mark.parametrize(("before", "guard"), NOT_HELD.values(), ids=NOT_HELD)
@pytest.mark.parametrize("settle", HOLDS.values(), ids=HOLDS)
async def test_a_task_that_is_not_held_is_left_alone(rdb, redis_target, settle, before, guard):
    await before.write(redis_target, QUEUE)
    assert await settle(rdb, held("a", guard=guard)) == [False]
    await assert_states(redis_target, {QUEUE: before})


HELD = {
    "its owner, while the lease lasts": (LEASE, OWNER),
    "its owner, when the lease ran out": (NOW - 9.75, OWNER),
    "who saw that lease": (NOW - 9.75, f"lease={NOW - 9.75}"),
    "who saw that lease of Go": (NOW_S - 31.0, f"lease={NOW_S - 31}"),
}


@pytest.mark.parametrize(("lease", "guard"), HELD.values(), ids=HELD)
@pytest.mark.parametrize("settle", HOLDS.values(), ids=HOLDS)
async def test_a_task_is_settled_by(rdb, redis_target, settle, lease, guard):
    await State(active=["a"], lease={"a": lease}).write(redis_target, QUEUE)
    assert await settle(rdb, held("a", guard=guard)) == [True]
    state = await State.read(redis_target, QUEUE)
    assert state.lease == ({"a": LEASE} if "a" in state.active else {})


@pytest.mark.parametrize("settle", HOLDS.values(), ids=HOLDS)
async def test_each_task_of_a_batch_has_its_own_answer(rdb, redis_target, settle):
    before = State(
        active=["a", "lost", "taken", "b"],
        lease={"a": LEASE, "taken": GO_LEASE, "b": LEASE},
        tasks={"lost": {"owner": OWNER}, "taken": {"owner": OWNER}},
    )
    await before.write(redis_target, QUEUE)
    answers = await settle(rdb, held("a"), held("lost"), held("taken"), held("gone"), held("b"), held("b", guard="x"))
    assert answers == [True, False, False, False, True, False]
    state = await State.read(redis_target, QUEUE)
    untouched = before.full(QUEUE).tasks
    assert {task_id: state.tasks[task_id] for task_id in ("lost", "taken")} == {
        task_id: untouched[task_id] for task_id in ("lost", "taken")
    }
    assert state.lease["taken"] == GO_LEASE
    assert state.counters.get("processed", 2) == 2


@end
async def test_a_task_twice_in_a_batch_is_settled_once(rdb, redis_target, settle):
    await active("a").write(redis_target, QUEUE)
    assert sorted(await settle(rdb, held("a"), held("a"))) == [False, True]
    state = await State.read(redis_target, QUEUE)
    assert state.counters.get("processed", 1) == 1
    assert len(state.pending) <= 1


async def test_an_id_that_stands_in_active_twice_is_gone_after_the_next_repair(rdb, redis_target):
    await active("a", "b").write(redis_target, QUEUE)
    await redis_target.lpush(keys.active(QUEUE), "a")
    assert await rdb.done([held("a")]) == [True]
    assert (await rdb.repair(QUEUE)).strays == [(QUEUE, "a")]
    assert await redis_target.lrange(keys.active(QUEUE), 0, -1) == [b"b"]


@end
async def test_a_repeat_with_the_same_receipt_is_answered_and_writes_nothing(rdb, redis_target, settle):
    await active("a").write(redis_target, QUEUE)
    receipt = Receipt("caller", 3)
    assert await settle(rdb, held("a"), held("b"), receipt=receipt) == [True, False]
    again = active("a", "b", counters=counted(7, 7))  # as if the same owner held both again
    async for key in redis_target.scan_iter():
        if b":receipt:" not in key:
            await redis_target.delete(key)
    await again.write(redis_target, QUEUE)

    assert await settle(rdb, held("a"), held("b"), receipt=receipt) == [True, False]
    await assert_states(redis_target, {QUEUE: again})
    with pytest.raises(BrokerError, match="STALE call 2 after call 3"):
        await settle(rdb, held("a"), receipt=Receipt("caller", 2))
    await assert_states(redis_target, {QUEUE: again})
    assert await settle(rdb, held("a"), receipt=Receipt("caller", 4)) == [True]


@end
async def test_a_full_batch_is_settled(rdb, redis_target, settle):
    ids = [f"{n:03}" for n in range(MAX_BATCH)]
    msgs = {task_id: unique(task_id, payload=task_id.encode()) for task_id in ids}
    before = active(
        *ids, tasks={i: {"msg": m} for i, m in msgs.items()}, locks={m.unique_key: i for i, m in msgs.items()}
    )
    await before.write(redis_target, QUEUE)
    assert await settle(rdb, *(held(task_id, msg=msgs[task_id]) for task_id in ids)) == [True] * MAX_BATCH
    state = await State.read(redis_target, QUEUE)
    assert (state.active, state.lease) == ([], {})
    assert [*state.pending, *sorted([*state.retry, *state.archived, *state.completed])] == (ids if state.tasks else [])


@end
async def test_too_many_tasks_are_refused(rdb, redis_target, settle):
    with pytest.raises(ValueError, match="at most 256 tasks go in one call, got 257"):
        await settle(rdb, *(held(str(n)) for n in range(MAX_BATCH + 1)))
    assert [key async for key in redis_target.scan_iter()] == []


@pytest.mark.parametrize("settle", HOLDS.values(), ids=HOLDS)
async def test_tasks_of_two_queues_are_refused(rdb, settle):
    with pytest.raises(ValueError, match="the tasks of one call must be of one queue"):
        await settle(rdb, held("a"), held("b", "another"))


@pytest.mark.parametrize("settle", HOLDS.values(), ids=HOLDS)
async def test_nothing_to_settle_is_no_call(rdb, redis_target, settle):
    assert await settle(rdb) == []
    assert [key async for key in redis_target.scan_iter()] == []


@pytest.mark.parametrize("name", ["retry", "mark_as_complete"])
async def test_a_task_without_a_message_can_only_be_killed_or_requeued(rdb, name):
    with pytest.raises(ValueError, match="task 'a' has no message; it can only be killed or requeued"):
        await ENDS[name](rdb, Leased(QUEUE, "a", None, OWNER))


@pytest.mark.parametrize(
    ("name", "place"),
    [("mark_as_complete", "completed"), ("requeue", "pending"), ("retry", "retry"), ("kill", "archived")],
)
async def test_a_place_that_is_something_else_is_found_before_anything_is_written(rdb, redis_target, name, place):
    before = active("a", other={place: "junk"})
    await before.write(redis_target, QUEUE)
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await ENDS[name](rdb, held("a"))
    await assert_states(redis_target, {QUEUE: before})


# ── the archive ──


@pytest.mark.rows(38)
async def test_row_38_an_archive_holds_exactly_10000(rdb, redis_target):
    await redis_target.zadd(keys.archived(QUEUE), {f"x{n:05}": NOW_S - 20_000 + n for n in range(MAX_ARCHIVE)})
    await redis_target.hset(keys.task(QUEUE, "x00000"), "state", "archived")
    await active("a").write(redis_target, QUEUE)
    await rdb.kill([Killed(held("a"), "boom")])
    assert await redis_target.zcard(keys.archived(QUEUE)) == MAX_ARCHIVE == 10_000
    assert await redis_target.zrange(keys.archived(QUEUE), 0, 0) == [b"x00001"]
    assert not await redis_target.exists(keys.task(QUEUE, "x00000"))


async def test_an_archive_far_too_large_shrinks_with_each_call(rdb, redis_target):
    await redis_target.zadd(keys.archived(QUEUE), {f"old{n:05}": n for n in range(1200)})
    await redis_target.zadd(keys.archived(QUEUE), {f"x{n:05}": NOW_S - 2000 + n for n in range(1200)})
    sizes = []
    for number in range(4):
        await State(active=[f"a{number}"], lease={f"a{number}": LEASE}).write(redis_target, QUEUE)
        await rdb.kill([Killed(held(f"a{number}"), "boom")], max_size=3)
        sizes.append(await redis_target.zcard(keys.archived(QUEUE)))
    assert sizes == [1401, 702, 203, 3]  # 500 that are too old, and 500 that are too many, at a time
    assert await redis_target.zrange(keys.archived(QUEUE), 0, -1) == [b"a1", b"a2", b"a3"]


# ── results ──

RESULTS = {
    "row 44: bytes are stored and counted": (active("a"), "", b"\x00\xff"),
    "of the owner": (active("a"), OWNER, b"x"),
    "the last write wins": (active("a", tasks={"a": {"result": "old"}}), OWNER, b""),
}


@pytest.mark.rows(44)
@pytest.mark.parametrize(("before", "owner", "data"), RESULTS.values(), ids=RESULTS)
async def test_write_result(rdb, redis_target, before, owner, data):
    await before.write(redis_target, QUEUE)
    assert await rdb.write_result(QUEUE, "a", data, owner=owner) == len(data)
    assert await redis_target.hget(keys.task(QUEUE, "a"), "result") == data


@pytest.mark.parametrize(
    ("before", "owner"),
    [(State(), ""), (State(), OWNER), (active("a"), "another"), (State(pending=["a"]), OWNER)],
    ids=["row 44: no task, no stub", "no task of this owner", "somebody else's", "nobody's"],
)
async def test_write_result_refused(rdb, redis_target, before, owner):
    await before.write(redis_target, QUEUE)
    with pytest.raises(TaskNotFoundError, match="cannot find task 'a' in queue 'q'"):
        await rdb.write_result(QUEUE, "a", b"x", owner=owner)
    await assert_states(redis_target, {QUEUE: before})


@pytest.mark.parametrize("before", [active("a"), active("a", tasks={"a": {"progress": "0.9", "progress_text": "old"}})])
async def test_write_progress(rdb, redis_target, before):
    await before.write(redis_target, QUEUE)
    await rdb.write_progress(QUEUE, "a", Progress(0.1, "ü"), owner=OWNER)
    [found] = await rdb.read_tasks(QUEUE, ["a"])
    assert found.progress == Progress(0.1, "ü")
    assert await rdb.read_step(QUEUE, "a") == ("active", Progress(0.1, "ü"))
    assert await rdb.read_step(QUEUE, "b") is None


@pytest.mark.parametrize(
    "before", [State(), active("b"), State(pending=["a"]), active("a", tasks={"a": {"owner": "another"}})]
)
async def test_write_progress_refused(rdb, redis_target, before):
    await before.write(redis_target, QUEUE)
    with pytest.raises(TaskNotFoundError, match="cannot find task 'a' in queue 'q'"):
        await rdb.write_progress(QUEUE, "a", Progress(0.1), owner=OWNER)
    await assert_states(redis_target, {QUEUE: before})


@pytest.mark.parametrize("fraction", ["", "half", "nan", "7"])
async def test_progress_that_is_none_is_passed_over(rdb, redis_target, fraction):
    await active("a", tasks={"a": {"progress": fraction, "progress_text": "x"}}).write(redis_target, QUEUE)
    expected = {"7": Progress(1.0, "x"), "nan": Progress(0.0, "x")}.get(fraction)
    assert await rdb.read_step(QUEUE, "a") == ("active", expected)


@pytest.mark.parametrize(
    ("standing", "ended", "left"),  # as the list stands, the one that was taken first on the right
    [
        ("edcba", "abc", "ed"),
        ("edcba", "cab", "ed"),
        ("edcba", "bcd", "ea"),
        ("edcba", "acde", "b"),
        ("edcba", "abcde", ""),
        ("edcba", "ab", "edc"),
        ("abcba", "abc", "ab"),
        ("dcbaa", "abc", "da"),
        ("ba", "abc", ""),
        ("", "abc", ""),
    ],
)
@pytest.mark.parametrize("retention", [0, 3600])
async def test_those_that_succeeded_leave_the_list_whatever_stands_between(
    rdb, redis_target, standing, ended, left, retention
):
    ids = {*standing, *ended}
    await write_all(redis_target, {QUEUE: active(*sorted(ids))})
    place = keys.active(QUEUE)
    await redis_target.delete(place)
    if standing:
        await redis_target.rpush(place, *standing)
    mine = [held(task_id, msg=message(task_id, retention=retention)) for task_id in ended]
    done = rdb.mark_as_complete([Completed(leased, None) for leased in mine]) if retention else rdb.done(mine)
    assert await done == [True] * len(ended)
    assert b"".join(await redis_target.lrange(place, 0, -1)).decode() == left
    states = {task_id: await redis_target.hget(keys.task(QUEUE, task_id), "state") for task_id in ids}
    gone = b"completed" if retention else None
    assert states == {task_id: gone if task_id in ended else b"active" for task_id in ids}
