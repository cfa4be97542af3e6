"""Into a queue: the operations that store tasks, many in each call.

Answers are one a task, in the order given. At most 256 tasks go in one call (``ValueError``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct

from aioasynq import keys
from aioasynq.errors import DuplicateTaskError, NotReplicatedError, TaskError, TaskIDConflictError
from aioasynq.message import TaskMessage
from aioasynq.proto.codec import encode_task
from aioasynq.rdb.base import MAX_SHARED, Arg, Operations, at_most_a_batch
from aioasynq.rdb.pipe import OnReply, pack
from aioasynq.rdb.receipts import Receipt
from aioasynq.rdb.script import Script
from aioasynq.rdb.started import Copied, Copies, Started

_STORED = [1]  # what Redis answers when it has stored one task
STORED_ONE: StoredOrNot = [None]  #: the answer to a call of one task that was stored
REGISTER_AGAIN = 60.0  #: seconds after which a queue's name is written again, in case somebody removed it

Stored: TypeAlias = "list[TaskError | None]"  #: for each task None, or why it was not stored
#: The same of one who waits for replicas too, or sends tasks of several queues.
StoredOrNot: TypeAlias = "list[TaskError | NotReplicatedError | AloneError | None]"

_ENQUEUE = Script("enqueue")
_ENQUEUE_SEVERAL = Script("enqueue_several")
_ENQUEUE_UNIQUE = Script("enqueue_unique")
_SCHEDULE = Script("schedule")
_SCHEDULE_UNIQUE = Script("schedule_unique")
_ADD_TO_GROUP = Script("add_to_group")
_ADD_TO_GROUP_UNIQUE = Script("add_to_group_unique")


class AloneError(Exception):
    """What stands for a task that was not stored with those of other queues, and is to be enqueued with its own."""


class Unique(NamedTuple):
    """A task to enqueue, and for how many seconds it holds its lock."""

    msg: TaskMessage
    ttl: int


class Scheduled(NamedTuple):
    """A task to schedule: *when* is ``+12.500``, seconds from now, or ``1795437947.250``, unix seconds."""

    msg: TaskMessage
    when: str


class ScheduledUnique(NamedTuple):
    """The same with a lock; its *ttl* counts from now, so it includes the delay."""

    msg: TaskMessage
    when: str
    ttl: int


class Storing(Operations):
    """Operations that put new tasks into a queue."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._registered: dict[str, float] = {}
        self._unnamed: dict[str, list[tuple[_Store, Receipt, OnReply]]] = {}  # calls that wait until it is registered

    def _look_again(self) -> None:
        self._registered.clear()

    # ── into a queue ──

    async def enqueue(self, msgs: Sequence[TaskMessage], *, receipt: Receipt | None = None) -> Stored:
        """Add tasks to their queue, ready to be processed. All must name the same queue.

        Returns:
            For each task None, or the :class:`TaskIDConflictError` why it was not stored.

        Raises:
            BrokerError: Redis did not answer within the operation timeout, or refused the whole call.
        """
        return await self._store(_to_enqueue(msgs), receipt)

    async def enqueue_unique(self, items: Sequence[Unique], *, receipt: Receipt | None = None) -> Stored:
        """The same for tasks that take a lock; :class:`DuplicateTaskError` where it is held already."""
        return await self._store(_to_enqueue_unique(items), receipt)

    async def schedule(self, items: Sequence[Scheduled], *, receipt: Receipt | None = None) -> Stored:
        """Keep tasks until they are due. Answers and errors as :meth:`enqueue`."""
        return await self._store(_to_schedule(items), receipt)

    async def schedule_unique(self, items: Sequence[ScheduledUnique], *, receipt: Receipt | None = None) -> Stored:
        """The same for tasks that take a lock. Answers and errors as :meth:`enqueue_unique`."""
        return await self._store(_to_schedule_unique(items), receipt)

    async def add_to_group(self, msgs: Sequence[TaskMessage], *, receipt: Receipt | None = None) -> Stored:
        """Let tasks wait in the group that ``group_key`` names. Answers and errors as :meth:`enqueue`."""
        return await self._store(_to_add_to_group(msgs), receipt)

    async def add_to_group_unique(self, items: Sequence[Unique], *, receipt: Receipt | None = None) -> Stored:
        """The same for tasks that take a lock. Answers and errors as :meth:`enqueue_unique`."""
        return await self._store(_to_add_to_group_unique(items), receipt)

    def start_to(
        self,
        operation: str,
        items: Sequence[Any],
        receipt: Receipt,
        on_answers: Callable[[StoredOrNot | BaseException], None],
    ) -> None:
        """Do what the method *operation* does, for one who does not wait.

        It may also be ``enqueue_several``, which is ``enqueue`` for tasks of several queues, where :attr:`spans_queues`
        says that these can go together; those of a queue should be side by side. *on_answers* gets what the method
        would return or raise, a ``CancelledError`` if this RDB gave up. It must not raise.
        """
        self._start_named(_STORES[operation](items), receipt, on_answers)

    def start_one(
        self, msg: TaskMessage, receipt: Receipt, on_answers: Callable[[StoredOrNot | BaseException], None], now: float
    ) -> None:
        """The same for ``enqueue`` and one task, :data:`STORED_ONE` as the answer; *now* is by the loop's clock.

        A lone caller waits for all that is done here, so it is little.
        """
        queue, pipe = msg.queue, self._pipe
        is_named = time.monotonic() < self._registered.get(queue, 0.0)
        if not is_named or pipe is None or not pipe.is_usable or self._copies is not None:
            self.start_to("enqueue", (msg,), receipt, on_answers)
            return
        packed = _packed(msg, receipt, self.clock_argument())
        if len(packed) > MAX_SHARED:
            self.start_to("enqueue", (msg,), receipt, on_answers)
            return
        pipe.send(packed, _One(self, msg, receipt, on_answers, len(packed), now).on_reply)

    def _go_on_with(self, one: _One, reply: Any) -> None:
        """Take the way of all calls with one that did not just store its task."""
        store = _to_enqueue((one.msg,))
        places, args = self._call(store, one.receipt)
        started = Started(
            self,
            store.script,
            places,
            args,
            None,
            lambda answers: one.on_answers(_stored(store, answers)),
            one.now + self._allowance(one.size),
            shares=True,
            writes=True,
            copies=None,
        )
        started.on_reply(reply)

    @property
    def spans_queues(self) -> bool:
        """Whether a call may be about several queues: a Cluster has them on several servers."""
        return not self._is_cluster

    def _start_named(self, store: _Store, receipt: Receipt, on_answers: OnReply) -> None:
        """Start a call as soon as all its queues are named."""
        for queue in store.queues:
            waiting = self._unnamed.get(queue)
            if waiting is not None:  # behind those that came before
                waiting.append((store, receipt, on_answers))
                return
        now = time.monotonic()
        unnamed = [queue for queue in store.queues if now >= self._registered.get(queue, 0.0)]
        if unnamed:
            self._check_open(store.script.name)
            line = [(store, receipt, on_answers)]
            self._unnamed |= dict.fromkeys(unnamed, line)
            self._own(self._name_and_start(unnamed, line))
        else:
            self._start_store(store, receipt, on_answers)

    async def _name_and_start(self, queues: Sequence[str], line: Sequence[tuple[_Store, Receipt, OnReply]]) -> None:
        """Name the queues of a call, then start in their order all calls that waited for that."""
        failed: BaseException | None = None
        try:
            await self._register(*queues)
        except (Exception, asyncio.CancelledError) as exc:  # noqa: BLE001 - whoever waits judges it
            failed = exc
        for queue in queues:
            del self._unnamed[queue]
        for store, receipt, on_answers in line:
            if failed is not None:
                on_answers(failed)
                continue
            try:
                self._start_named(store, receipt, on_answers)
            except Exception as exc:  # noqa: BLE001 - as above
                on_answers(exc)

    def _start_store(self, store: _Store, receipt: Receipt, on_answers: OnReply) -> None:
        copies = self._copies
        self._start(
            store.script,
            *self._call(store, receipt),
            lambda answers: on_answers(_stored(store, answers, copies, self.address)),
            copies=copies,
        )

    async def _store(self, store: _Store, receipt: Receipt | None) -> Stored:
        await self._register(store.queues[0])
        answers = await self._run(store.script, *self._call(store, self._receipt(receipt)))
        return [*_stored(store, answers)]

    def _call(self, store: _Store, receipt: Receipt) -> tuple[tuple[str, ...], tuple[Arg, ...]]:
        return (
            (keys.receipt(store.queues[0], receipt.caller), store.place, *store.keys),
            (receipt.number, self.clock_argument(), *store.args),
        )

    async def _register(self, *queues: str) -> None:
        """Name queues among all queues.

        A call of its own, since on a Cluster that set is elsewhere. It comes first, and is repeated now and then, for
        a queue removed by another process is not registered by anybody else.
        """
        now = time.monotonic()
        unnamed = [queue for queue in queues if now >= self._registered.get(queue, 0.0)]
        if not unnamed:
            return
        which = repr(unnamed[0]) if len(unnamed) == 1 else f"{unnamed[0]!r} and {len(unnamed) - 1} more"
        await self._plain(
            f"enqueue into queue {which}",
            lambda: self.command("SADD", keys.queues(), *unnamed),  # no write of which a caller must know
        )
        self._registered |= dict.fromkeys(unnamed, now + REGISTER_AGAIN)

    def forget_queue(self, queue: str) -> None:
        """Register *queue* anew with its next task."""
        self._registered.pop(queue, None)


