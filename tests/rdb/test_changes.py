"""What people change: tasks run, archived, deleted, rescheduled, edited, moved."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from aioasynq import keys
from aioasynq.errors import (
    DuplicateTaskError,
    TaskError,
    TaskIDConflictError,
    TaskNotFoundError,
    TaskStateError,
)
from aioasynq.rdb import base
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.script import Script
from tests.support.build import LEASE, LOCK, NOW_NS, NOW_S, QUEUE, message, unique
from tests.support.proxy import Proxy, script
from tests.support.state import State, assert_states, write_all

SOON = float(NOW_S + 60)
AGO = float(NOW_S - 60)
PENDING = {"state": "pending", "pending_since": NOW_NS}
LOCKED = {"msg": unique("a"), "unique_key": LOCK}
#: Go notes the lock of a grouped task in its message alone.
GROUPED = {"msg": unique("a", group_key="g")}
APART = State(
    groups={"g:s": {"a": 1.0}}, aggregation_sets={"g:s": SOON}, group_names=set(), tasks={"a": {"state": "aggregating"}}
)


class Row(NamedTuple):
    before: State
    answer: type[TaskError] | str | None  #: a state: a TaskStateError of that state
    after: State | None = None  #: None: nothing changed


def _is(answer: TaskError | None, expected: type[TaskError] | str | None) -> None:
    if isinstance(expected, str):
        assert isinstance(answer, TaskStateError)
        assert answer.state == expected
        assert repr("a") in str(answer)
    elif expected is None:
        assert answer is None
    else:
        assert type(answer) is expected
    if answer is not None:
        assert (answer.queue, answer.task_id) == (QUEUE, "a")


async def _check(target: Any, row: Row, change: Callable[[], Awaitable[TaskError | None]]) -> None:
    other = State(pending=["a"], scheduled={"s": SOON})  # of the same id, in another queue
    await write_all(target, {QUEUE: row.before, "other": other})
    _is(await change(), row.answer)
    await assert_states(target, {QUEUE: row.after or row.before, "other": other})


RUN = {
    "row 69: archived": Row(State(archived={"a": AGO}), None, State(pending=["a"], tasks={"a": PENDING})),
    "row 69: retry": Row(
        State(retry={"a": SOON, "b": SOON}), None, State(pending=["a"], retry={"b": SOON}, tasks={"a": PENDING})
    ),
    "row 69: scheduled": Row(State(scheduled={"a": SOON}), None, State(pending=["a"], tasks={"a": PENDING})),
    "row 69: completed": Row(State(completed={"a": SOON}), None, State(pending=["a"], tasks={"a": PENDING})),
    "row 69: aggregating, the last of its group": Row(
        State(groups={"g": {"a": AGO}}),
        None,
        State(pending=["a"], tasks={"a": {**PENDING, "msg": message("a", group_key="g"), "group": "g"}}),
    ),
    "row 69: aggregating, not the last one": Row(
        State(groups={"g": {"a": AGO, "b": AGO}}),
        None,
        State(
            pending=["a"],
            groups={"g": {"b": AGO}},
            tasks={"a": {**PENDING, "msg": message("a", group_key="g"), "group": "g"}},
        ),
    ),
    "behind those that wait": Row(
        State(pending=["x"], scheduled={"a": SOON}), None, State(pending=["x", "a"], tasks={"a": PENDING})
    ),
    "row 70: there is none": Row(State(pending=["x"]), TaskNotFoundError),
    "row 70: active": Row(State(active=["a"], lease={"a": LEASE}), "active"),
    "row 70: pending": Row(State(pending=["a"]), "pending"),
    "set apart with its group": Row(APART, "aggregating"),
    "archived, and unique: takes its lock again": Row(
        State(archived={"a": AGO}, tasks={"a": LOCKED}),
        None,
        State(pending=["a"], tasks={"a": LOCKED | PENDING}, locks={LOCK: "a"}),
    ),
    "archived, and another task has its lock": Row(
        State(archived={"a": AGO}, pending=["b"], tasks={"a": LOCKED}, locks={LOCK: "b"}), DuplicateTaskError
    ),
    "retry, and holds its lock": Row(
        State(retry={"a": AGO}, tasks={"a": LOCKED}, locks={LOCK: "a"}),
        None,
        State(pending=["a"], tasks={"a": LOCKED | PENDING}, locks={LOCK: "a"}),
    ),
    "nowhere, although its hash says archived": Row(
        State(tasks={"a": {"msg": message("a"), "state": "archived"}}), None, State(pending=["a"], tasks={"a": PENDING})
    ),
    "nowhere, although its hash says active": Row(
        State(tasks={"a": {"msg": message("a"), "state": "active", "owner": "x", "recovered": "1"}}),
        None,
        State(pending=["a"], tasks={"a": PENDING}),
    ),
    "a message that is none": Row(
        State(archived={"a": AGO}, tasks={"a": {"msg": b"\xff"}}),
        None,
        State(pending=["a"], tasks={"a": {**PENDING, "msg": b"\xff"}}),
    ),
}  # fmt: skip


@pytest.mark.rows(69, 70)
@pytest.mark.parametrize("row", RUN.values(), ids=RUN)
async def test_run(redis_target: Any, rdb: RDB, row: Row) -> None:
    async def run() -> TaskError | None:
        [answer] = await rdb.run_tasks(QUEUE, ["a"])
        return answer

    await _check(redis_target, row, run)


ARCHIVED = State(archived={"a": float(NOW_S)})
ARCHIVE = {
    "row 72: pending": Row(
        State(pending=["x", "a", "y"], tasks={"a": {"pending_since": "1"}}),
        None,
        State(pending=["x", "y"], archived={"a": float(NOW_S)}),
    ),
    "row 72: scheduled": Row(State(scheduled={"a": SOON}), None, ARCHIVED),
    "row 72: retry": Row(
        State(retry={"a": SOON}, archived={"b": AGO}), None, State(archived={"a": float(NOW_S), "b": AGO})
    ),
    "row 72: aggregating": Row(
        State(groups={"g": {"a": AGO}}),
        None,
        State(archived={"a": float(NOW_S)}, tasks={"a": {"msg": message("a", group_key="g"), "group": "g"}}),
    ),
    "completed": Row(State(completed={"a": SOON}), None, ARCHIVED),
    "row 73: there is none": Row(State(pending=["x"]), TaskNotFoundError),
    "row 73: archived": Row(State(archived={"a": AGO}), "archived"),
    "row 73: active": Row(State(active=["a"], lease={"a": LEASE}), "active"),
    "set apart with its group": Row(APART, "aggregating"),
    "unique: frees its lock": Row(
        State(scheduled={"a": SOON}, tasks={"a": LOCKED}, locks={LOCK: "a"}),
        None,
        State(archived={"a": float(NOW_S)}, tasks={"a": LOCKED}),
    ),
    "unique, in a group: frees its lock": Row(
        State(groups={"g": {"a": AGO}}, tasks={"a": GROUPED}, locks={LOCK: "a"}),
        None,
        State(archived={"a": float(NOW_S)}, tasks={"a": {**GROUPED, "group": "g"}}),
    ),
    "unique, and another task has the lock": Row(
        State(retry={"a": SOON}, pending=["b"], tasks={"a": LOCKED}, locks={LOCK: "b"}),
        None,
        State(archived={"a": float(NOW_S)}, pending=["b"], tasks={"a": LOCKED}, locks={LOCK: "b"}),
    ),
}


@pytest.mark.rows(72, 73)
@pytest.mark.parametrize("row", ARCHIVE.values(), ids=ARCHIVE)
async def test_archive(redis_target: Any, rdb: RDB, row: Row) -> None:
    async def archive() -> TaskError | None:
        [answer] = await rdb.archive_tasks(QUEUE, ["a"])
        return answer

    await _check(redis_target, row, archive)


async def test_what_the_archive_cannot_hold_is_forgotten_with_its_hash_and_lock(redis_target: Any, rdb: RDB) -> None:
    before = State(
        archived={"old": float(NOW_S - 1000), "first": AGO, "second": AGO + 1},
        scheduled={"a": SOON},
        tasks={"old": {"msg": unique("old"), "unique_key": LOCK}},
        locks={LOCK: "old"},
    )
    await write_all(redis_target, {QUEUE: before})
    assert await rdb.archive_tasks(QUEUE, ["a"], max_size=2, max_age=1000) == [None]
    await assert_states(redis_target, {QUEUE: State(archived={"second": AGO + 1, "a": float(NOW_S)})})


DELETE = {
    "row 76: archived": Row(State(archived={"a": AGO, "b": AGO}), None, State(archived={"b": AGO})),
    "row 76: retry": Row(State(retry={"a": AGO}), None, State()),
    "row 76: scheduled": Row(State(scheduled={"a": AGO}, pending=["x"]), None, State(pending=["x"])),
    "row 76: pending": Row(State(pending=["x", "a", "y"]), None, State(pending=["x", "y"])),
    "row 76: aggregating": Row(State(groups={"g": {"a": AGO}, "h": {"b": AGO}}), None, State(groups={"h": {"b": AGO}})),
    "completed": Row(State(completed={"a": SOON}), None, State()),
    "row 77: unique": Row(State(pending=["a"], tasks={"a": LOCKED}, locks={LOCK: "a"}), None, State()),
    "unique, in a group": Row(State(groups={"g": {"a": AGO}}, tasks={"a": GROUPED}, locks={LOCK: "a"}), None, State()),
    "unique, and another task has the lock": Row(
        State(retry={"a": AGO}, pending=["b"], tasks={"a": LOCKED}, locks={LOCK: "b"}),
        None,
        State(pending=["b"], locks={LOCK: "b"}),
    ),
    "row 78: there is none": Row(State(pending=["x"]), TaskNotFoundError),
    "row 78: active": Row(State(active=["a"], lease={"a": LEASE}), "active"),
    "set apart with its group": Row(APART, "aggregating"),
    "nowhere, although its hash says archived": Row(
        State(tasks={"a": {"msg": message("a"), "state": "archived"}}), None, State()
    ),
    "a message that is none": Row(State(archived={"a": AGO}, tasks={"a": {"msg": b"\xff"}}), None, State()),
}


@pytest.mark.rows(76, 77, 78)
@pytest.mark.parametrize("row", DELETE.values(), ids=DELETE)
async def test_delete(redis_target: Any, rdb: RDB, row: Row) -> None:
    async def delete() -> TaskError | None:
        [answer] = await rdb.delete_tasks(QUEUE, ["a"])
        return answer

    await _check(redis_target, row, delete)


@pytest.mark.parametrize("place", ["pending", "scheduled", "archived"])
async def test_ids_without_a_task_are_taken_out_of_their_place(redis_target: Any, rdb: RDB, place: str) -> None:
    ids: Any = ["gone", "b"] if place == "pending" else {"gone": 1.0, "b": 2.0}
    left: Any = ["b"] if place == "pending" else {"b": 2.0}
    await write_all(redis_target, {QUEUE: State(**{place: ids}, tasks={"gone": None})})
    [answer] = await rdb.delete_tasks(QUEUE, ["gone"], place=keys.prefix(QUEUE) + place)
    assert isinstance(answer, TaskNotFoundError)
    await assert_states(redis_target, {QUEUE: State(**{place: left})})


async def test_many_at_once_each_with_its_answer(redis_target: Any, rdb: RDB) -> None:
    before = State(
        pending=["p"], scheduled={"s": SOON}, active=["x"], lease={"x": LEASE}, groups={"g": {"m": AGO, "n": AGO}}
    )
    await write_all(redis_target, {QUEUE: before})
    answers = await rdb.run_tasks(QUEUE, ["s", "none", "p", "x", "m", "s"])
    assert [type(answer) for answer in answers] == [
        type(None), TaskNotFoundError, TaskStateError, TaskStateError, type(None), type(None),
    ]  # fmt: skip
    grouped = {**PENDING, "msg": message("m", group_key="g"), "group": "g"}
    after = State(
        pending=["p", "s", "m"],
        active=["x"],
        lease={"x": LEASE},
        groups={"g": {"n": AGO}},
        tasks={"s": PENDING, "m": grouped},
    )
    await assert_states(redis_target, {QUEUE: after})
    with pytest.raises(ValueError, match="at most 256"):
        await rdb.delete_tasks(QUEUE, [str(n) for n in range(257)])


RESCHEDULE = {
    "scheduled": Row(State(scheduled={"a": SOON}), None, State(scheduled={"a": float(NOW_S + 3601)})),
    "pending": Row(
        State(pending=["x", "a"], tasks={"a": {"pending_since": "1"}}),
        None,
        State(pending=["x"], scheduled={"a": float(NOW_S + 3601)}),
    ),
    "retry": Row(State(retry={"a": SOON}), None, State(retry={"a": float(NOW_S + 3601)})),
    "archived": Row(State(archived={"a": AGO}), None, State(scheduled={"a": float(NOW_S + 3601)})),
    "archived, and unique: takes its lock again": Row(
        State(archived={"a": AGO}, tasks={"a": LOCKED}),
        None,
        State(scheduled={"a": float(NOW_S + 3601)}, tasks={"a": LOCKED}, locks={LOCK: "a"}),
    ),
    "archived, and another task has its lock": Row(
        State(archived={"a": AGO}, pending=["b"], tasks={"a": LOCKED}, locks={LOCK: "b"}), DuplicateTaskError
    ),
    "completed": Row(State(completed={"a": SOON}), "completed"),
    "aggregating": Row(State(groups={"g": {"a": AGO}}), "aggregating"),
    "active": Row(State(active=["a"], lease={"a": LEASE}), "active"),
    "there is none": Row(State(), TaskNotFoundError),
}


@pytest.mark.parametrize("row", RESCHEDULE.values(), ids=RESCHEDULE)
async def test_reschedule(redis_target: Any, rdb: RDB, row: Row) -> None:
    await _check(redis_target, row, lambda: rdb.reschedule_task(QUEUE, "a", "+3600"))


NEW = {"msg": message("a", payload=b"new")}
EDIT = {
    "row 134: scheduled": Row(State(scheduled={"a": SOON}), None, State(scheduled={"a": SOON}, tasks={"a": NEW})),
    "pending": Row(State(pending=["a"]), None, State(pending=["a"], tasks={"a": NEW})),
    "retry": Row(
        State(retry={"a": SOON}, tasks={"a": {"msg": message("a", retried=2, error_msg="boom")}}),
        None,
        State(retry={"a": SOON}, tasks={"a": {"msg": message("a", payload=b"new", retried=2, error_msg="boom")}}),
    ),
    "archived": Row(State(archived={"a": SOON}), None, State(archived={"a": SOON}, tasks={"a": NEW})),
    "aggregating": Row(
        State(groups={"g": {"a": AGO}}),
        None,
        State(groups={"g": {"a": AGO}}, tasks={"a": {"msg": message("a", payload=b"new", group_key="g")}}),
    ),
    "row 134: keeps its lock": Row(
        State(scheduled={"a": SOON}, tasks={"a": LOCKED}, locks={LOCK: "a"}),
        None,
        State(
            scheduled={"a": SOON}, tasks={"a": {**LOCKED, "msg": unique("a", payload=b"new", unique_key=LOCK)}},
            locks={LOCK: "a"},
        ),
    ),
    "row 134: completed": Row(State(completed={"a": SOON}), "completed"),
    "row 134: active": Row(State(active=["a"], lease={"a": LEASE}), "active"),
    "set apart with its group": Row(APART, "aggregating"),
    "row 134: there is none": Row(State(), TaskNotFoundError),
    "a message that is none": Row(State(archived={"a": AGO}, tasks={"a": {"msg": b"\xff"}}), "archived"),
}  # fmt: skip
_kept = EDIT["row 134: keeps its lock"].after
assert _kept is not None
assert _kept.tasks["a"] is not None
_kept.tasks["a"]["msg"].unique_key = LOCK  # that of the first payload


@pytest.mark.rows(134)
@pytest.mark.parametrize("row", EDIT.values(), ids=EDIT)
async def test_edit(redis_target: Any, rdb: RDB, row: Row) -> None:
    await _check(redis_target, row, lambda: rdb.update_task_payload(QUEUE, "a", b"new"))


@pytest.fixture
def to(redis_target: Any) -> str:
    """A queue that is not QUEUE; on a Cluster one in the same slot."""
    if not isinstance(redis_target, RedisCluster):
        return "to"
    slot = redis_target.keyslot(keys.pending(QUEUE))
    return next(name for n in range(10**6) if redis_target.keyslot(keys.pending(name := f"to{n}")) == slot)


def _there(to: str, **fields: Any) -> dict[str, Any]:
    return {"msg": message("a", to, **fields)}


MOVE: dict[str, tuple[State, Callable[[str], State]]] = {
    "pending": (
        State(pending=["a"], tasks={"a": {"pending_since": "7"}}),
        lambda to: State(pending=["a"], tasks={"a": {**_there(to), "pending_since": "7"}}),
    ),
    "scheduled": (State(scheduled={"a": SOON}), lambda to: State(scheduled={"a": SOON}, tasks={"a": _there(to)})),
    "retry": (State(retry={"a": SOON}), lambda to: State(retry={"a": SOON}, tasks={"a": _there(to)})),
    "archived": (State(archived={"a": AGO}), lambda to: State(archived={"a": AGO}, tasks={"a": _there(to)})),
    "completed": (
        State(completed={"a": SOON}, tasks={"a": {"result": "1"}}),
        lambda to: State(completed={"a": SOON}, tasks={"a": {**_there(to), "result": "1"}}),
    ),
    "aggregating": (
        State(groups={"g": {"a": AGO}}),
        lambda to: State(groups={"g": {"a": AGO}}, tasks={"a": _there(to, group_key="g")}),
    ),
    "unique": (
        State(pending=["a"], tasks={"a": LOCKED}, locks={LOCK: "a"}),
        lambda to: State(
            pending=["a"],
            tasks={"a": {"msg": unique("a", to), "unique_key": keys.unique(to, "t", b"p")}},
            locks={keys.unique(to, "t", b"p"): "a"},
        ),
    ),
}


@pytest.mark.parametrize(("before", "after"), MOVE.values(), ids=MOVE)
async def test_move(redis_target: Any, rdb: RDB, to: str, before: State, after: Callable[[str], State]) -> None:
    await write_all(redis_target, {QUEUE: before})
    assert await rdb.move_task(QUEUE, "a", to) is None
    await assert_states(redis_target, {to: after(to)})
    assert await redis_target.smembers(keys.queues()) == {to.encode()}
    await redis_target.delete(keys.queues())


async def test_move_is_refused(redis_target: Any, rdb: RDB, to: str) -> None:
    lock = keys.unique(to, "t", b"p")
    here = State(
        pending=["a", "u"], active=["x"], lease={"x": LEASE}, locks={LOCK: "u"},
        tasks={"u": {"msg": unique("u"), "unique_key": LOCK}},
    )  # fmt: skip
    there = State(scheduled={"a": SOON}, pending=["v"], locks={lock: "v"})
    await write_all(redis_target, {QUEUE: here, to: there})
    taken = await rdb.move_task(QUEUE, "a", to)
    assert type(taken) is TaskIDConflictError
    assert taken.queue == to
    assert type(await rdb.move_task(QUEUE, "u", to)) is DuplicateTaskError
    assert type(await rdb.move_task(QUEUE, "none", to)) is TaskNotFoundError
    assert isinstance(await rdb.move_task(QUEUE, "x", to), TaskStateError)
    with pytest.raises(ValueError, match="another queue"):
        await rdb.move_task(QUEUE, "a", QUEUE)
    await assert_states(redis_target, {QUEUE: here, to: there})


async def test_a_cluster_moves_within_a_slot_only(redis_target: Any, rdb: RDB) -> None:
    if not isinstance(redis_target, RedisCluster):
        assert await rdb.move_task(QUEUE, "a", "far") is not None  # of one server, any queue will do: there is none
        return
    with pytest.raises(ValueError, match="slot"):
        await rdb.move_task(QUEUE, "a", "far away")


async def test_the_life_of_a_lock_that_is_taken_again(redis_target: Any, rdb: RDB) -> None:
    await write_all(redis_target, {QUEUE: State(archived={"a": AGO}, tasks={"a": LOCKED})})
    assert await rdb.run_tasks(QUEUE, ["a"]) == [None]
    assert await redis_target.ttl(LOCK) == pytest.approx(86_400, abs=5)


REPEATED: dict[str, tuple[str, Callable[[RDB], Awaitable[Any]], State, Any]] = {
    "run": ("run_tasks", lambda rdb: rdb.run_tasks(QUEUE, ["a"]), State(scheduled={"a": SOON}), [None]),
    "archive": ("archive_tasks", lambda rdb: rdb.archive_tasks(QUEUE, ["a"]), State(scheduled={"a": SOON}), [None]),
    "delete": ("delete_tasks", lambda rdb: rdb.delete_tasks(QUEUE, ["a"]), State(scheduled={"a": SOON}), [None]),
    "reschedule": (
        "reschedule_task", lambda rdb: rdb.reschedule_task(QUEUE, "a", "+9"), State(archived={"a": AGO}), None,
    ),
    "edit": (
        "update_task_payload", lambda rdb: rdb.update_task_payload(QUEUE, "a", b"n"), State(pending=["a"]), None,
    ),
    "move": ("move_task", lambda rdb: rdb.move_task(QUEUE, "a", "to"), State(pending=["a"]), None),
    "pause": ("pause_queue", lambda rdb: rdb.pause_queue(QUEUE), State(), True),
    "unpause": ("pause_queue", lambda rdb: rdb.unpause_queue(QUEUE), State(paused=True), True),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["lose_reply", "cut_after", "cut_before"])
@pytest.mark.parametrize(("name", "change", "before", "answer"), REPEATED.values(), ids=REPEATED)
async def test_a_change_whose_reply_is_lost_is_repeated_and_happens_once(
    redis: Redis,
    proxy: Callable[[], Awaitable[Proxy]],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    name: str,
    change: Callable[[RDB], Awaitable[Any]],
    before: State,
    answer: Any,
) -> None:
    monkeypatch.setattr(base, "ATTEMPT_TIMEOUT", 0.3)
    between = await proxy()
    await write_all(redis, {QUEUE: before})
    async with asyncio.timeout(20), RDB(between.url) as rdb:
        await redis.script_load(Script(name).text)
        fault = getattr(between, kind)(script(Script(name).sha))
        assert await change(rdb) == answer
        assert fault.fired == 1
    standing = [state for state in (await State.read_all(redis)).values() if state.tasks]
    assert len(standing) == (0 if name in {"delete_tasks", "pause_queue"} else 1)
    assert await redis.exists(keys.paused(QUEUE)) == (1 if "pause_queue" in name and not before.paused else 0)


@pytest.mark.parametrize("name", ["run_tasks", "delete_tasks"])
async def test_a_change_whose_caller_gives_up_is_carried_out(
    redis: Redis, proxy: Callable[[], Awaitable[Proxy]], name: str
) -> None:
    between = await proxy()
    await write_all(redis, {QUEUE: State(scheduled={"a": SOON})})
    async with asyncio.timeout(20), RDB(between.url) as rdb:
        await rdb.ping()
        await redis.script_load(Script(name).text)
        between.delay(reply=0.2)
        sent = between.lose_reply(script(Script(name).sha), nth=1000)
        under_way = asyncio.create_task(getattr(rdb, name)(QUEUE, ["a"]))
        await between.until(lambda: sent.seen > 0)
        under_way.cancel()
        with pytest.raises(asyncio.CancelledError):
            await under_way
        await rdb.settled()
    assert not await redis.exists(keys.scheduled(QUEUE))
