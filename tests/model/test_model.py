"""Any operations in any order, on a real Redis, against a plain model of what they ought to do.

After every step Redis holds what the model holds, key for key, and each task stands in exactly one place.

Time is moved by hand. Scores and ends of leases go by the clock that RDB is given. Locks and receipts go by Redis's own
clock, which cannot be moved: when the model's time reaches the end of one, it is deleted in Redis as well, as Redis
would do it; that Redis was told the right time is looked at when a lock is taken.

``make test`` plays a few programs, always the same ones. ``pytest -m long tests/model`` plays many, new ones each time;
``AIOASYNQ_MODEL_EXAMPLES`` says how many.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from aioasynq import keys
from aioasynq.errors import BrokerError, DuplicateTaskError, TaskError, TaskNotFoundError
from aioasynq.message import TaskMessage
from aioasynq.rdb import lifecycle
from aioasynq.rdb.inspection import place_of
from aioasynq.rdb.lifecycle import Completed, Failed, Killed, Leased
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.receipts import Receipt, Receipts
from aioasynq.rdb.storing import Scheduled, ScheduledUnique, Unique
from tests.model import changes_model as changes
from tests.model.queue_model import LOCKED, STORED, TAKEN, Model, StaleError, in_order
from tests.support.build import NOW
from tests.support.state import State

MAX_BYTES = 500  # of messages in one dequeue: few enough for tasks of these tests to reach it
STALE = "stale"
GARBAGE = b"\xff\xff no message"

QUEUES = ("q", "p.2")
ORDERS = st.sampled_from([("q",), ("p.2",), ("q", "p.2"), ("p.2", "q")])
CALLERS = st.sampled_from(["A", "B", "C"])
PICKS = st.lists(st.integers(0, 7), min_size=1, max_size=3)
LEASES = st.sampled_from([0.5, 15.0, 14.75, 30.0])
STEPS = st.sampled_from([0.125, 0.75, 1.0, 4.875, 10.0, 15.0, 30.0, 60.0, 3600.0, 86400.0])
WHENS = st.sampled_from(["+0.001", "+0.500", "+9.999", "+10.001", "+59.875", f"{NOW - 5:.3f}", f"{NOW + 0.5:.3f}"])
NAMES = st.sampled_from(["a", "b", "c", "d", "e", "lease=1", "ü *[{x}]:%s"])
TTLS = st.sampled_from([60, 61, 3600])


@st.composite
def messages(draw: st.DrawFn) -> list[TaskMessage]:
    """Tasks of one queue; ids and payloads are few, so that they get in each other's way."""
    queue = draw(st.sampled_from(QUEUES))
    return [
        TaskMessage(
            type="t",
            payload=draw(st.sampled_from([None, b"x", b"\x00" * 300])),
            id=name,
            queue=queue,
            retry=25,
            timeout=30,
            retention=draw(st.sampled_from([0, 10, 3600])),
        )
        for name in draw(st.lists(NAMES, min_size=1, max_size=4))
    ]


class Call(NamedTuple):
    """A writing call: how to make it, and what the model makes of it."""

    receipt: Receipt
    real: Callable[[Receipt], Awaitable[Any]]
    model: Callable[[Receipt], Any]