class _One(Struct, eq=False):
    """A call that stores one task. What it takes to make it again is made only then."""

    rdb: Storing
    msg: TaskMessage
    receipt: Receipt
    on_answers: Callable[[StoredOrNot | BaseException], None]
    size: int  #: bytes
    now: float  #: when it was made, by the loop's clock

    def on_reply(self, reply: Any) -> None:
        if reply == _STORED:
            self.on_answers(STORED_ONE)
        else:
            self.rdb._go_on_with(self, reply)  # noqa: SLF001 - a part of it


# Such calls differ in their number and in the task; what is before these is kept, and joined with them in half of the
# time that packing a call takes.


@lru_cache(maxsize=256)
def _before(queue: str, caller: str) -> tuple[bytes, bytes]:
    """How a call of *caller* that enqueues one task begins, and what is before the task's id in its key."""
    head = pack(("EVALSHA", _ENQUEUE.sha, 3, keys.receipt(queue, caller), keys.pending(queue)))
    return head.replace(b"*5\r\n", b"*10\r\n", 1), keys.task_prefix(queue).encode()


def _packed(msg: TaskMessage, receipt: Receipt, clock: str) -> bytes:
    """The call that enqueues one task, as Redis reads it."""
    head, prefix = _before(msg.queue, receipt.caller)
    number, now, task_id, data = b"%d" % receipt.number, clock.encode(), msg.id.encode(), encode_task(msg)
    size = len(task_id)
    words = (len(prefix) + size, prefix, task_id, len(number), number, len(now), now, size, task_id, len(data), data)
    return head + b"$%d\r\n%b%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % words


