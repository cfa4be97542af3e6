"""Looking: what there is of queues, tasks and schedulers. Nothing is changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from redis.asyncio.cluster import RedisCluster

from aioasynq import keys
from aioasynq.errors import BrokerError, MessageDecodeError
from aioasynq.message import SchedulerEnqueueEvent, SchedulerEntry
from aioasynq.proto.codec import decode_scheduler_entry, decode_scheduler_event
from aioasynq.rdb.base import MAX_BATCH, Operations, at_most_a_batch
from aioasynq.rdb.ends import read_progress
from aioasynq.rdb.script import Script
from aioasynq.task import Progress

MEMORY_SAMPLES = 20  #: tasks of each place that the estimate of memory looks at

_QUEUE_STATS = Script("queue_stats")
_MEMORY_USAGE = Script("memory_usage")
_READ_TASKS = Script("read_tasks")
_NEXT_IN_LIST = Script("next_in_list")
_NEXT_IN_SET = Script("next_in_set")


class QueueStats(NamedTuple):
    """Numbers of one queue."""

    pending: int
    active: int
    scheduled: int
    retry: int
    archived: int
    completed: int
    groups: int
    aggregating: int  #: those that are set apart among them
    is_paused: bool
    processed_total: int
    failed_total: int
    processed: int  #: today, by UTC
    failed: int
    latency: float  #: seconds that the next task has waited
    now: float  #: unix seconds, by Redis's clock


class Found(NamedTuple):
    """What Redis holds under the id of a task."""

    id: str
    state: str
    data: bytes  #: the message
    result: bytes | None
    error: str  #: of a task whose message cannot carry one
    score: float | None  #: with which it stands in its place; of its lease when it runs
    pending_since: float | None  #: unix seconds
    group: str  #: which it joined, empty when it has not
    progress: Progress | None = None  #: what its handler said last


class Seen(NamedTuple):
    """How far a list was read; pass it on to go on from there."""

    ids: tuple[str, ...] = ()  #: of the last two slices, the last one first
    offset: int = 0
    score: str = ""

    def without(self, ids: Collection[str]) -> Seen:
        """The same once *ids* are taken out of the list: they need not be looked for."""
        gone = set(ids)
        return self._replace(ids=tuple(task_id for task_id in self.ids if task_id not in gone))


class Inspection(Operations):
    """Operations that look."""

    async def list_queues(self) -> list[str]:
        """The names of all queues, sorted."""
        found = await self._plain("listing queues", lambda: self.command("SMEMBERS", keys.queues()))
        return sorted(map(_text, found))

    async def is_queue(self, queue: str) -> bool:
        """Whether there is such a queue."""
        return bool(await self._plain("SISMEMBER", lambda: self.command("SISMEMBER", keys.queues(), queue)))

    async def queue_stats(self, queue: str) -> QueueStats:
        """The numbers of a queue, of one moment."""
        now = await self._redis_now()
        today = keys.day(now)
        answer = await self._run(
            _QUEUE_STATS,
            (
                *_places(queue),
                keys.groups(queue),
                keys.aggregation_sets(queue),
                keys.paused(queue),
                keys.processed_total(queue),
                keys.failed_total(queue),
                keys.processed(queue, today),
                keys.failed(queue, today),
            ),
            (keys.task_prefix(queue), keys.group_prefix(queue)),
            writes=False,
        )
        *numbers, since = answer
        latency = max(0.0, now - _seconds(since)) if since else 0.0
        counts = [int(number) for number in numbers]
        return QueueStats._make([*counts[:8], bool(counts[8]), *counts[9:], latency, now])

    async def memory_usage(self, queue: str) -> int:
        """About how many bytes a queue takes, from the first tasks of each place."""
        answer = await self._run(
            _MEMORY_USAGE,
            (*_places(queue), keys.groups(queue)),
            (keys.task_prefix(queue), keys.group_prefix(queue), MEMORY_SAMPLES),
            writes=False,
        )
        return int(answer)

    async def history(self, queue: str, days: int) -> list[tuple[date, int, int]]:
        """How many tasks were processed, and how many of these failed, on the last *days* UTC days; today first."""
        today = datetime.fromtimestamp(await self._redis_now(), UTC).date()
        dates = [today - timedelta(days=ago) for ago in range(days)]
        names = [name for each in dates for name in (keys.processed(queue, each), keys.failed(queue, each))]
        found = await self._plain("MGET", partial(self.command, "MGET", *names))
        counts = [_count(each) for each in found]
        return list(zip(dates, counts[::2], counts[1::2], strict=True))

    async def group_sizes(self, queue: str) -> dict[str, int]:
        """How many tasks wait in each group; sorted by name."""
        names = await self._plain("listing groups", lambda: self.command("SMEMBERS", keys.groups(queue)))
        return {
            name: int(await self._plain("ZCARD", partial(self.command, "ZCARD", keys.group(queue, name))))
            for name in sorted(map(_text, names))
        }

    async def count(self, queue: str, state: str, group: str | None = None) -> int:
        """How many ids stand in the place of a state."""
        place, is_list = place_of(queue, state, group)
        command = "LLEN" if is_list else "ZCARD"
        return int(await self._plain(command, lambda: self.command(command, place)))

    async def list_ids(self, queue: str, state: str, group: str | None, start: int, count: int) -> list[str]:
        """A page of ids: of lists those first that run first, else by score."""
        place, is_list = place_of(queue, state, group)
        if is_list:
            found = await self._plain("LRANGE", lambda: self.command("LRANGE", place, -(start + count), -(start + 1)))
            found = list(reversed(found))
        else:
            found = await self._plain("ZRANGE", lambda: self.command("ZRANGE", place, start, start + count - 1))
        return [_text(task_id) for task_id in found]

    async def next_ids(
        self, queue: str, state: str, group: str | None, seen: Seen, *, count: int = MAX_BATCH
    ) -> tuple[list[str], Seen]:
        """The next slice of ids after those that were seen, while others come and go."""
        place, is_list = place_of(queue, state, group)
        if is_list:
            answer = await self._run(_NEXT_IN_LIST, (place,), (count, seen.offset, *(seen.ids or ("",))), writes=False)
            offset, *found = answer
            ids = [_text(task_id) for task_id in found]
            return ids, Seen((*reversed(ids), *seen.ids)[: 2 * count], int(offset))
        last = seen.ids[0] if seen.ids else ""
        answer = await self._run(_NEXT_IN_SET, (place,), (count, seen.score, last), writes=False)
        ids = [_text(task_id) for task_id in answer[::2]]
        return ids, Seen((ids[-1],), 0, _text(answer[-1])) if ids else seen

    async def read_tasks(self, queue: str, ids: Sequence[str]) -> list[Found | None]:
        """What there is of tasks; None for an id without one."""
        if not ids:
            return []
        at_most_a_batch(ids)
        answer = await self._run(
            _READ_TASKS,
            (keys.lease(queue), *(keys.task(queue, task_id) for task_id in ids)),
            (keys.prefix(queue), *ids),
            writes=False,
        )
        return [_found(task_id, each) for task_id, each in zip(ids, answer, strict=True)]

    async def find_queues_of(self, task_id: str) -> list[str]:
        """The queues that have a task with this id."""
        return [
            queue
            for queue in await self.list_queues()
            if await self._plain("EXISTS", partial(self.command, "EXISTS", keys.task(queue, task_id)))
        ]

    async def place_in_line(self, queue: str, task_id: str) -> int | None:
        """How many tasks of the queue come before a pending one; None when it is not pending."""
        place = keys.pending(queue)
        index = await self._plain("LPOS", lambda: self.command("LPOS", place, task_id, "RANK", -1))
        if index is None:
            return None
        length = await self._plain("LLEN", lambda: self.command("LLEN", place))
        return max(0, int(length) - int(index) - 1)

    async def is_active(self, queue: str, task_id: str) -> bool:
        """Whether an id stands among those of running tasks, with a lease or without."""
        place = keys.active(queue)
        return await self._plain("LPOS", lambda: self.command("LPOS", place, task_id)) is not None

    async def lock_holder(self, lock: str) -> str | None:
        """The id of the task that holds a unique lock."""
        holder = await self._plain("GET", lambda: self.command("GET", lock))
        return None if holder is None else _text(holder)

    async def is_paused(self, queue: str) -> bool:
        """Whether no server takes tasks of the queue."""
        return bool(await self._plain("EXISTS", lambda: self.command("EXISTS", keys.paused(queue))))

    async def is_set_apart(self, queue: str, task_id: str) -> bool:
        """Whether a task's group is being made one task."""
        names = await self._plain("ZRANGE", lambda: self.command("ZRANGE", keys.aggregation_sets(queue), 0, -1))
        for name in names:
            if await self._plain("ZSCORE", partial(self.command, "ZSCORE", name, task_id)) is not None:
                return True
        return False

    async def now(self) -> float:
        """Redis's clock, unix seconds."""
        return await self._redis_now()

    # ── schedulers ──

    async def read_scheduler_entries(self) -> list[SchedulerEntry]:
        """What living schedulers said that they enqueue. What cannot be read is left out, as in asynq."""
        now = int(await self._redis_now())
        members = await self._plain(
            "ZRANGEBYSCORE", lambda: self._redis.execute_command("ZRANGEBYSCORE", keys.schedulers(), now, "+inf")
        )
        found: list[SchedulerEntry] = []
        for member in members:
            for data in await self._plain("LRANGE", partial(self._redis.execute_command, "LRANGE", member, 0, -1)):
                try:
                    found.append(decode_scheduler_entry(data))
                except MessageDecodeError:
                    continue
        return found

    async def read_scheduler_events(self, entry_id: str, start: int, count: int) -> list[SchedulerEnqueueEvent]:
        """What a scheduler has enqueued for an entry, the last one first."""
        found: list[SchedulerEnqueueEvent] = []
        history = keys.scheduler_history(entry_id)
        for data in await self._plain(
            "ZREVRANGE", lambda: self._redis.execute_command("ZREVRANGE", history, start, start + count - 1)
        ):
            try:
                found.append(decode_scheduler_event(data))
            except MessageDecodeError:
                continue
        return found

    # ── Cluster ──

    @property
    def is_cluster(self) -> bool:
        """Whether queues have slots and nodes."""
        return isinstance(self._redis, RedisCluster)

    async def cluster_info(self) -> dict[str, str]:
        """What a Cluster says about itself (CLUSTER INFO), by name.

        Raises:
            BrokerError: this is no Cluster.
        """
        cluster = self._cluster()
        answer: dict[str, Any] = await self._plain("CLUSTER INFO", lambda: _ask_one(cluster, "CLUSTER INFO"))
        return {str(name): str(value) for name, value in answer.items()}

    def key_slot(self, queue: str) -> int:
        """The slot of all keys of a queue.

        Raises:
            BrokerError: this is no Cluster.
        """
        return int(self._cluster().keyslot(keys.pending(queue)))

    async def nodes_of(self, queue: str) -> list[tuple[str, str]]:
        """Id and address of the nodes that hold a queue, the master first.

        Raises:
            BrokerError: this is no Cluster, or no node has the slot.
        """
        cluster = self._cluster()
        slot = self.key_slot(queue)
        nodes: dict[str, Any] = await self._plain("CLUSTER NODES", lambda: _ask_one(cluster, "CLUSTER NODES"))
        for addr, node in nodes.items():
            if "master" in node["flags"] and any(_has(slots, slot) for slots in node["slots"]):
                replicas = [
                    (each["node_id"], its) for its, each in nodes.items() if each["master_id"] == node["node_id"]
                ]
                return [(node["node_id"], addr), *sorted(replicas)]
        raise BrokerError(f"cluster_nodes failed on {self.address}: no node has slot {slot}", answered=True)

    def _cluster(self) -> RedisCluster:
        if not isinstance(self._redis, RedisCluster):
            raise BrokerError(f"{self.address} is no Cluster: it has no slots and no nodes", answered=True)
        return self._redis


