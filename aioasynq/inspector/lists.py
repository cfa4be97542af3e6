"""Lists of tasks: pages, and iteration with filters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from aioasynq.compose import task_info
from aioasynq.errors import MessageDecodeError
from aioasynq.inspector.base import Base, check_page, check_state, check_text
from aioasynq.options import seconds_of
from aioasynq.proto.codec import decode_task
from aioasynq.rdb.base import MAX_BATCH
from aioasynq.rdb.inspection import Found, Seen, place_of
from aioasynq.task import TaskInfo, TaskState


class Lists(Base):
    """The part of an Inspector that lists tasks."""

    async def list_pending_tasks(self, queue: str, *, page: int = 1, page_size: int = 30) -> list[TaskInfo]:
        """Tasks that wait for a worker, the next to run first.

        Args:
            page: from 1.
            page_size: at most 10,000.

        Raises:
            QueueNotFoundError: there is no such queue.
        """
        return await self._page(queue, TaskState.PENDING, None, page, page_size)

    async def list_active_tasks(self, queue: str, *, page: int = 1, page_size: int = 30) -> list[TaskInfo]:
        """Tasks that run, the first one taken first; ``is_orphaned`` when their worker has not been heard of.

        Arguments and errors as in :meth:`list_pending_tasks`.
        """
        return await self._page(queue, TaskState.ACTIVE, None, page, page_size)

    async def list_scheduled_tasks(self, queue: str, *, page: int = 1, page_size: int = 30) -> list[TaskInfo]:
        """Tasks that wait for their time, the soonest first. Arguments as in :meth:`list_pending_tasks`."""
        return await self._page(queue, TaskState.SCHEDULED, None, page, page_size)

    async def list_retry_tasks(self, queue: str, *, page: int = 1, page_size: int = 30) -> list[TaskInfo]:
        """Tasks that failed and are to be tried again, the soonest first. Arguments as above."""
        return await self._page(queue, TaskState.RETRY, None, page, page_size)

    async def list_archived_tasks(self, queue: str, *, page: int = 1, page_size: int = 30) -> list[TaskInfo]:
        """Tasks that failed for good, the first one archived first. Arguments as above."""
        return await self._page(queue, TaskState.ARCHIVED, None, page, page_size)

    async def list_completed_tasks(self, queue: str, *, page: int = 1, page_size: int = 30) -> list[TaskInfo]:
        """Tasks that succeeded and are kept, those first whose retention ends first. Arguments as above."""
        return await self._page(queue, TaskState.COMPLETED, None, page, page_size)

    async def list_aggregating_tasks(
        self, queue: str, group: str, *, page: int = 1, page_size: int = 30
    ) -> list[TaskInfo]:
        """Tasks that wait in a group, the first one that joined first. Arguments as above."""
        return await self._page(queue, TaskState.AGGREGATING, group, page, page_size)

    async def tasks(
        self,
        queue: str,
        state: TaskState | str,
        *,
        group: str | None = None,
        type: str | None = None,  # noqa: A002 - what the field is called
        payload: str | bytes | None = None,
        error: str | None = None,
        older_than: float | timedelta | None = None,
    ) -> AsyncIterator[TaskInfo]:
        """Go through all tasks of a state, in the order of the lists, while others come and go.

        What stays there all the while comes once. What leaves and comes back may come again.

        Args:
            group: with the state ``aggregating``, and with no other.
            type: only tasks of this type; with ``*`` at its end, of all types that begin so.
            payload: only tasks whose payload contains this.
            error: only tasks whose last error contains this.
            older_than: only tasks that have been in this state for longer; seconds or a timedelta. Scheduled tasks
                have no such time and are not among them; tasks of Go that were run by hand neither.

        Raises:
            QueueNotFoundError: there is no such queue.
            ValueError, TypeError: an argument is wrong.
        """
        checked = check_state(state, group)
        wanted = Filter.of(type=type, payload=payload, error=error, older_than=older_than)
        await self._check_queue(queue)
        seen = Seen()
        while True:
            ids, seen = await self._rdb.next_ids(queue, checked, group, seen)
            if not ids:
                return
            for info in await self._infos(queue, checked, group, ids, wanted):
                yield info

    async def _page(self, queue: str, state: TaskState, group: str | None, page: int, page_size: int) -> list[TaskInfo]:
        start = check_page(page, page_size)
        check_state(state, group)
        await self._check_queue(queue)
        ids = await self._rdb.list_ids(queue, state, group, start, page_size)
        return await self._infos(queue, state, group, ids)

    async def _infos(
        self, queue: str, state: TaskState, group: str | None, ids: Sequence[str], wanted: Filter | None = None
    ) -> list[TaskInfo]:
        """The tasks in one place; those that have left it since are shown with the state that they are in now.

        Those that are gone since are left out.
        """
        infos: list[TaskInfo] = []
        place, _ = place_of(queue, state, group)
        now = await self._rdb.now() if ids else 0.0
        for start in range(0, len(ids), MAX_BATCH):
            some = ids[start : start + MAX_BATCH]
            read = await self._rdb.read_tasks(queue, some)
            gone = [task_id for task_id, found in zip(some, read, strict=True) if found is None]
            strays = await self._rdb.strays(queue, place, gone, dry=True) if gone else []
            for task_id, found in zip(some, read, strict=True):
                if found is None and task_id not in strays:
                    continue
                info = info_of(queue, task_id, state, found, now)
                if wanted is None or wanted.fits(info, found, now):
                    infos.append(info)
        return infos


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tasks are meant."""

    type: str | None
    payload: bytes | None
    error: str | None
    older_than: float | None

    @classmethod
    def of(
        cls,
        *,
        type: str | None,  # noqa: A002 - what the field is called
        payload: str | bytes | None,
        error: str | None,
        older_than: float | timedelta | None,
    ) -> Filter:
        """Check and make one.

        Raises:
            ValueError, TypeError: an argument is wrong.
        """
        if type is not None:
            check_text("type", type)
        if error is not None:
            check_text("error", error)
        if payload is not None and not isinstance(payload, str | bytes):
            raise TypeError(f"payload must be a str or bytes that are contained, got {payload!r}")
        text = payload.encode() if isinstance(payload, str) else payload
        return cls(type, text, error, None if older_than is None else seconds_of("older_than", older_than))

    @property
    def is_empty(self) -> bool:
        """Whether all tasks are meant."""
        return self == Filter(None, None, None, None)

    def fits(self, info: TaskInfo, found: Found | None, now: float) -> bool:
        """Whether this task is meant."""
        if self.type is not None:
            start = self.type.removesuffix("*")
            if not (info.type.startswith(start) if start != self.type else info.type == start):
                return False
        if self.payload is not None and self.payload not in info.payload:
            return False
        if self.error is not None and self.error not in info.last_err:
            return False
        if self.older_than is not None:
            since = _since(info, found)
            return since is not None and now - since >= self.older_than
        return True


