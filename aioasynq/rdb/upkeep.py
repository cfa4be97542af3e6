"""What keeps queues in order: due tasks, leases, recovery, expired results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from aioasynq import keys
from aioasynq.rdb.base import MAX_BATCH, Operations, at_most_a_batch
from aioasynq.rdb.lifecycle import LEASE, Leased, read_leased
from aioasynq.rdb.script import Script

_NEXT_DUE = Script("next_due")
_CHECK_AND_ENQUEUE = Script("check_and_enqueue")
_RESTORE_UNFINISHED = Script("restore_unfinished")
_EXTEND_LEASE = Script("extend_lease")
_LIST_LEASE_EXPIRED = Script("list_lease_expired")
_LIST_OWNED = Script("list_owned")
_REPAIR = Script("repair")
_DELETE_EXPIRED_COMPLETED = Script("delete_expired_completed")


class Forwarded(NamedTuple):
    """What became of due tasks."""

    moved: int  #: ids that were due
    strays: list[tuple[str, str]]  #: (queue, id) among them that were no task waiting there; taken off


class Expired(NamedTuple):
    """A task whose lease ran out, or whose owner is dead.

    Its guard is that very lease, or the owner's token, so that only one recovers it.
    """

    leased: Leased
    owner: str  #: token of who held it; empty when it was taken by Go
    recovered: int  #: how often it was recovered before


class Repaired(NamedTuple):
    """What did not fit together."""

    strays: list[tuple[str, str]]  #: (queue, id) in ``active`` that were no running task; taken off
    adopted: list[tuple[str, str]]  #: (queue, id) of active tasks that nobody watched over; recovery sees them now


class Upkeep(Operations):
    """Operations that no task waits for."""

    async def next_due(self, *queues: str) -> dict[str, float]:
        """In how many seconds the next scheduled or retried task of each queue is due, by Redis's clock.

        Queues where none waits are left out; negative when it is late.
        """
        if self._is_cluster:  # each queue is elsewhere
            answers = [answer for (answer,) in await asyncio.gather(*(self._next_due([each]) for each in queues))]
        else:
            answers = await self._next_due(queues)
        return {queue: float(answer) for queue, answer in zip(queues, answers, strict=True) if answer}

    async def _next_due(self, queues: Sequence[str]) -> list[bytes]:
        places = [place for queue in queues for place in (keys.scheduled(queue), keys.retry(queue))]
        answers: list[bytes] = await self._run(_NEXT_DUE, places, (self.clock_argument(),), writes=False)
        return answers

    async def check_and_enqueue(self, *queues: str, limit: int = MAX_BATCH) -> Forwarded:
        """Make due scheduled and retried tasks pending (today's asynq says forward); groups get theirs back.

        In slices of *limit* tasks, until nothing is due.
        """
        total, strays = 0, []
        for queue in queues:
            for source in (keys.scheduled(queue), keys.retry(queue)):
                while True:
                    count, found = await self._run(
                        _CHECK_AND_ENQUEUE,
                        (source, keys.pending(queue), keys.groups(queue)),
                        (self.clock_argument(), keys.prefix(queue), limit),
                    )
                    total += count
                    strays += _with_queue(queue, found)
                    if count < limit:
                        break
        return Forwarded(total, strays)

    async def restore_unfinished(self, *queues: str, force: bool = False, limit: int = 1000) -> int:
        """Put active tasks without a live lease back at the head of their queues, and return how many.

        For operators: a server never calls it. With *force* it takes all active tasks, as the very first asynq did;
        only for whoever knows that no worker runs, for a running task would run twice.
        """
        total = 0
        for queue in queues:
            offset = 0
            while True:
                restored, left, looked = await self._run(
                    _RESTORE_UNFINISHED,
                    (keys.active(queue), keys.lease(queue), keys.pending(queue)),
                    (self.clock_argument(), keys.prefix(queue), 1 if force else 0, offset, limit),
                )
                total += restored
                offset += left
                if looked < limit:
                    break
        return total

    async def extend_lease(self, items: Sequence[Leased], *, lease: float = LEASE) -> list[bool]:
        """Hold tasks of one queue for *lease* seconds more. False for a task that is no longer held."""
        if not items:
            return []
        at_most_a_batch(items)
        queue = items[0].queue
        if any(leased.queue != queue for leased in items):
            raise ValueError("the tasks of one call must be of one queue")
        answers = await self._run(
            _EXTEND_LEASE,
            (keys.lease(queue), *(keys.task(queue, leased.id) for leased in items)),
            (self.clock_argument(), lease, *(arg for leased in items for arg in (leased.id, leased.guard))),
        )
        return [answer == 1 for answer in answers]

    async def list_lease_expired(
        self, *queues: str, ours: float = 0.0, theirs: float = 0.0, limit: int = MAX_BATCH
    ) -> list[Expired]:
        """Tasks whose lease ended at least *ours* seconds ago, or *theirs* when Go gave it; at most *limit* a queue."""
        expired: list[Expired] = []
        for queue in queues:
            found = await self._run(
                _LIST_LEASE_EXPIRED,
                (keys.lease(queue),),
                (self.clock_argument(), ours, theirs, keys.task_prefix(queue), limit),
                writes=False,
            )
            for i in range(0, len(found), 5):
                task_id, lease, data, owner, recovered = found[i : i + 5]
                leased = read_leased(queue, task_id.decode("utf-8", "surrogateescape"), data, f"lease={lease.decode()}")
                expired.append(Expired(leased, owner.decode("utf-8", "backslashreplace"), _times(recovered)))
        return expired

    async def list_owned(self, *queues: str, server: str, limit: int = MAX_BATCH) -> list[Expired]:
        """All tasks that a server holds, by its name; for whoever knows that it is dead.

        Leases do not matter. The guards are its own: whatever it has sent before its end, and Redis reads only now,
        is done wholly or not at all. Redis looks at about *limit* leases at a time.
        """
        owned: dict[tuple[str, bytes], Expired] = {}
        for queue in queues:
            start = b"-inf"
            while start:
                start, found = await self._run(
                    _LIST_OWNED,
                    (keys.lease(queue),),
                    (f"{server}:", keys.task_prefix(queue), start, limit),
                    writes=False,
                )
                for i in range(0, len(found), 4):
                    task_id, data, owner, recovered = found[i : i + 4]
                    guard = owner.decode("utf-8", "surrogateescape")
                    leased = read_leased(queue, task_id.decode("utf-8", "surrogateescape"), data, guard)
                    shown = owner.decode("utf-8", "backslashreplace")
                    owned[queue, task_id] = Expired(leased, shown, _times(recovered))
        return list(owned.values())

    async def repair(self, *queues: str, limit: int = 1000) -> Repaired:
        """Bring ``active`` and ``lease`` of each queue into agreement.

        An id without a hash, or of a task that stands elsewhere, is taken off. An active task without a lease gets
        one that has just ended, so that recovery finds it.
        """
        repaired = Repaired([], [])
        for queue in queues:
            offset = 0
            while True:
                looked, removed, strays, adopted = await self._run(
                    _REPAIR,
                    (keys.active(queue), keys.lease(queue)),
                    (self.clock_argument(), keys.prefix(queue), offset, limit),
                )
                repaired.strays.extend(_with_queue(queue, strays))
                repaired.adopted.extend(_with_queue(queue, adopted))
                offset += max(0, looked - removed)
                if looked < limit:
                    break
        return repaired

    async def delete_expired_completed(self, *queues: str, limit: int = 100) -> int:
        """Forget completed tasks whose retention is over, *limit* at a time, and return how many."""
        total = 0
        for queue in queues:
            while True:
                count = await self._run(
                    _DELETE_EXPIRED_COMPLETED,
                    (keys.completed(queue),),
                    (self.clock_argument(), keys.task_prefix(queue), limit),
                )
                total += count
                if count < limit:
                    break
        return total


def _times(recovered: bytes) -> int:
    """How often a task was recovered; what is no number counts as never."""
    return int(recovered) if recovered.isdigit() and len(recovered) < 10 else 0


def _with_queue(queue: str, ids: Sequence[bytes]) -> list[tuple[str, str]]:
    return [(queue, task_id.decode("utf-8", "backslashreplace")) for task_id in ids]
