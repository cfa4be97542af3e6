"""Why a task is not running."""

from __future__ import annotations

from datetime import UTC, datetime

from aioasynq.errors import MessageDecodeError, TaskNotFoundError
from aioasynq.inspector.base import check_text
from aioasynq.inspector.lists import info_of
from aioasynq.inspector.processes import Processes
from aioasynq.inspector.records import Explanation, ServerStatus
from aioasynq.proto.codec import decode_task
from aioasynq.rdb.inspection import Found
from aioasynq.task import TaskInfo, TaskState

TRIES = 3  #: how often it is looked at a task that moves on meanwhile


class Explain(Processes):
    """The part of an Inspector that says why."""

    async def explain(self, queue: str, task_id: str) -> Explanation:
        """Say why a task is not running: where it is, what it waits for, and who would run it.

        Raises:
            QueueNotFoundError, TaskNotFoundError: there is none.
        """
        check_text("task_id", task_id)
        await self._check_queue(queue)
        found = await self._read(queue, task_id)
        for _ in range(TRIES):
            explanation = await self._explain(queue, task_id, found)
            again = await self._read(queue, task_id)
            if again.state == found.state:
                return explanation
            found = again  # it has moved on meanwhile, and not all that was said is so
        return await self._explain(queue, task_id, found)

    async def _read(self, queue: str, task_id: str) -> Found:
        [found] = await self._rdb.read_tasks(queue, [task_id])
        if found is None:
            raise TaskNotFoundError(queue, task_id)
        return found

    async def _explain(self, queue: str, task_id: str, found: Found) -> Explanation:
        now = await self._rdb.now()
        info = info_of(queue, task_id, TaskState.PENDING, found, now)
        reasons, may_run = await self._place(info, found, now)
        if info.is_orphaned:
            more, is_served = await self._service(queue, None)
            reasons += ["A server of its queue will soon take it back."] if is_served else more
        elif info.state not in {TaskState.ACTIVE, TaskState.COMPLETED}:
            reasons += await self._lock(info, found)
            # a group has an aggregator, which its task's type has nothing to do with
            more, is_served = await self._service(queue, info.type if info.state != TaskState.AGGREGATING else None)
            reasons += more
            may_run = may_run and is_served
        return Explanation(info=info, reasons=reasons, can_run=may_run)

    async def _place(self, info: TaskInfo, found: Found, now: float) -> tuple[list[str], bool]:
        """Where it is, and whether a worker could take it."""
        at = _moment(found.score, now)
        may_run = False
        apart = False
        if found.score is None and info.state is TaskState.AGGREGATING:
            apart = await self._rdb.is_set_apart(info.queue, info.id)
        match info.state:
            case TaskState.PENDING:
                where, may_run = await self._line(info)
            case _ if found.score is None and not apart and not await self._rdb.is_active(info.queue, info.id):
                where = f"Its hash says that it is {info.state}, but it stands nowhere: delete it, or run it again."
            case TaskState.ACTIVE if info.is_orphaned:
                where = "It was running, and nobody is heard of who runs it."
            case TaskState.ACTIVE:
                where = "It is running."
            case TaskState.SCHEDULED:
                where = f"It is scheduled for {at}."
            case TaskState.RETRY:
                where = (
                    f"It failed {info.retried} of {info.max_retry + 1} times that it may, and is tried again at {at}."
                )
            case TaskState.ARCHIVED:
                where = f"It was archived at {at}, and does not run unless it is told to."
            case TaskState.COMPLETED:
                where = f"It has succeeded, and is kept until {at}."
            case TaskState.AGGREGATING:
                what = "is being made one task" if apart else "waits to be made one task"
                where = f"It is in the group {found.group!r}, which {what}."
        error = [f"Its last error: {info.last_err}"] if info.last_err else []
        return [where, *error], may_run

    async def _line(self, info: TaskInfo) -> tuple[str, bool]:
        before = await self._rdb.place_in_line(info.queue, info.id)
        if before is None:
            return "Its hash says that it is pending, but it is not in line: delete it, or run it again.", False
        if before == 0:
            return "It is pending, and the next of its queue to run.", True
        many = "1 other task" if before == 1 else f"{before:,} other tasks"
        return f"It is pending, behind {many} of its queue.", True

    async def _lock(self, info: TaskInfo, found: Found) -> list[str]:
        try:
            lock = decode_task(found.data).unique_key
        except MessageDecodeError as exc:
            return [f"Its message cannot be read ({exc}); a server that takes it will archive it."]
        if not lock:
            return []
        holder = await self._rdb.lock_holder(lock)
        if holder is None or holder == info.id:
            return []
        return [f"It is unique, and its lock is held by the task {holder!r}."]

    async def _service(self, queue: str, task_type: str | None) -> tuple[list[str], bool]:
        """What is to be said of those who would run it, and whether somebody would; None: of whatever type it is."""
        if await self._rdb.is_paused(queue):
            return [f"The queue {queue!r} is paused."], False
        serving = [server for server in await self.servers() if queue in server.queues]
        if not serving:
            return [f"No server has the queue {queue!r}."], False
        at_work = [server for server in serving if server.status == "active"]
        if not at_work:
            return ["The servers of its queue take no more tasks: they are being stopped."], False
        if task_type is not None and not any(_knows(server, task_type) for server in at_work):
            return [f"No server of its queue has a handler for the type {task_type!r}."], False
        busy = [server for server in at_work if len(server.active_workers) >= server.concurrency]
        if len(busy) == len(at_work):
            return ["All places of the servers of its queue are taken."], True
        return [], True


def _knows(server: ServerStatus, task_type: str) -> bool:
    """Has it a handler for this type? Who does not tell is believed to."""
    return server.patterns is None or any(task_type.startswith(pattern) for pattern in server.patterns)


def _moment(seconds: float | None, now: float) -> str:
    if seconds is None:
        return "an unknown time"
    away = seconds - now
    text = datetime.fromtimestamp(max(0.0, min(seconds, 253_402_300_799)), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{text} (in {away:,.0f} s)" if away >= 0 else f"{text} ({-away:,.0f} s ago)"