def _since(info: TaskInfo, found: Found | None) -> float | None:
    """Since when a task is in its state, unix seconds."""
    if found is None:
        return None
    match info.state:
        case TaskState.PENDING:
            return found.pending_since
        case TaskState.ARCHIVED | TaskState.AGGREGATING:
            return found.score
        case TaskState.RETRY:
            return info.last_failed_at.timestamp() if info.last_failed_at else None
        case TaskState.COMPLETED:
            return info.completed_at.timestamp() if info.completed_at else None
        case _:
            return None


def info_of(queue: str, task_id: str, state: TaskState, found: Found | None, now: float) -> TaskInfo:
    """What users see of a task that was found in the place of *state*.

    An id without a task is shown as orphaned, and bytes that are no message with a last error that says so: asynq
    shows the one as a task without an id, and leaves the other out.
    """
    plain = partial(TaskInfo, id=task_id, queue=queue, type="")
    if found is None:
        return plain(state=state, is_orphaned=True, last_err="there is no task with this id: its hash is gone")
    if found.state in TaskState.__members__.values():
        state = TaskState(found.state)
    next_process_at: float | None = None
    if state is TaskState.PENDING:
        next_process_at = now
    elif state in {TaskState.SCHEDULED, TaskState.RETRY}:
        next_process_at = found.score
    orphaned = state is TaskState.ACTIVE and (found.score is None or found.score <= now)
    try:
        msg = decode_task(found.data)
    except MessageDecodeError as exc:
        why = found.error or f"undecodable message: {exc}"
        return plain(state=state, payload=found.data, last_err=why, result=found.result, is_orphaned=orphaned)
    more: dict[str, Any] = {"result": found.result, "is_orphaned": orphaned}
    info = task_info(msg, state, next_process_at, **more)
    info.id, info.queue = task_id, queue
    info.progress = found.progress
    info.last_err = info.last_err or found.error
    return info
