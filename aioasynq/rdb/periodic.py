"""Periodic tasks: firing one, what schedulers say about themselves, and what they have enqueued."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

from aioasynq import keys
from aioasynq.compose import Composed
from aioasynq.message import SchedulerEnqueueEvent, SchedulerEntry
from aioasynq.proto.codec import encode_scheduler_entry, encode_scheduler_event, encode_task
from aioasynq.rdb.base import Arg
from aioasynq.rdb.lifecycle import Lifecycle
from aioasynq.rdb.script import Script

ENTRIES_TTL = 20  #: seconds what a scheduler says about itself is kept
MAX_EVENTS = 1000  #: firings of an entry that are remembered
HISTORY_TTL = 90 * 24 * 3600  #: seconds they are remembered after the last one

_FIRE = Script("fire")
_WRITE_SCHEDULER_ENTRIES = Script("write_scheduler_entries")
_RECORD_SCHEDULER_ENQUEUE_EVENT = Script("record_scheduler_enqueue_event")


class Answer(IntEnum):
    """What came of a firing."""

    DUPLICATE = -1  #: a task like it holds the unique lock
    CONFLICT = 0  #: its id is taken
    STORED = 1  #: the task is in its queue
    CLAIMED = 2  #: somebody else has seen to it, or to one after it
    EARLY = 3  #: it is not due yet, by Redis's clock


class Fired(NamedTuple):
    """What came of a firing, and what Redis knows: the moment fired before, 0 for none, and the time; unix seconds."""

    answer: Answer
    last: int
    now: float


class Periodic(Lifecycle):
    """Operations of schedulers."""

    async def fire(self, composed: Composed, entry_id: str, moment: int, *, claimant: str, keep: int) -> Fired:
        """Store the task of one firing, unless that or a later firing of the entry was claimed by another.

        The claim lies beside the tasks of the queue and is made in the same step as the task. The same call may be
        repeated at any time: its *claimant* gets the answer that it got, or should have got.

        Args:
            moment: when the firing was due, whole unix seconds; before that, Redis refuses.
            claimant: a token that no other scheduler uses for this entry.
            keep: seconds that the claim is remembered.
        """
        msg = composed.msg
        queue, state = msg.queue, str(composed.state)
        await self._register(queue)
        places = [keys.fired(queue, entry_id), keys.task(queue, msg.id)]
        if state == "aggregating":
            places += (keys.groups(queue), keys.group(queue, msg.group_key))
        else:
            places.append(keys.scheduled(queue) if state == "scheduled" else keys.pending(queue))
        if composed.unique_ttl:
            places.append(msg.unique_key)
        answer, last, now = await self._run(
            _FIRE,
            places,
            (
                *(self.clock_argument(), moment, keep, claimant, msg.id, encode_task(msg)),
                *(state, composed.when, msg.group_key, composed.unique_ttl),
            ),
        )
        return Fired(Answer(int(answer)), int(last), float(now))

    async def last_fired(self, queue: str, entry_id: str) -> int | None:
        """The moment of the entry's last firing, unix seconds; None when there was none, or it is long ago."""
        kept = await self._plain("GET", partial(self.command, "GET", keys.fired(queue, entry_id)))
        with contextlib.suppress(AttributeError, ValueError):  # nothing, or nothing of ours
            return int(kept.partition(b" ")[0])
        return None

    async def forget_fired(self, queue: str, entry_id: str) -> None:
        """Forget the entry's last firing."""
        await self._plain("DEL", partial(self.command, "DEL", keys.fired(queue, entry_id)), writes=True)

    async def redis_time(self) -> float:
        """Redis's clock, unix seconds; on a Cluster that of one node."""
        return await self._redis_now()

    async def write_scheduler_entries(
        self, scheduler_id: str, entries: Sequence[SchedulerEntry], *, ttl: int = ENTRIES_TTL
    ) -> None:
        """Tell what a scheduler (``host:pid:uuid``) enqueues, in place of what it told before; for *ttl* seconds."""
        place = keys.scheduler_entries(scheduler_id)
        expiry = int(await self._redis_now()) + ttl
        await self._plain("ZADD", partial(self.command, "ZADD", keys.schedulers(), expiry, place), writes=True)
        args: list[Arg] = [ttl, *map(encode_scheduler_entry, entries)]
        await self._run(_WRITE_SCHEDULER_ENTRIES, (place,), args)

    async def clear_scheduler_entries(self, scheduler_id: str) -> None:
        """Take back what a scheduler told."""
        place = keys.scheduler_entries(scheduler_id)
        await self._plain("ZREM", partial(self.command, "ZREM", keys.schedulers(), place), writes=True)
        await self._plain("DEL", partial(self.command, "DEL", place), writes=True)

    async def record_scheduler_enqueue_event(
        self, entry_id: str, event: SchedulerEnqueueEvent, *, ttl: int = HISTORY_TTL
    ) -> None:
        """Note what was enqueued for an entry. The last :data:`MAX_EVENTS` are kept, for *ttl* seconds."""
        at = event.enqueue_time // 10**9
        args: tuple[Any, ...] = (at, encode_scheduler_event(event), MAX_EVENTS, ttl)
        await self._run(_RECORD_SCHEDULER_ENQUEUE_EVENT, (keys.scheduler_history(entry_id),), args)

    async def clear_scheduler_history(self, entry_id: str) -> None:
        """Forget what was enqueued for an entry."""
        await self._plain("DEL", partial(self.command, "DEL", keys.scheduler_history(entry_id)), writes=True)
