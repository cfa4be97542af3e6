"""Groups: tasks that wait together, are set apart when their group is ripe, and become one."""

from __future__ import annotations

from typing import NamedTuple

from aioasynq import keys
from aioasynq.errors import DuplicateTaskError, TaskError, TaskIDConflictError
from aioasynq.message import TaskMessage
from aioasynq.proto.codec import encode_task
from aioasynq.rdb.base import MAX_BATCH, Operations
from aioasynq.rdb.lifecycle import Leased, read_leased
from aioasynq.rdb.receipts import Receipt
from aioasynq.rdb.script import Script

AGGREGATION_LIMIT = 120  #: seconds after which tasks that were set apart go back to their group, as asynq has it

_AGGREGATION_CHECK = Script("aggregation_check")
_READ_AGGREGATION_SET = Script("read_aggregation_set")
_AGGREGATE = Script("aggregate")
_DELETE_AGGREGATION_SET = Script("delete_aggregation_set")
_RECLAIM = Script("reclaim_aggregation_sets")


class AggregationSet(NamedTuple):
    """Tasks of a group that were set apart, the one that joined first in front."""

    queue: str
    group: str
    id: str
    tasks: list[TaskMessage]
    broken: list[Leased]  #: those whose bytes are no message
    left: float  #: seconds until they go back to their group


class Aggregated(NamedTuple):
    """The task that takes the place of others.

    *when* is ``+12.500``, seconds from now, or unix seconds when it is to be scheduled, else empty; *unique_ttl* the
    seconds it holds a lock, or 0.
    """

    msg: TaskMessage
    when: str = ""
    unique_ttl: int = 0


