"""What a server held that is known to be dead."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from aioasynq import keys
from aioasynq.message import TaskMessage
from aioasynq.rdb.lifecycle import Failed, Killed
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.upkeep import Expired
from aioasynq.server.config import Config
from aioasynq.server.contact import Contact
from aioasynq.server.recover_loop import Recovery
from tests.support.build import GO_LEASE, LEASE, NOW, NOW_S, OWNER, QUEUE, Clock, counted, held, message, unique
from tests.support.state import Fields, State, assert_states, write_all

DEAD = OWNER.rpartition(":")[0]  #: as owners of State are named
LIVES: Fields = {"owner": "host:1:serve:1"}  #: a server whose name the dead one's begins with
ALSO: Fields = {"owner": "host:1:server2:1"}  #: and one whose name begins with the dead one's


class Owned(NamedTuple):
    before: dict[str, State]
    found: list[tuple[str, str, str, int]]  #: queue, id, owner, how often recovered


OWNED = {
    "whatever its leases say": Owned(
        {"q": State(active=["a", "b"], lease={"a": LEASE, "b": NOW - 1})},
        [("q", "a", OWNER, 0), ("q", "b", OWNER, 0)],
    ),
    "by all its fetches": Owned(
        {"q": State(active=["a", "b"], lease={"a": LEASE, "b": LEASE}, tasks={"b": {"owner": f"{DEAD}:22"}})},
        [("q", "a", OWNER, 0), ("q", "b", f"{DEAD}:22", 0)],
    ),
    "across queues": Owned(
        {"q": State(active=["a"], lease={"a": LEASE}), "p": State(active=["b"], lease={"b": LEASE})},
        [("p", "b", OWNER, 0), ("q", "a", OWNER, 0)],
    ),
    "how often a task was recovered": Owned(
        {"q": State(active=["a"], lease={"a": LEASE}, tasks={"a": {"recovered": "3"}})}, [("q", "a", OWNER, 3)]
    ),
    "not those of another server": Owned(
        {"q": State(active=["a", "b"], lease={"a": LEASE, "b": LEASE}, tasks={"a": LIVES, "b": ALSO})}, []
    ),
    "not those that Go took over, or took": Owned(
        {"q": State(active=["a", "b"], lease={"a": GO_LEASE, "b": GO_LEASE}, tasks={"a": {"owner": OWNER}})}, []
    ),
    "not what is no active task": Owned(
        {
            "q": State(
                pending=["p"],
                active=["gone", "bad", "p"],
                lease={"p": LEASE, "gone": LEASE, "bad": LEASE},
                tasks={"gone": None, "bad": None, "p": {"owner": OWNER}},
                other={"t:bad": "junk"},
            )
        },
        [],
    ),
    "nothing": Owned({"q": State(pending=["a"])}, []),
}


@pytest.mark.parametrize("limit", [1, 2, 256])
@pytest.mark.parametrize("row", OWNED.values(), ids=OWNED)
async def test_list_owned(rdb, redis_target, row, limit):
    await write_all(redis_target, row.before)
    owned = await rdb.list_owned("q", "p", server=DEAD, limit=limit)
    assert sorted((e.leased.queue, e.leased.id, e.owner, e.recovered) for e in owned) == row.found
    assert all(e.leased.msg == message(e.leased.id, e.leased.queue) for e in owned)
    assert all(e.leased.guard == e.owner for e in owned)
    await assert_states(redis_target, row.before)


@pytest.mark.parametrize("apart", [0.0, 0.125, 0.001], ids=["at once", "apart", "a fraction apart"])
async def test_among_many_it_is_looked_for_in_slices(rdb, redis_target, apart):
    ids = [f"{n:03}" for n in range(300)]
    leases = {task_id: LEASE + n // 3 * apart for n, task_id in enumerate(ids)}
    leases = {task_id: end if end % 1 else end + 0.5 for task_id, end in leases.items()}
    await State(active=ids, lease=leases, tasks=dict.fromkeys(ids[::2], ALSO)).write(redis_target, QUEUE)
    owned = await rdb.list_owned(QUEUE, server=DEAD, limit=50)
    assert sorted(e.leased.id for e in owned) == ids[1::2]


# ── taking back: the same ends as when a lease has run out ──

TEXT = f"task lease expired: {DEAD} died or was cut off while it ran"
LAST: dict[str, Any] = {"retry": 3, "retried": 3}


def failed(task_id: str, **fields: Any) -> TaskMessage:
    """A message after its worker died."""
    msg = message(task_id, **fields)
    msg.error_msg, msg.last_failed_at, msg.retried = TEXT, NOW_S, msg.retried + 1
    return msg


class Back(NamedTuple):
    before: State
    after: State


BACK = {
    "it waits a second, and counts as a failure": Back(
        State(active=["a"], lease={"a": LEASE}),
        State(
            retry={"a": NOW + 1},
            tasks={"a": {"msg": failed("a"), "recovered": "1"}},
            counters=counted(1, 1),
        ),
    ),
    "longer each time": Back(
        State(active=["a"], lease={"a": LEASE}, tasks={"a": {"msg": message("a", retried=2), "recovered": "2"}}),
        State(
            retry={"a": NOW + 4},
            tasks={"a": {"msg": failed("a", retried=2), "recovered": "3"}},
            counters=counted(1, 1),
        ),
    ),
    "without retries left it is archived": Back(
        State(active=["a"], lease={"a": LEASE}, tasks={"a": {"msg": message("a", **LAST), "recovered": "3"}}),
        State(
            archived={"a": NOW_S},
            tasks={"a": {"msg": message("a", **LAST, error_msg=TEXT, last_failed_at=NOW_S)}},
            counters=counted(1, 1),
        ),
    ),
    "without a message too": Back(
        State(active=["a"], lease={"a": LEASE}, tasks={"a": {"msg": b"\xff"}}),
        State(
            archived={"a": NOW_S},
            tasks={"a": {"msg": b"\xff", "error": "undecodable message"}},
            counters=counted(1, 1),
        ),
    ),
    "a retry keeps the lock": Back(
        State(
            active=["a"],
            lease={"a": LEASE},
            tasks={"a": {"msg": unique("a"), "unique_key": unique("a").unique_key}},
            locks={unique("a").unique_key: "a"},
        ),
        State(
            retry={"a": NOW + 1},
            tasks={
                "a": {
                    "msg": failed("a", unique_key=unique("a").unique_key),
                    "unique_key": unique("a").unique_key,
                    "recovered": "1",
                }
            },
            locks={unique("a").unique_key: "a"},
            counters=counted(1, 1),
        ),
    ),
    "what others hold stays": Back(
        State(active=["a", "go"], lease={"a": LEASE, "go": GO_LEASE}, tasks={"a": ALSO}, pending=["p"]),
        State(active=["a", "go"], lease={"a": LEASE, "go": GO_LEASE}, tasks={"a": ALSO}, pending=["p"]),
    ),
}


def recovery(rdb: RDB) -> Recovery:
    return Recovery(rdb, Config(queues={QUEUE: 1, "p": 1}), Contact(rdb.address))


@pytest.mark.parametrize("row", BACK.values(), ids=BACK)
async def test_take_back(rdb, redis_target, row):
    await row.before.write(redis_target, QUEUE)
    await recovery(rdb).take_back(DEAD)
    found = await State.read(redis_target, QUEUE)
    for content in found.tasks.values():  # the rest of that text is protobuf's
        if content and "error" in content:
            content["error"] = content["error"].partition(":")[0]
    assert found == row.after.full(QUEUE)
    await recovery(rdb).take_back(DEAD)
    assert (await State.read(redis_target, QUEUE)).counters == row.after.counters


async def test_many_are_taken_back(rdb, redis_target):
    ids = [f"{n:03}" for n in range(600)]
    await State(active=ids, lease=dict.fromkeys(ids, LEASE)).write(redis_target, QUEUE)
    await recovery(rdb).take_back(DEAD)
    state = await State.read(redis_target, QUEUE)
    assert (set(state.retry), state.active, state.lease) == (set(ids), [], {})
    assert state.counters == counted(600, 600)


#: What the dead server had sent, and Redis reads between our look and our move.
LATE = {
    "it was done": lambda rdb, task: rdb.done([task]),
    "it failed": lambda rdb, task: rdb.retry([Failed(task, 60, "of its own")]),
    "it was archived": lambda rdb, task: rdb.kill([Killed(task, "of its own")]),
    "it was given back": lambda rdb, task: rdb.requeue([task]),
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
async def test_what_it_settled_itself_stays_settled(rdb, redis_target, late):
    await State(active=["a"], lease={"a": LEASE}).write(redis_target, QUEUE)
    [owned] = await rdb.list_owned(QUEUE, server=DEAD)
    assert owned == Expired(held("a"), OWNER, 0)
    async with RDB(redis_target, clock=Clock()) as its_own:
        assert await late(its_own, held("a")) == [True]
    after = await State.read(redis_target, QUEUE)
    assert await rdb.retry([Failed(owned.leased, 1, "dead", recovered=1)]) == [False]
    assert await State.read(redis_target, QUEUE) == after


@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
async def test_what_comes_after_the_taking_back_changes_nothing(rdb, redis_target, late):
    await State(active=["a"], lease={"a": LEASE}).write(redis_target, QUEUE)
    await recovery(rdb).take_back(DEAD)
    after = await State.read(redis_target, QUEUE)
    assert await late(rdb, held("a")) == [False]
    assert await rdb.extend_lease([held("a")]) == [False]
    assert await State.read(redis_target, QUEUE) == after


async def test_a_late_heartbeat_does_not_keep_it(rdb, redis_target):
    await State(active=["a"], lease={"a": LEASE}).write(redis_target, QUEUE)
    [owned] = await rdb.list_owned(QUEUE, server=DEAD)
    assert await rdb.extend_lease([held("a")], lease=60) == [True]
    assert await rdb.retry([Failed(owned.leased, 1, "dead", recovered=1)]) == [True]
    assert await redis_target.zcard(keys.lease(QUEUE)) == 0


async def test_what_somebody_else_has_by_now_stays_his(rdb, redis_target):
    await State(active=["a"], lease={"a": LEASE}).write(redis_target, QUEUE)
    [owned] = await rdb.list_owned(QUEUE, server=DEAD)
    assert await rdb.requeue([held("a")]) == [True]
    assert [leased.id for leased in (await rdb.dequeue(QUEUE, owner="host:2:other:1")).tasks] == ["a"]
    after = await State.read(redis_target, QUEUE)
    assert await rdb.retry([Failed(owned.leased, 1, "dead", recovered=1)]) == [False]
    assert await State.read(redis_target, QUEUE) == after
