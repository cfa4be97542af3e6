"""State itself: what is written is read back, and nothing in Redis goes unseen."""

from __future__ import annotations

import pytest

from aioasynq import keys
from tests.support.build import DAY, GO_LEASE, LEASE, LOCK, NOW, OWNER, QUEUE, counted, message
from tests.support.state import State, assert_states

EVERYTHING = State(
    pending=["a", "b"],
    active=["c", "d"],
    lease={"c": LEASE, "d": GO_LEASE},
    scheduled={"e": NOW},
    retry={"f": NOW},
    archived={"g": NOW},
    completed={"h": NOW},
    groups={"G": {"i": 1}, "G:set": {"j": 2}},
    aggregation_sets={"G:set": 3},
    tasks={"b": {"msg": b"\xff"}, "f": None, "nowhere": {"msg": message("nowhere"), "state": "odd"}},
    locks={LOCK: "a"},
    paused=True,
    counters=counted(3, 1),
    waiting={"server": NOW},
    other={"odd": "text"},
)


async def test_what_is_written_is_read_back(redis_target):
    await EVERYTHING.write(redis_target, QUEUE)
    state = await State.read(redis_target, QUEUE)
    assert state == EVERYTHING.full(QUEUE)
    assert state.group_names == {"G"}
    assert state.tasks["c"] == {"msg": message("c"), "state": "active", "owner": OWNER}
    assert state.tasks["d"] == {"msg": message("d"), "state": "active"}
    assert state.tasks["j"] == {"msg": message("j", group_key="G"), "state": "aggregating", "group": "G"}


LEFT_BEHIND = {
    "a key of another kind": (("RPUSH", keys.lease(QUEUE), "x"), "lease"),
    "a key nobody knows": (("SADD", keys.prefix(QUEUE) + "new", "x"), "new"),
    "a hash that expires": (("EXPIRE", keys.task(QUEUE, "a"), 60), "t:a expires"),
    "a lock that stays": (("SET", LOCK, "a"), f"{LOCK.removeprefix(keys.prefix(QUEUE))} does not expire"),
    "a day's count that stays": (("SET", keys.processed(QUEUE, DAY), 1), f"processed:{DAY} does not expire"),
}


@pytest.mark.parametrize(("command", "seen"), LEFT_BEHIND.values(), ids=LEFT_BEHIND)
async def test_what_should_not_be_there_is_seen(redis_target, command, seen):
    await State(pending=["a"]).write(redis_target, QUEUE)
    await redis_target.execute_command(*command)
    assert list((await State.read(redis_target, QUEUE)).other) == [seen]


@pytest.mark.parametrize("key", ["asynq:{another}:pending", "elsewhere"])
async def test_what_is_outside_is_seen(redis_target, key):
    await redis_target.lpush(key, "x")
    with pytest.raises(AssertionError):
        await assert_states(redis_target, {})


async def test_receipts_are_left_out(redis_target):
    await redis_target.set(keys.receipt(QUEUE, "caller"), "x")
    await assert_states(redis_target, {})