class Groups(Operations):
    """Operations on the groups of one queue. Each can be repeated: the second time it finds done what it did."""

    async def list_groups(self, queue: str) -> list[str]:
        """Names of the groups with waiting tasks, sorted."""
        found = await self._plain("listing groups", lambda: self.command("SMEMBERS", keys.groups(queue)))
        return sorted(name.decode("utf-8", "surrogateescape") for name in found)

    async def aggregation_check(
        self, queue: str, group: str, set_id: str, *, grace: float, max_delay: float = 0, max_size: int = 0
    ) -> bool:
        """Set the tasks of a group apart when it is ripe, and say whether it was.

        It is ripe with *max_size* tasks, *max_delay* seconds after its first task, or *grace* seconds after its last;
        0 sets no limit. At most *max_size* tasks are set apart, the first that joined.

        Args:
            set_id: the name of the new set, which nobody has used; without a colon.
        """
        answer = await self._run(
            _AGGREGATION_CHECK,
            (
                keys.group(queue, group),
                keys.aggregation_set(queue, group, set_id),
                keys.aggregation_sets(queue),
                keys.groups(queue),
            ),
            (self.clock_argument(), grace, max_delay, max_size, AGGREGATION_LIMIT, group),
        )
        return bool(answer == 1)

    async def read_aggregation_set(self, queue: str, group: str, set_id: str) -> AggregationSet | None:
        """What was set apart; None when it is not there, or went back to its group. Ids without a task are left out."""
        tasks: list[TaskMessage] = []
        broken: list[Leased] = []
        offset, left = 0, 0.0
        while True:
            found = await self._run(
                _READ_AGGREGATION_SET,
                (keys.aggregation_set(queue, group, set_id), keys.aggregation_sets(queue)),
                (self.clock_argument(), keys.task_prefix(queue), offset, MAX_BATCH),
                writes=False,
            )
            if not found:
                return None
            left = float(found[0])
            for i in range(1, len(found), 2):
                if found[i + 1]:
                    read = read_leased(queue, found[i].decode("utf-8", "surrogateescape"), found[i + 1], "")
                    broken.append(read) if read.msg is None else tasks.append(read.msg)
            offset += MAX_BATCH
            if len(found) <= 2 * MAX_BATCH:
                return AggregationSet(queue, group, set_id, tasks, broken, left)

    async def aggregate(
        self, apart: AggregationSet, task: Aggregated | None, *, receipt: Receipt | None = None
    ) -> bool | TaskError:
        """Put one task into the queue in place of those in the set, in one step, and free their locks.

        Those whose bytes are no message go to the archive.

        Args:
            task: None when there was no message to make one of.

        Returns:
            True; False when the set was no longer there, so that nothing was done; or why the task was refused.
        """
        queue = apart.queue
        receipt = self._receipt(receipt)
        where, state, how = keys.pending(queue), "pending", ""
        msg = task.msg if task else None
        if msg is not None and msg.queue != queue:
            raise ValueError(f"the aggregated task must be of queue {queue!r}, got {msg.queue!r}")
        if task and task.when:
            where, state, how = keys.scheduled(queue), "scheduled", task.when
        elif msg is not None and msg.group_key:
            where, state, how = keys.group(queue, msg.group_key), "aggregating", msg.group_key
        unique = (msg.unique_key,) if task and msg is not None and task.unique_ttl else ()
        locked = [(each.unique_key, each.id) for each in apart.tasks if each.unique_key]
        answer = await self._run(
            _AGGREGATE,
            (
                keys.receipt(queue, receipt.caller),
                keys.aggregation_set(queue, apart.group, apart.id),
                keys.aggregation_sets(queue),
                keys.archived(queue),
                keys.task(queue, msg.id if msg else ""),
                where,
                keys.groups(queue),
                *unique,
                *(lock for lock, _ in locked),
            ),
            (
                receipt.number,
                self.clock_argument(),
                keys.task_prefix(queue),
                msg.id if msg else "",
                encode_task(msg) if msg else b"",
                state,
                how,
                task.unique_ttl if task else 0,
                len(apart.broken),
                *(word for leased in apart.broken for word in (leased.id, leased.error)),
                *(task_id for _, task_id in locked),
            ),
        )
        if msg is not None and answer == 0:
            return TaskIDConflictError(queue, msg.id)
        if msg is not None and answer == -1:
            return DuplicateTaskError(queue, msg.id)
        return bool(answer == 1)

    async def delete_aggregation_set(self, queue: str, group: str, set_id: str) -> int:
        """Forget the tasks of a set and free their locks; return how many there were. An unknown set has none."""
        apart = await self.read_aggregation_set(queue, group, set_id)
        locked = [(msg.unique_key, msg.id) for msg in apart.tasks if msg.unique_key] if apart else []
        count: int = await self._run(
            _DELETE_AGGREGATION_SET,
            (
                keys.aggregation_set(queue, group, set_id),
                keys.aggregation_sets(queue),
                *(lock for lock, _ in locked),
            ),
            (keys.task_prefix(queue), *(task_id for _, task_id in locked)),
        )
        return count

    async def return_aggregation_set(self, queue: str, group: str, set_id: str) -> bool:
        """Give tasks that were set apart back to their group now. False when they are no longer apart."""
        answer = await self._run(
            _RECLAIM,
            (keys.aggregation_sets(queue), keys.groups(queue), keys.aggregation_set(queue, group, set_id)),
            (self.clock_argument(), keys.prefix(queue), 1),
        )
        return bool(answer == 1)

    async def reclaim_stale_aggregation_sets(self, *queues: str, limit: int = 100) -> int:
        """Give tasks that were set apart two minutes ago and are still there back to their groups.

        *limit* sets at a time, until there is none; returns how many. The group is listed again, which Go forgets.
        """
        total = 0
        for queue in queues:
            while True:
                count = await self._run(
                    _RECLAIM,
                    (keys.aggregation_sets(queue), keys.groups(queue)),
                    (self.clock_argument(), keys.prefix(queue), limit),
                )
                total += count
                if count < limit:
                    break
        return total
