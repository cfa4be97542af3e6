"""Migration: reads the layout that asynq had in 2020, and writes today's.

A task is carried over in one step that also takes it out of its old place. So whoever dies, or does it twice, or does
it while another does, loses nothing and doubles nothing: what is still there is what is still to be done.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from redis.asyncio.cluster import RedisCluster

from aioasynq import keys
from aioasynq.errors import MigrationRefusedError
from aioasynq.message import TaskMessage
from aioasynq.proto.codec import encode_task
from aioasynq.rdb.base import MAX_BATCH, MAX_BATCH_BYTES, Arg
from aioasynq.rdb.changes import places_of, text_of
from aioasynq.rdb.lifecycle import Lifecycle
from aioasynq.rdb.message_2020 import read_message
from aioasynq.rdb.receipts import Receipt
from aioasynq.rdb.script import Script

_MOVE_OLD_TASKS = Script("move_old_tasks")
_MOVE_OLD_COUNTER = Script("move_old_counter")

#: What scripts answer for one task.
MOVED, SAME, GONE, ID_TAKEN, WRONG_PLACE = 1, 2, 0, -1, -2
NO_COUNT, NO_COUNT_TODAY = -1, -2

_FIXED = {
    keys.OLD_IN_PROGRESS: ("list", "pending"),
    keys.OLD_SCHEDULED: ("zset", "scheduled"),
    keys.OLD_RETRY: ("zset", "retry"),
    keys.OLD_DEAD: ("zset", "archived"),
}
_TARGETS = {"pending": keys.pending, "scheduled": keys.scheduled, "retry": keys.retry, "archived": keys.archived}
_COUNTERS = {"processed": (keys.processed_total, keys.processed), "failed": (keys.failed_total, keys.failed)}
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
#: All keys whose names are not fixed, and few of today's.
_PATTERN = "asynq:[pqfsw]*"


class OldPlace(NamedTuple):
    """A list or a sorted set of old messages."""

    key: str
    state: str  #: which its tasks get
    queue: str | None  #: of a list for one queue; None: each message names its own
    size: int

    @property
    def is_list(self) -> bool:
        """Is it a list, not a sorted set?"""
        return self.state == "pending"

    @property
    def is_next(self) -> bool:
        """Do its tasks go before all others of their queue?"""
        return self.key == keys.OLD_IN_PROGRESS


class Odd(NamedTuple):
    """What is left where it is."""

    place: str
    reason: str
    data: bytes
    entries: int = 1  #: it stands for so many


class OldTask(NamedTuple):
    """A task in an old list or sorted set."""

    data: bytes  #: the old message
    msg: TaskMessage
    lock: str  #: the key of its old lock; empty: it is not unique


class OldCounter(NamedTuple):
    """What was counted on a day."""

    key: str
    kind: Literal["processed", "failed"]
    day: str


class OldLayout(NamedTuple):
    """What there is of the layout of 2020."""

    places: list[OldPlace]
    queues: list[str]  #: to be named among today's
    counters: list[OldCounter]
    alive: list[str]  #: processes, by the names of their records
    odd: list[Odd]


class Migration(Lifecycle):
    """Operations that carry over what asynq of 2020 left behind."""

    async def old_layout(self) -> OldLayout:
        """Find all there is of the layout of 2020.

        Raises:
            MigrationRefusedError: this is a Cluster.
        """
        if isinstance(self._redis, RedisCluster):
            raise MigrationRefusedError(
                f"{self.address} is a Cluster, on which asynq's layout of 2020 cannot be: connect to the single server "
                "that holds it, migrate there, and take its keys to the Cluster then"
            )
        found = await self._scan_old()
        places: list[OldPlace] = []
        odd: list[Odd] = []
        lists = [key for key in found if key.startswith(keys.OLD_QUEUE)]
        for key in (keys.OLD_IN_PROGRESS, *lists, keys.OLD_SCHEDULED, keys.OLD_RETRY, keys.OLD_DEAD):
            kind, state = _FIXED.get(key, ("list", "pending"))
            real = await self._kind(key)
            queue = key.removeprefix(keys.OLD_QUEUE) if key not in _FIXED else None
            if real == "none":
                continue
            if real != kind:
                odd.append(Odd(key, f"it is a {real}, where a {kind} belongs", b""))
                continue
            place = OldPlace(key, state, queue, await self.old_size(key))
            if queue is not None and (why := _no_queue(queue)):
                odd.append(Odd(key, why, b"", place.size))
                continue
            places.append(place)
        queues = {place.queue for place in places if place.queue is not None}
        for name in await self._old_names():
            if why := _no_queue(name):
                odd.append(Odd(keys.queues(), why, (keys.OLD_QUEUE + name).encode("utf-8", "surrogateescape")))
            else:
                queues.add(name)
        counters: list[OldCounter] = []
        for key in found:
            if key.startswith((keys.OLD_PROCESSED, keys.OLD_FAILED)):
                if counter := _counter(key):
                    counters.append(counter)
                else:
                    odd.append(Odd(key, "its name does not end in a day", b""))
        return OldLayout(places, sorted(queues), counters, await self._living(found), odd)

    async def old_size(self, place: str) -> int:
        """How many entries a list or a sorted set has."""
        count = {"list": "LLEN", "zset": "ZCARD"}.get(await self._kind(place))
        return 0 if count is None else int(await self._plain(count, partial(self.command, count, place)))

    async def read_old_tasks(self, place: OldPlace, offset: int, count: int, *, timeout: int) -> list[OldTask | Odd]:
        """Some entries of a place, behind the first *offset*: the next to run first, of those in progress last.

        Args:
            timeout: seconds, for tasks with neither timeout nor deadline.
        """
        if place.is_list and not place.is_next:
            answer = await self._range("LRANGE", place.key, -offset - count, -offset - 1)
            answer.reverse()
        else:
            answer = await self._range("LRANGE" if place.is_list else "ZRANGE", place.key, offset, offset + count - 1)
        return [_read(place, data, timeout) for data in answer]

    async def move_old_tasks(
        self, place: OldPlace, tasks: Sequence[OldTask], *, receipt: Receipt | None = None, dry: bool = False
    ) -> list[int]:
        """Carry tasks over, in the order in which they were read; as many as :func:`batches` makes.

        Args:
            dry: write nothing, and tell what would be done.

        Returns:
            For each MOVED; SAME: it had been, and is gone from the old place now; GONE: somebody else took it;
            ID_TAKEN: another task has its id, and WRONG_PLACE: today's key is of another kind, so it is left.
        """
        names: list[str] = []
        args: list[Arg] = []
        queues: dict[str, None] = {}
        for data, msg, lock in tasks:
            queues[msg.queue] = None
            has_lock = bool(lock) and lock != msg.unique_key
            names += (keys.task(msg.queue, msg.id), _TARGETS[place.state](msg.queue))
            names += (lock, msg.unique_key) if has_lock else ()
            args += (data, msg.id, keys.prefix(msg.queue), encode_task(msg), 1 if has_lock else 0)
        if not dry:
            for queue in queues:
                await self._register(queue)
        receipt = self._receipt(receipt)
        first = (receipt.number, self.clock_argument(), place.state, 1 if place.is_next else 0, 1 if dry else 0)
        answer = await self._run(
            _MOVE_OLD_TASKS,
            (keys.receipt(next(iter(queues)), receipt.caller), place.key, *names),
            (*first, *args),
            writes=not dry,
        )
        return [int(code) for code in answer]

    async def move_old_counter(
        self, counter: OldCounter, queue: str, *, receipt: Receipt | None = None, dry: bool = False
    ) -> int:
        """Add the count of a day, which was of all queues, to the counters of *queue*.

        Returns:
            How much was added: 0 if there is none any more; NO_COUNT or NO_COUNT_TODAY if it, or one of today's
            counters, is no count: then it is left.
        """
        total, of_day = _COUNTERS[counter.kind]
        receipt = self._receipt(receipt)
        names = (keys.receipt(queue, receipt.caller), counter.key, total(queue), of_day(queue, counter.day))
        if not dry:
            await self._register(queue)
        return int(await self._run(_MOVE_OLD_COUNTER, names, (receipt.number, 1 if dry else 0), writes=not dry))

    async def begin_old_queue(self, queue: str) -> None:
        """Name a queue among today's, paused if it was."""
        await self._register(queue)
        old = keys.OLD_QUEUE + queue
        if await self._kind(keys.OLD_PAUSED) == "set" and await self._member(keys.OLD_PAUSED, old):
            now = int(await self._redis_now())
            await self._write("SET", keys.paused(queue), now, "NX")
            await self._write("SREM", keys.OLD_PAUSED, old)

    async def end_old_queue(self, queue: str) -> None:
        """Take the old name of a queue from among today's, where it would look like a queue of that name."""
        old = keys.OLD_QUEUE + queue
        if not await self._plain("EXISTS", partial(self.command, "EXISTS", *places_of(old))):
            await self._write("SREM", keys.queues(), old)

    async def forget_old_processes(self) -> None:
        """Remove what processes that are gone said about themselves."""
        found = await self._scan_old()
        alive = {process_of(name) for name in await self._living(found)}
        for place in (keys.OLD_PROCESSES, keys.servers(), keys.workers()):
            kind = await self._kind(place)
            for name, _ in await self._records(place, found):
                if process_of(name) not in alive:
                    if kind in {"zset", "set"}:
                        await self._write("ZREM" if kind == "zset" else "SREM", place, name)
                    await self._write("DEL", name)

    # ── what these are made of ──

    async def _scan_old(self) -> list[str]:
        found: dict[str, None] = {}
        cursor = 0
        while True:
            scan = partial(self.command, "SCAN", cursor, "MATCH", _PATTERN, "COUNT", 1000)
            cursor, some = await self._plain("SCAN", scan)
            found.update((text_of(key), None) for key in some)
            cursor = int(cursor)
            if not cursor:
                return sorted(found)

    async def _old_names(self) -> list[str]:
        """Queues that the set of all queues has under the key of their list."""
        if await self._kind(keys.queues()) != "set":
            return []
        members = await self._plain("SMEMBERS", partial(self.command, "SMEMBERS", keys.queues()))
        old = [name for member in members if (name := text_of(member)).startswith(keys.OLD_QUEUE)]
        return [name.removeprefix(keys.OLD_QUEUE) for name in sorted(old)]

    async def _living(self, found: Sequence[str]) -> list[str]:
        """The records of old processes that live: they expire when they are not written anew."""
        now = await self._redis_now()
        alive: list[str] = []
        for place in (keys.OLD_PROCESSES, keys.servers()):
            for name, expiry in await self._records(place, found):
                ttl = int(await self._plain("PTTL", partial(self.command, "PTTL", name)))
                if ttl > 0 or (ttl == -1 and (expiry is None or expiry > now)):
                    alive.append(name)
        return alive

    async def _records(self, place: str, found: Sequence[str]) -> list[tuple[str, float | None]]:
        """Keys of records of old processes with their expiry, where it is told; today's have braces."""
        records: dict[str, float | None] = dict.fromkeys(key for key in found if key.startswith(place + ":"))
        kind = await self._kind(place)
        if kind == "zset":
            for member in map(text_of, await self._range("ZRANGE", place, 0, -1)):
                expiry = await self._plain("ZSCORE", partial(self.command, "ZSCORE", place, member))
                records[member] = None if expiry is None else float(expiry)
        elif kind == "set":
            members = await self._plain("SMEMBERS", partial(self.command, "SMEMBERS", place))
            records |= dict.fromkeys(text_of(member) for member in members)
        return [(name, records[name]) for name in records if name.startswith(place + ":") and "{" not in name]

    async def _kind(self, key: str) -> str:
        return text_of(await self._plain("TYPE", partial(self.command, "TYPE", key)))

    async def _member(self, key: str, member: str) -> bool:
        return bool(await self._plain("SISMEMBER", partial(self.command, "SISMEMBER", key, member)))

    async def _range(self, command: str, key: str, start: int, stop: int) -> list[Any]:
        return list(await self._plain(command, partial(self.command, command, key, start, stop)))

    async def _write(self, *words: Arg) -> None:
        await self._plain(str(words[0]), partial(self.command, *words), writes=True)


