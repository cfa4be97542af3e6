"""Many tasks at once: all of a place, or those that match, in slices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from aioasynq.errors import TaskError
from aioasynq.inspector.base import check_state
from aioasynq.inspector.lists import Filter, Lists, info_of
from aioasynq.inspector.records import Progress
from aioasynq.rdb.inspection import Seen, place_of
from aioasynq.task import TaskState


class _Change(Protocol):
    async def __call__(self, queue: str, ids: Sequence[str], *, place: str = "") -> list[TaskError | None]: ...


RUNNABLE = (TaskState.SCHEDULED, TaskState.RETRY, TaskState.ARCHIVED, TaskState.COMPLETED, TaskState.AGGREGATING)
ARCHIVABLE = (TaskState.PENDING, TaskState.SCHEDULED, TaskState.RETRY, TaskState.COMPLETED, TaskState.AGGREGATING)
DELETABLE = (TaskState.ARCHIVED, *ARCHIVABLE)


class Bulk(Lists):
    """The part of an Inspector that changes many tasks.

    A slice of 256 tasks is one step; between two slices Redis serves others. Each call comes to an end although tasks
    are added: it looks at no more than there were when it began. What cannot be changed, or has left its state by
    then, is left alone.
    """

    async def run_tasks(
        self,
        queue: str,
        state: TaskState | str,
        *,
        group: str | None = None,
        type: str | None = None,  # noqa: A002 - what the field is called
        payload: str | bytes | None = None,
        error: str | None = None,
        older_than: float | timedelta | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Make tasks pending that match; filters as in :meth:`tasks`. Return how many.

        Archived and completed tasks whose unique lock is another's are left out.

        Raises:
            QueueNotFoundError: there is no such queue.
            ValueError, TypeError: an argument is wrong; tasks of this state cannot be run.
        """
        wanted = Filter.of(type=type, payload=payload, error=error, older_than=older_than)
        return await self._all(self._rdb.run_tasks, "run", RUNNABLE, queue, state, group, wanted, progress)

    async def archive_tasks(
        self,
        queue: str,
        state: TaskState | str,
        *,
        group: str | None = None,
        type: str | None = None,  # noqa: A002 - what the field is called
        payload: str | bytes | None = None,
        error: str | None = None,
        older_than: float | timedelta | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Archive tasks that match; filters as in :meth:`tasks`. Return how many. Errors as in :meth:`run_tasks`."""
        wanted = Filter.of(type=type, payload=payload, error=error, older_than=older_than)
        return await self._all(self._rdb.archive_tasks, "archived", ARCHIVABLE, queue, state, group, wanted, progress)

    async def delete_tasks(
        self,
        queue: str,
        state: TaskState | str,
        *,
        group: str | None = None,
        type: str | None = None,  # noqa: A002 - what the field is called
        payload: str | bytes | None = None,
        error: str | None = None,
        older_than: float | timedelta | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Delete tasks that match; filters as in :meth:`tasks`. Return how many. Errors as in :meth:`run_tasks`."""
        wanted = Filter.of(type=type, payload=payload, error=error, older_than=older_than)
        return await self._all(self._rdb.delete_tasks, "deleted", DELETABLE, queue, state, group, wanted, progress)

    # asynq's names for all of one place; each returns how many

    async def run_all_scheduled_tasks(self, queue: str, *, progress: Progress | None = None) -> int:
        """Make all scheduled tasks pending."""
        return await self.run_tasks(queue, TaskState.SCHEDULED, progress=progress)

    async def run_all_retry_tasks(self, queue: str, *, progress: Progress | None = None) -> int:
        """Make all failed tasks pending that are to be retried."""
        return await self.run_tasks(queue, TaskState.RETRY, progress=progress)

    async def run_all_archived_tasks(self, queue: str, *, progress: Progress | None = None) -> int:
        """Make all archived tasks pending."""
        return await self.run_tasks(queue, TaskState.ARCHIVED, progress=progress)

    async def run_all_aggregating_tasks(self, queue: str, group: str, *, progress: Progress | None = None) -> int:
        """Make all tasks of a group pending, each by itself."""
        return await self.run_tasks(queue, TaskState.AGGREGATING, group=group, progress=progress)

    async def archive_all_pending_tasks(self, queue: str, *, progress: Progress | None = None) -> int:
        """Archive all pending tasks."""
        return await self.archive_tasks(queue, TaskState.PENDING, progress=progress)

    async def archive_all_scheduled_tasks(self, queue: str, *, progress: Progress | None = None) -> int:
        """Archive all scheduled tasks."""
        return await self.archive_tasks(queue, TaskState.SCHEDULED, progress=progress)

    async def archive_all_retry_tasks(self, queue: str, *, progress: Progress | None = None) -> int:
        """Archive all failed tasks that are to be retried."""
        return await self.archive_tasks(queue, TaskState.RETRY, progress=progress)

    async def archive_all_aggregating_tasks(self, queue: str, group: str, *, progress: Progress | None = None) -> int:
        """Archive all tasks of a group."""
        return await self.archive_tasks(queue, TaskState.AGGREGATING, group=group, progress=progress)

    async def delete_all_pending_tasks(self, queue: str, *, progress: Progress | None = None) -> int:
        """Delete all pending tasks."""
        return await self.delete_tasks(queue, TaskState.PENDING, progress=progress)

    async def delete_all_scheduled_tasks(self, queue: str, *, progress: Progress | None = None) -> int:
        """Delete all scheduled tasks."""
        return await self.delete_tasks(queue, TaskState.SCHEDULED, progress=progress)

    async def delete_all_retry_tasks(self, queue: str, *, progress: Progress | None = None) -> int:
        """Delete all failed tasks that are to be retried."""
        return await self.delete_tasks(queue, TaskState.RETRY, progress=progress)

    async def delete_all_archived_tasks(self, queue: str, *, progress: Progress | None = None) -> int:
        """Delete all archived tasks."""
        return await self.delete_tasks(queue, TaskState.ARCHIVED, progress=progress)

    async def delete_all_completed_tasks(self, queue: str, *, progress: Progress | None = None) -> int:
        """Delete all completed tasks."""
        return await self.delete_tasks(queue, TaskState.COMPLETED, progress=progress)

    async def delete_all_aggregating_tasks(self, queue: str, group: str, *, progress: Progress | None = None) -> int:
        """Delete all tasks of a group."""
        return await self.delete_tasks(queue, TaskState.AGGREGATING, group=group, progress=progress)

    async def _all(
        self,
        change: _Change,
        verb: str,
        states: tuple[TaskState, ...],
        queue: str,
        state: TaskState | str,
        group: str | None,
        wanted: Filter,
        progress: Progress | None,
    ) -> int:
        checked = check_state(state, group)
        if checked not in states:
            raise ValueError(f"state must be one of {', '.join(states)} for tasks to be {verb}, got {str(checked)!r}")
        await self._check_queue(queue)
        place, place_is_list = place_of(queue, checked, group)
        total = await self._rdb.count(queue, checked, group)
        looked_at = done = 0
        seen = Seen()
        while looked_at < total:
            ids, seen = await self._rdb.next_ids(queue, checked, group, seen)
            ids = ids[: total - looked_at]
            if not ids:
                break
            looked_at += len(ids)
            if not wanted.is_empty:
                now = await self._rdb.now()
                found = await self._rdb.read_tasks(queue, ids)
                ids = [
                    task_id
                    for task_id, each in zip(ids, found, strict=True)
                    if wanted.fits(info_of(queue, task_id, checked, each, now), each, now)
                ]
            if ids:
                answers = await change(queue, ids, place=place)
                gone = [task_id for task_id, refusal in zip(ids, answers, strict=True) if refusal is None]
                done += len(gone)
                if place_is_list:
                    seen = seen.without(gone)
            if progress is not None:
                progress(min(looked_at, total), total)
        return done
