"""What those who look after tasks ought to do to them, on plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from aioasynq import keys
from aioasynq.errors import (
    DuplicateTaskError,
    QueueNotEmptyError,
    QueueStateError,
    TaskIDConflictError,
    TaskNotFoundError,
    TaskStateError,
)
from aioasynq.message import TaskMessage
from tests.model.queue_model import Lock, Model, due_score, trim
from tests.support.state import State

LOCK_AGAIN = 86_400  # seconds

Answer = type[Exception] | None


def change(model: Model, verb: str, queue: str, ids: Sequence[str], place: str | None, size: int) -> list[Answer]:
    """Run, archive or delete tasks; those alone that stand in *place*, if it is given."""
    state = model.queue(queue)
    work = {"run": _run, "archive": _archive, "delete": _delete}[verb]
    answers: list[Answer] = []
    for task_id in ids:
        why = _why_not(state, task_id)
        if why is None and place not in {None, state.tasks[task_id]["state"]}:  # type: ignore[index]
            why = TaskStateError
        answers.append(why or work(model, state, task_id))
    if verb == "archive" and None in answers:
        trim(model, state, size, 90 * 86_400)
    return answers


def _run(model: Model, state: State, task_id: str) -> Answer:
    content = model.hash_of(state, task_id)
    if content["state"] == "pending":
        return TaskStateError
    if content["state"] in {"archived", "completed"} and not _lock_again(model, content, task_id, LOCK_AGAIN):
        return DuplicateTaskError
    _leave(model, state, task_id)
    state.pending.append(task_id)
    content.update(state="pending", pending_since=f"{model.now * 1e9:.0f}")
    _forget(content, "owner", "recovered")
    return None


def _archive(model: Model, state: State, task_id: str) -> Answer:
    content = model.hash_of(state, task_id)
    if content["state"] == "archived":
        return TaskStateError
    _leave(model, state, task_id)
    state.archived[task_id] = float(math.floor(model.now))
    content["state"] = "archived"
    _forget(content, "owner", "recovered", "pending_since")
    model.unlock(_lock(content), task_id)
    return None


def _delete(model: Model, state: State, task_id: str) -> Answer:
    _leave(model, state, task_id)
    model.unlock(_lock(model.hash_of(state, task_id)), task_id)
    del state.tasks[task_id]
    return None


def reschedule(model: Model, queue: str, task_id: str, when: str) -> Answer:
    state = model.queue(queue)
    if why := _why_not(state, task_id):
        return why
    content = model.hash_of(state, task_id)
    if content["state"] in {"aggregating", "completed"}:
        return TaskStateError
    moment = due_score(model.now + float(when[1:]) if when.startswith("+") else float(when), model.now)
    ttl = math.ceil(max(0.0, moment - model.now)) + LOCK_AGAIN
    if content["state"] == "archived" and not _lock_again(model, content, task_id, ttl):
        return DuplicateTaskError
    to = "retry" if content["state"] == "retry" else "scheduled"
    _leave(model, state, task_id)
    getattr(state, to)[task_id] = moment
    content["state"] = to
    _forget(content, "owner", "recovered", "pending_since")
    return None


def update_payload(model: Model, queue: str, task_id: str, payload: bytes) -> Answer:
    state = model.queue(queue)
    if why := _why_not(state, task_id):
        return why
    content = model.hash_of(state, task_id)
    if content["state"] == "completed" or not isinstance(content["msg"], TaskMessage):
        return TaskStateError
    content["msg"] = replace(content["msg"], payload=payload)
    return None


def move(model: Model, queue: str, task_id: str, to: str) -> Answer:
    state, other = model.queue(queue), model.queue(to)
    if why := _why_not(state, task_id):
        return why
    content = model.hash_of(state, task_id)
    msg = content["msg"]
    if not isinstance(msg, TaskMessage):
        return TaskStateError
    if task_id in other.tasks:
        return TaskIDConflictError
    lock = _lock(content)
    there = keys.prefix(to) + lock.removeprefix(keys.prefix(queue)) if lock else ""
    is_held = lock in model.locks and model.locks[lock].holder == task_id
    if is_held and there in model.locks:
        return DuplicateTaskError
    score = _leave(model, state, task_id)
    del state.tasks[task_id]
    content["msg"] = replace(msg, queue=to, unique_key=there or msg.unique_key)
    if "unique_key" in content:
        content["unique_key"] = there
    if is_held:
        model.locks[there] = model.locks.pop(lock)
    other.tasks[task_id] = content
    match content["state"]:
        case "pending":
            other.pending.append(task_id)
        case "aggregating":
            assert score is not None
            assert other.group_names is not None
            other.groups.setdefault(content["group"], {})[task_id] = score
            other.group_names.add(content["group"])
        case place:
            getattr(other, place)[task_id] = score
    return None


def delete_queue(model: Model, queue: str, *, force: bool) -> Answer:
    """A queue that holds tasks."""
    state = model.queue(queue)
    if state.active or state.lease:
        return QueueStateError
    if not force:
        return QueueNotEmptyError
    del model.queues[queue]
    for lock in [lock for lock in model.locks if lock.startswith(keys.prefix(queue))]:
        del model.locks[lock]
    return None


def _why_not(state: State, task_id: str) -> Answer:
    content = state.tasks.get(task_id)
    if content is None:
        return TaskNotFoundError
    return TaskStateError if content["state"] == "active" else None


def _leave(model: Model, state: State, task_id: str) -> float | None:
    """Take a task out of its place; its score there."""
    content = model.hash_of(state, task_id)
    match content["state"]:
        case "pending":
            state.pending.remove(task_id)
            return None
        case "aggregating":
            group = content["group"]
            score = state.groups[group].pop(task_id)
            if not state.groups[group]:
                assert state.group_names is not None
                state.group_names.discard(group)
            return score
        case place:
            score = getattr(state, place).pop(task_id)
            assert isinstance(score, float | int)
            return float(score)


def _lock(content: dict[str, Any]) -> str:
    """The lock that a hash names; of tasks of groups it is in the message alone."""
    if "unique_key" in content:
        return str(content["unique_key"])
    msg = content["msg"]
    return msg.unique_key if "group" in content and isinstance(msg, TaskMessage) else ""


def _lock_again(model: Model, content: dict[str, Any], task_id: str, ttl: int) -> bool:
    lock = _lock(content)
    if lock and lock not in model.locks:
        model.locks[lock] = Lock(task_id, ttl, model.now + ttl)
    return not lock or model.locks[lock].holder == task_id


def _forget(content: dict[str, Any], *names: str) -> None:
    for name in names:
        content.pop(name, None)
