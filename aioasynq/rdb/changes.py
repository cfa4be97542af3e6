"""Changes that people make to tasks: run, archive, delete, reschedule, edit, move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any, NamedTuple

from msgspec.structs import replace
from redis.asyncio.cluster import RedisCluster

from aioasynq import keys
from aioasynq.errors import (
    DuplicateTaskError,
    MessageDecodeError,
    TaskError,
    TaskIDConflictError,
    TaskNotFoundError,
    TaskStateError,
)
from aioasynq.message import TaskMessage
from aioasynq.proto.codec import decode_task, encode_task
from aioasynq.rdb.base import Arg, at_most_a_batch
from aioasynq.rdb.groups import Groups
from aioasynq.rdb.lifecycle import MAX_ARCHIVE, MAX_ARCHIVE_AGE, Lifecycle
from aioasynq.rdb.receipts import Receipt
from aioasynq.rdb.script import Script

LOCK_AGAIN = 86_400  #: seconds a lock lasts that an archived task takes again: what it was to last is not kept
TRIES = 5  #: how often a change is tried on a task that somebody else changes at the same time

_TASK_PLACES = Script("task_places")
_RUN_TASKS = Script("run_tasks")
_ARCHIVE_TASKS = Script("archive_tasks")
_DELETE_TASKS = Script("delete_tasks")
_RESCHEDULE_TASK = Script("reschedule_task")
_UPDATE_TASK_PAYLOAD = Script("update_task_payload")
_MOVE_TASK = Script("move_task")

# What scripts answer for one task.
_DONE, _MISSING, _ACTIVE, _APART, _THERE, _LOCKED, _ID_TAKEN, _ELSEWHERE, _CHANGED = 1, 0, 2, 3, 4, 5, 7, 8, 9


class _Seen(NamedTuple):
    """What was seen of a task before it is changed."""

    state: str
    group: str
    lock: str

    def keys(self, queue: str, task_id: str) -> list[str]:
        """Of the task, its lock, its group."""
        lock = [self.lock] if self.lock else []
        group = [keys.group(queue, self.group)] if self.group else []
        return [keys.task(queue, task_id), *lock, *group]

    def flags(self) -> tuple[Arg, Arg]:
        return (1 if self.lock else 0, 1 if self.group else 0)


class Changes(Lifecycle, Groups):
    """Operations of those who look after tasks. What a worker runs is refused; ``publish_cancelation`` is for that."""

    async def run_tasks(self, queue: str, ids: Sequence[str], *, place: str = "") -> list[TaskError | None]:
        """Make tasks pending that wait for something else, or are archived or completed.

        An archived or completed task that is unique takes its lock again, for a day at most, or is refused.

        Args:
            place: the key of the list or sorted set in which the ids were found; tasks that have left it are refused.

        Returns:
            For each id None, or why not: TaskNotFoundError, TaskStateError, DuplicateTaskError.
        """
        return await self._change(_RUN_TASKS, queue, ids, "run", (self.clock_argument(), LOCK_AGAIN, place))

    async def archive_tasks(
        self,
        queue: str,
        ids: Sequence[str],
        *,
        place: str = "",
        max_size: int = MAX_ARCHIVE,
        max_age: float = MAX_ARCHIVE_AGE,
    ) -> list[TaskError | None]:
        """Put tasks that do not run into the archive, and free their locks.

        What the archive cannot hold is deleted, as when a task fails for good.

        Args:
            place: as with :meth:`run_tasks`.
            max_size: how many tasks the archive holds.
            max_age: how many seconds it holds them.

        Returns:
            For each id None, or why not: TaskNotFoundError, TaskStateError.
        """
        first = (self.clock_argument(), max_size, max_age, keys.task_prefix(queue), place)
        return await self._change(_ARCHIVE_TASKS, queue, ids, "archive", first)

    async def delete_tasks(self, queue: str, ids: Sequence[str], *, place: str = "") -> list[TaskError | None]:
        """Forget tasks that do not run, and free their locks.

        Args:
            place: as with :meth:`run_tasks`. Ids without a task are taken out of it, and nobody else would do that.

        Returns:
            For each id None, or why not: TaskNotFoundError, TaskStateError.
        """
        return await self._change(
            _DELETE_TASKS, queue, ids, "delete", (1 if place else 0,), (place or keys.pending(queue),)
        )

    async def _change(
        self,
        script: Script,
        queue: str,
        ids: Sequence[str],
        verb: str,
        first: tuple[Arg, ...],
        first_keys: tuple[str, ...] = (),
    ) -> list[TaskError | None]:
        at_most_a_batch(ids)
        answers: dict[str, TaskError | None] = {}
        left = list(dict.fromkeys(ids))
        for attempt in range(TRIES):
            if not left:
                break
            seen = await self._seen(queue, left)
            receipt = self._receipt(None)
            task_keys: list[str] = []
            args: list[Arg] = []
            for task_id, what in zip(left, seen, strict=True):
                task_keys += what.keys(queue, task_id)
                args += (task_id, *what.flags())
            codes = await self._run(
                script,
                (keys.receipt(queue, receipt.caller), *places_of(queue), *first_keys, *task_keys),
                (receipt.number, *first, *args),
            )
            changed = []
            for task_id, what, code in zip(left, seen, codes, strict=True):
                if code == _CHANGED and attempt < TRIES - 1:
                    changed.append(task_id)
                else:
                    answers[task_id] = _refusal(code, queue, task_id, verb, what.state)
            left = changed
        return [answers[task_id] for task_id in ids]

    async def reschedule_task(self, queue: str, task_id: str, when: str) -> TaskError | None:
        """Set when a pending, scheduled, archived or failed task is due; one that is to be retried stays that.

        Args:
            when: ``+12.500``, seconds from Redis's now, or unix seconds.

        Returns:
            None, or why not: TaskNotFoundError, TaskStateError, DuplicateTaskError.
        """
        [seen] = await self._seen(queue, [task_id])
        receipt = self._receipt(None)
        code = await self._run(
            _RESCHEDULE_TASK,
            (
                keys.receipt(queue, receipt.caller),
                *places_of(queue),
                keys.task(queue, task_id),
                *((seen.lock,) if seen.lock else ()),
            ),
            (receipt.number, self.clock_argument(), LOCK_AGAIN, task_id, when),
        )
        return _refusal(code, queue, task_id, "reschedule", seen.state)

    async def update_task_payload(self, queue: str, task_id: str, payload: bytes) -> TaskError | None:
        """Give a task that does not run another payload. Its place, time and lock stay what they are.

        Returns:
            None, or why not: TaskNotFoundError, TaskStateError.
        """

        async def once(receipt: Receipt, seen: _Seen, msg: TaskMessage, data: bytes) -> Any:
            group = (keys.group(queue, seen.group),) if seen.group else ()
            return await self._run(
                _UPDATE_TASK_PAYLOAD,
                (keys.receipt(queue, receipt.caller), *places_of(queue), keys.task(queue, task_id), *group),
                (receipt.number, task_id, _digest(data), encode_task(replace(msg, payload=payload))),
            )

        return await self._edit(queue, task_id, "edit the payload of", once)

    async def move_task(self, queue: str, task_id: str, to: str) -> TaskError | None:
        """Carry a task that does not run over to the queue *to*, with its id, state, time, lock and results.

        Returns:
            None, or why not: TaskNotFoundError, TaskStateError, TaskIDConflictError, DuplicateTaskError; the last two
            are about the queue *to*.

        Raises:
            ValueError: the queues are the same, or lie in different slots of a Cluster.
        """
        if queue == to:
            raise ValueError(f"to must be another queue than the one that the task is in, got {to!r}")
        if isinstance(self._redis, RedisCluster) and self._slot(queue) != self._slot(to):
            raise ValueError(
                f"to must be a queue in the slot of {queue!r}, since a Cluster moves nothing between slots in one "
                f"step; got {to!r}: enqueue the task there and delete it here"
            )

        async def once(receipt: Receipt, seen: _Seen, msg: TaskMessage, data: bytes) -> Any:
            if seen.state == "active":  # refused before *to* is named
                return _ACTIVE
            await self._register(to)
            lock = keys.prefix(to) + seen.lock.removeprefix(keys.prefix(queue)) if seen.lock else ""
            moved = replace(msg, queue=to, unique_key=lock or msg.unique_key)
            return await self._run(
                _MOVE_TASK,
                (
                    keys.receipt(queue, receipt.caller),
                    *places_of(queue),
                    keys.task(queue, task_id),
                    keys.task(to, task_id),
                    keys.pending(to),
                    keys.scheduled(to),
                    keys.retry(to),
                    keys.archived(to),
                    keys.completed(to),
                    keys.groups(to),
                    *((seen.lock, lock) if lock else ()),
                    *((keys.group(queue, seen.group), keys.group(to, seen.group)) if seen.group else ()),
                ),
                (receipt.number, task_id, 1 if lock else 0, _digest(data), encode_task(moved)),
            )

        [seen] = await self._seen(queue, [task_id])
        if seen.state not in {"", "active"}:  # what cannot be moved makes no queue
            await self._register(to)
        answer = await self._edit(queue, task_id, "move", once)
        if isinstance(answer, TaskIDConflictError | DuplicateTaskError):
            return type(answer)(to, task_id)
        return answer

    async def _edit(self, queue: str, task_id: str, verb: str, once: Callable[..., Any]) -> TaskError | None:
        """Read a task's message and put another in its place, again when it was changed in between."""
        state = ""
        for _ in range(TRIES):
            [seen] = await self._seen(queue, [task_id])
            data = await self._plain(
                "reading a task", lambda: self.command("HGET", keys.task(queue, task_id), keys.MSG)
            )
            state = seen.state
            try:
                msg = decode_task(data or b"")
            except MessageDecodeError:
                msg = None
            if data is None and not state:
                return TaskNotFoundError(queue, task_id)
            if msg is None or msg.id != task_id:
                return TaskStateError(queue, task_id, state, f"cannot {verb} a task whose message cannot be read")
            code = await once(self._receipt(None), seen, msg, data)
            if code != _CHANGED:
                return _refusal(code, queue, task_id, verb, state)
        return _refusal(_CHANGED, queue, task_id, verb, state)

    async def _seen(self, queue: str, ids: Sequence[str]) -> list[_Seen]:
        found = await self._run(_TASK_PLACES, [keys.task(queue, task_id) for task_id in ids], (), writes=False)
        return [_Seen(*_read(each)) if each else _Seen("", "", "") for each in found]

    def _slot(self, queue: str) -> int:
        assert isinstance(self._redis, RedisCluster)  # noqa: S101 - who asks has looked
        return int(self._redis.keyslot(keys.pending(queue)))


