"""The way of a whole Redis from asynq's layout of 2020 to today's."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from datetime import timedelta

from aioasynq.errors import MigrationRefusedError
from aioasynq.inspector.base import Base
from aioasynq.inspector.records import LeftInPlace, MigrationReport, Progress
from aioasynq.keys import check_queue_name
from aioasynq.message import DEFAULT_TIMEOUT
from aioasynq.options import seconds_of
from aioasynq.rdb.base import MAX_BATCH, MAX_BATCH_BYTES
from aioasynq.rdb.migration import (
    GONE,
    ID_TAKEN,
    MOVED,
    NO_COUNT,
    SAME,
    WRONG_PLACE,
    Odd,
    OldLayout,
    OldPlace,
    OldTask,
    batches,
    process_of,
)
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.receipts import Receipts

MAX_LISTED = 1000  #: what is left in place is listed, up to so many
MAX_SHOWN = 100  #: bytes of each
PASSES = 5  #: how often a place is gone through while others still put tasks into it

_REASONS = {
    ID_TAKEN: "its queue holds another task with this id",
    WRONG_PLACE: "the key of its new place is of another kind",
}


class Migrate(Base):
    """The part of an Inspector that carries old tasks over."""

    async def migrate(
        self,
        *,
        dry_run: bool = False,
        force: bool = False,
        counters_queue: str = "default",
        timeout: float | timedelta = DEFAULT_TIMEOUT,
        progress: Progress | None = None,
    ) -> MigrationReport:
        """Carry over what asynq of 2020 (v0.1 to v0.9) left in this Redis, or see what there is.

        Each task is carried over in one step, in slices of at most 256. Whatever ends it half-way, it can be begun
        again and goes on. What cannot be read, or has the id of another task, is left where it is, and listed.

        Args:
            dry_run: change nothing, and report what would be done.
            force: also while processes of that time live. They take tasks of the old layout alone; no task is lost.
            counters_queue: the queue whose counters are given the old ones, which were of all queues together.
            timeout: for tasks with neither timeout nor deadline; they ran without a limit, and cannot any more.
            progress: called with how many tasks were looked at, and how many there were at the start.

        Raises:
            MigrationRefusedError: old processes live, or this is a Cluster.
            ValueError, TypeError: an argument is wrong.
            BrokerError: Redis did not answer; begin again.
        """
        try:
            check_queue_name(counters_queue)
        except (ValueError, TypeError) as exc:
            raise type(exc)(f"counters_{exc}") from None
        limit = math.ceil(seconds_of("timeout", timeout))
        if not 0 < limit < 2**63:
            raise ValueError(f"timeout must be more than 0 seconds, got {timeout!r}")
        layout = await self._rdb.old_layout()
        if layout.alive and not (dry_run or force):
            names = tuple(map(process_of, layout.alive))
            raise MigrationRefusedError(
                f"processes of the old asynq live, or did a minute ago: {', '.join(names[:5])}"
                f"{f' and {len(names) - 5} more' if len(names) > 5 else ''}; stop them, or force it",
                names,
            )
        run = _Run(self._rdb, layout, dry=dry_run, timeout=limit, progress=progress)
        return await run.run(counters_queue)


class _Run:
    """One run, and what it has seen."""

    def __init__(self, rdb: RDB, layout: OldLayout, *, dry: bool, timeout: int, progress: Progress | None) -> None:
        self._rdb = rdb
        self._layout = layout
        self._dry = dry
        self._timeout = timeout
        self._progress = progress
        self._receipts = Receipts(f"migrate:{uuid.uuid4().hex}")
        self._tasks: dict[str, Counter[str]] = {}
        self._same = 0
        self._left: list[LeftInPlace] = []
        self._left_total = 0
        self._left_tasks = 0
        self._looked_at = self._told = 0
        self._total = sum(place.size for place in layout.places)

    async def run(self, counters_queue: str) -> MigrationReport:
        layout, rdb = self._layout, self._rdb
        for odd in layout.odd:
            self._leave(odd)
        if not self._dry:
            for queue in layout.queues:
                await rdb.begin_old_queue(queue)
        for place in layout.places:
            await self._place(place)
        counters = await self._counters(counters_queue)
        remaining = 0
        if not self._dry:
            for queue in layout.queues:
                await rdb.end_old_queue(queue)
            await rdb.forget_old_processes()
            sizes = [await rdb.old_size(place.key) for place in layout.places]
            remaining = max(0, sum(sizes) - self._left_tasks)
        self._tell(self._total)
        return MigrationReport(
            dry_run=self._dry,
            tasks={queue: dict(states) for queue, states in sorted(self._tasks.items())},
            same=self._same,
            counters=counters,
            left=self._left,
            left_total=self._left_total,
            remaining=remaining,
            processes=layout.alive,
        )

    async def _place(self, place: OldPlace) -> None:
        """Go through a place, again if somebody put something into it meanwhile, and list what is left in the end."""
        left: list[Odd] = []
        size = place.size
        for _ in range(1 if self._dry else PASSES):
            left = await self._pass(place, size)
            size = 0 if self._dry else await self._rdb.old_size(place.key)
            if size <= len(left):
                break
        self._left_tasks += len(left)
        for odd in left:
            self._leave(odd)

    async def _pass(self, place: OldPlace, size: int) -> list[Odd]:
        """Carry over what can be, looking at no more than *size* entries; return the others."""
        left: list[Odd] = []
        looked_at = 0
        count = MAX_BATCH
        while looked_at < size:
            offset = looked_at if self._dry else len(left)
            count = min(count, size - looked_at)
            entries = await self._rdb.read_old_tasks(place, offset, count, timeout=self._timeout)
            if not entries:
                break
            left += [entry for entry in entries if isinstance(entry, Odd)]
            for batch in batches([entry for entry in entries if isinstance(entry, OldTask)]):
                receipt = self._receipts.next()
                codes = await self._rdb.move_old_tasks(place, batch, receipt=receipt, dry=self._dry)
                for task, code in zip(batch, codes, strict=True):
                    self._count(place, task, code, left)
            looked_at += len(entries)
            self._tell(len(entries))
            mean = sum(len(entry.data) for entry in entries) / len(entries)
            count = max(1, min(MAX_BATCH, int(MAX_BATCH_BYTES / max(mean, 1))))  # large ones come in smaller slices
        return left

    def _count(self, place: OldPlace, task: OldTask, code: int, left: list[Odd]) -> None:
        if code == MOVED:
            self._tasks.setdefault(task.msg.queue, Counter())[place.state] += 1
        elif code == SAME:
            self._same += 1
        elif code != GONE:
            left.append(Odd(place.key, _REASONS[code], task.data))

    def _tell(self, more: int) -> None:
        self._looked_at = min(self._looked_at + more, self._total)
        if self._progress is not None and self._looked_at > self._told:
            self._told = self._looked_at
            self._progress(self._told, self._total)

    async def _counters(self, queue: str) -> dict[str, int]:
        counters = {"processed": 0, "failed": 0}
        for counter in self._layout.counters:
            receipt = self._receipts.next()
            added = await self._rdb.move_old_counter(counter, queue, receipt=receipt, dry=self._dry)
            if added < 0:
                why = "it is no count" if added == NO_COUNT else f"the counters of queue {queue!r} are no counts"
                self._leave(Odd(counter.key, why, b""))
            else:
                counters[counter.kind] += added
        return counters

    def _leave(self, odd: Odd) -> None:
        self._left_total += odd.entries
        if len(self._left) < MAX_LISTED:
            self._left.append(LeftInPlace(place=odd.place, reason=odd.reason, data=odd.data[:MAX_SHOWN]))