class Machine(RuleBasedStateMachine):
    """Plays operations on Redis and on the model."""

    loop: asyncio.AbstractEventLoop
    redis: Redis

    def __init__(self) -> None:
        super().__init__()
        self.run(self.redis.flushall())
        self.model = Model(NOW, MAX_BYTES)
        self.rdb = RDB(self.redis, clock=lambda: self.model.now)
        self.callers = {name: Receipts(name) for name in "ABC"}
        self.calls: list[Call] = []
        self.held: list[Leased] = []  #: all that was ever taken, late ones too
        self.owners = 0
        self.damaged = False  #: some message could not be read, so that nobody knew which lock was its

    def run(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(asyncio.ensure_future(work, loop=self.loop))

    def teardown(self) -> None:
        self.run(self.rdb.aclose())

    def call(self, caller: str, real: Callable[[Receipt], Awaitable[Any]], model: Callable[[Receipt], Any]) -> None:
        self.calls.append(Call(self.callers[caller].next(), real, model))
        self.play(self.calls[-1])

    def play(self, call: Call) -> None:
        try:
            expected = call.model(call.receipt)
        except StaleError:
            expected = STALE
        try:
            got = self.run(call.real(call.receipt))
        except BrokerError as exc:
            if "STALE" not in str(exc):
                raise
            got = STALE
        assert got == expected

    def some_held(self, picks: Sequence[int], *, whole: bool = False) -> list[Leased]:
        """Some of one queue, rather late than early; *whole*: of messages that can be read."""
        held = [leased for leased in self.held if leased.msg is not None or not whole]
        if not held:
            return []
        chosen = [held[-1 - pick % len(held)] for pick in picks]
        return [leased for leased in chosen if leased.queue == chosen[0].queue]

    # ── into a queue ──

    @initialize(msgs=messages())
    def begin(self, msgs: list[TaskMessage]) -> None:
        self.enqueue("A", msgs)

    @rule(caller=CALLERS, msgs=messages())
    def enqueue(self, caller: str, msgs: list[TaskMessage]) -> None:
        async def real(receipt: Receipt) -> list[int]:
            return _stored(await self.rdb.enqueue(msgs, receipt=receipt))

        self.call(caller, real, lambda receipt: self.model.store(msgs, receipt, self.model.put_pending))

    @rule(caller=CALLERS, msgs=messages(), ttl=TTLS)
    def enqueue_unique(self, caller: str, msgs: list[TaskMessage], ttl: int) -> None:
        _lock(msgs)

        async def real(receipt: Receipt) -> list[int]:
            return _stored(await self.rdb.enqueue_unique([Unique(msg, ttl) for msg in msgs], receipt=receipt))

        self.call(caller, real, lambda receipt: self.model.store(msgs, receipt, self.model.put_pending, ttl=ttl))
        self.check_locks(msgs)

    @rule(caller=CALLERS, msgs=messages(), when=WHENS, ttl=st.none() | TTLS)
    def schedule(self, caller: str, msgs: list[TaskMessage], when: str, ttl: int | None) -> None:
        if ttl is not None:
            _lock(msgs)

        async def real(receipt: Receipt) -> list[int]:
            if ttl is None:
                return _stored(await self.rdb.schedule([Scheduled(msg, when) for msg in msgs], receipt=receipt))
            items = [ScheduledUnique(msg, when, ttl) for msg in msgs]
            return _stored(await self.rdb.schedule_unique(items, receipt=receipt))

        def put(state: State, msg: TaskMessage) -> None:
            self.model.put_scheduled(state, msg, when)

        self.call(caller, real, lambda receipt: self.model.store(msgs, receipt, put, ttl=ttl or 0))
        self.check_locks(msgs)

    @rule(
        caller=CALLERS,
        msgs=messages(),
        groups=st.lists(st.sampled_from(["g", "h:1"]), min_size=4),
        ttl=st.none() | TTLS,
    )
    def add_to_group(self, caller: str, msgs: list[TaskMessage], groups: list[str], ttl: int | None) -> None:
        if ttl is not None:
            _lock(msgs)
        for msg, group in zip(msgs, groups, strict=False):
            msg.group_key = group

        async def real(receipt: Receipt) -> list[int]:
            if ttl is None:
                return _stored(await self.rdb.add_to_group(msgs, receipt=receipt))
            return _stored(await self.rdb.add_to_group_unique([Unique(msg, ttl) for msg in msgs], receipt=receipt))

        def model(receipt: Receipt) -> list[int]:
            return self.model.store(msgs, receipt, self.model.put_into_group, ttl=ttl or 0, grouped=True)

        self.call(caller, real, model)
        self.check_locks(msgs)

    def check_locks(self, msgs: Sequence[TaskMessage]) -> None:
        """Redis was told how long to keep a lock that was just taken."""
        for name in {msg.unique_key for msg in msgs}:
            lock = self.model.locks.get(name)
            if lock is not None and lock.end == self.model.now + lock.ttl:
                assert lock.ttl - 30 < self.run(self.redis.ttl(name)) <= lock.ttl

    # ── out of a queue ──

    @rule(
        caller=CALLERS,
        queues=ORDERS,
        count=st.integers(1, 4),
        lease=LEASES,
        again=st.sampled_from([False, False, True]),
    )
    def dequeue(self, caller: str, queues: tuple[str, ...], count: int, lease: float, again: bool) -> None:
        self.owners += 1
        owner = f"host:1:{caller}:{self.owners}"

        async def real(receipt: Receipt) -> Any:
            batch = await self.rdb.dequeue(*queues, count=count, owner=owner, lease=lease, receipt=receipt, again=again)
            assert not batch.strays
            self.held += [leased for leased in (*batch.tasks, *batch.broken) if leased not in self.held]
            broken = [(leased.queue, leased.id, leased.guard) for leased in batch.broken]
            return batch.tasks, broken, batch.dry, batch.paused

        def model(receipt: Receipt) -> Any:
            tasks: list[Leased] = []
            broken: list[tuple[str, str, str]] = []
            dry, paused = True, False
            for queue in queues:
                wanted = count - len(tasks) - len(broken)
                if wanted <= 0:
                    dry = False
                    break
                taken = self.model.dequeue(queue, wanted, owner, lease, receipt, again=again)
                tasks += [Leased(queue, name, msg, owner) for name, msg in taken.tasks if not isinstance(msg, bytes)]
                broken += [(queue, name, owner) for name, msg in taken.tasks if isinstance(msg, bytes)]
                dry = dry and taken.dry
                paused = paused or taken.paused
            return tasks, broken, dry, paused

        self.call(caller, real, model)

    @rule(msgs=messages(), ttl=TTLS, end=st.sampled_from(["done", "complete", "kill", "retry"]))
    def whole_life(self, msgs: list[TaskMessage], ttl: int, end: str) -> None:
        """What chance alone would seldom put in a row: stored with a lock, taken, and ended."""
        self.enqueue_unique("A", msgs, ttl)
        self.dequeue("B", (msgs[0].queue,), 4, 15.0, again=False)
        if self.some_held([0], whole=True):
            match end:
                case "done":
                    self.done("C", [0, 1])
                case "complete":
                    self.mark_as_complete("C", [0, 1], b"r")
                case "kill":
                    self.kill("C", [0, 1], 2, 30)
                case _:
                    self.retry("C", [0, 1], 1.0, is_failure=True, recovered=None)

    @rule(msgs=messages(), by_go=st.booleans(), late=st.sampled_from(["done", "extend", "requeue", "result"]))
    def takeover(self, msgs: list[TaskMessage], by_go: bool, late: str) -> None:
        """Taken, lost, taken by somebody else, and then the first owner calls."""
        queue = msgs[0].queue
        self.enqueue("A", msgs)
        self.dequeue("B", (queue,), 1, 15.0, again=False)
        lost = self.some_held([0], whole=True)
        self.restore_unfinished((queue,), force=True, limit=1000)
        if by_go:
            self.go_dequeue(queue)
        else:
            self.dequeue("B", (queue,), 1, 30.0, again=False)
        self.held = [leased for leased in self.held if leased not in lost] + lost
        match late if lost else "":
            case "done":
                self.done("C", [0])
            case "extend":
                self.extend_lease([0], 15.0)
            case "requeue":
                self.requeue("C", [0])
            case "result":
                self.write_result(0, anybody=False)
            case _:
                pass

    @rule(msgs=messages())
    def back_into_its_group(self, msgs: list[TaskMessage]) -> None:
        """A task of a group that is run alone, fails, and is due again."""
        self.add_to_group("A", msgs, ["g"] * 4, None)
        if self._one(_grouped, 0) is not None:
            self.run_grouped(0)
        self.dequeue("B", QUEUES, 4, 15.0, again=False)
        if self.some_held([0], whole=True):
            self.retry("C", [0], 0.0, is_failure=False, recovered=None)
        self.check_and_enqueue(QUEUES, 256)

    @rule(queue=st.sampled_from(QUEUES))
    def pause(self, queue: str) -> None:
        state = self.model.queue(queue)
        state.paused = not state.paused
        self.run(self.redis.set(keys.paused(queue), 1) if state.paused else self.redis.delete(keys.paused(queue)))

    # ── ends of a task ──

    @precondition(lambda self: self.held)
    @rule(caller=CALLERS, picks=PICKS)
    def done(self, caller: str, picks: list[int]) -> None:
        items = self.some_held(picks)

        async def real(receipt: Receipt) -> list[bool]:
            return await self.rdb.done(items, receipt=receipt)

        self.call(caller, real, lambda receipt: self.model.done(items, receipt))

    @precondition(lambda self: self.some_held([0], whole=True))
    @rule(caller=CALLERS, picks=PICKS, result=st.sampled_from([None, b"", b"r"]))
    def mark_as_complete(self, caller: str, picks: list[int], result: bytes | None) -> None:
        items = [Completed(leased, result) for leased in self.some_held(picks, whole=True)]

        async def real(receipt: Receipt) -> list[bool]:
            return await self.rdb.mark_as_complete(items, receipt=receipt)

        self.call(caller, real, lambda receipt: self.model.mark_as_complete(items, receipt))

    @precondition(lambda self: self.held)
    @rule(caller=CALLERS, picks=PICKS)
    def requeue(self, caller: str, picks: list[int]) -> None:
        items = self.some_held(picks)

        async def real(receipt: Receipt) -> list[bool]:
            return await self.rdb.requeue(items, receipt=receipt)

        self.call(caller, real, lambda receipt: self.model.requeue(items, receipt))

    @precondition(lambda self: self.some_held([0], whole=True))
    @rule(
        caller=CALLERS,
        picks=PICKS,
        delay=st.sampled_from([0.0, 1.0, 9.5, 33.25]),
        is_failure=st.booleans(),
        recovered=st.sampled_from([None, None, 1, 2]),
    )
    def retry(self, caller: str, picks: list[int], delay: float, is_failure: bool, recovered: int | None) -> None:
        items = [
            Failed(leased, delay, "it broke", is_failure, recovered) for leased in self.some_held(picks, whole=True)
        ]

        async def real(receipt: Receipt) -> list[bool]:
            return await self.rdb.retry(items, receipt=receipt)

        self.call(caller, real, lambda receipt: self.model.retry(items, receipt))

    @precondition(lambda self: self.held)
    @rule(caller=CALLERS, picks=PICKS, size=st.sampled_from([1, 2, 10_000]), age=st.sampled_from([30, 90 * 86400]))
    def kill(self, caller: str, picks: list[int], size: int, age: int) -> None:
        items = [Killed(leased, "it broke for good") for leased in self.some_held(picks)]

        async def real(receipt: Receipt) -> list[bool]:
            return await self.rdb.kill(items, receipt=receipt, max_size=size, max_age=age)

        self.call(caller, real, lambda receipt: self.model.kill(items, receipt, max_size=size, max_age=age))

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 7), anybody=st.booleans())
    def write_result(self, pick: int, anybody: bool) -> None:
        [leased] = self.some_held([pick])
        owner = "" if anybody or leased.guard.startswith("lease=") else leased.guard

        async def write() -> bool:
            try:
                return await self.rdb.write_result(leased.queue, leased.id, b"half", owner=owner) == 4
            except TaskNotFoundError:
                return False

        assert self.run(write()) == self.model.write_result(leased.queue, leased.id, b"half", owner)

    # ── calls that come late, or twice ──

    @rule(back=st.integers(0, 9))
    def repeat(self, back: int) -> None:
        self.play(self.calls[-1 - back % len(self.calls)])

    # ── upkeep ──

    @rule(queues=ORDERS, limit=st.sampled_from([1, 2, 256]))
    def check_and_enqueue(self, queues: tuple[str, ...], limit: int) -> None:
        forwarded = self.run(self.rdb.check_and_enqueue(*queues, limit=limit))
        assert forwarded == (self.model.check_and_enqueue(queues), [])

    @rule(queues=ORDERS, force=st.sampled_from([False, False, True]), limit=st.sampled_from([1, 2, 1000]))
    def restore_unfinished(self, queues: tuple[str, ...], force: bool, limit: int) -> None:
        restored = self.run(self.rdb.restore_unfinished(*queues, force=force, limit=limit))
        assert restored == self.model.restore_unfinished(queues, force=force)

    @precondition(lambda self: self.held)
    @rule(picks=PICKS, lease=LEASES)
    def extend_lease(self, picks: list[int], lease: float) -> None:
        items = self.some_held(picks)
        assert self.run(self.rdb.extend_lease(items, lease=lease)) == self.model.extend_lease(items, lease)

    @rule(queues=ORDERS, patience=st.sampled_from([(0.0, 0.0), (2.0, 30.0)]), limit=st.sampled_from([1, 256]))
    def list_lease_expired(self, queues: tuple[str, ...], patience: tuple[float, float], limit: int) -> None:
        ours, theirs = patience
        found = self.run(self.rdb.list_lease_expired(*queues, ours=ours, theirs=theirs, limit=limit))
        assert [
            (leased.queue, leased.id, float(leased.guard.removeprefix("lease=")), owner, recovered)
            for leased, owner, recovered in found
        ] == self.model.list_lease_expired(queues, ours=ours, theirs=theirs, limit=limit)
        self.held += [expired.leased for expired in found if expired.leased not in self.held]

    @rule(queues=ORDERS, caller=CALLERS, limit=st.sampled_from([1, 256]))
    def list_owned(self, queues: tuple[str, ...], caller: str, limit: int) -> None:
        found = self.run(self.rdb.list_owned(*queues, server=f"host:1:{caller}", limit=limit))
        listed = [(leased.queue, leased.id, leased.guard, recovered) for leased, _, recovered in found]
        assert sorted(listed) == sorted(self.model.list_owned(queues, f"host:1:{caller}"))

    @rule(queues=ORDERS)
    def repair(self, queues: tuple[str, ...]) -> None:
        repaired = self.run(self.rdb.repair(*queues))
        assert repaired.strays == []
        assert sorted(repaired.adopted) == sorted(self.model.repair(queues))

    @rule(queues=ORDERS, limit=st.sampled_from([1, 100]))
    def delete_expired_completed(self, queues: tuple[str, ...], limit: int) -> None:
        deleted = self.run(self.rdb.delete_expired_completed(*queues, limit=limit))
        assert deleted == self.model.delete_expired_completed(queues)

    @rule(seconds=STEPS)
    def time_passes(self, seconds: float) -> None:
        locks, receipts = self.model.move(seconds)
        ended = [*locks, *(keys.receipt(*caller) for caller in receipts)]
        if ended:
            self.run(self.redis.delete(*ended))

    # ── those who look after tasks ──

    def change(self, real: Awaitable[Any], answers: Sequence[changes.Answer]) -> None:
        """Compare why tasks were refused."""
        assert [None if refusal is None else type(refusal) for refusal in self.run(real)] == answers

    @rule(
        queue=st.sampled_from(QUEUES),
        verb=st.sampled_from(["run", "archive", "delete"]),
        ids=st.lists(NAMES, min_size=1, max_size=4, unique=True),
        place=st.sampled_from([None, None, "pending", "scheduled", "retry", "archived", "completed"]),
        size=st.sampled_from([1, 2, 10_000]),
    )
    def run_archive_delete(self, queue: str, verb: str, ids: list[str], place: str | None, size: int) -> None:
        where = {"place": place_of(queue, place)[0]} if place else {}
        limit = {"max_size": size} if verb == "archive" else {}
        real = getattr(self.rdb, f"{verb}_tasks")(queue, ids, **where, **limit)
        self.change(real, changes.change(self.model, verb, queue, ids, place, size))

    @rule(queue=st.sampled_from(QUEUES), name=NAMES, when=WHENS)
    def reschedule(self, queue: str, name: str, when: str) -> None:
        answer = changes.reschedule(self.model, queue, name, when)
        self.change(_listed(self.rdb.reschedule_task(queue, name, when)), [answer])

    @rule(queue=st.sampled_from(QUEUES), name=NAMES)
    def edit(self, queue: str, name: str) -> None:
        answer = changes.update_payload(self.model, queue, name, b"new")
        self.change(_listed(self.rdb.update_task_payload(queue, name, b"new")), [answer])

    @rule(way=st.permutations(QUEUES), name=NAMES)
    def move(self, way: Sequence[str], name: str) -> None:
        answer = changes.move(self.model, way[0], name, way[1])
        self.change(_listed(self.rdb.move_task(way[0], name, way[1])), [answer])

    @rule(queue=st.sampled_from(QUEUES), force=st.booleans())
    def delete_queue(self, queue: str, force: bool) -> None:
        if not self.model.queue(queue).tasks:
            return  # is it known? That is not in the model
        expected = changes.delete_queue(self.model, queue, force=force)
        with pytest.raises(expected) if expected else nullcontext():
            self.run(self.rdb.delete_queue(queue, force=force))

    @precondition(lambda self: not self.damaged)
    @rule(queue=st.sampled_from(QUEUES))
    def nothing_stands_nowhere(self, queue: str) -> None:
        assert self.run(self.rdb.sweep(queue, dry=True)) == 0
        assert self.run(self.rdb.unlisted_groups(queue)) == []

    # ── what others do to our queues ──

    def _one(self, ids: Callable[[State], Sequence[str]], pick: int) -> tuple[str, str] | None:
        found = [(queue, name) for queue in QUEUES for name in ids(self.model.queue(queue))]
        return found[pick % len(found)] if found else None

    @rule(queue=st.sampled_from(QUEUES))
    def go_dequeue(self, queue: str) -> None:
        name = self.model.go_dequeue(queue)
        if name is not None:
            state = self.model.queue(queue)
            self.run(self.redis.lmove(keys.pending(queue), keys.active(queue), "RIGHT", "LEFT"))
            self.run(self.redis.hset(keys.task(queue, name), "state", "active"))
            self.run(self.redis.hdel(keys.task(queue, name), "pending_since"))
            self.run(self.redis.zadd(keys.lease(queue), {name: state.lease[name]}))

    @precondition(lambda self: self._one(lambda state: state.active, 0))
    @rule(pick=st.integers(0, 7))
    def go_retry(self, pick: int) -> None:
        found = self._one(lambda state: state.active, pick)
        assert found is not None
        queue, name = found
        self.model.go_retry(queue, name)
        self.run(self.redis.lrem(keys.active(queue), 0, name))
        self.run(self.redis.zrem(keys.lease(queue), name))
        self.run(self.redis.zadd(keys.retry(queue), self.model.queue(queue).retry))
        self.run(self.redis.hset(keys.task(queue, name), "state", "retry"))

    @precondition(lambda self: self._one(_grouped, 0))
    @rule(pick=st.integers(0, 7))
    def run_grouped(self, pick: int) -> None:
        found = self._one(_grouped, pick)
        assert found is not None
        queue, name = found
        group = self.model.hash_of(self.model.queue(queue), name)["group"]
        self.model.run_grouped(queue, name)
        self.run(self.redis.zrem(keys.group(queue, group), name))
        if group not in (self.model.queue(queue).group_names or ()):
            self.run(self.redis.srem(keys.groups(queue), group))
        self.run(self.redis.lpush(keys.pending(queue), name))
        self.run(self.redis.hset(keys.task(queue, name), "state", "pending"))

    @precondition(lambda self: self._one(lambda state: state.active, 0))
    @rule(pick=st.integers(0, 7), lease=st.booleans())
    def lose_half(self, pick: int, lease: bool) -> None:
        """An active task without a lease, or a lease of a task that is not in the list: what repair is for."""
        found = self._one(lambda state: [name for name in state.active if name in state.lease], pick)
        if found is None:
            return
        queue, name = found
        state = self.model.queue(queue)
        if lease:
            del state.lease[name]
            self.run(self.redis.zrem(keys.lease(queue), name))
        else:
            state.active.remove(name)
            self.run(self.redis.lrem(keys.active(queue), 0, name))

    @precondition(lambda self: self._one(lambda state: state.pending, 0))
    @rule(pick=st.integers(0, 7))
    def damage(self, pick: int) -> None:
        found = self._one(lambda state: state.pending, pick)
        assert found is not None
        queue, name = found
        self.damaged = True
        self.model.hash_of(self.model.queue(queue), name)["msg"] = GARBAGE
        self.run(self.redis.hset(keys.task(queue, name), "msg", GARBAGE))

    # ── what always holds ──

    @invariant()
    def redis_holds_what_the_model_holds(self) -> None:
        found: dict[str, State] = self.run(State.read_all(self.redis))
        assert found == self.model.states()
        for queue, state in found.items():
            _assert_sound(queue, state)
            if not self.damaged:
                _assert_locks(state)
        named = {name.decode() for name in self.run(self.redis.smembers(keys.queues()))}
        assert {queue for queue, state in found.items() if state.tasks} <= named