def batches(tasks: Sequence[OldTask]) -> list[list[OldTask]]:
    """Tasks as scripts take them: not too many at once, and not too many bytes."""
    made: list[list[OldTask]] = []
    size = 0
    for task in tasks:
        both = 2 * len(task.data)  # the old message and the new one
        size += both
        if not made or len(made[-1]) >= MAX_BATCH or size > MAX_BATCH_BYTES:
            made.append([])
            size = both
        made[-1].append(task)
    return made


def process_of(record: str) -> str:
    """The name of an old process, ``host:pid``, from the key of a record of it."""
    return record.split(":", 2)[2]


def _read(place: OldPlace, data: bytes, timeout: int) -> OldTask | Odd:
    try:
        return OldTask(data, *read_message(data, place.queue, timeout))
    except ValueError as exc:
        return Odd(place.key, str(exc), data)


def _counter(key: str) -> OldCounter | None:
    is_processed = key.startswith(keys.OLD_PROCESSED)
    day = key.removeprefix(keys.OLD_PROCESSED if is_processed else keys.OLD_FAILED)
    return OldCounter(key, "processed" if is_processed else "failed", day) if _DAY.fullmatch(day) else None


def _no_queue(name: str) -> str:
    """Why this cannot be a queue's name today; empty when it can."""
    try:
        keys.check_queue_name(name)
    except ValueError as exc:
        return str(exc)
    return ""