def places_of(queue: str) -> tuple[str, ...]:
    """The keys of the places of a queue, as ``_leave.lua`` has them after the receipt's."""
    return (
        keys.pending(queue),
        keys.active(queue),
        keys.lease(queue),
        keys.scheduled(queue),
        keys.retry(queue),
        keys.archived(queue),
        keys.completed(queue),
        keys.groups(queue),
        keys.aggregation_sets(queue),
    )


def _read(found: Sequence[bytes]) -> tuple[str, str, str]:
    """State, group and lock. Go notes the lock of a grouped task in its message alone."""
    state, group, lock = map(text_of, found[:3])
    if not lock and found[3]:
        try:
            lock = decode_task(found[3]).unique_key
        except MessageDecodeError:
            lock = ""
    return state, group, lock


_WORDS = {
    ("run", _ACTIVE): "task is already running",
    ("run", _THERE): "task is already in pending state",
    ("archive", _THERE): "task is already archived",
}

_REFUSALS: dict[int, type[TaskError]] = {
    _MISSING: TaskNotFoundError,
    _LOCKED: DuplicateTaskError,
    _ID_TAKEN: TaskIDConflictError,
}


def _refusal(code: Any, queue: str, task_id: str, verb: str, state: str) -> TaskError | None:
    """What a script answered for one task."""
    if isinstance(code, bytes):
        state = text_of(code)
        return TaskStateError(queue, task_id, state, f"cannot {verb} a task in {state} state")
    if code == _DONE:
        return None
    if code in _REFUSALS:
        return _REFUSALS[code](queue, task_id)
    if code == _APART:
        why = f"cannot {verb} it while its group is being aggregated"
    elif code == _ELSEWHERE:
        why = f"cannot {verb} it from where it was: it is somewhere else by now"
    elif code == _CHANGED:
        why = f"cannot {verb} it: somebody else changes it all the time"
    elif code == _ACTIVE:
        state = "active"
        why = _WORDS.get((verb, code)) or f"cannot {verb} a task in active state; cancel it with cancel_processing"
    else:
        state = {"run": "pending", "archive": "archived"}.get(verb, state)
        why = _WORDS[verb, code]
    return TaskStateError(queue, task_id, state, why)


def _digest(data: bytes) -> str:
    return sha1(data, usedforsecurity=False).hexdigest()


def text_of(value: Any) -> str:
    """What Redis answered, as text; bytes that are none survive."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