class _Store(NamedTuple):
    """A call that stores tasks."""

    script: Script
    queues: tuple[str, ...]
    msgs: Sequence[TaskMessage]
    place: str
    keys: list[str]
    args: list[Arg]


def _to_enqueue(msgs: Sequence[TaskMessage]) -> _Store:
    queue = _one_queue(msgs)
    prefix = keys.task_prefix(queue)
    args: list[Arg] = []
    for msg in msgs:
        args += (msg.id, encode_task(msg))
    return _Store(_ENQUEUE, (queue,), msgs, keys.pending(queue), [prefix + msg.id for msg in msgs], args)


def _to_enqueue_several(msgs: Sequence[TaskMessage]) -> _Store:
    at_most_a_batch(msgs)
    queues: list[str] = []
    counts: list[Arg] = []
    tasks: list[str] = []
    args: list[Arg] = []
    count, queue, prefix = 0, "", ""
    for msg in msgs:
        if msg.queue != queue:
            if count:
                counts.append(count)
            count, queue = 0, msg.queue
            queues.append(queue)
            prefix = keys.task_prefix(queue)
        count += 1
        tasks.append(prefix + msg.id)
        args += (msg.id, encode_task(msg))
    counts.append(count)
    first, *others = map(keys.pending, queues)
    all_args = [len(counts), *counts, *args]
    return _Store(_ENQUEUE_SEVERAL, tuple(dict.fromkeys(queues)), msgs, first, [*others, *tasks], all_args)


