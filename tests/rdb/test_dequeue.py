"""Out of a queue: dequeue, its strays, broken messages and receipts."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest

from aioasynq import keys
from aioasynq.errors import BrokerError
from aioasynq.rdb.base import MAX_BATCH_BYTES
from aioasynq.rdb.lifecycle import Killed
from aioasynq.rdb.receipts import Receipt
from tests.support.build import DAY, LEASE, NOW, NOW_NS, NOW_S, OWNER, QUEUE, Clock, counted, held, message
from tests.support.state import State, assert_states, write_all

SINCE = {"pending_since": NOW_NS}


class Row(NamedTuple):
    before: dict[str, State]
    queues: list[str]
    wanted: int
    got: list[tuple[str, str]]  #: (queue, id)
    after: dict[str, State]
    dry: bool = True
    paused: bool = False
    strays: tuple[tuple[str, str], ...] = ()


ROWS = {
    "row 26: takes the oldest task, with a lease of 30 s, without pending_since": Row(
        {"q": State(pending=["a", "b"], tasks={"a": SINCE, "b": SINCE})},
        ["q"],
        1,
        [("q", "a")],
        {"q": State(pending=["b"], active=["a"], lease={"a": NOW + 30}, tasks={"b": SINCE})},
        dry=False,
    ),
    "row 26: puts it behind those that are active": Row(
        {"q": State(pending=["a"], active=["x"], lease={"x": LEASE})},
        ["q"],
        1,
        [("q", "a")],
        {"q": State(active=["x", "a"], lease={"x": LEASE, "a": NOW + 30})},
        dry=False,
    ),
    "row 27: asks queues in the order given": Row(
        {"low": State(pending=["l"]), "high": State(pending=["h"])},
        ["high", "low"],
        1,
        [("high", "h")],
        {"low": State(pending=["l"]), "high": State(active=["h"], lease={"h": NOW + 30})},
        dry=False,
    ),
    "row 27: goes on to the next queue when one is empty": Row(
        {"low": State(pending=["l"])},
        ["high", "low"],
        1,
        [("low", "l")],
        {"low": State(active=["l"], lease={"l": NOW + 30})},
        dry=False,
    ),
    "row 28: leaves everything alone when nothing is pending": Row(
        {"q": State(scheduled={"s": NOW - 9}, active=["x"], lease={"x": LEASE})},
        ["q", "empty"],
        5,
        [],
        {"q": State(scheduled={"s": NOW - 9}, active=["x"], lease={"x": LEASE})},
    ),
    "row 29: skips a paused queue": Row(
        {"q": State(pending=["a"], paused=True), "p": State(pending=["b"])},
        ["q", "p"],
        2,
        [("p", "b")],
        {"q": State(pending=["a"], paused=True), "p": State(active=["b"], lease={"b": NOW + 30})},
        paused=True,
    ),
    "row 29: takes nothing when all are paused": Row(
        {"q": State(pending=["a"], paused=True)},
        ["q"],
        1,
        [],
        {"q": State(pending=["a"], paused=True)},
        paused=True,
    ),
    "takes many in order": Row(
        {"q": State(pending=["a", "b", "c", "d"])},
        ["q"],
        3,
        [("q", "a"), ("q", "b"), ("q", "c")],
        {"q": State(pending=["d"], active=["a", "b", "c"], lease=dict.fromkeys("abc", NOW + 30))},
        dry=False,
    ),
    "takes what there is, and says that it was all": Row(
        {"q": State(pending=["a", "b"])},
        ["q"],
        3,
        [("q", "a"), ("q", "b")],
        {"q": State(active=["a", "b"], lease=dict.fromkeys("ab", NOW + 30))},
    ),
    "fills up from the next queue": Row(
        {"q": State(pending=["a"]), "p": State(pending=["b", "c"])},
        ["q", "p"],
        2,
        [("q", "a"), ("p", "b")],
        {
            "q": State(active=["a"], lease={"a": NOW + 30}),
            "p": State(active=["b"], lease={"b": NOW + 30}, pending=["c"]),
        },
        dry=False,
    ),
    "an id without a hash is a stray": Row(
        {"q": State(pending=["gone", "a"], tasks={"gone": None})},
        ["q"],
        2,
        [("q", "a")],
        {"q": State(active=["a"], lease={"a": NOW + 30})},
        dry=False,
        strays=(("q", "gone"),),
    ),
    "strays alone are taken off too": Row(
        {"q": State(pending=["gone"], tasks={"gone": None})},
        ["q"],
        5,
        [],
        {},
        strays=(("q", "gone"),),
    ),
    "a stray takes one place of the batch": Row(
        {"q": State(pending=["gone", "a"], tasks={"gone": None})},
        ["q"],
        1,
        [],
        {"q": State(pending=["a"])},
        dry=False,
        strays=(("q", "gone"),),
    ),
    "an id whose hash is none is a stray, and stays as it is": Row(
        {"q": State(pending=["bad"], tasks={"bad": None}, other={"t:bad": "junk"})},
        ["q"],
        5,
        [],
        {"q": State(other={"t:bad": "junk"})},
        strays=(("q", "bad"),),
    ),
    "an id twice in the list is taken once": Row(
        {"q": State(pending=["a", "b", "a"])},
        ["q"],
        5,
        [("q", "a"), ("q", "b")],
        {"q": State(active=["a", "b"], lease={"a": NOW + 30, "b": NOW + 30})},
        strays=(("q", "a"),),
    ),
    "an id that is active already is a stray": Row(
        {"q": State(pending=["a"], active=["a"], lease={"a": LEASE}, tasks={"a": {"state": "active", "owner": OWNER}})},
        ["q"],
        5,
        [],
        {"q": State(active=["a"], lease={"a": LEASE})},
        strays=(("q", "a"),),
    ),
    "ids that are held elsewhere are strays": Row(
        {
            "q": State(
                pending=["s", "r", "k", "c", "g"],
                scheduled={"s": NOW},
                retry={"r": NOW},
                archived={"k": NOW},
                completed={"c": NOW},
                groups={"g": {"g": NOW}},
                tasks={
                    "s": {"state": "scheduled"},
                    "r": {"state": "retry"},
                    "k": {"state": "archived"},
                    "c": {"state": "completed"},
                    "g": {"state": "aggregating", "group": "g"},
                },
            )
        },
        ["q"],
        9,
        [],
        {
            "q": State(
                scheduled={"s": NOW},
                retry={"r": NOW},
                archived={"k": NOW},
                completed={"c": NOW},
                groups={"g": {"g": NOW}},
                tasks={"g": {"msg": message("g")}},
            )
        },
        strays=tuple(("q", task_id) for task_id in "srkcg"),
    ),
    "an id whose hash names a place that does not hold it is taken": Row(
        {
            "q": State(
                pending=["s", "r", "k", "c", "g", "n", "w"],
                tasks={
                    "s": {"state": "scheduled"},
                    "r": {"state": "retry"},
                    "k": {"state": "archived"},
                    "c": {"state": "completed"},
                    "g": {"state": "aggregating"},
                    "n": {"state": None},
                    "w": {"state": "odd"},
                },
            )
        },
        ["q"],
        7,
        [("q", task_id) for task_id in "srkcgnw"],
        {"q": State(active=[*"srkcgnw"], lease=dict.fromkeys("srkcgnw", NOW + 30))},
        dry=False,
    ),
    "an id whose half-done dequeue left it active without a lease is taken": Row(
        {"q": State(pending=["a"], tasks={"a": {"state": "active", "owner": "dead"}})},
        ["q"],
        1,
        [("q", "a")],
        {"q": State(active=["a"], lease={"a": NOW + 30})},
        dry=False,
    ),
}


@pytest.mark.rows(26, 27, 28, 29)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_dequeue(rdb, redis_target, row):
    await write_all(redis_target, row.before)
    batch = await rdb.dequeue(*row.queues, count=row.wanted, owner=OWNER, lease=30)
    assert [(leased.queue, leased.id) for leased in batch.tasks] == row.got
    assert batch.tasks == [
        held(task_id, queue, msg=leased.msg) for (queue, task_id), leased in zip(row.got, batch.tasks, strict=True)
    ]
    assert (batch.broken, batch.strays, batch.dry, batch.paused) == ([], list(row.strays), row.dry, row.paused)
    await assert_states(redis_target, row.after)


async def test_the_message_comes_as_it_was_stored(rdb, redis_target):
    msg = message("a", headers={"x": "y"}, timeout=30, deadline=NOW_S, unique_key="lock", retention=5, payload=None)
    await rdb.enqueue([msg])
    batch = await rdb.dequeue(QUEUE, owner=OWNER)
    assert batch.tasks == [held("a", msg=msg)]
    assert batch.tasks[0].lock == "lock"


@pytest.mark.rows(26)
@pytest.mark.parametrize(
    ("now", "end"),
    [
        (NOW_S + 0.0, NOW_S + 30.001),
        (NOW_S + 0.9999, NOW_S + 31.001),
        (NOW_S + 0.0001, NOW_S + 30.001),
        (NOW, NOW + 30),
    ],
)
async def test_row_26_our_leases_never_end_at_a_whole_second(rdb, redis_target, clock: Clock, now, end):
    clock.now = now
    await State(pending=["a"]).write(redis_target, QUEUE)
    await rdb.dequeue(QUEUE, owner=OWNER, lease=30)
    assert (await State.read(redis_target, QUEUE)).lease == {"a": end}


async def test_the_default_lease_is_15_seconds(rdb, redis_target):
    await State(pending=["a"]).write(redis_target, QUEUE)
    await rdb.dequeue(QUEUE, owner=OWNER)
    assert (await State.read(redis_target, QUEUE)).lease == {"a": NOW + 15}


@pytest.mark.parametrize("count", [1, 15, 16, 128])
async def test_many_leases_are_a_tree_and_nothing_but_leases(rdb, redis_target, count):
    ids = [f"{n:03}" for n in range(count)]
    await State(pending=ids).write(redis_target, QUEUE)
    batch = await rdb.dequeue(QUEUE, count=count, owner=OWNER, lease=30)
    assert [leased.id for leased in batch.tasks] == ids
    await assert_states(redis_target, {QUEUE: State(active=ids, lease=dict.fromkeys(ids, NOW + 30))})
    if count >= 16:
        assert await redis_target.object("ENCODING", keys.lease(QUEUE)) == b"skiplist"


@pytest.mark.parametrize("held", [False, True], ids=["it waits", "it is held"])
async def test_a_task_with_the_id_that_makes_a_tree_keeps_its_lease(rdb, redis_target, held):
    long, ids = "-" * 65, [f"{n:03}" for n in range(16)]
    first, then = ([long], ids) if held else ([], [long, *ids])
    await State(pending=[*first, *then]).write(redis_target, QUEUE)
    for expected in (first, then):
        if expected:
            batch = await rdb.dequeue(QUEUE, count=len(expected), owner=OWNER, lease=30)
            assert [leased.id for leased in batch.tasks] == expected
    await assert_states(redis_target, {QUEUE: State(active=[long, *ids], lease=dict.fromkeys([long, *ids], NOW + 30))})


# ── messages that are none ──

BROKEN = {
    "no protobuf": (b"\xff\xff\xff", "undecodable message: 3 bytes are not a task:"),
    "no message": (None, "undecodable message: 0 bytes are not a task: no queue"),
    "of another id": (message("b"), "undecodable message: a message with the id 'b' under the id 'a'"),
}


@pytest.mark.parametrize(("stored", "error"), BROKEN.values(), ids=BROKEN)
async def test_a_message_that_is_none_is_taken_and_can_be_archived_as_it_is(rdb, redis_target, stored, error):
    await State(pending=["a", "b"], tasks={"a": {"msg": stored}}).write(redis_target, QUEUE)
    batch = await rdb.dequeue(QUEUE, count=5, owner=OWNER)
    assert [leased.id for leased in batch.tasks] == ["b"]
    [broken] = batch.broken
    assert (broken.id, broken.msg, broken.guard, broken.lock) == ("a", None, OWNER, "")
    assert broken.error.startswith(error)
    active = State(active=["a", "b"], lease={"a": LEASE, "b": LEASE}, tasks={"a": {"msg": stored}})
    await assert_states(redis_target, {QUEUE: active})

    assert await rdb.kill([Killed(broken, broken.error)]) == [True]
    archived = State(
        active=["b"],
        lease={"b": LEASE},
        archived={"a": NOW_S},
        tasks={"a": {"msg": stored, "error": broken.error}},
        counters=counted(1, 1),
    )
    await assert_states(redis_target, {QUEUE: archived})


async def test_an_id_that_is_no_text_is_taken_and_can_be_archived(rdb, redis_target):
    await redis_target.hset(b"asynq:{q}:t:\xff", mapping={"msg": b"junk", "state": "pending"})
    await redis_target.lpush(keys.pending(QUEUE), b"\xff", b"\xfe")
    batch = await rdb.dequeue(QUEUE, count=5, owner=OWNER)
    assert batch.strays == [("q", "\\xfe")]
    [broken] = batch.broken
    assert await rdb.kill([Killed(broken, "no text")]) == [True]
    fields = {"msg": b"junk", "error": "no text"}
    after = State(archived={"\udcff": NOW_S}, tasks={"\udcff": fields}, counters=counted(1, 1))
    await assert_states(redis_target, {QUEUE: after})


async def test_a_batch_ends_before_it_grows_too_large(rdb, redis_target):
    half = b"x" * (MAX_BATCH_BYTES // 2)
    await rdb.enqueue([message("huge", payload=half * 3)])
    await rdb.enqueue([message("a", payload=half[:-100])])
    await rdb.enqueue([message("b", payload=half[:-100])])
    await rdb.enqueue([message("c", payload=half[:-100])])
    sizes = []
    for number in range(4):
        batch = await rdb.dequeue(QUEUE, count=10, owner=f"{OWNER}{number}")
        sizes.append(([leased.id for leased in batch.tasks], batch.dry))
    assert sizes == [(["huge"], False), (["a", "b"], False), (["c"], True), ([], True)]


# ── receipts ──


async def take(rdb: Any, number: int, *, owner: str = OWNER, count: int = 2, again: bool = False) -> list[str]:
    batch = await rdb.dequeue(QUEUE, count=count, owner=owner, receipt=Receipt("caller", number), again=again)
    return [leased.id for leased in batch.tasks]


async def test_a_repeat_brings_the_same_tasks(rdb, redis_target):
    await State(pending=["a", "gone", "b", "bad", "c"], tasks={"gone": None, "bad": {"msg": b"\xff"}}).write(
        redis_target, QUEUE
    )
    first = await rdb.dequeue(QUEUE, count=4, owner=OWNER, receipt=Receipt("caller", 1))
    after = await State.read(redis_target, QUEUE)
    again = await rdb.dequeue(QUEUE, count=4, owner=OWNER, receipt=Receipt("caller", 1), again=True)
    assert again == first
    assert ([leased.id for leased in first.tasks], len(first.broken), first.strays) == (["a", "b"], 1, [("q", "gone")])
    assert await State.read(redis_target, QUEUE) == after


async def test_a_repeat_leaves_out_what_somebody_else_has_by_now(rdb, redis_target):
    await State(pending=["a", "b", "c"]).write(redis_target, QUEUE)
    assert await take(rdb, 1, count=3) == ["a", "b", "c"]
    await redis_target.hset(keys.task(QUEUE, "a"), "owner", "another")
    await redis_target.delete(keys.task(QUEUE, "b"))
    assert await take(rdb, 1, count=3, again=True) == ["c"]


async def test_a_repeat_of_nothing_keeps_its_delayed_original_from_taking_anything(rdb, redis_target):
    assert await take(rdb, 1, again=True) == []
    waiting = State(pending=["a"])
    await waiting.write(redis_target, QUEUE)
    assert await take(rdb, 1) == []  # the original, which was held up
    await assert_states(redis_target, {QUEUE: waiting})
    assert await take(rdb, 2) == ["a"]


async def test_a_repeat_while_paused_keeps_its_delayed_original_from_taking_anything(rdb, redis_target):
    await State(pending=["a"], paused=True).write(redis_target, QUEUE)
    assert await take(rdb, 1, again=True) == []
    await redis_target.delete(keys.paused(QUEUE))
    assert await take(rdb, 1) == []
    await assert_states(redis_target, {QUEUE: State(pending=["a"])})


async def test_a_first_call_that_finds_nothing_leaves_nothing(rdb, redis_target):
    assert await take(rdb, 1) == []
    assert [key async for key in redis_target.scan_iter()] == []


async def test_a_call_that_is_too_old_takes_nothing(rdb, redis_target):
    await State(pending=["a", "b"]).write(redis_target, QUEUE)
    assert await take(rdb, 5, count=1) == ["a"]
    with pytest.raises(BrokerError, match=r"dequeue failed on .*: STALE call 4 after call 5"):
        await take(rdb, 4, count=1)
    await assert_states(redis_target, {QUEUE: State(pending=["b"], active=["a"], lease={"a": LEASE})})


async def test_each_queue_has_receipts_of_its_own(rdb, redis_target):
    await write_all(redis_target, {"q": State(pending=["a"]), "p": State(pending=["b"])})
    receipt = Receipt("caller", 1)
    first = await rdb.dequeue("q", "p", count=2, owner=OWNER, receipt=receipt)
    again = await rdb.dequeue("q", "p", count=2, owner=OWNER, receipt=receipt, again=True)
    assert [(leased.queue, leased.id) for leased in first.tasks] == [("q", "a"), ("p", "b")]
    assert again == first


async def test_what_was_taken_for_a_caller_that_is_cancelled_goes_back(rdb, redis_target):
    both = {"q": State(pending=["a", "b"]), "p": State(pending=["c", "d"], tasks={"c": {"msg": b"broken"}})}
    await write_all(redis_target, both)
    await rdb.dequeue("empty", owner="so that Redis knows the script")
    for turns in range(40):  # of the loop, until the cancelation
        taking = asyncio.create_task(rdb.dequeue("q", "p", count=3, owner=f"{OWNER}{turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        taking.cancel()
        await asyncio.wait({taking})
        await rdb.settled()
        if not taking.cancelled():
            break
        await assert_states(redis_target, both)


async def test_a_list_that_is_none_is_an_error(rdb, redis_target):
    junk = State(other={"pending": "junk"})
    await junk.write(redis_target, QUEUE)
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await rdb.dequeue(QUEUE, owner=OWNER)
    await assert_states(redis_target, {QUEUE: junk})


def test_the_day_of_these_tables():
    assert DAY == "2096-10-02"
