"""Whole queues: pause one, let it go on, delete it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import Any

from redis.asyncio.cluster import RedisCluster

from aioasynq import keys
from aioasynq.errors import QueueNotEmptyError, QueueNotFoundError, QueueStateError
from aioasynq.rdb.base import MAX_BATCH
from aioasynq.rdb.changes import TRIES, Changes, places_of, text_of
from aioasynq.rdb.script import Script

Progress = Callable[[int, int], object]  #: told how many of how many are done

_PAUSE_QUEUE = Script("pause_queue")
_BEGIN_DELETE_QUEUE = Script("begin_delete_queue")
_STRAYS = Script("strays")
_SWEEP_QUEUE = Script("sweep_queue")
_UNLISTED_GROUPS = Script("unlisted_groups")
_END_DELETE_QUEUE = Script("end_delete_queue")

#: What a queue leaves behind when it has no tasks; receipts expire by themselves.
_LEFT_OVER = re.compile(r"(processed|failed)(:\d{4}-\d\d-\d\d)?|waiting|awaited|fired:[^:]*")


class WholeQueues(Changes):
    """Operations on a queue as one thing."""

    async def pause_queue(self, queue: str) -> bool:
        """Let no server take tasks of *queue*; False when it was paused already."""
        return await self._pause(queue, 1)

    async def unpause_queue(self, queue: str) -> bool:
        """Let servers take tasks of *queue* again; False when it was not paused."""
        return await self._pause(queue, 0)

    async def _pause(self, queue: str, pause: int) -> bool:
        receipt = self._receipt(None)
        answer = await self._run(
            _PAUSE_QUEUE,
            (keys.receipt(queue, receipt.caller), keys.paused(queue)),
            (receipt.number, self.clock_argument(), pause),
        )
        return bool(answer)

    async def delete_queue(self, queue: str, *, force: bool = False, progress: Progress | None = None) -> None:
        """Forget a queue: its tasks if *force* is given, its groups, locks, counters and its name.

        It is paused first, then emptied in slices. If this process dies meanwhile, it stays paused, and another call
        goes on. What a server writes about itself in it (it waits for tasks) lasts a few seconds longer.

        Args:
            force: also when it holds tasks. Tasks that run forbid it all the same.
            progress: called with how many tasks are gone, and how many there were, after each slice.

        Raises:
            QueueNotFoundError: there is no such queue.
            QueueNotEmptyError: it holds tasks, or tasks were enqueued while it was being deleted.
            QueueStateError: tasks of it run.
        """
        known = await self._plain("SISMEMBER", lambda: self.command("SISMEMBER", keys.queues(), queue))
        if not known:
            raise QueueNotFoundError(queue)
        if not force and await self.unlisted_groups(queue):
            raise QueueNotEmptyError(queue)
        groups = keys.group_prefix(queue)
        begun = await self._run(
            _BEGIN_DELETE_QUEUE, _queue_keys(queue), (self.clock_argument(), groups, 1 if force else 0)
        )
        if begun == -1:
            raise QueueStateError(queue, "it has active tasks: let them end, or cancel them, and delete it then")
        if begun == 0:
            raise QueueNotEmptyError(queue)
        for _ in range(TRIES):
            if force:
                await self._empty(queue, progress)
            rest = await self._sweep(queue)
            if await self._run(_END_DELETE_QUEUE, (*_queue_keys(queue), *rest), (groups, 1 if begun == 2 else 0)):
                break
            if not force:
                raise QueueNotEmptyError(queue)
        else:
            raise QueueNotEmptyError(queue)
        self.forget_queue(queue)
        await self._plain("SREM", lambda: self.command("SREM", keys.queues(), queue), writes=True)
        # Who enqueued just now may have named it before the name was taken away.
        for place in (keys.pending(queue), keys.scheduled(queue), keys.groups(queue)):
            if await self._plain("EXISTS", partial(self.command, "EXISTS", place)):
                await self._register(queue)
                break

    async def _empty(self, queue: str, progress: Progress | None) -> None:
        """Delete all tasks that wait or are kept."""
        lists = [keys.pending(queue)]
        sets = [keys.scheduled(queue), keys.retry(queue), keys.archived(queue), keys.completed(queue)]
        apart = await self._plain("ZRANGE", lambda: self.command("ZRANGE", keys.aggregation_sets(queue), 0, -1))
        for name in map(text_of, apart):
            group, _, set_id = name.removeprefix(keys.group_prefix(queue)).rpartition(":")
            await self.delete_aggregation_set(queue, group, set_id)
        names = {text_of(key) for key in await self._scan(queue) if text_of(key).startswith(keys.group_prefix(queue))}
        sets += sorted(names | {keys.group(queue, name) for name in await self.list_groups(queue)})
        sizes = [await self._plain("LLEN", partial(self.command, "LLEN", key)) for key in lists]
        sizes += [await self._plain("ZCARD", partial(self.command, "ZCARD", key)) for key in sets]
        done, total = 0, sum(sizes)
        for place, size in zip([*lists, *sets], sizes, strict=True):
            for _ in range(0, size, MAX_BATCH):
                if place in lists:
                    found = await self._plain("LRANGE", partial(self.command, "LRANGE", place, -MAX_BATCH, -1))
                else:
                    found = await self._plain("ZRANGE", partial(self.command, "ZRANGE", place, 0, MAX_BATCH - 1))
                if not found:
                    break
                await self.delete_tasks(queue, [text_of(task_id) for task_id in reversed(found)], place=place)
                done += len(found)
                if progress is not None:
                    progress(min(done, total), total)

    async def _sweep(self, queue: str) -> list[str]:
        """Forget what no task needs, and return the other keys that have no use without a queue."""
        prefix = keys.prefix(queue)
        tasks: list[str] = []
        rest: list[str] = []
        for key in map(text_of, await self._scan(queue)):
            end = key.removeprefix(prefix)
            if end.startswith(("t:", "unique:")):
                tasks.append(key)
            elif _LEFT_OVER.fullmatch(end):
                rest.append(key)
        await self._sweep_keys(queue, tasks)
        return rest

    async def _sweep_keys(self, queue: str, names: list[str], *, dry: bool = False) -> int:
        slices = _slices(names, MAX_BATCH)
        args = (keys.prefix(queue), 1 if dry else 0)
        return sum([int(await self._run(_SWEEP_QUEUE, some, args, writes=not dry)) for some in slices])

    async def sweep(self, queue: str, *, dry: bool = False) -> int:
        """Delete tasks that stand in no place and locks of tasks that are gone, and return how many there were.

        Nobody would find them, and they block their ids. All keys of the queue are looked at, in slices.

        Args:
            dry: only count them.
        """
        starts = (keys.task_prefix(queue), keys.prefix(queue) + "unique:")
        names = [name for name in map(text_of, await self._scan(queue)) if name.startswith(starts)]
        return await self._sweep_keys(queue, names, dry=dry)

    async def strays(self, queue: str, place: str, ids: Sequence[str], *, dry: bool = False) -> list[str]:
        """Take ids that have no task out of the place in which they were found, and return them.

        What ended or left meanwhile is none, nor is an id that a new task has by now.

        Args:
            place: the key of a list or sorted set.
            dry: only return them.
        """
        found: list[str] = []
        for some in _slices(ids, MAX_BATCH):
            names = (keys.task(queue, task_id) for task_id in some)
            answer = await self._run(_STRAYS, (place, *names), (1 if dry else 0, *some), writes=not dry)
            found += map(text_of, answer)
        return found

    async def unlisted_groups(self, queue: str, *, dry: bool = True) -> list[str]:
        """Groups with tasks that are not among the names of groups, so that no server looks at them; sorted.

        Args:
            dry: only return them, else also name them.
        """
        start = keys.group_prefix(queue)
        scanned = [name for name in map(text_of, await self._scan(queue)) if name.startswith(start)]
        found: list[str] = []
        for some in _slices(scanned, MAX_BATCH):
            names = [name.removeprefix(start) for name in some]
            places = (keys.groups(queue), keys.aggregation_sets(queue), *some)
            answer = await self._run(_UNLISTED_GROUPS, places, (1 if dry else 0, *names), writes=not dry)
            found += map(text_of, answer)
        return sorted(found)

    async def _scan(self, queue: str) -> list[bytes]:
        """All keys of a queue."""
        pattern = re.sub(r"([*?\[\]\\^])", r"\\\1", keys.prefix(queue)) + "*"
        node: dict[str, Any] = {}
        if isinstance(self._redis, RedisCluster):
            await self._redis.initialize()
            node = {"target_nodes": self._redis.get_node_from_key(keys.pending(queue))}
        found: dict[bytes, None] = {}
        cursor = 0
        while True:
            scan = partial(self._redis.execute_command, "SCAN", cursor, "MATCH", pattern, "COUNT", 1000, **node)
            cursor, some = _scanned(await self._plain("SCAN", scan))
            found.update(dict.fromkeys(some))
            if not cursor:
                return list(found)


def _queue_keys(queue: str) -> tuple[str, ...]:
    """The keys of ``_emptiness.lua``, and that of the pause."""
    return (*places_of(queue), keys.paused(queue))


def _slices(items: Iterable[str], size: int) -> Iterable[list[str]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _scanned(answer: Any) -> tuple[int, list[bytes]]:
    """The client of a Cluster names the node beside its cursor."""
    cursor, found = answer
    if isinstance(cursor, dict):
        [cursor] = cursor.values()
    return int(cursor), list(found)
