"""Groups: ripe or not, set apart, made into one, given back."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from aioasynq import keys
from aioasynq.errors import DuplicateTaskError, TaskIDConflictError
from aioasynq.rdb.groups import AGGREGATION_LIMIT, Aggregated, AggregationSet
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.receipts import Receipt
from tests.support.build import LOCK, NOW, NOW_NS, NOW_S, QUEUE, Clock, message, unique
from tests.support.state import State, assert_states, write_all

DEADLINE = float(NOW_S + AGGREGATION_LIMIT)
RULES = {"grace": 10.0, "max_delay": 0.0, "max_size": 0}


class Check(NamedTuple):
    """Scores are seconds before now."""

    members: dict[str, float]
    rules: dict[str, float]
    apart: list[str]  #: those set apart; empty when the group is not ripe


CHECKS = {
    "row 46: an empty group": Check({}, {"max_size": 1}, []),
    "row 47: as many as go in one": Check({"a": 2, "b": 1}, {"max_size": 2}, ["a", "b"]),
    "row 48: more than go in one": Check({"c": 1, "b": 2, "a": 3}, {"max_size": 2}, ["a", "b"]),
    "row 49: the last one came before the grace period": Check({"a": 30, "b": 11}, {}, ["a", "b"]),
    "row 49: only as many as go in one": Check({"a": 30, "b": 11}, {"max_size": 1}, ["a"]),
    "row 50: the first one came before the longest delay": Check({"a": 61, "b": 0}, {"max_delay": 60}, ["a", "b"]),
    "row 51: no limits, and the last one came within the grace period": Check({"a": 9e6, "b": 9}, {}, []),
    "row 51: not due by any limit": Check({"a": 59, "b": 9}, {"max_delay": 60, "max_size": 3}, []),
    "many at once": Check({f"{n:05}": 11 for n in range(20_000)}, {}, [f"{n:05}" for n in range(20_000)]),
}


@pytest.mark.rows(46, 47, 48, 49, 50, 51, 52)
@pytest.mark.parametrize("row", CHECKS.values(), ids=CHECKS)
async def test_a_group_is_ripe_or_not(redis_target: Any, rdb: RDB, row: Check) -> None:
    scores = {name: float(NOW_S - ago) for name, ago in row.members.items()}
    await write_all(redis_target, {QUEUE: State(groups={"g": scores, "other": {"x": 1.0}})})
    rules: dict[str, Any] = RULES | row.rules
    for _ in range(2):  # a repeat does no more
        assert await rdb.aggregation_check(QUEUE, "g", "s", **rules) == bool(row.apart)
    left = {name: score for name, score in scores.items() if name not in row.apart}
    after = State(groups={"other": {"x": 1.0}} | ({"g": left} if left else {}))
    if row.apart:  # row 52: the scores are those they had
        after.groups["g:s"] = {name: scores[name] for name in row.apart}
        after.aggregation_sets["g:s"] = DEADLINE
    await assert_states(redis_target, {QUEUE: after})


@pytest.mark.rows(46)
async def test_the_name_of_a_group_that_is_empty_goes(redis_target: Any, rdb: RDB) -> None:
    await redis_target.sadd(keys.groups(QUEUE), "gone")
    assert await rdb.list_groups(QUEUE) == ["gone"]
    assert not await rdb.aggregation_check(QUEUE, "gone", "s", grace=1)
    assert await rdb.list_groups(QUEUE) == []


@pytest.mark.rows(45)
async def test_groups_are_listed(redis_target: Any, rdb: RDB) -> None:
    """Row 45."""
    names = ["a", "a:b", "ü", " "]
    await write_all(redis_target, {QUEUE: State(groups={name: {f"t{name}": 1.0} for name in names})})
    assert await rdb.list_groups(QUEUE) == sorted(names)
    assert await rdb.list_groups("other") == []


def _apart(**members: dict[str, Any] | None) -> State:
    """A set with tasks, which joined in this order."""
    scores = {name: float(n) for n, name in enumerate(members)}
    tasks = {name: fields for name, fields in members.items() if fields != {}}
    return State(groups={"g:s": scores}, aggregation_sets={"g:s": DEADLINE}, tasks=tasks, group_names=set())


async def test_what_was_set_apart_is_read(redis_target: Any, rdb: RDB) -> None:
    """In the order of joining; ids without a task, and those that are another task by now, are left out."""
    many: dict[str, dict[str, Any]] = {f"t{n}": {} for n in range(600)}
    state = _apart(b={}, a={}, bad={"msg": b"\xff"}, gone=None, other={"state": "pending"}, **many)
    await write_all(redis_target, {QUEUE: state})
    apart = await rdb.read_aggregation_set(QUEUE, "g", "s")
    assert apart is not None
    assert [msg.id for msg in apart.tasks] == ["b", "a", *many]
    assert [leased.id for leased in apart.broken] == ["bad"]
    assert apart.left == pytest.approx(DEADLINE - NOW, abs=0.01)
    assert await rdb.read_aggregation_set(QUEUE, "g", "unknown") is None


async def _read(rdb: RDB) -> AggregationSet:
    apart = await rdb.read_aggregation_set(QUEUE, "g", "s")
    assert apart is not None
    return apart


class Way(NamedTuple):
    task: Aggregated
    after: State


_NEW = {"msg": message("new")}
WAYS = {
    "at once": Way(Aggregated(message("new")), State(pending=["old", "new"], tasks={"new": {"pending_since": NOW_NS}})),
    "in ten minutes": Way(
        Aggregated(message("new"), "+600.000"), State(pending=["old"], scheduled={"new": float(NOW_S + 601)})
    ),
    "into a group": Way(
        Aggregated(message("new", group_key="all")), State(pending=["old"], groups={"all": {"new": float(NOW_S)}})
    ),
    "unique": Way(
        Aggregated(unique("new"), unique_ttl=60),
        State(
            pending=["old", "new"],
            tasks={"new": {"msg": unique("new"), "pending_since": NOW_NS, "unique_key": LOCK}},
            locks={LOCK: "new"},
        ),
    ),
    "under the id of one of them": Way(
        Aggregated(message("a")), State(pending=["old", "a"], tasks={"a": {"pending_since": NOW_NS}})
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_one_task_takes_the_place_of_many(redis_target: Any, rdb: RDB, way: Way) -> None:
    before = _apart(a={}, b={})
    before.pending = ["old"]
    await write_all(redis_target, {QUEUE: before})
    apart = await _read(rdb)
    receipt = Receipt("caller", 1)
    for _ in range(2):  # as after an answer that was lost
        assert await rdb.aggregate(apart, way.task, receipt=receipt) is True
    assert await rdb.aggregate(apart, way.task) is False
    await assert_states(redis_target, {QUEUE: way.after})


async def test_locks_are_freed_and_one_may_pass_to_the_new_task(redis_target: Any, rdb: RDB) -> None:
    held = unique("a", group_key="g")
    another = keys.unique(QUEUE, "t", b"another")
    lost = unique("b", group_key="g", payload=b"another")
    before = _apart(a={"msg": held}, b={"msg": lost})
    before.locks = {LOCK: "a", another: "somebody else"}
    await write_all(redis_target, {QUEUE: before})
    assert await rdb.aggregate(await _read(rdb), Aggregated(unique("new"), unique_ttl=60)) is True
    await assert_states(
        redis_target,
        {
            QUEUE: State(
                pending=["new"],
                tasks={"new": {"msg": unique("new"), "pending_since": NOW_NS, "unique_key": LOCK}},
                locks={LOCK: "new", another: "somebody else"},
            )
        },
    )


async def test_a_task_that_is_refused_leaves_all_as_it_is(redis_target: Any, rdb: RDB) -> None:
    before = _apart(a={}, b={})
    before.pending, before.locks = ["taken"], {LOCK: "somebody"}
    await write_all(redis_target, {QUEUE: before})
    apart = await _read(rdb)
    assert isinstance(await rdb.aggregate(apart, Aggregated(message("taken"))), TaskIDConflictError)
    assert isinstance(await rdb.aggregate(apart, Aggregated(unique("new"), unique_ttl=9)), DuplicateTaskError)
    with pytest.raises(ValueError, match="must be of queue 'q', got 'p'"):
        await rdb.aggregate(apart, Aggregated(message("new", "p")))
    await assert_states(redis_target, {QUEUE: before})


async def test_what_is_no_message_goes_to_the_archive(redis_target: Any, rdb: RDB) -> None:
    await write_all(redis_target, {QUEUE: _apart(a={}, bad={"msg": b"\xff"}, other={"state": "pending"})})
    apart = await _read(rdb)
    assert await rdb.aggregate(apart, None if not apart.tasks else Aggregated(message("new"))) is True
    [error] = [leased.error for leased in apart.broken]
    bad = {"msg": b"\xff", "group": "g", "error": error}
    other = {"msg": message("other", group_key="g"), "state": "pending", "group": "g"}
    await assert_states(
        redis_target,
        {
            QUEUE: State(
                pending=["new"],
                archived={"bad": float(NOW_S)},
                tasks={"new": {"pending_since": NOW_NS}, "bad": bad, "other": other},
            )
        },
    )


async def test_nothing_but_broken_ones(redis_target: Any, rdb: RDB) -> None:
    await write_all(redis_target, {QUEUE: _apart(bad={"msg": b"\xff"})})
    apart = await _read(rdb)
    assert await rdb.aggregate(apart, None) is True
    bad = {"msg": b"\xff", "group": "g", "error": apart.broken[0].error}
    await assert_states(redis_target, {QUEUE: State(archived={"bad": float(NOW_S)}, tasks={"bad": bad})})


@pytest.mark.parametrize("before_reading", [True, False])
async def test_an_id_that_is_another_task_by_now(redis_target: Any, rdb: RDB, *, before_reading: bool) -> None:
    """Somebody deleted a task that was set apart, as Go's Inspector does, and its id went into the group anew."""
    await write_all(redis_target, {QUEUE: _apart(a=None, b={})})
    again = message("a", group_key="g", payload=b"again")
    if before_reading:
        assert await rdb.add_to_group([again]) == [None]
    apart = await _read(rdb)
    assert [msg.id for msg in apart.tasks] == ["b"]
    if not before_reading:
        assert await rdb.add_to_group([again]) == [None]
    assert await rdb.aggregate(apart, Aggregated(message("new"))) is True
    waits = State(groups={"g": {"a": float(NOW_S)}}, tasks={"a": {"msg": again}, "new": {"pending_since": NOW_NS}})
    waits.pending = ["new"]
    await assert_states(redis_target, {QUEUE: waits})


