"""Every call of an Inspector with what cannot be right: the error names it, and nothing changes."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aioasynq import BrokerError, Inspector, QueueNotFoundError, QueueStateError, TaskNotFoundError, keys
from tests.support.build import LEASE, NOW_S, QUEUE
from tests.support.state import State

SOON = float(NOW_S + 60)
#: What a call takes when all is well.
RIGHT: dict[str, Any] = {
    "queue": QUEUE, "task_id": "s", "group": "g", "state": "scheduled", "days": 1, "payload": b"x", "to": "low",
    "entry_id": "e", "process_in": 9,
}  # fmt: skip
WRONG: dict[str, list[Any]] = {
    "queue": ["", " ", "a{b", 7, None, b"q"], "task_id": ["", " ", 7, None, b"s"], "group": ["", " ", 7, b"g"],
    "state": ["", "runing", 7, None], "days": [0, 91, "1", True], "payload": [7, {}], "to": ["", " ", "a}b", 7, None],
    "entry_id": ["", " ", 7], "process_in": [-1, "1h", True], "process_at": ["now", True], "type": ["", " ", 7],
    "error": [7, b"x"], "older_than": [-1, "1h"], "page": [0, -1, 2**31 + 1, "1", True], "page_size": [0, 10_001, 1.5],
}  # fmt: skip
NAMES = sorted(
    name
    for name, _ in inspect.getmembers(Inspector, callable)
    if not name.startswith("_") and name not in {"aclose", "servers", "queues", "scheduler_entries", "migrate"}
)  # migrate is of no queue; test_migrate.py has what is wrong with it
#: These say something else of a queue that there is not, for what they say of one that there is would be the same.
OF_NO_QUEUE: dict[str, type[Exception] | None] = {
    "groups": None, "unpause_queue": QueueStateError, "cluster_key_slot": BrokerError, "cluster_nodes": BrokerError,
}  # fmt: skip


def _parameters(name: str) -> list[str]:
    return [parameter for parameter in inspect.signature(getattr(Inspector, name)).parameters if parameter != "self"]


def _needed(name: str) -> dict[str, Any]:
    parameters = inspect.signature(getattr(Inspector, name)).parameters
    needed = {each for each, about in parameters.items() if about.default is about.empty and each != "self"}
    if name == "reschedule_task":
        needed.add("process_in")
    return {each: RIGHT[each] for each in parameters if each in needed}


async def _call(inspector: Inspector, name: str, arguments: dict[str, Any]) -> Any:
    made = getattr(inspector, name)(**arguments)
    return [each async for each in made] if isinstance(made, AsyncIterator) else await made


CALLS = [(name, wrong, value) for name in NAMES for wrong in _parameters(name) for value in WRONG.get(wrong, [])]


@pytest.fixture
async def before(redis_target: Any) -> State:
    state = State(
        scheduled={"s": SOON}, archived={"x": 1.0}, active=["a"], lease={"a": LEASE}, groups={"g": {"m": 1.0}}
    )
    await state.write(redis_target, QUEUE)
    await redis_target.sadd(keys.queues(), QUEUE)
    return state


def test_each_call_is_tried_out() -> None:
    """A new parameter has a row of what is wrong with it, or has none that could be."""
    assert len(NAMES) > 40
    known = {*WRONG, "progress", "force", "memory"}
    assert [name for name in NAMES if set(_parameters(name)) - known] == []


@pytest.mark.parametrize("name", NAMES)
async def test_what_is_wrong_is_named(redis_target: Any, inspector: Inspector, before: State, name: str) -> None:
    for _, wrong, value in (call for call in CALLS if call[0] == name):
        arguments = _needed(name)
        if wrong == "process_at":
            del arguments["process_in"]
        if wrong == "group" and "state" in arguments:
            arguments["state"] = "aggregating"
        with pytest.raises((ValueError, TypeError)) as refused:
            await _call(inspector, name, arguments | {wrong: value})
        text = str(refused.value)
        assert wrong in text or (wrong == "to" and "queue" in text), f"{wrong}={value!r}: {text}"
        assert repr(value) in text, f"{wrong}={value!r}: {text}"
    assert await State.read(redis_target, QUEUE) == before.full(QUEUE)


@pytest.mark.parametrize("name", [name for name in NAMES if "queue" in _parameters(name)])
async def test_a_queue_that_there_is_not(redis_target: Any, inspector: Inspector, before: State, name: str) -> None:
    arguments = _needed(name) | {"queue": "nope"}
    if name in {"cluster_key_slot", "cluster_nodes", "move_task"} and await _is_cluster(inspector):
        return  # any name has a slot, and most names another one, which is said first
    error = OF_NO_QUEUE.get(name, QueueNotFoundError)
    if error is None:
        assert await _call(inspector, name, arguments) == []
    else:
        with pytest.raises(error, match=r"'nope'|no Cluster|CROSSSLOT|slot"):
            await _call(inspector, name, arguments)
    assert await State.read(redis_target, QUEUE) == before.full(QUEUE)
    assert await redis_target.smembers(keys.queues()) == {QUEUE.encode()}


@pytest.mark.parametrize("name", [name for name in NAMES if {"queue", "task_id"} <= set(_parameters(name))])
async def test_a_task_that_there_is_not(redis_target: Any, inspector: Inspector, before: State, name: str) -> None:
    with pytest.raises((TaskNotFoundError, ValueError), match=r"'none'|slot"):
        await _call(inspector, name, _needed(name) | {"task_id": "none"})
    assert await redis_target.smembers(keys.queues()) == {QUEUE.encode()}
    assert await State.read(redis_target, QUEUE) == before.full(QUEUE)


async def test_a_group_that_there_is_not(redis_target: Any, inspector: Inspector, before: State) -> None:
    """As in asynq, it is one without tasks."""
    for name in ("run", "archive", "delete"):
        assert await _call(inspector, f"{name}_all_aggregating_tasks", {"queue": QUEUE, "group": "none"}) == 0
    assert await inspector.list_aggregating_tasks(QUEUE, "none") == []
    assert [each async for each in inspector.tasks(QUEUE, "aggregating", group="none")] == []
    assert await State.read(redis_target, QUEUE) == before.full(QUEUE)


async def _is_cluster(inspector: Inspector) -> bool:
    try:
        return await inspector.cluster_key_slot(QUEUE) >= 0
    except BrokerError:
        return False
