"""What an Inspector says and changes while others are at work on the same tasks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import Inspector, TaskNotFoundError, keys
from tests.support.build import LEASE, NOW_S, QUEUE, message
from tests.support.meanwhile import Meanwhile, arrange, replace
from tests.support.state import Fields, State, assert_states

SOON = float(NOW_S + 60)


@pytest.fixture
def meanwhile(redis_target: Any, monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """``meanwhile("next_ids", state)``: the queue is in *state* once the next such call of RDB has been answered."""

    return partial(arrange, redis_target, monkeypatch)


async def _assert(target: Any, state: State) -> None:
    await target.delete(keys.queues())
    await assert_states(target, {QUEUE: state})


GONE_ON: dict[str, tuple[str, str, State, State]] = {
    "runs what has run": ("run", "scheduled", State(scheduled={"a": SOON}), State(completed={"a": SOON})),
    "runs what was run by another": ("run", "archived", State(archived={"a": SOON}), State(retry={"a": SOON})),
    "archives what has succeeded": ("archive", "retry", State(retry={"a": SOON}), State(completed={"a": SOON})),
    "archives what is due": ("archive", "scheduled", State(scheduled={"a": SOON}), State(pending=["a"])),
    "deletes what has failed": ("delete", "pending", State(pending=["a"]), State(retry={"a": SOON})),
    "deletes what has succeeded": ("delete", "pending", State(pending=["a"]), State(completed={"a": SOON})),
    "deletes what is run again": ("delete", "archived", State(archived={"a": SOON}), State(pending=["a"])),
    "deletes what has another group": (
        "delete", "aggregating", State(groups={"g": {"a": 1.0}}), State(groups={"h": {"a": 1.0}}),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("verb", "state", "before", "after"), GONE_ON.values(), ids=GONE_ON)
async def test_all_of_a_state_are_those_that_are_still_in_it(
    redis_target: Any, inspector: Inspector, meanwhile: Meanwhile, verb: str, state: str, before: State, after: State
) -> None:
    """Or a task that has succeeded would run twice, and one that has failed would be lost."""
    await replace(redis_target, before)
    meanwhile("next_ids", after)
    group = "g" if state == "aggregating" else None
    assert await getattr(inspector, f"{verb}_tasks")(QUEUE, state, group=group) == 0
    await _assert(redis_target, after)


async def test_a_filter_that_fits_whole_slices_misses_none(redis_target: Any, inspector: Inspector) -> None:
    ids = [f"t{n:04}" for n in range(1200)]
    wanted: dict[str, Fields | None] = {task_id: {"msg": message(task_id, type="wanted")} for task_id in ids[300:]}
    await replace(redis_target, State(pending=ids, tasks=wanted))
    assert await inspector.delete_tasks(QUEUE, "pending", type="wanted") == len(wanted)
    assert (await State.read(redis_target, QUEUE)).pending == ids[:300]


async def test_a_long_queue_is_not_searched_for_what_is_gone(redis: Redis) -> None:
    """With 100,000 tasks Redis served nobody else for seconds."""
    await replace(redis, State(pending=[f"t{n:04}" for n in range(2000)]))
    await redis.config_resetstat()
    async with Inspector(redis) as inspector:
        assert await inspector.delete_all_pending_tasks(QUEUE) == 2000
        await replace(redis, State(pending=[f"t{n:04}" for n in range(2000)]))
        seen = 0
        async for _ in inspector.tasks(QUEUE, "pending"):
            seen += 1
            if seen == 256:  # 256 were read, and others have taken 512
                await redis.ltrim(keys.pending(QUEUE), 0, -513)
    assert seen == 2000 - 256
    stats: Any = await redis.info("commandstats")
    assert stats.get("cmdstat_lpos", {"calls": 0})["calls"] < 20


# ── lists ──


@pytest.mark.parametrize("state", ["active", "pending", "retry"])
async def test_a_task_that_has_ended_is_not_listed(
    redis_target: Any, inspector: Inspector, meanwhile: Meanwhile, state: str
) -> None:
    """Or it would be shown as one that nobody looks after."""
    place: dict[str, Any] = {state: {"a": SOON}} if state == "retry" else {state: ["a"]}
    await replace(redis_target, State(**place))
    meanwhile("next_ids", State(archived={"b": SOON}))
    assert [info async for info in inspector.tasks(QUEUE, state)] == []
    await replace(redis_target, State(**place))
    meanwhile("list_ids", State(archived={"b": SOON}))
    assert await getattr(inspector, f"list_{state}_tasks")(QUEUE) == []


# ── why ──


async def test_a_task_that_begins_while_it_is_explained(
    redis_target: Any, inspector: Inspector, meanwhile: Meanwhile
) -> None:
    """It said that the task stands nowhere, and to delete it."""
    await replace(redis_target, State(pending=["a"]))
    meanwhile("read_tasks", State(active=["a"], lease={"a": LEASE}))
    assert str(await inspector.explain(QUEUE, "a")) == "It is running."


async def test_a_task_that_ends_while_it_is_explained(
    redis_target: Any, inspector: Inspector, meanwhile: Meanwhile
) -> None:
    await replace(redis_target, State(pending=["a"]))
    meanwhile("read_tasks", State(pending=["b"]))
    with pytest.raises(TaskNotFoundError):
        await inspector.explain(QUEUE, "a")


# ── move, delete ──


async def test_a_move_of_nothing_makes_no_queue(redis_target: Any, inspector: Inspector) -> None:
    await replace(redis_target, State(pending=["a"]))
    with pytest.raises((TaskNotFoundError, ValueError)):
        await inspector.move_task(QUEUE, "none", "tpyo")
    assert await inspector.queues() == [QUEUE]