async def test_a_set_is_deleted_without_the_task_that_has_its_id_by_now(redis_target: Any, rdb: RDB) -> None:
    await write_all(redis_target, {QUEUE: _apart(a=None, b={})})
    await rdb.add_to_group([message("a", group_key="g")])
    assert await rdb.delete_aggregation_set(QUEUE, "g", "s") == 2
    await assert_states(redis_target, {QUEUE: State(groups={"g": {"a": float(NOW_S)}})})


@pytest.mark.rows(53)
async def test_a_set_is_deleted_with_its_tasks(redis_target: Any, rdb: RDB) -> None:
    """Row 53."""
    before = _apart(a={"msg": unique("a", group_key="g")}, b={}, gone=None)
    before.groups["g:t"], before.aggregation_sets["g:t"] = {"c": 1.0}, DEADLINE
    before.locks = {LOCK: "a"}
    await write_all(redis_target, {QUEUE: before})
    assert await rdb.delete_aggregation_set(QUEUE, "g", "s") == 3
    assert await rdb.delete_aggregation_set(QUEUE, "g", "s") == 0
    assert await rdb.delete_aggregation_set("other", "g", "s") == 0
    left = State(groups={"g:t": {"c": 1.0}}, aggregation_sets={"g:t": DEADLINE}, group_names=set())
    await assert_states(redis_target, {QUEUE: left})