def _assert_sound(queue: str, state: State) -> None:
    """Said of Redis alone, so that a mistake in the model is no excuse."""
    places: dict[str, Sequence[str]] = {
        "pending": state.pending,
        "active": [*state.active, *(name for name in state.lease if name not in state.active)],
        "aggregating": _grouped(state),
        **{name: list(getattr(state, name)) for name in ("scheduled", "retry", "archived", "completed")},
    }
    standing = [(name, place) for place, ids in places.items() for name in ids]
    assert sorted(name for name, _ in standing) == sorted(state.tasks)
    for name, place in standing:
        content = state.tasks[name]
        assert content is not None
        assert content["state"] == place
        msg = content["msg"]
        assert msg == GARBAGE or (msg.id, msg.queue) == (name, queue)


def _assert_locks(state: State) -> None:
    """A lock is held by a task that knows of it, and has not ended."""
    for lock, name in state.locks.items():
        holder = state.tasks[name]
        assert holder is not None
        assert holder["msg"].unique_key == lock
        assert holder["state"] not in {"archived", "completed"}


async def _listed(answer: Awaitable[TaskError | None]) -> list[TaskError | None]:
    return [await answer]


def _grouped(state: State) -> list[str]:
    return [name for members in state.groups.values() for name in in_order(members)]


