"""One task: see it, run, archive, delete, edit, move, cancel it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from aioasynq.errors import QueueNotFoundError, TaskError, TaskNotFoundError
from aioasynq.inspector.base import Base, check_text
from aioasynq.inspector.lists import info_of
from aioasynq.keys import check_queue_name
from aioasynq.options import Options
from aioasynq.task import TaskInfo, TaskState


class Tasks(Base):
    """The part of an Inspector that is about one task.

    A queue that there is not is a QueueNotFoundError, an id that there is not a TaskNotFoundError.
    """

    async def get_task_info(self, queue: str, task_id: str) -> TaskInfo:
        """All that is known of a task.

        Raises:
            QueueNotFoundError, TaskNotFoundError: there is none.
        """
        check_text("task_id", task_id)
        await self._check_queue(queue)
        [found] = await self._rdb.read_tasks(queue, [task_id])
        if found is None:
            raise TaskNotFoundError(queue, task_id)
        return info_of(queue, task_id, TaskState.PENDING, found, await self._rdb.now())

    async def find_task(self, task_id: str) -> list[TaskInfo]:
        """The tasks with this id, in whatever queue; an id belongs to one task of each queue."""
        check_text("task_id", task_id)
        infos: list[TaskInfo] = []
        now = await self._rdb.now()
        for queue in await self._rdb.find_queues_of(task_id):
            [found] = await self._rdb.read_tasks(queue, [task_id])
            if found is not None:
                infos.append(info_of(queue, task_id, TaskState.PENDING, found, now))
        return infos

    async def run_task(self, queue: str, task_id: str) -> None:
        """Make a task pending that is scheduled, to be retried, archived, completed or in a group.

        Raises:
            TaskStateError: it runs, is pending already, or was set apart with its group.
            DuplicateTaskError: it is archived or completed, and another task holds its unique lock.
        """
        await self._one(queue, task_id, self._rdb.run_tasks)

    async def archive_task(self, queue: str, task_id: str) -> None:
        """Archive a task that does not run, and free its unique lock.

        Raises:
            TaskStateError: it runs, is archived already, or was set apart with its group.
        """
        await self._one(queue, task_id, self._rdb.archive_tasks)

    async def delete_task(self, queue: str, task_id: str) -> None:
        """Delete a task that does not run, and free its unique lock.

        Raises:
            TaskStateError: it runs, or was set apart with its group.
        """
        await self._one(queue, task_id, self._rdb.delete_tasks)

    async def update_task_payload(self, queue: str, task_id: str, payload: bytes | str) -> None:
        """Give a task that waits or is archived another payload. Its unique lock stays that of the first one.

        Raises:
            TaskStateError: it runs, is completed, or was set apart with its group.
        """
        if not isinstance(payload, bytes | str):
            raise TypeError(f"payload must be bytes or a str, got {payload!r}")
        data = payload.encode() if isinstance(payload, str) else payload
        await self._change(queue, task_id, lambda: self._rdb.update_task_payload(queue, task_id, data))

    async def reschedule_task(
        self,
        queue: str,
        task_id: str,
        *,
        process_at: datetime | float | None = None,
        process_in: float | timedelta | None = None,
    ) -> None:
        """Set when a pending, scheduled, archived or failed task is to run. A failed one keeps its state ``retry``.

        Args:
            process_at: an aware datetime or unix seconds; what is past is due at once.
            process_in: seconds or a timedelta from now. Give one of the two.

        Raises:
            TaskStateError: it runs, is completed, or is in a group.
            DuplicateTaskError: it is archived, and another task holds its unique lock.
        """
        if (process_at is None) == (process_in is None):
            raise ValueError(f"give process_at or process_in, got {process_at!r} and {process_in!r}")
        if process_at is not None:
            when = f"{Options.of(process_at=process_at).process_at or time.time():.3f}"
        else:
            assert process_in is not None  # noqa: S101 - or the line above would have raised
            when = f"+{Options.of(process_in=process_in).process_in or 0.0:.3f}"
        await self._change(queue, task_id, lambda: self._rdb.reschedule_task(queue, task_id, when))

    async def move_task(self, queue: str, task_id: str, to: str) -> None:
        """Carry a task that does not run over to another queue; id, state, time, group and lock stay.

        Raises:
            TaskStateError: it runs, or was set apart with its group.
            TaskIDConflictError, DuplicateTaskError: its id, or its unique lock, is taken there.
            ValueError: *to* is the same queue, or on a Cluster in another slot.
        """
        check_queue_name(to)
        await self._change(queue, task_id, lambda: self._rdb.move_task(queue, task_id, to))

    async def cancel_processing(self, task_id: str) -> int:
        """Ask whoever runs a task to cancel it, and return how many servers heard it; they do not say whether it runs.

        It ends as if it had failed, and is retried if it may be.
        """
        check_text("task_id", task_id)
        return await self._rdb.publish_cancelation(task_id)

    async def _one(
        self, queue: str, task_id: str, change: Callable[[str, list[str]], Awaitable[list[TaskError | None]]]
    ) -> None:
        async def first() -> TaskError | None:
            [refusal] = await change(queue, [task_id])
            return refusal

        await self._change(queue, task_id, first)

    async def _change(self, queue: str, task_id: str, change: Callable[[], Awaitable[TaskError | None]]) -> None:
        check_text("task_id", task_id)
        check_queue_name(queue)
        refusal = await change()
        if isinstance(refusal, TaskNotFoundError) and not await self._rdb.is_queue(queue):
            raise QueueNotFoundError(queue)
        if refusal is not None:
            raise refusal
