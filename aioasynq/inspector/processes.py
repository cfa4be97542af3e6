"""Servers and schedulers."""

from __future__ import annotations

from aioasynq.inspector.base import Base, check_page, check_text, moment_of
from aioasynq.inspector.option_strings import parse_options
from aioasynq.inspector.records import (
    SchedulerEnqueueEventInfo,
    SchedulerEntryInfo,
    ServerStatus,
    WorkerStatus,
)
from aioasynq.message import WorkerInfo


class Processes(Base):
    """The part of an Inspector that is about those who work and schedule."""

    async def servers(self) -> list[ServerStatus]:
        """The servers that live, Go's among them, and what they run; by host and process id."""
        found = await self._rdb.read_process_info()
        return [
            ServerStatus(
                id=info.server_id,
                host=info.host,
                pid=info.pid,
                concurrency=info.concurrency,
                queues=dict(info.queues),
                strict_priority=info.strict_priority,
                started=moment_of(info.start_time),
                patterns=await self._rdb.read_patterns(info),
                status=info.status,
                active_workers=[_worker(worker) for _, worker in sorted(workers.items())],
            )
            for info, workers in sorted(found, key=lambda each: (each[0].host, each[0].pid, each[0].server_id))
        ]

    async def scheduler_entries(self) -> list[SchedulerEntryInfo]:
        """What living schedulers enqueue; by spec and id."""
        return [
            SchedulerEntryInfo(
                id=entry.id,
                spec=entry.spec,
                task_type=entry.task_type,
                task_payload=entry.task_payload,
                options=list(entry.enqueue_options),
                enqueue_options=parse_options(entry.enqueue_options),
                next=moment_of(entry.next_enqueue_time),
                prev=moment_of(entry.prev_enqueue_time),
            )
            for entry in sorted(await self._rdb.read_scheduler_entries(), key=lambda each: (each.spec, each.id))
        ]

    async def list_scheduler_enqueue_events(
        self, entry_id: str, *, page: int = 1, page_size: int = 30
    ) -> list[SchedulerEnqueueEventInfo]:
        """What a scheduler has enqueued for an entry, the last one first; none for an entry that there is not."""
        check_text("entry_id", entry_id)
        start = check_page(page, page_size)
        return [
            SchedulerEnqueueEventInfo(task_id=event.task_id, enqueued_at=moment_of(event.enqueue_time))
            for event in await self._rdb.read_scheduler_events(entry_id, start, page_size)
        ]


def _worker(info: WorkerInfo) -> WorkerStatus:
    return WorkerStatus(
        task_id=info.task_id,
        task_type=info.task_type,
        task_payload=info.task_payload,
        queue=info.queue,
        started=moment_of(info.start_time),
        deadline=moment_of(info.deadline),
    )