def place_of(queue: str, state: str, group: str | None = None) -> tuple[str, bool]:
    """The key of the place where tasks of a state stand, and whether it is a list."""
    if state in {"pending", "active"}:
        return keys.prefix(queue) + state, True
    if state == "aggregating":
        return keys.group(queue, group or ""), False
    return keys.prefix(queue) + state, False


async def _ask_one(cluster: RedisCluster, command: str) -> Any:
    await cluster.initialize()
    return await cluster.execute_command(command, target_nodes=cluster.get_default_node())


def _has(slots: Sequence[str], slot: int) -> bool:
    """Is it in that range? A lone slot is a range of one."""
    return int(slots[0]) <= slot <= int(slots[-1])


def _places(queue: str) -> tuple[str, ...]:
    return (
        keys.pending(queue),
        keys.active(queue),
        keys.scheduled(queue),
        keys.retry(queue),
        keys.archived(queue),
        keys.completed(queue),
    )


def _found(task_id: str, answer: Any) -> Found | None:
    if not answer:
        return None
    state, data, result, error, score, since, group, fraction, at = answer
    return Found(
        task_id,
        _text(state),
        data,
        result or None,
        error.decode("utf-8", "replace"),
        float(score) if score else None,
        _seconds(since) if since else None,
        _text(group),
        read_progress(fraction, at),
    )


def _seconds(nanoseconds: bytes) -> float:
    try:
        return float(nanoseconds) / 1e9
    except ValueError:
        return 0.0


def _count(found: bytes | None) -> int:
    try:
        return int(found or 0)
    except ValueError:
        return 0


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
