"""Queues: which there are, their numbers, pause, delete."""

from __future__ import annotations

from datetime import UTC, datetime

from aioasynq.errors import QueueStateError
from aioasynq.inspector.base import MAX_DAYS, Base, check_number
from aioasynq.inspector.records import ClusterNode, DailyStats, GroupInfo, Progress, QueueInfo
from aioasynq.keys import check_queue_name


class Queues(Base):
    """The part of an Inspector that is about queues."""

    async def queues(self) -> list[str]:
        """The names of all queues, sorted."""
        return await self._rdb.list_queues()

    async def groups(self, queue: str) -> list[GroupInfo]:
        """The groups of a queue by name; none when there is no such queue, as in asynq."""
        check_queue_name(queue)
        sizes = await self._rdb.group_sizes(queue)
        return [GroupInfo(group=name, size=size) for name, size in sizes.items()]

    async def get_queue_info(self, queue: str, *, memory: bool = True) -> QueueInfo:
        """The numbers of a queue.

        Args:
            memory: estimate its memory too, from samples; that costs Redis some hundred look-ups.

        Raises:
            QueueNotFoundError: there is no such queue.
        """
        await self._check_queue(queue)
        usage = await self._rdb.memory_usage(queue) if memory else None
        stats = await self._rdb.queue_stats(queue)
        return QueueInfo(
            queue=queue,
            memory_usage=usage,
            latency=stats.latency,
            size=sum(stats[:6]) + stats.aggregating,
            groups=stats.groups,
            pending=stats.pending,
            active=stats.active,
            scheduled=stats.scheduled,
            retry=stats.retry,
            archived=stats.archived,
            completed=stats.completed,
            aggregating=stats.aggregating,
            processed=stats.processed,
            failed=stats.failed,
            processed_total=stats.processed_total,
            failed_total=stats.failed_total,
            paused=stats.is_paused,
            timestamp=datetime.fromtimestamp(stats.now, UTC),
        )

    async def history(self, queue: str, days: int) -> list[DailyStats]:
        """What was done on each of the last *days* UTC days, today first; 90 days are kept.

        Raises:
            QueueNotFoundError: there is no such queue.
        """
        check_number("days", days, 1, MAX_DAYS)
        await self._check_queue(queue)
        return [
            DailyStats(queue=queue, processed=processed, failed=failed, date=day)
            for day, processed, failed in await self._rdb.history(queue, days)
        ]

    async def pause_queue(self, queue: str) -> None:
        """Let no server take tasks of a queue; what runs goes on. Clients can go on enqueuing.

        Raises:
            QueueNotFoundError: there is no such queue; asynq would pause it all the same.
            QueueStateError: it is paused already.
        """
        await self._check_queue(queue)
        if not await self._rdb.pause_queue(queue):
            raise QueueStateError(queue, "it is already paused")

    async def unpause_queue(self, queue: str) -> None:
        """Let servers take tasks of a queue again.

        Raises:
            QueueStateError: it is not paused.
        """
        check_queue_name(queue)
        if not await self._rdb.unpause_queue(queue):
            raise QueueStateError(queue, "it is not paused")

    async def delete_queue(self, queue: str, *, force: bool = False, progress: Progress | None = None) -> None:
        """Delete a queue with all that it has: groups, locks, counters and its name.

        It is paused first and emptied in slices. If that is broken off it stays paused, and another call goes on.

        Args:
            force: also when it holds tasks, which are deleted. Tasks that run forbid it all the same.
            progress: called with how many tasks are gone, and how many there were.

        Raises:
            QueueNotFoundError: there is no such queue.
            QueueNotEmptyError: it holds tasks, in whatever state, or got new ones meanwhile.
            QueueStateError: tasks of it run.
        """
        check_queue_name(queue)
        await self._rdb.delete_queue(queue, force=force, progress=progress)

    async def cluster_key_slot(self, queue: str) -> int:
        """The slot of a Cluster in which all keys of a queue lie.

        Raises:
            BrokerError: this is no Cluster.
        """
        check_queue_name(queue)
        return self._rdb.key_slot(queue)

    async def cluster_nodes(self, queue: str) -> list[ClusterNode]:
        """The nodes of a Cluster that hold a queue, the master first.

        Raises:
            BrokerError: this is no Cluster, or no node has the slot.
        """
        check_queue_name(queue)
        return [ClusterNode(id=node, addr=addr) for node, addr in await self._rdb.nodes_of(queue)]
