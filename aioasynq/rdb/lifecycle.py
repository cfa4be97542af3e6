"""The way of a task out of its queue: dequeue, and its ends. Each operation takes many tasks of one queue.

Answers are one a task, in the order given. At most 256 tasks go in one call (``ValueError``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from aioasynq import keys
from aioasynq.errors import (
    MessageDecodeError,
    TaskNotFoundError,
)
from aioasynq.logs import clean
from aioasynq.message import TaskMessage
from aioasynq.proto.codec import decode_task, encode_task
from aioasynq.rdb.base import MAX_BATCH, MAX_BATCH_BYTES, Arg, at_most_a_batch
from aioasynq.rdb.receipts import Receipt
from aioasynq.rdb.script import Script
from aioasynq.rdb.storing import Storing
from aioasynq.task import Progress

LEASE = 15.0  #: seconds a task stays its owner's after the last sign of life
MAX_ARCHIVE = 10_000  #: tasks an archive holds
MAX_ARCHIVE_AGE = 90 * 24 * 3600  #: seconds an archive holds them

_DEQUEUE = Script("dequeue")
_DONE = Script("done")
_MARK_AS_COMPLETE = Script("mark_as_complete")
_REQUEUE = Script("requeue")
_RETRY = Script("retry")
_KILL = Script("kill")
_WRITE_RESULT = Script("write_result")
_WRITE_PROGRESS = Script("write_progress")


class Leased(Struct, frozen=True, gc=False):
    """A task that was taken, and the guard under which it is held.

    ``msg`` is None when the bytes in Redis are no message; ``error`` says why.
    """

    queue: str
    id: str
    msg: TaskMessage | None
    guard: str
    error: str = ""

    @property
    def shown(self) -> str:
        """The id for people: what cannot be printed, or is no text, is escaped."""
        return clean(self.id.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))

    @property
    def lock(self) -> str:
        """Full name of the uniqueness lock; empty without one."""
        return self.msg.unique_key if self.msg else ""


class Completed(Struct, frozen=True, gc=False):
    """A task that succeeded and is kept, with what its handler returned, if anything."""

    leased: Leased
    result: bytes | None = None


class Failed(Struct, frozen=True, gc=False):
    """A task that is to be tried again: in how many seconds, why, and whether that counts as a failure."""

    leased: Leased
    delay: float
    error: str
    is_failure: bool = True
    recovered: int | None = None  #: how often it was recovered, when that is why


class Killed(Struct, frozen=True, gc=False):
    """A task that failed for good, and why."""

    leased: Leased
    error: str


@dataclass(slots=True)
class Batch:
    """What a dequeue brought. Empty is no error."""

    tasks: list[Leased]  #: the next to run first; all decoded
    broken: list[Leased]  #: taken too, but their bytes are no message
    strays: list[tuple[str, str]]  #: (queue, id) that were in the list without being a task of it; taken off the list
    dry: bool = True  #: nothing is left in any queue that was asked
    paused: bool = False  #: a queue that was asked is paused
    due: float | None = None  #: seconds until the next delayed task is due, if that was asked; inf: there is none


class Lifecycle(Storing):
    """Operations that move a task from one state to the next, each in one atomic step."""

    # ── out of a queue ──

    async def dequeue(
        self,
        *queues: str,
        count: int = 1,
        owner: str,
        lease: float = LEASE,
        receipt: Receipt | None = None,
        again: bool = False,
    ) -> Batch:
        """Take up to *count* tasks that waited longest, asking the queues in the order given.

        When the caller is cancelled, what was taken for it goes back.

        Args:
            owner: a token that no other call uses; what settles the tasks has to show it.
            lease: seconds the tasks stay the owner's without a sign of life.
            again: this call repeats one whose reply was lost, so a copy of that one still under way must take nothing.
        """
        batch = Batch([], [], [])
        for queue in queues:
            wanted = count - len(batch.tasks) - len(batch.broken)
            if wanted <= 0:
                batch.dry = False
                break
            places, args = dequeue_call(
                queue, min(wanted, MAX_BATCH), owner, lease, self._receipt(receipt), self.clock_argument(), again=again
            )

            async def give_back(answer: Any, queue: str = queue) -> None:
                add_to_batch(batch, queue, owner, answer)
                for name in queues:
                    await self.requeue([leased for leased in (*batch.tasks, *batch.broken) if leased.queue == name])

            answer = await self._run(_DEQUEUE, places, args, repeated=(*args[:-1], 1), orphaned=give_back)
            add_to_batch(batch, queue, owner, answer)
        return batch

    # ── ends of a task ──

    async def done(self, items: Sequence[Leased], *, receipt: Receipt | None = None) -> list[bool]:
        """Forget tasks that succeeded. False for a task that is no longer held; nothing is written for it."""
        task_keys, args = _places(items)
        for n, leased in enumerate(items):
            args[n] = (leased.id, leased.guard, 1 if leased.lock else 0)
        return await self._settle(
            _DONE, items, _counters(self, items, failed=False), task_keys, args, receipt, now=True
        )

    async def mark_as_complete(self, items: Sequence[Completed], *, receipt: Receipt | None = None) -> list[bool]:
        """Keep tasks that succeeded until their retention is over, with their results. Answers as :meth:`done`."""
        held = [item.leased for item in items]
        task_keys, args = _places(held)
        completed_at = int(self._wall())
        for n, item in enumerate(items):
            leased, result = item.leased, item.result
            msg = replace(_message(leased), completed_at=completed_at)
            args[n] = (
                leased.id,
                leased.guard,
                1 if leased.lock else 0,
                encode_task(msg),
                msg.retention,
                0 if result is None else 1,
                result or b"",
            )
        places = _counters(self, held, failed=False)
        if held:
            places.append(keys.completed(held[0].queue))
        return await self._settle(_MARK_AS_COMPLETE, held, places, task_keys, args, receipt, now=True)

    async def requeue(self, items: Sequence[Leased], *, receipt: Receipt | None = None) -> list[bool]:
        """Give tasks back to the head of their queue, the first to run first. Answers as :meth:`done`."""
        task_keys = [keys.task(leased.queue, leased.id) for leased in items]
        args: list[tuple[Arg, ...]] = [(leased.id, leased.guard) for leased in items]
        places = [keys.pending(items[0].queue)] if items else []
        return await self._settle(_REQUEUE, items, places, task_keys, args, receipt, now=False)

    async def retry(self, items: Sequence[Failed], *, receipt: Receipt | None = None) -> list[bool]:
        """Let tasks wait for their next try. Only a failure is counted. Answers as :meth:`done`."""
        held = [item.leased for item in items]
        args: list[tuple[Arg, ...]] = []
        failed_at = int(self._wall())
        for item in items:
            leased = item.leased
            msg = _message(leased)
            msg = replace(msg, retried=msg.retried + item.is_failure, error_msg=item.error, last_failed_at=failed_at)
            args.append(
                (
                    leased.id,
                    leased.guard,
                    encode_task(msg),
                    f"{item.delay:.3f}",
                    1 if item.is_failure else 0,
                    "" if item.recovered is None else item.recovered,
                )
            )
        places = _counters(self, held, failed=True)
        if held:
            places.append(keys.retry(held[0].queue))
        task_keys = [keys.task(leased.queue, leased.id) for leased in held]
        return await self._settle(_RETRY, held, places, task_keys, args, receipt, now=True)

    async def kill(
        self,
        items: Sequence[Killed],
        *,
        receipt: Receipt | None = None,
        max_size: int = MAX_ARCHIVE,
        max_age: int = MAX_ARCHIVE_AGE,
    ) -> list[bool]:
        """Archive tasks that failed for good (today's asynq says archive). Answers as :meth:`done`.

        The archive holds at most *max_size* tasks, for *max_age* seconds; what is let go loses its hash and its lock.
        A task whose bytes are no message keeps those bytes; the error goes to a field of its hash.
        """
        held = [item.leased for item in items]
        task_keys, args = _places(held)
        failed_at = int(self._wall())
        for n, item in enumerate(items):
            leased, data = item.leased, b""
            if leased.msg is not None:
                data = encode_task(replace(leased.msg, error_msg=item.error, last_failed_at=failed_at))
            args[n] = (leased.id, leased.guard, 1 if leased.lock else 0, data, _clean(item.error))
        places = _counters(self, held, failed=True)
        first: tuple[Arg, ...] = ()
        if held:
            places.append(keys.archived(held[0].queue))
            first = (max_size, max_age, keys.task_prefix(held[0].queue))
        return await self._settle(_KILL, held, places, task_keys, [first, *args], receipt, now=True)

    async def _settle(
        self,
        script: Script,
        items: Sequence[Leased],
        places: Sequence[str],
        task_keys: Sequence[str],
        args: Sequence[tuple[Arg, ...]],
        receipt: Receipt | None,
        *,
        now: bool,
    ) -> list[bool]:
        if not items:
            return []
        at_most_a_batch(items)
        queue = items[0].queue
        if any(leased.queue != queue for leased in items):
            raise ValueError("the tasks of one call must be of one queue")
        receipt = self._receipt(receipt)
        answers = await self._run(
            script,
            (keys.receipt(queue, receipt.caller), keys.active(queue), keys.lease(queue), *places, *task_keys),
            (receipt.number, *((self.clock_argument(),) if now else ()), *chain.from_iterable(args)),
        )
        return [answer == 1 for answer in answers]

    async def write_result(self, queue: str, task_id: str, data: bytes, *, owner: str = "") -> int:
        """Keep bytes with a task, and return how many. The last write wins.

        Raises:
            TaskNotFoundError: there is no such task, or with *owner* given it belongs to somebody else by now.
        """
        places = (keys.task(queue, task_id), keys.lease(queue))
        if not await self._run(_WRITE_RESULT, places, (task_id, data, owner)):
            raise TaskNotFoundError(queue, task_id)
        return len(data)

    async def write_progress(self, queue: str, task_id: str, step: Progress, *, owner: str) -> None:
        """Keep how far a task is, and tell whoever waits. The last write wins.

        Raises:
            TaskNotFoundError: there is no such task, or it belongs to somebody else by now.
        """
        places = (keys.task(queue, task_id), keys.lease(queue), keys.active(queue))
        if not await self._run(_WRITE_PROGRESS, places, (task_id, repr(step.fraction), step.text, owner)):
            raise TaskNotFoundError(queue, task_id)

    def _wall(self) -> float:
        return time.time() if self._clock is None else self._clock()


def dequeue_call(
    queue: str, count: int, owner: str, lease: float, receipt: Receipt, now: str, *, again: bool, due: bool = False
) -> tuple[tuple[str, ...], tuple[Arg, ...]]:
    """KEYS and ARGV of a dequeue, for whoever sends it himself; with *due* an empty queue says what is due next."""
    places: tuple[str, ...] = (
        keys.receipt(queue, receipt.caller),
        keys.pending(queue),
        keys.paused(queue),
        keys.active(queue),
        keys.lease(queue),
    )
    if due:
        places = (*places, keys.scheduled(queue), keys.retry(queue))
    prefix, repeat = keys.prefix(queue), 1 if again else 0
    return places, (receipt.number, now, lease, prefix, owner, count, MAX_BATCH_BYTES, repeat)


def add_to_batch(batch: Batch, queue: str, owner: str, answer: Any) -> None:
    """Add what Redis answered to a dequeue."""
    state, moment, taken, strays = answer
    for i in range(0, len(taken), 2):
        task_id, data = taken[i].decode("utf-8", "surrogateescape"), taken[i + 1]
        leased = read_leased(queue, task_id, data, owner)
        if leased.msg is None:
            batch.broken.append(leased)
        else:
            batch.tasks.append(leased)
    batch.strays += [(queue, stray.decode("utf-8", "backslashreplace")) for stray in strays]
    if state == 1:
        batch.dry = False
    elif state == 2:
        batch.paused = True
    if state == 0 and not taken and not strays and moment:
        batch.due = float(moment)


def read_leased(queue: str, task_id: str, data: bytes, guard: str) -> Leased:
    """A task as it was found; without a message when its bytes are none, or belong to another id."""
    try:
        msg = decode_task(data)
    except MessageDecodeError as exc:
        return Leased(queue, task_id, None, guard, f"undecodable message: {exc}")
    if msg.id != task_id:
        what = "no message" if not data else f"a message with the id {msg.id!r}"
        return Leased(queue, task_id, None, guard, f"undecodable message: {what} under the id {task_id!a}")
    return Leased(queue, task_id, msg, guard)


def dequeue_script() -> Script:
    """The script of :func:`dequeue_call`."""
    return _DEQUEUE


def _places(items: Sequence[Leased]) -> tuple[list[str], list[tuple[Arg, ...]]]:
    task_keys: list[str] = []
    for leased in items:
        task_keys.append(keys.task(leased.queue, leased.id))
        if leased.lock:
            task_keys.append(leased.lock)
    return task_keys, [()] * len(items)


def _counters(rdb: Lifecycle, items: Sequence[Leased], *, failed: bool) -> list[str]:
    if not items:
        return []
    queue, day = items[0].queue, keys.day(rdb._wall())  # noqa: SLF001 - a helper of the class, kept out of its way
    counters = [keys.processed_total(queue), keys.processed(queue, day)]
    return [*counters, keys.failed_total(queue), keys.failed(queue, day)] if failed else counters


def _message(leased: Leased) -> TaskMessage:
    if leased.msg is None:
        raise ValueError(f"task {leased.id!r} has no message; it can only be killed or requeued")
    return leased.msg


def _clean(text: str) -> bytes:
    return text.encode("utf-8", "replace")