@pytest.mark.rows(54)
async def test_what_never_became_one_goes_back(redis_target: Any, rdb: RDB, clock: Clock) -> None:
    """The name of the group comes back as well, colons in it or not; junk in the index goes."""
    before = State(
        groups={
            "g": {"new": 9.0, "both": 8.0},
            "g:s": {"a": 1.0, "both": 2.0},
            "x:y:s": {"b": 3.0},
            "later:s": {"c": 4.0},
        },
        aggregation_sets={"g:s": DEADLINE, "x:y:s": DEADLINE, "later:s": DEADLINE + 1, "empty:s": DEADLINE},
        group_names=set(),
    )
    await write_all(redis_target, {QUEUE: before, "p": State()})
    assert await rdb.reclaim_stale_aggregation_sets("p", QUEUE) == 0
    await redis_target.zadd(keys.aggregation_sets(QUEUE), {"junk": 1})
    clock.now = DEADLINE
    assert await rdb.reclaim_stale_aggregation_sets("p", QUEUE, limit=1) == 4
    after = State(
        groups={"g": {"a": 1.0, "both": 2.0, "new": 9.0}, "x:y": {"b": 3.0}, "later:s": {"c": 4.0}},
        aggregation_sets={"later:s": DEADLINE + 1},
        group_names={"g", "x:y"},
    )
    await assert_states(redis_target, {QUEUE: after})


async def test_one_set_is_given_back_at_once(redis_target: Any, rdb: RDB) -> None:
    await write_all(redis_target, {QUEUE: _apart(a={}, b={})})
    assert await rdb.return_aggregation_set(QUEUE, "g", "s")
    assert not await rdb.return_aggregation_set(QUEUE, "g", "s")
    await assert_states(redis_target, {QUEUE: State(groups={"g": {"a": 0.0, "b": 1.0}})})