def _to_enqueue_unique(items: Sequence[Unique]) -> _Store:
    msgs = [item.msg for item in items]
    queue = _one_queue(msgs)
    args: list[Arg] = []
    for msg, ttl in items:
        args += (msg.id, encode_task(msg), ttl)
    return _Store(_ENQUEUE_UNIQUE, (queue,), msgs, keys.pending(queue), _with_locks(queue, msgs), args)


def _to_schedule(items: Sequence[Scheduled]) -> _Store:
    msgs = [item.msg for item in items]
    queue = _one_queue(msgs)
    args: list[Arg] = []
    for msg, when in items:
        args += (msg.id, encode_task(msg), when, msg.group_key)
    return _Store(_SCHEDULE, (queue,), msgs, keys.scheduled(queue), [keys.task(queue, msg.id) for msg in msgs], args)


def _to_schedule_unique(items: Sequence[ScheduledUnique]) -> _Store:
    msgs = [item.msg for item in items]
    queue = _one_queue(msgs)
    args: list[Arg] = []
    for msg, when, ttl in items:
        args += (msg.id, encode_task(msg), when, msg.group_key, ttl)
    return _Store(_SCHEDULE_UNIQUE, (queue,), msgs, keys.scheduled(queue), _with_locks(queue, msgs), args)


def _to_add_to_group(msgs: Sequence[TaskMessage]) -> _Store:
    queue = _one_queue(msgs)
    places: list[str] = []
    args: list[Arg] = []
    for msg in msgs:
        places += (keys.task(queue, msg.id), keys.group(queue, msg.group_key))
        args += (msg.id, encode_task(msg), msg.group_key)
    return _Store(_ADD_TO_GROUP, (queue,), msgs, keys.groups(queue), places, args)


def _to_add_to_group_unique(items: Sequence[Unique]) -> _Store:
    msgs = [item.msg for item in items]
    queue = _one_queue(msgs)
    places: list[str] = []
    args: list[Arg] = []
    for msg, ttl in items:
        places += (keys.task(queue, msg.id), keys.group(queue, msg.group_key), msg.unique_key)
        args += (msg.id, encode_task(msg), msg.group_key, ttl)
    return _Store(_ADD_TO_GROUP_UNIQUE, (queue,), msgs, keys.groups(queue), places, args)


_STORES: dict[str, Callable[[Sequence[Any]], _Store]] = {
    "enqueue": _to_enqueue,
    "enqueue_several": _to_enqueue_several,
    "enqueue_unique": _to_enqueue_unique,
    "schedule": _to_schedule,
    "schedule_unique": _to_schedule_unique,
    "add_to_group": _to_add_to_group,
    "add_to_group_unique": _to_add_to_group_unique,
}


def _stored(store: _Store, answers: Any, copies: Copies | None = None, address: str = "") -> Any:
    """What Redis answered to a call, as errors; an error of the whole call stays what it is."""
    if isinstance(answers, BaseException):
        return answers
    missing: NotReplicatedError | None = None
    if isinstance(answers, Copied) and copies is not None:
        answers, replicas = answers
        if replicas < copies.replicas:
            missing = NotReplicatedError(store.script.name, address, copies.replicas, replicas, copies.seconds)
    if missing is None and answers.count(1) == len(store.msgs):
        return [None] * len(answers)
    return [missing if answer == 1 else _refusal(answer, msg) for msg, answer in zip(store.msgs, answers, strict=True)]


def _one_queue(msgs: Sequence[TaskMessage]) -> str:
    if not msgs:
        raise ValueError("a call needs at least one task")
    at_most_a_batch(msgs)
    queue = msgs[0].queue
    if len(msgs) > 1 and any(msg.queue != queue for msg in msgs):
        raise ValueError("the tasks of one call must be of one queue")
    return queue


def _with_locks(queue: str, msgs: Sequence[TaskMessage]) -> list[str]:
    return [key for msg in msgs for key in (keys.task(queue, msg.id), msg.unique_key)]


def _refusal(answer: int, msg: TaskMessage) -> TaskError | AloneError:
    if answer == -2:
        return AloneError()
    return DuplicateTaskError(msg.queue, msg.id) if answer == -1 else TaskIDConflictError(msg.queue, msg.id)