def _lock(msgs: Sequence[TaskMessage]) -> None:
    for msg in msgs:
        msg.unique_key = keys.unique(msg.queue, msg.type, msg.payload)


def _stored(answers: Sequence[TaskError | None]) -> list[int]:
    return [
        STORED if answer is None else LOCKED if isinstance(answer, DuplicateTaskError) else TAKEN for answer in answers
    ]


@pytest.fixture
def play(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[settings], None]]:
    """``play(settings)``: run the machine on one event loop and one connection to an empty Redis."""
    monkeypatch.setattr(lifecycle, "MAX_BATCH_BYTES", MAX_BYTES)
    with asyncio.Runner() as runner:
        redis = Redis.from_url(redis_url)
        ready = type("Machine", (Machine,), {"loop": runner.get_loop(), "redis": redis})
        try:
            yield lambda how: run_state_machine_as_test(ready, settings=how)
        finally:
            runner.run(redis.aclose())


COMMON = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    phases=set(Phase) - {Phase.explain},  # it traces every line, and takes longer than all the rest
    print_blob=True,
)


def test_operations_do_what_the_model_does(play):
    play(settings(COMMON, max_examples=30, stateful_step_count=40, derandomize=True, database=None))


@pytest.mark.long
@pytest.mark.timeout(0)
def test_operations_do_what_the_model_does_at_length(play):
    examples = int(os.environ.get("AIOASYNQ_MODEL_EXAMPLES", "1500"))
    play(settings(COMMON, max_examples=examples, stateful_step_count=80))
