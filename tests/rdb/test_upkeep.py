"""What keeps queues in order: due tasks, leases, recovery, repair, expired results."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from aioasynq import keys
from aioasynq.errors import BrokerError
from aioasynq.rdb.lifecycle import Completed, Failed, Killed, Leased
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.upkeep import Expired, Forwarded
from tests.support.build import GO_LEASE, LEASE, NOW, NOW_NS, NOW_S, OWNER, QUEUE, Clock, counted, held, message
from tests.support.state import State, assert_states, write_all

SINCE = {"pending_since": NOW_NS}


class Forward(NamedTuple):
    before: dict[str, State]
    queues: list[str]
    moved: int
    after: dict[str, State]
    strays: tuple[str, ...] = ()


FORWARD = {
    "row 39: only what is due, of scheduled and retry": Forward(
        {"q": State(scheduled={"a": NOW - 1, "later": NOW + 0.001}, retry={"b": NOW, "much later": NOW + 60})},
        ["q"],
        2,
        {
            "q": State(
                pending=["a", "b"],
                scheduled={"later": NOW + 0.001},
                retry={"much later": NOW + 60},
                tasks={"a": SINCE, "b": SINCE},
            )
        },
    ),
    "row 39: only in the queues that are named": Forward(
        {"q": State(scheduled={"a": NOW}), "p": State(retry={"b": NOW}), "other": State(scheduled={"c": NOW})},
        ["q", "p"],
        2,
        {
            "q": State(pending=["a"], tasks={"a": SINCE}),
            "p": State(pending=["b"], tasks={"b": SINCE}),
            "other": State(scheduled={"c": NOW}),
        },
    ),
    "row 39: the one that was due first runs first, behind those that wait": Forward(
        {"q": State(pending=["x"], scheduled={"b": NOW - 1, "a": NOW - 2, "c": NOW})},
        ["q"],
        3,
        {"q": State(pending=["x", "a", "b", "c"], tasks={"a": SINCE, "b": SINCE, "c": SINCE})},
    ),
    "row 39: nothing is due": Forward(
        {"q": State(scheduled={"a": NOW + 1})}, ["q", "empty"], 0, {"q": State(scheduled={"a": NOW + 1})}
    ),
    "row 39: a paused queue is filled all the same": Forward(
        {"q": State(scheduled={"a": NOW}, paused=True)},
        ["q"],
        1,
        {"q": State(pending=["a"], paused=True, tasks={"a": SINCE})},
    ),
    "row 39: a whole second is due when it has begun, as Go means it": Forward(
        {"q": State(scheduled={"a": NOW_S, "b": NOW_S + 1})},
        ["q"],
        1,
        {"q": State(pending=["a"], scheduled={"b": NOW_S + 1}, tasks={"a": SINCE})},
    ),
    "row 40: those of a group go back to it, and the group is named again": Forward(
        {
            "q": State(
                retry={"a": NOW - 1, "b": NOW}, scheduled={"c": NOW}, tasks={"a": {"group": "g"}, "c": {"group": "h"}}
            )
        },
        ["q"],
        3,
        {
            "q": State(
                pending=["b"],
                groups={"g": {"a": NOW_S}, "h": {"c": NOW_S}},
                tasks={"a": {"msg": message("a")}, "c": {"msg": message("c")}, "b": SINCE},
            )
        },
    ),
    "row 40: an empty group is no group": Forward(
        {"q": State(retry={"a": NOW}, tasks={"a": {"group": ""}})},
        ["q"],
        1,
        {"q": State(pending=["a"], tasks={"a": SINCE | {"group": ""}})},
    ),
    "an id without a hash is a stray": Forward(
        {"q": State(scheduled={"gone": NOW, "a": NOW}, tasks={"gone": None})},
        ["q"],
        2,
        {"q": State(pending=["a"], tasks={"a": SINCE})},
        strays=("gone",),
    ),
    "an id whose hash is none is a stray": Forward(
        {"q": State(scheduled={"bad": NOW}, tasks={"bad": None}, other={"t:bad": "junk"})},
        ["q"],
        1,
        {"q": State(other={"t:bad": "junk"})},
        strays=("bad",),
    ),
    "ids that are held elsewhere are strays": Forward(
        {
            "q": State(
                pending=["p"],
                active=["x"],
                lease={"x": LEASE},
                archived={"k": NOW},
                groups={"g": {"g": NOW}},
                scheduled={"p": NOW, "x": NOW, "k": NOW, "g": NOW},
                tasks={
                    "x": {"state": "active", "owner": OWNER},
                    "k": {"state": "archived"},
                    "g": {"state": "aggregating", "group": "g"},
                },
            )
        },
        ["q"],
        4,
        {
            "q": State(
                pending=["p"],
                active=["x"],
                lease={"x": LEASE},
                archived={"k": NOW},
                groups={"g": {"g": NOW}},
                tasks={"g": {"msg": message("g")}},
            )
        },
        strays=("g", "k", "p", "x"),
    ),
    "an id whose hash names a place that does not hold it is forwarded": Forward(
        {"q": State(scheduled={"a": NOW, "b": NOW}, tasks={"a": {"state": "pending"}, "b": {"state": None}})},
        ["q"],
        2,
        {"q": State(pending=["a", "b"], tasks={"a": SINCE, "b": SINCE})},
    ),
    "an id that is both scheduled and retried is forwarded once": Forward(
        {"q": State(scheduled={"a": NOW}, retry={"a": NOW}, tasks={"a": {"state": "retry"}})},
        ["q"],
        2,
        {"q": State(pending=["a"], tasks={"a": SINCE})},
        strays=("a",),
    ),
}


@pytest.mark.rows(39, 40)
@pytest.mark.parametrize("limit", [1, 2, 256])
@pytest.mark.parametrize("row", FORWARD.values(), ids=FORWARD)
async def test_check_and_enqueue(rdb, redis_target, row, limit):
    await write_all(redis_target, row.before)
    forwarded = await rdb.check_and_enqueue(*row.queues, limit=limit)
    assert (forwarded.moved, sorted(forwarded.strays)) == (row.moved, [("q", task_id) for task_id in row.strays])
    await assert_states(redis_target, row.after)
    assert await rdb.check_and_enqueue(*row.queues) == Forwarded(0, [])


async def test_many_due_tasks_go_in_slices(rdb, redis_target):
    ids = [f"{n:04}" for n in range(600)]
    await State(scheduled=dict.fromkeys(ids, NOW)).write(redis_target, QUEUE)
    assert (await rdb.check_and_enqueue(QUEUE)).moved == 600
    await assert_states(redis_target, {QUEUE: State(pending=ids, tasks=dict.fromkeys(ids, SINCE))})


@pytest.mark.parametrize("place", ["pending", "groups", "g:g"])
async def test_a_place_that_is_something_else_is_found_before_anything_is_written(rdb, redis_target, place):
    before = State(scheduled={"a": NOW, "b": NOW}, tasks={"b": {"group": "g"}}, other={place: "junk"})
    await before.write(redis_target, QUEUE)
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await rdb.check_and_enqueue(QUEUE)
    await assert_states(redis_target, {QUEUE: before})


async def test_next_due(rdb, redis_target):
    await write_all(
        redis_target,
        {
            "q": State(scheduled={"a": NOW + 9, "b": NOW + 60}, retry={"c": NOW + 2.5}),
            "late": State(retry={"d": NOW - 1}),
            "empty": State(pending=["e"]),
        },
    )
    assert await rdb.next_due("q", "empty", "late", "unknown") == {"q": 2.5, "late": -1.0}
    assert await rdb.next_due("empty") == {}


# ── leases ──


@pytest.mark.rows(43)
@pytest.mark.parametrize(
    ("now", "end"),
    [(NOW, NOW + 30), (NOW_S + 0.0, NOW_S + 30.001)],
    ids=["row 43: to 30 s from now", "row 43: never to a whole second"],
)
async def test_extend_lease(rdb, redis_target, clock: Clock, now, end):
    clock.now = now
    before = State(active=["a", "b", "c"], lease={"a": NOW + 3, "b": NOW - 3, "c": NOW + 3})
    await before.write(redis_target, QUEUE)
    assert await rdb.extend_lease([held("a"), held("b"), held("none")], lease=30) == [True, True, False]
    before.lease = {"a": end, "b": end, "c": NOW + 3}
    await assert_states(redis_target, {QUEUE: before})


@pytest.mark.rows(43)
async def test_row_43_the_default_is_15_seconds(rdb, redis_target):
    await State(active=["a"], lease={"a": NOW + 3}).write(redis_target, QUEUE)
    assert await rdb.extend_lease([held("a")]) == [True]
    assert (await State.read(redis_target, QUEUE)).lease == {"a": NOW + 15}


class Lost(NamedTuple):
    before: dict[str, State]
    found: list[tuple[str, str, str, int]]  #: queue, id, owner, how often recovered
    ours: float = 0.0
    theirs: float = 0.0


EXPIRED = {
    "row 42: only those whose lease ended": Lost(
        {"q": State(active=["a", "b", "c"], lease={"a": NOW - 1, "b": NOW, "c": NOW + 0.001})},
        [("q", "a", OWNER, 0), ("q", "b", OWNER, 0)],
    ),
    "row 42: across queues": Lost(
        {"q": State(active=["a"], lease={"a": NOW - 1}), "p": State(active=["b"], lease={"b": NOW - 9})},
        [("q", "a", OWNER, 0), ("p", "b", OWNER, 0)],
    ),
    "row 42: none": Lost({"q": State(active=["a"], lease={"a": LEASE})}, []),
    "row 42: none at all": Lost({}, []),
    "leases of ours are given up after another time than Go's": Lost(
        {
            "q": State(
                active=["ours", "ours late", "go", "go late"],
                lease={"ours": NOW - 1.5, "ours late": NOW - 2, "go": NOW_S - 29.0, "go late": NOW_S - 30.0},
            )
        },
        [("q", "go late", "", 0), ("q", "ours late", OWNER, 0)],
        ours=2.0,
        theirs=30.0,
    ),
    "how often a task was recovered": Lost(
        {"q": State(active=["a"], lease={"a": NOW - 1}, tasks={"a": {"recovered": "3"}})},
        [("q", "a", OWNER, 3)],
    ),
    "not what is no active task": Lost(
        {
            "q": State(
                pending=["p"],
                active=["gone", "bad"],
                lease={"p": NOW - 1, "gone": NOW - 1, "bad": NOW - 1},
                tasks={"gone": None, "bad": None},
                other={"t:bad": "junk"},
            )
        },
        [],
    ),
}


@pytest.mark.rows(42)
@pytest.mark.parametrize("row", EXPIRED.values(), ids=EXPIRED)
async def test_list_lease_expired(rdb, redis_target, row):
    await write_all(redis_target, row.before)
    expired = await rdb.list_lease_expired("q", "p", ours=row.ours, theirs=row.theirs)
    assert [(e.leased.queue, e.leased.id, e.owner, e.recovered) for e in expired] == row.found
    assert all(e.leased.msg == message(e.leased.id, e.leased.queue) for e in expired)
    await assert_states(redis_target, row.before)


@pytest.mark.rows(42)
async def test_row_42_a_limit_for_each_queue(rdb, redis_target):
    state = State(active=["a", "b", "c"], lease={"a": NOW - 3, "b": NOW - 2, "c": NOW - 1})
    await write_all(redis_target, {"q": state, "p": state})
    expired = await rdb.list_lease_expired("q", "p", limit=2)
    assert [(e.leased.queue, e.leased.id) for e in expired] == [("q", "a"), ("q", "b"), ("p", "a"), ("p", "b")]


async def test_only_one_recovers_a_task(rdb, redis_target):
    await State(active=["a"], lease={"a": NOW - 1}).write(redis_target, QUEUE)
    [mine] = await rdb.list_lease_expired(QUEUE)
    async with RDB(redis_target, clock=Clock()) as other:
        [theirs] = await other.list_lease_expired(QUEUE)
    assert mine == theirs == Expired(held("a", guard=f"lease={NOW - 1}"), OWNER, 0)
    failed = [Failed(mine.leased, 1, "lease expired", recovered=1)]
    assert await rdb.retry(failed) == [True]
    after = await State.read(redis_target, QUEUE)
    assert await rdb.retry(failed) == [False]
    assert await State.read(redis_target, QUEUE) == after


@pytest.mark.rows(9)
async def test_an_owner_that_comes_back_keeps_its_task(rdb, redis_target):
    await State(active=["a"], lease={"a": NOW - 1}).write(redis_target, QUEUE)
    [expired] = await rdb.list_lease_expired(QUEUE)
    assert await rdb.extend_lease([held("a")]) == [True]
    assert await rdb.retry([Failed(expired.leased, 1, "lease expired")]) == [False]
    assert await rdb.done([held("a")]) == [True]


@pytest.mark.parametrize("stored", [b"\xff\xff", None, message("another")], ids=["junk", "a stub", "of another id"])
async def test_a_broken_task_whose_lease_ended_can_be_archived(rdb, redis_target, stored):
    await State(active=["a"], lease={"a": GO_LEASE - 90}, tasks={"a": {"msg": stored}}).write(redis_target, QUEUE)
    [expired] = await rdb.list_lease_expired(QUEUE)
    assert expired.leased.msg is None
    assert expired.leased.error.startswith("undecodable message: ")
    assert await rdb.kill([Killed(expired.leased, expired.leased.error)]) == [True]
    after = State(
        archived={"a": NOW_S}, tasks={"a": {"msg": stored, "error": expired.leased.error}}, counters=counted(1, 1)
    )
    await assert_states(redis_target, {QUEUE: after})


# ── restore_unfinished ──

ORPHANS = State(
    pending=["x"],
    active=["a", "live", "b", "go", "c"],
    lease={"a": NOW - 1, "live": LEASE, "go": GO_LEASE, "c": NOW},
)
RESTORE = {
    "what has no live lease": (
        ORPHANS,
        False,
        3,
        State(pending=["a", "b", "c", "x"], active=["live", "go"], lease={"live": LEASE, "go": GO_LEASE}),
    ),
    "everything": (ORPHANS, True, 5, State(pending=["a", "live", "b", "go", "c", "x"])),
    "nothing": (State(pending=["x"]), True, 0, State(pending=["x"])),
    "not what has no hash": (State(active=["gone", "a"], tasks={"gone": None}), False, 1, State(pending=["a"])),
    "not what is no hash": (
        State(active=["bad"], lease={"bad": NOW - 1}, tasks={"bad": None}, other={"t:bad": "junk"}),
        True,
        0,
        State(other={"t:bad": "junk"}),
    ),
    "not what stands elsewhere": (
        State(pending=["p"], retry={"r": NOW}, active=["p", "r"], lease={"r": NOW - 1}),
        False,
        0,
        State(pending=["p"], retry={"r": NOW}),
    ),
    "what a dequeue that stopped half-way left, in no other place": (
        State(
            active=["a", "b"],
            lease={"a": NOW - 1},
            tasks={"a": {"state": "pending"}, "b": {"state": None, "owner": OWNER}},
        ),
        False,
        2,
        State(pending=["a", "b"]),
    ),
    "what is in the list twice": (
        State(active=["a", "b", "a"], lease={"a": NOW - 1}),
        False,
        2,
        State(pending=["b", "a"]),
    ),
}


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
@pytest.mark.parametrize(("before", "force", "count", "after"), RESTORE.values(), ids=RESTORE)
async def test_restore_unfinished(rdb, redis_target, before, force, count, after, limit):
    await write_all(redis_target, {QUEUE: before, "another": ORPHANS})
    assert await rdb.restore_unfinished(QUEUE, force=force, limit=limit) == count
    await assert_states(redis_target, {QUEUE: after, "another": ORPHANS})


async def test_restore_unfinished_of_several_queues(rdb, redis_target):
    await write_all(redis_target, {"q": State(active=["a"]), "p": State(active=["b", "c"])})
    assert await rdb.restore_unfinished("q", "p", "empty") == 3
    await assert_states(redis_target, {"q": State(pending=["a"]), "p": State(pending=["b", "c"])})


# ── repair ──

JUST_ENDED = NOW  #: the lease that an orphan gets


class Repair(NamedTuple):
    before: State
    after: State
    strays: tuple[str, ...] = ()
    adopted: tuple[str, ...] = ()


SOUND = State(active=["a", "go"], lease={"a": NOW - 99, "go": GO_LEASE}, pending=["p"])
REPAIR = {
    "what is sound is left alone": Repair(SOUND, SOUND),
    "an active task without a lease gets one that has just ended": Repair(
        State(active=["a", "b"], lease={"b": LEASE}),
        State(active=["a", "b"], lease={"a": JUST_ENDED, "b": LEASE}, tasks={"a": {"owner": None}}),
        adopted=("a",),
    ),
    "an active id without a hash is a stray": Repair(
        State(active=["gone", "a"], lease={"gone": LEASE, "a": LEASE}, tasks={"gone": None}),
        State(active=["a"], lease={"a": LEASE}),
        strays=("gone",),
    ),
    "an active id whose hash is none is a stray": Repair(
        State(active=["bad"], tasks={"bad": None}, other={"t:bad": "junk"}),
        State(other={"t:bad": "junk"}),
        strays=("bad",),
    ),
    "an active id of a task that waits is a stray": Repair(
        State(active=["p", "r", "k"], lease={"p": LEASE}, pending=["p"], retry={"r": NOW}, archived={"k": NOW}),
        State(pending=["p"], retry={"r": NOW}, archived={"k": NOW}),
        strays=("k", "p", "r"),
    ),
    "an active task that waits nowhere is active": Repair(
        State(active=["a"], lease={"a": LEASE}, tasks={"a": {"state": "pending", "owner": None}}),
        State(active=["a"], lease={"a": LEASE}, tasks={"a": {"owner": None}}),
        adopted=("a",),
    ),
    "a stub that Go left is kept for recovery": Repair(
        State(active=["a"], lease={"a": GO_LEASE - 99}, tasks={"a": {"msg": None}}),
        State(active=["a"], lease={"a": GO_LEASE - 99}, tasks={"a": {"msg": None}}),
    ),
    "a lease that ended, of a task that is not in active": Repair(
        State(lease={"a": NOW - 1}, tasks={"a": {"msg": message("a"), "state": "active", "owner": OWNER}}),
        State(active=["a"], lease={"a": NOW - 1}),
        adopted=("a",),
    ),
    "a lease that ended, of a task that a half-done dequeue left pending": Repair(
        State(lease={"a": NOW - 1}, pending=["a"]),
        State(pending=["a"]),
        strays=("a",),
    ),
    "a lease that ended, without a hash": Repair(
        State(lease={"gone": NOW - 1, "later": LEASE}),
        State(lease={"later": LEASE}),
        strays=("gone",),
    ),
}


@pytest.mark.parametrize("limit", [1, 2, 1000])
@pytest.mark.parametrize("row", REPAIR.values(), ids=REPAIR)
async def test_repair(rdb, redis_target, row, limit):
    await write_all(redis_target, {QUEUE: row.before, "another": SOUND})
    strays: list[Any] = []
    adopted: list[Any] = []
    for _ in range(3):  # what one call does not see, for its limit or the order of things, the next one does
        repaired = await rdb.repair(QUEUE, limit=limit)
        strays += repaired.strays
        adopted += repaired.adopted
    assert sorted(strays) == [(QUEUE, task_id) for task_id in row.strays]
    assert adopted == [(QUEUE, task_id) for task_id in row.adopted]
    await assert_states(redis_target, {QUEUE: row.after, "another": SOUND})


async def test_one_repair_in_slices_sees_every_active_id(rdb, redis_target):
    ids = [f"{n:02}" for n in range(20)]
    gone = {task_id: None for n, task_id in enumerate(ids) if n % 3 == 0}
    await State(active=ids, tasks={**gone}).write(redis_target, QUEUE)
    repaired = await rdb.repair(QUEUE, limit=4)
    assert sorted(task_id for _, task_id in repaired.strays) == sorted(gone)
    assert sorted(task_id for _, task_id in repaired.adopted) == sorted(set(ids) - set(gone))


async def test_an_orphan_is_found_once_it_is_repaired(rdb, redis_target):
    await State(active=["a"]).write(redis_target, QUEUE)
    assert await rdb.list_lease_expired(QUEUE) == []
    await rdb.repair(QUEUE)
    [expired] = await rdb.list_lease_expired(QUEUE)
    assert expired.leased == held("a", guard=f"lease={JUST_ENDED}")


# ── expired results ──


@pytest.mark.rows(41)
@pytest.mark.parametrize("limit", [1, 2, 3, 100], ids=lambda n: f"row 41: {n} at a time")
async def test_delete_expired_completed(rdb, redis_target, limit):
    other = State(completed={"a": NOW - 1})
    before = State(
        pending=["p"],
        completed={
            "a": NOW - 9,
            "b": NOW_S,
            "c": NOW,
            "later": NOW + 0.5,
            "gone": NOW - 1,
            "bad": NOW - 1,
            "p": NOW - 1,
        },
        tasks={"gone": None, "bad": None, "a": {"result": "r"}},
        other={"t:bad": "junk"},
    )
    await write_all(redis_target, {"q": before, "p": other, "other": other})
    assert await rdb.delete_expired_completed("q", "p", "empty", limit=limit) == 7
    after = State(pending=["p"], completed={"later": NOW + 0.5}, other={"t:bad": "junk"})
    await assert_states(redis_target, {"q": after, "other": other})


async def test_a_kept_task_is_deleted_when_its_retention_is_over(rdb, redis_target, clock: Clock):
    kept = message("a", retention=60)
    await State(active=["a"], lease={"a": LEASE}, tasks={"a": {"msg": kept}}).write(redis_target, QUEUE)
    await rdb.mark_as_complete([Completed(Leased(QUEUE, "a", kept, OWNER))])
    clock.now = NOW + 59
    assert await rdb.delete_expired_completed(QUEUE) == 0
    clock.now = NOW + 60
    assert await rdb.delete_expired_completed(QUEUE) == 1
    await assert_states(redis_target, {QUEUE: State(counters=counted(1))})
    assert not await redis_target.exists(keys.task(QUEUE, "a"))
