"""Lists of tasks: pages, iteration while others come and go, filters, and what is broken among them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aioasynq import Inspector, QueueNotFoundError, TaskInfo, TaskState, keys
from aioasynq.proto.codec import encode_task
from tests.support.build import LEASE, NOW, NOW_S, QUEUE, message
from tests.support.state import State

SETS = ["scheduled", "retry", "archived", "completed", "aggregating"]
PLACES = ["pending", "active", *SETS]
FIVE = ["a", "b", "c", "d", "e"]


def _in(place: str, ids: list[str], **tasks: Any) -> State:
    """These ids in that place, the first one first."""
    scores = {task_id: float(NOW_S + n) for n, task_id in enumerate(ids)}
    match place:
        case "pending":
            return State(pending=ids, tasks=tasks)
        case "active":
            return State(active=ids, lease=dict.fromkeys(ids, LEASE), tasks=tasks)
        case "aggregating":
            return State(groups={"g": scores}, tasks=tasks)
        case _:
            more: Any = {place: scores}
            return State(tasks=tasks, **more)


async def _write(target: Any, state: State, queue: str = QUEUE) -> None:
    await state.write(target, queue)
    await target.sadd(keys.queues(), queue)


def _list(inspector: Inspector, place: str, **paging: int) -> Any:
    group = ("g",) if place == "aggregating" else ()
    return getattr(inspector, f"list_{place}_tasks")(QUEUE, *group, **paging)


def _group(place: str) -> dict[str, Any]:
    return {"group": "g"} if place == "aggregating" else {}


PAGES = {
    "the first": ({"page": 1, "page_size": 2}, ["a", "b"]),
    "one in the middle": ({"page": 2, "page_size": 2}, ["c", "d"]),
    "the last": ({"page": 3, "page_size": 2}, ["e"]),
    "beyond the end": ({"page": 4, "page_size": 2}, []),
    "larger than the list": ({"page_size": 99}, FIVE),
    "of the usual size": ({}, FIVE),
}


@pytest.mark.rows(66, 67)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("paging", "expected"), PAGES.values(), ids=PAGES)
async def test_pages(
    redis_target: Any, inspector: Inspector, place: str, paging: dict[str, int], expected: list[str]
) -> None:
    await _write(redis_target, _in(place, FIVE))
    infos = await _list(inspector, place, **paging)
    assert [info.id for info in infos] == expected
    assert {(info.state, info.queue, info.type, info.payload) for info in infos} <= {
        (TaskState(place), QUEUE, "t", b"p")
    }


@pytest.mark.rows(64, 66)
@pytest.mark.parametrize("place", PLACES)
async def test_when_a_task_is_processed_next(redis_target: Any, inspector: Inspector, place: str) -> None:
    await _write(redis_target, _in(place, ["a"]))
    expected = {
        "pending": datetime.fromtimestamp(NOW, UTC),
        "scheduled": datetime.fromtimestamp(NOW_S, UTC),
        "retry": datetime.fromtimestamp(NOW_S, UTC),
    }.get(place)
    [info] = await _list(inspector, place)
    assert info.next_process_at == expected
    assert (await inspector.get_task_info(QUEUE, "a")).next_process_at == expected


@pytest.mark.rows(133)
async def test_active_tasks_whose_lease_ran_out_are_orphaned(redis_target: Any, inspector: Inspector) -> None:
    leases = {"held": LEASE, "over": NOW - 0.5, "just over": NOW}
    await _write(redis_target, State(active=["held", "over", "just over", "none"], lease=leases))
    infos = await inspector.list_active_tasks(QUEUE)
    assert {info.id: info.is_orphaned for info in infos} == {
        "held": False, "over": True, "just over": True, "none": True,
    }  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
async def test_what_is_broken_is_shown_and_hides_nothing(redis_target: Any, inspector: Inspector, place: str) -> None:
    await _write(redis_target, _in(place, ["gone", "bad", "good"], gone=None, bad={"msg": b"\xff\xff"}))
    gone, bad, good = await _list(inspector, place)
    assert (gone.id, gone.type, gone.is_orphaned) == ("gone", "", True)
    assert "hash is gone" in gone.last_err
    assert (bad.id, bad.payload) == ("bad", b"\xff\xff")
    assert "undecodable message" in bad.last_err
    assert good.id == "good"
    async for info in inspector.tasks(QUEUE, place, **_group(place)):
        assert info.id in {"gone", "bad", "good"}


@pytest.mark.parametrize("place", PLACES)
async def test_going_through_all(redis_target: Any, inspector: Inspector, place: str) -> None:
    ids = [f"t{n:04}" for n in range(600)]
    await _write(redis_target, _in(place, ids))
    assert [info.id async for info in inspector.tasks(QUEUE, place, **_group(place))] == ids


@pytest.mark.parametrize("leaves", ["those that were seen", "the last that was seen", "every other one"])
@pytest.mark.parametrize("place", PLACES)
async def test_going_through_all_while_tasks_come_and_go(
    redis_target: Any, inspector: Inspector, place: str, leaves: str
) -> None:
    """What stays all the while is seen, and seen once; also among many of one score."""
    ids = [f"t{n:04}" for n in range(1000)]
    state = _in(place, ids)
    if place in SETS:
        scores: Any = state.groups["g"] if place == "aggregating" else getattr(state, place)
        for n, task_id in enumerate(ids):
            scores[task_id] = float(NOW_S + n // 400)
    await _write(redis_target, state)
    key = keys.group(QUEUE, "g") if place == "aggregating" else keys.prefix(QUEUE) + place
    remove = redis_target.zrem if place in SETS else lambda name, task_id: redis_target.lrem(name, -1, task_id)
    seen: list[str] = []
    gone: set[str] = set()
    async for info in inspector.tasks(QUEUE, place, **_group(place)):
        seen.append(info.id)
        if len(seen) % 256 == 0:
            which = {"those that were seen": seen[:], "the last that was seen": seen[-1:]}.get(leaves, ids[::2])
            for task_id in which:
                if task_id not in gone:
                    gone.add(task_id)
                    await remove(key, task_id)
            if place in {"pending", "active"}:
                await redis_target.lpush(key, f"new{len(seen)}")
    known = [task_id for task_id in seen if not task_id.startswith("new")]
    assert len(set(seen)) == len(seen)
    assert set(ids) - gone <= set(known)
    assert known == sorted(known)


FILTERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "type": ({"type": "mail:send"}, {"a"}),
    "types that begin so": ({"type": "mail:*"}, {"a", "b"}),
    "a type is no part": ({"type": "mail:"}, set()),
    "payload": ({"payload": "needle"}, {"b", "c"}),
    "payload as bytes": ({"payload": b"\xff"}, {"c"}),
    "error": ({"error": "boom"}, {"b"}),
    "age": ({"older_than": 5}, {"a", "b"}),
    "age as a timedelta": ({"older_than": timedelta(seconds=15)}, {"a"}),
    "all of them": ({"type": "mail:*", "payload": "needle", "error": "boom", "older_than": 1}, {"b"}),
}


@pytest.mark.parametrize(("wanted", "expected"), FILTERS.values(), ids=FILTERS)
async def test_filters(redis_target: Any, inspector: Inspector, wanted: dict[str, Any], expected: set[str]) -> None:
    state = State(
        archived={"a": NOW_S - 20.0, "b": NOW_S - 10.0, "c": float(NOW_S)},
        tasks={
            "a": {"msg": message("a", type="mail:send")},
            "b": {"msg": message("b", type="mail:draft", payload=b"a needle", error_msg="boom!")},
            "c": {"msg": message("c", payload=b"needle \xff", error_msg="crash")},
        },
    )
    await _write(redis_target, state)
    assert {info.id async for info in inspector.tasks(QUEUE, "archived", **wanted)} == expected
    assert await inspector.run_tasks(QUEUE, "archived", **wanted) == len(expected)
    assert {info.id for info in await inspector.list_pending_tasks(QUEUE)} == expected


AGES: dict[str, tuple[State, str, dict[str, str]]] = {
    "pending": (State(pending=["a"], tasks={"a": {"pending_since": f"{NOW_S - 9}000000000"}}), "pending", {}),
    "retry": (
        State(retry={"a": NOW + 9}, tasks={"a": {"msg": message("a", last_failed_at=NOW_S - 9)}}), "retry", {},
    ),
    "completed": (
        State(completed={"a": NOW + 9}, tasks={"a": {"msg": message("a", completed_at=NOW_S - 9)}}), "completed", {},
    ),
    "aggregating": (State(groups={"g": {"a": NOW_S - 9.0}}), "aggregating", {"group": "g"}),
    "archived": (State(archived={"a": NOW_S - 9.0}), "archived", {}),
}  # fmt: skip


@pytest.mark.parametrize(("state", "place", "group"), AGES.values(), ids=AGES)
async def test_age_is_the_time_in_a_state(
    redis_target: Any, inspector: Inspector, state: State, place: str, group: dict[str, Any]
) -> None:
    await _write(redis_target, state)
    assert [i.id async for i in inspector.tasks(QUEUE, place, older_than=9, **group)] == ["a"]
    assert [i.id async for i in inspector.tasks(QUEUE, place, older_than=10, **group)] == []


async def test_a_task_is_found_in_whatever_queues(redis_target: Any, inspector: Inspector) -> None:
    await _write(redis_target, State(pending=["a"]))
    await _write(redis_target, State(archived={"a": 1.0}), "low")
    await _write(redis_target, State(pending=["b"]), "other")
    found = await inspector.find_task("a")
    assert [(info.queue, info.state) for info in found] == [("low", "archived"), (QUEUE, "pending")]
    assert all(isinstance(info, TaskInfo) for info in found)
    assert await inspector.find_task("none") == []


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "page": ({"page": 0}, "page must be from 1"),
    "page as text": ({"page": "1"}, "page must be an int, got '1'"),
    "page size": ({"page_size": 0}, "page_size must be from 1 to 10,000, got 0"),
    "a large page": ({"page_size": 10_001}, "page_size"),
}


@pytest.mark.parametrize(("paging", "text"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("place", PLACES)
async def test_wrong_pages(inspector: Inspector, place: str, paging: dict[str, Any], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        await _list(inspector, place, **paging)


WRONG_FILTERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "state": ("runing", {}, "state must be one of active, pending.* got 'runing'"),
    "no group": ("aggregating", {}, "group must be given"),
    "a group too many": ("pending", {"group": "g"}, "group is for the state 'aggregating'"),
    "type": ("pending", {"type": " "}, "type must contain"),
    "payload": ("pending", {"payload": 1}, "payload must be a str or bytes"),
    "error": ("pending", {"error": 1}, "error must be a str"),
    "age": ("pending", {"older_than": -1}, "older_than must be 0 or more seconds, got -1"),
    "age as text": ("pending", {"older_than": "1h"}, "older_than must be seconds or a timedelta"),
}


@pytest.mark.parametrize(("state", "wanted", "text"), WRONG_FILTERS.values(), ids=WRONG_FILTERS)
async def test_wrong_filters(inspector: Inspector, state: str, wanted: dict[str, Any], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        _ = [info async for info in inspector.tasks(QUEUE, state, **wanted)]
    with pytest.raises((ValueError, TypeError), match=text):
        await inspector.delete_tasks(QUEUE, state, **wanted)


@pytest.mark.rows(68)
async def test_an_unknown_queue_has_no_lists(inspector: Inspector) -> None:
    for place in PLACES:
        with pytest.raises(QueueNotFoundError):
            await _list(inspector, place)
        with pytest.raises(QueueNotFoundError):
            _ = [info async for info in inspector.tasks(QUEUE, place, **_group(place))]


async def test_a_list_that_is_left_early_holds_nothing(redis_target: Any, inspector: Inspector) -> None:
    await _write(redis_target, _in("pending", FIVE))
    async with asyncio.timeout(5):
        async for info in inspector.tasks(QUEUE, "pending"):
            assert info.id == "a"
            break
        assert await inspector.delete_all_pending_tasks(QUEUE) == 5


async def test_names_that_are_no_text(redis_target: Any, inspector: Inspector) -> None:
    """Go's strings hold any bytes; what came out of Redis escaped goes back as it was."""
    task, group = "t\udcff", "g\udcff:\x1b[31m"
    name, group_name = (text.encode("utf-8", "surrogateescape") for text in (task, group))
    fields = {"msg": encode_task(message("x")), "state": "aggregating", "group": group_name}
    prefix = keys.prefix(QUEUE).encode()
    await redis_target.sadd(keys.queues(), QUEUE)
    await redis_target.hset(prefix + b"t:" + name, mapping=fields)
    await redis_target.zadd(prefix + b"g:" + group_name, {name: 1})
    await redis_target.sadd(keys.groups(QUEUE), group_name)
    assert [each.group for each in await inspector.groups(QUEUE)] == [group]
    assert [info.id async for info in inspector.tasks(QUEUE, "aggregating", group=group)] == [task]
    assert [info.id for info in await inspector.list_aggregating_tasks(QUEUE, group)] == [task]
    assert await inspector.run_tasks(QUEUE, "aggregating", group=group) == 1
    assert [info.id for info in await inspector.find_task(task)] == [task]
    assert (await inspector.get_task_info(QUEUE, task)).id == task
    assert (await inspector.explain(QUEUE, task)).reasons[0] == "It is pending, and the next of its queue to run."
    await inspector.archive_task(QUEUE, task)
    assert await inspector.cancel_processing(task) == 0
    await inspector.delete_task(QUEUE, task)
    assert (await inspector.get_queue_info(QUEUE)).size == 0
