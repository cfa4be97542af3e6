"""A whole queue: paused, let go on, deleted."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from aioasynq import keys
from aioasynq.errors import BrokerError, QueueNotEmptyError, QueueNotFoundError, QueueStateError
from aioasynq.rdb.rdb import RDB
from tests.support.build import DAY, LEASE, LOCK, NOW_S, QUEUE, message, unique
from tests.support.state import State, assert_states, write_all

SOON = float(NOW_S + 60)
COUNTERS = {"processed": 3, f"processed:{DAY}": 3, "failed": 1, f"failed:{DAY}": 1}
FULL = State(
    pending=["p", "u"],
    scheduled={"s": SOON},
    retry={"r": SOON},
    archived={"a": 1.0},
    completed={"c": SOON},
    groups={"g": {"m": 1.0}, "g:s": {"n": 1.0}, "forgotten": {"f": 1.0}},
    group_names={"g", "empty"},
    aggregation_sets={"g:s": SOON},
    tasks={
        "u": {"msg": unique("u"), "unique_key": LOCK},
        "m": {"msg": unique("m", payload=b"m", group_key="g")},
        "orphan": {"msg": unique("orphan", payload=b"o"), "state": "archived"},
        "lost": {"msg": b"\xff", "state": "aggregating"},
    },
    locks={LOCK: "u", keys.unique(QUEUE, "t", b"m"): "m", keys.unique(QUEUE, "t", b"?"): "gone"},
    counters=COUNTERS,
    waiting={"server": 1.0},
    other={"awaited": "1"},
)
OTHER = State(pending=["p"], scheduled={"s": SOON}, counters=COUNTERS)
SIMILAR = "q?"  # as a pattern it would be QUEUE's too


async def _register(target: Any, *queues: str) -> None:
    await target.sadd(keys.queues(), *queues)


async def _names(target: Any) -> set[bytes]:
    names: set[bytes] = await target.smembers(keys.queues())
    await target.delete(keys.queues())
    return names


@pytest.mark.rows(88, 89)
async def test_pause(redis_target: Any, rdb: RDB) -> None:
    assert await rdb.pause_queue(QUEUE)
    assert await redis_target.get(keys.paused(QUEUE)) == b"%d" % NOW_S
    assert not await rdb.pause_queue(QUEUE)
    assert await rdb.unpause_queue(QUEUE)
    assert not await rdb.unpause_queue(QUEUE)
    assert not await redis_target.exists(keys.paused(QUEUE))


@pytest.mark.rows(82)
@pytest.mark.parametrize("force", [False, True])
async def test_an_empty_queue_is_deleted(redis_target: Any, rdb: RDB, *, force: bool) -> None:
    left = State(
        group_names={"empty"}, counters=COUNTERS, paused=True, locks={LOCK: "gone"},
        tasks={"orphan": {"msg": message("orphan"), "state": "archived"}},
    )  # fmt: skip
    await write_all(redis_target, {QUEUE: left, SIMILAR: OTHER})
    await _register(redis_target, QUEUE, SIMILAR)
    await rdb.delete_queue(QUEUE, force=force)
    assert await _names(redis_target) == {SIMILAR.encode()}
    await assert_states(redis_target, {SIMILAR: OTHER})


@pytest.mark.rows(82)
async def test_a_full_queue_is_deleted_by_force_and_leaves_nothing(redis_target: Any, rdb: RDB) -> None:
    await write_all(redis_target, {QUEUE: FULL, SIMILAR: OTHER})
    await _register(redis_target, QUEUE, SIMILAR)
    told: list[tuple[int, int]] = []
    await rdb.delete_queue(QUEUE, force=True, progress=lambda done, total: told.append((done, total)))
    assert await _names(redis_target) == {SIMILAR.encode()}
    await assert_states(redis_target, {SIMILAR: OTHER})
    assert told[-1] == (8, 8)  # those that were set apart are gone before


async def test_a_large_queue_is_deleted_in_slices(redis_target: Any, rdb: RDB) -> None:
    many = State(pending=[f"p{n}" for n in range(700)], archived={f"a{n}": 1.0 for n in range(300)})
    many.tasks = {"p3": None, "a299": None}  # ids without a task
    await write_all(redis_target, {QUEUE: many})
    await _register(redis_target, QUEUE)
    told: list[int] = []
    await rdb.delete_queue(QUEUE, force=True, progress=lambda done, total: told.append(done * 1000 // total))
    assert told == [256, 512, 700, 956, 1000]
    assert await _names(redis_target) == set()
    await assert_states(redis_target, {})


HOLDING: dict[str, State] = {
    "pending": State(pending=["a"]),
    "scheduled": State(scheduled={"a": SOON}),
    "retry": State(retry={"a": SOON}),
    "archived": State(archived={"a": 1.0}),
    "completed": State(completed={"a": SOON}),
    "a group": State(groups={"g": {"a": 1.0}}),
    "a group that is not listed": State(groups={"g": {"a": 1.0}}, group_names=set()),
    "tasks set apart": State(groups={"g:s": {"a": 1.0}}, aggregation_sets={"g:s": SOON}, group_names=set()),
}


@pytest.mark.rows(83)
@pytest.mark.parametrize("before", HOLDING.values(), ids=HOLDING)
async def test_a_queue_that_holds_tasks_needs_force(redis_target: Any, rdb: RDB, before: State) -> None:
    await write_all(redis_target, {QUEUE: before})
    await _register(redis_target, QUEUE)
    with pytest.raises(QueueNotEmptyError):
        await rdb.delete_queue(QUEUE)
    assert await _names(redis_target) == {QUEUE.encode()}
    await assert_states(redis_target, {QUEUE: before})


@pytest.mark.rows(83)
@pytest.mark.parametrize("force", [False, True])
async def test_a_queue_whose_tasks_run_is_not_deleted(redis_target: Any, rdb: RDB, *, force: bool) -> None:
    before = State(active=["a"], lease={"a": LEASE}, pending=["b"])
    await write_all(redis_target, {QUEUE: before})
    await _register(redis_target, QUEUE)
    with pytest.raises(QueueStateError, match="'q': it has active tasks"):
        await rdb.delete_queue(QUEUE, force=force)
    assert await _names(redis_target) == {QUEUE.encode()}
    await assert_states(redis_target, {QUEUE: before})


@pytest.mark.rows(83)
@pytest.mark.parametrize("force", [False, True])
async def test_an_unknown_queue(redis_target: Any, rdb: RDB, *, force: bool) -> None:
    with pytest.raises(QueueNotFoundError, match="nope"):
        await rdb.delete_queue("nope", force=force)
    await assert_states(redis_target, {})


class KilledError(Exception):
    pass


async def test_a_deletion_that_was_broken_off_is_taken_up_again(
    redis_target: Any, rdb: RDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is broken off: after each of its calls to Redis."""
    left = 0

    def counted(real: Any) -> Any:
        async def call(self: RDB, *args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError
            return await real(self, *args, **kwargs)

        return call

    limit = 0
    for limit in itertools.count():
        await write_all(redis_target, {QUEUE: FULL})
        await _register(redis_target, QUEUE)
        left = limit
        with monkeypatch.context() as patch:
            for name in ("_run", "_plain"):
                patch.setattr(RDB, name, counted(getattr(RDB, name)))
            try:
                await rdb.delete_queue(QUEUE, force=True)
            except KilledError:
                pass
            else:
                break
        if await redis_target.sismember(keys.queues(), QUEUE):
            await rdb.delete_queue(QUEUE, force=True)
        assert await _names(redis_target) == set()
        await assert_states(redis_target, {})
    assert limit > 20
    assert await _names(redis_target) == set()
    await assert_states(redis_target, {})


NEW = State(pending=["new"])


def _enqueue_after(monkeypatch: pytest.MonkeyPatch, target: Any, method: str, what: str) -> None:
    """Enqueue a task once, just after the first call of an RDB's method with *what*."""
    real = getattr(RDB, method)
    done: list[str] = []

    async def call(self: RDB, first: Any, *args: Any, **kwargs: Any) -> Any:
        answer = await real(self, first, *args, **kwargs)
        if what in str(first) and not done:
            done.append(what)
            await NEW.write(target, QUEUE)
        return answer

    monkeypatch.setattr(RDB, method, call)


async def test_what_is_enqueued_while_it_is_deleted_stops_it(
    redis_target: Any, rdb: RDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _register(redis_target, QUEUE)
    _enqueue_after(monkeypatch, redis_target, "_run", "begin_delete_queue")
    with pytest.raises(QueueNotEmptyError):
        await rdb.delete_queue(QUEUE)
    assert await _names(redis_target) == {QUEUE.encode()}
    await assert_states(redis_target, {QUEUE: NEW})


@pytest.mark.parametrize("after", ["begin_delete_queue", "sweep_queue"])
async def test_what_is_enqueued_while_it_is_deleted_by_force_goes_too(
    redis_target: Any, rdb: RDB, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    await write_all(redis_target, {QUEUE: FULL})
    await _register(redis_target, QUEUE)
    _enqueue_after(monkeypatch, redis_target, "_run", after)
    await rdb.delete_queue(QUEUE, force=True)
    assert await _names(redis_target) == set()
    await assert_states(redis_target, {})


@pytest.mark.parametrize(("method", "after"), [("_run", "end_delete_queue"), ("_plain", "SREM")])
async def test_what_is_enqueued_at_its_end_is_kept_and_the_queue_has_its_name(
    redis_target: Any, rdb: RDB, monkeypatch: pytest.MonkeyPatch, method: str, after: str
) -> None:
    await _register(redis_target, QUEUE)
    _enqueue_after(monkeypatch, redis_target, method, after)
    await rdb.delete_queue(QUEUE, force=True)
    assert await _names(redis_target) == {QUEUE.encode()}
    await assert_states(redis_target, {QUEUE: NEW})


async def test_a_client_names_a_deleted_queue_again(redis_target: Any, rdb: RDB) -> None:
    await rdb.enqueue([message("a")])
    await rdb.delete_queue(QUEUE, force=True)
    await rdb.enqueue([message("b")])
    assert await _names(redis_target) == {QUEUE.encode()}


async def test_a_key_of_a_wrong_kind_stops_it_with_an_error(redis_target: Any, rdb: RDB) -> None:
    await redis_target.set(keys.scheduled(QUEUE), "no sorted set")
    await _register(redis_target, QUEUE)
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await rdb.delete_queue(QUEUE, force=True)
    assert await _names(redis_target) == {QUEUE.encode()}
