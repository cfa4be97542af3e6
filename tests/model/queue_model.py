"""What the operations on Redis ought to do, on plain values.

A queue is a ``State``, as the tables of states use it, so that what Redis holds can be compared with it as a whole.
Nothing here knows Lua, keys or connections. Locks and receipts, which Redis forgets by itself, carry the moment when
that is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from msgspec import structs

from aioasynq import keys
from aioasynq.message import TaskMessage
from aioasynq.proto.codec import encode_task
from aioasynq.rdb.lifecycle import Completed, Failed, Killed, Leased
from aioasynq.rdb.receipts import Receipt
from tests.support.state import State

RECEIPT_LIFE = 60.0  # seconds
STORING_LIFE = 120.0  # of a caller that stores tasks, from its first call, or the last that was refused a task
STORED, TAKEN, LOCKED = 1, 0, -1  #: answers for one task that was to be stored


class StaleError(Exception):
    """A call that its caller has overtaken."""


class Lock(NamedTuple):
    holder: str
    ttl: int
    end: float


class Remembered(NamedTuple):
    number: int
    answer: Any
    end: float
    counts: bool = False  #: only the number is kept, so that the next one is counted


class Taken(NamedTuple):
    """What a dequeue brings of one queue."""

    tasks: list[tuple[str, TaskMessage | bytes]]
    dry: bool
    paused: bool


def score(seconds: float) -> float:
    """A moment in milliseconds, never early."""
    return float(f"{math.ceil(seconds * 1000 - 0.001) / 1000:.3f}")


def lease_end(now: float, seconds: float) -> float:
    """Ours are never whole seconds."""
    moment = score(now + seconds)
    return float(f"{moment + 0.001:.3f}") if moment % 1 == 0 else moment


def due_score(moment: float, now: float) -> float:
    """Far moments are whole seconds."""
    return score(moment) if moment - now < 10 else float(math.ceil(moment - 0.001))


@dataclass
class Model:
    """All queues, at a moment that is moved by hand."""

    now: float
    max_bytes: int  #: of messages in one dequeue
    queues: dict[str, State] = field(default_factory=dict)
    locks: dict[str, Lock] = field(default_factory=dict)
    receipts: dict[tuple[str, str], Remembered] = field(default_factory=dict)

    def queue(self, name: str) -> State:
        return self.queues.setdefault(name, State(group_names=set()))

    def states(self) -> dict[str, State]:
        """What Redis should hold, by queue."""
        found: dict[str, State] = {}
        for name, state in self.queues.items():
            prefix = keys.prefix(name)
            locks = {lock: held.holder for lock, held in self.locks.items() if lock.startswith(prefix)}
            groups = {group: members for group, members in state.groups.items() if members}
            found[name] = replace(state, locks=locks, groups=groups)
        return {name: state for name, state in found.items() if state != State(group_names=set())}

    def move(self, seconds: float) -> tuple[list[str], list[tuple[str, str]]]:
        """Let time pass; the locks and the receipts that end."""
        self.now += seconds
        locks = [name for name, lock in self.locks.items() if lock.end <= self.now]
        receipts = [caller for caller, kept in self.receipts.items() if kept.end <= self.now]
        for name in locks:
            del self.locks[name]
        for caller in receipts:
            del self.receipts[caller]
        return locks, receipts

    # ── receipts ──

    def once(self, queue: str, receipt: Receipt, work: Callable[[], tuple[Any, bool]]) -> Any:
        """The answer kept under *receipt*; without one that of *work*, which also says whether it is to be kept."""
        kept = self.receipts.get((queue, receipt.caller))
        if kept is not None and kept.number == receipt.number:
            return kept.answer
        if kept is not None and kept.number > receipt.number:
            raise StaleError
        answer, keep = work()
        if keep:
            self.receipts[queue, receipt.caller] = Remembered(receipt.number, answer, self.now + RECEIPT_LIFE)
        return answer

    # ── into a queue ──

    def store(
        self,
        msgs: Sequence[TaskMessage],
        receipt: Receipt,
        put: Callable[[State, TaskMessage], None],
        *,
        ttl: int = 0,
        grouped: bool = False,
    ) -> list[int]:
        queue = msgs[0].queue
        before = self.receipts.get((queue, receipt.caller))
        answers: list[int] = self.once(
            queue, receipt, lambda: ([self._store(queue, msg, put, ttl, grouped) for msg in msgs], True)
        )
        kept = self.receipts[queue, receipt.caller]
        if kept is before and not kept.counts:  # answers are kept, and were given again
            self.receipts[queue, receipt.caller] = kept._replace(end=self.now + STORING_LIFE)
        elif kept is not before:
            counts_on = before is not None and before.counts and before.number == receipt.number - 1
            counts = answers == [STORED] * len(msgs)
            end = before.end if before is not None and counts_on and counts else self.now + STORING_LIFE
            self.receipts[queue, receipt.caller] = kept._replace(end=end, counts=counts)
        return answers

    def _store(
        self, queue: str, msg: TaskMessage, put: Callable[[State, TaskMessage], None], ttl: int, grouped: bool
    ) -> int:
        state = self.queue(queue)
        if ttl and msg.unique_key in self.locks:
            return LOCKED
        if msg.id in state.tasks:
            return TAKEN
        if ttl:
            self.locks[msg.unique_key] = Lock(msg.id, ttl, self.now + ttl)
        state.tasks[msg.id] = {"msg": msg}
        if ttl and not grouped:
            self.hash_of(state, msg.id)["unique_key"] = msg.unique_key
        put(state, msg)
        return STORED

    def put_pending(self, state: State, msg: TaskMessage) -> None:
        state.pending.append(msg.id)
        self.hash_of(state, msg.id).update(state="pending", pending_since=self._since())

    def put_scheduled(self, state: State, msg: TaskMessage, when: str) -> None:
        moment = self.now + float(when[1:]) if when.startswith("+") else float(when)
        state.scheduled[msg.id] = due_score(moment, self.now)
        self.hash_of(state, msg.id).update(state="scheduled")
        if msg.group_key:
            self.hash_of(state, msg.id).update(join=msg.group_key)

    def put_into_group(self, state: State, msg: TaskMessage) -> None:
        self._join(state, msg.id, msg.group_key)
        self.hash_of(state, msg.id).update(state="aggregating", group=msg.group_key)

    def _join(self, state: State, task_id: str, group: str) -> None:
        state.groups.setdefault(group, {})[task_id] = float(math.floor(self.now))
        assert state.group_names is not None
        state.group_names.add(group)

    def _since(self) -> str:
        return f"{self.now * 1e9:.0f}"

    @staticmethod
    def hash_of(state: State, task_id: str) -> dict[str, Any]:
        content = state.tasks[task_id]
        assert content is not None
        return content

    # ── out of a queue ──

    def dequeue(self, queue: str, count: int, owner: str, lease: float, receipt: Receipt, *, again: bool) -> Taken:
        state = self.queue(queue)
        kept = self.receipts.get((queue, receipt.caller))
        if kept is not None and kept.number == receipt.number:
            ids, dry, paused = kept.answer
            held = [task_id for task_id in ids if self.mine(state, task_id, owner)]
            return Taken([(task_id, self.hash_of(state, task_id)["msg"]) for task_id in held], dry, paused)

        def take() -> tuple[Any, bool]:
            if state.paused:
                return ([], True, True), again
            ids: list[str] = []
            size, dry = 0, len(state.pending) < count
            for task_id in state.pending[:count]:
                msg = self.hash_of(state, task_id)["msg"]
                size += len(msg if isinstance(msg, bytes) else encode_task(msg))
                if ids and size > self.max_bytes:
                    dry = False
                    break
                ids.append(task_id)
            for task_id in ids:
                state.pending.remove(task_id)
                state.active.append(task_id)
                state.lease[task_id] = lease_end(self.now, lease)
                self.hash_of(state, task_id).update(state="active", owner=owner)
                self.hash_of(state, task_id).pop("pending_since", None)
            return (ids, dry, False), again or bool(ids)

        ids, dry, paused = self.once(queue, receipt, take)
        return Taken([(task_id, self.hash_of(state, task_id)["msg"]) for task_id in ids], dry, paused)

    # ── ends of a task ──

    def mine(self, state: State, task_id: str, guard: str) -> bool:
        """Go's leases are whole seconds: a task that it took is nobody's of us, whatever the hash says."""
        lease = state.lease.get(task_id)
        if lease is None:
            return False
        if guard.startswith("lease="):
            return lease == float(guard[6:])
        return lease % 1 != 0 and self.hash_of(state, task_id).get("owner") == guard

    def settle(
        self,
        items: Sequence[Any],
        receipt: Receipt,
        end: Callable[[State, Any], None],
        after: Callable[[State, list[Any]], None] = lambda _state, _items: None,
        *,
        backwards: bool = False,
    ) -> list[int]:
        """Take each task that is still held out of ``active``, and let *end* say where it goes."""
        leases = [item if isinstance(item, Leased) else item.leased for item in items]
        queue = leases[0].queue
        state = self.queue(queue)

        def work() -> tuple[Any, bool]:
            answers = [0] * len(items)
            settled: list[Any] = []
            for n in reversed(range(len(items))) if backwards else range(len(items)):
                if not self.mine(state, leases[n].id, leases[n].guard):
                    continue
                self._leave_active(state, leases[n].id)
                end(state, items[n])
                settled.append(items[n])
                answers[n] = 1
            after(state, settled)
            return answers, bool(settled)

        return self.once(queue, receipt, work)  # type: ignore[no-any-return]

    def done(self, items: Sequence[Leased], receipt: Receipt) -> list[int]:
        def end(state: State, leased: Leased) -> None:
            del state.tasks[leased.id]
            self.unlock(leased.lock, leased.id)

        return self.settle(items, receipt, end, lambda state, ended: self._count(state, len(ended)))

    def mark_as_complete(self, items: Sequence[Completed], receipt: Receipt) -> list[int]:
        def end(state: State, item: Completed) -> None:
            assert item.leased.msg is not None
            msg = structs.replace(item.leased.msg, completed_at=int(self.now))
            state.completed[msg.id] = math.floor(self.now) + msg.retention
            self._rewrite(state, msg.id, "completed", msg, "recovered")
            if item.result is not None:
                self.hash_of(state, msg.id)["result"] = item.result.decode()
            self.unlock(msg.unique_key, msg.id)

        return self.settle(items, receipt, end, lambda state, ended: self._count(state, len(ended)))

    def requeue(self, items: Sequence[Leased], receipt: Receipt) -> list[int]:
        def end(state: State, leased: Leased) -> None:
            state.pending.insert(0, leased.id)
            self._rewrite(state, leased.id, "pending")

        return self.settle(items, receipt, end, backwards=True)

    def retry(self, items: Sequence[Failed], receipt: Receipt) -> list[int]:
        def end(state: State, item: Failed) -> None:
            old = item.leased.msg
            assert old is not None
            msg = structs.replace(
                old, retried=old.retried + item.is_failure, error_msg=item.error, last_failed_at=int(self.now)
            )
            state.retry[msg.id] = due_score(self.now + item.delay, self.now)
            self._rewrite(state, msg.id, "retry", msg)
            if item.recovered is not None:
                self.hash_of(state, msg.id)["recovered"] = str(item.recovered)

        def after(state: State, ended: list[Failed]) -> None:
            failures = sum(item.is_failure for item in ended)
            self._count(state, failures, failures)

        return self.settle(items, receipt, end, after)

    def kill(self, items: Sequence[Killed], receipt: Receipt, *, max_size: int, max_age: int) -> list[int]:
        def end(state: State, item: Killed) -> None:
            task_id, msg = item.leased.id, item.leased.msg
            if msg is not None:
                msg = structs.replace(msg, error_msg=item.error, last_failed_at=int(self.now))
            state.archived[task_id] = float(math.floor(self.now))
            self._rewrite(state, task_id, "archived", msg, "recovered")
            content = self.hash_of(state, task_id)
            if msg is None:
                content["error"] = item.error
            self.unlock(item.leased.lock or content.get("unique_key", ""), task_id)

        def after(state: State, ended: list[Killed]) -> None:
            if not ended:
                return
            self._count(state, len(ended), len(ended))
            trim(self, state, max_size, max_age)

        return self.settle(items, receipt, end, after)

    def write_result(self, queue: str, task_id: str, data: bytes, owner: str) -> bool:
        state = self.queue(queue)
        if task_id not in state.tasks or (owner and not self.mine(state, task_id, owner)):
            return False
        self.hash_of(state, task_id)["result"] = data.decode()
        return True

    def _leave_active(self, state: State, task_id: str) -> None:
        state.active = [other for other in state.active if other != task_id]
        state.lease.pop(task_id, None)

    def _rewrite(self, state: State, task_id: str, place: str, msg: TaskMessage | None = None, *gone: str) -> None:
        content = self.hash_of(state, task_id)
        content["state"] = place
        if msg is not None:
            content["msg"] = msg
        for name in ("owner", *gone):
            content.pop(name, None)

    def unlock(self, lock: str, task_id: str) -> None:
        if lock in self.locks and self.locks[lock].holder == task_id:
            del self.locks[lock]

    def _count(self, state: State, processed: int, failed: int = 0) -> None:
        for name, n in (("processed", processed), ("failed", failed)):
            for counter in (name, f"{name}:{keys.day(self.now)}"):
                if n:
                    state.counters[counter] = state.counters.get(counter, 0) + n

    # ── upkeep ──

    def check_and_enqueue(self, queues: Iterable[str]) -> int:
        moved = 0
        for name in queues:
            state = self.queue(name)
            for source in (state.scheduled, state.retry):
                for task_id in in_order(source):
                    if source[task_id] > self.now:
                        continue
                    del source[task_id]
                    moved += 1
                    content = self.hash_of(state, task_id)
                    joins = content.get("join") if source is state.scheduled else None
                    if group := content.get("group") or joins:
                        self._join(state, task_id, group)
                        content.update(state="aggregating", group=group)
                        content.pop("join", None)
                    else:
                        state.pending.append(task_id)
                        content.update(state="pending", pending_since=self._since())
        return moved

    def restore_unfinished(self, queues: Iterable[str], *, force: bool) -> int:
        total = 0
        for name in queues:
            state = self.queue(name)
            back = [task_id for task_id in state.active if force or state.lease.get(task_id, 0) <= self.now]
            for task_id in back:
                self._leave_active(state, task_id)
                self._rewrite(state, task_id, "pending")
            state.pending[:0] = back
            total += len(back)
        return total

    def extend_lease(self, items: Sequence[Leased], lease: float) -> list[bool]:
        state = self.queue(items[0].queue)
        answers: list[bool] = []
        for leased in items:
            answers.append(self.mine(state, leased.id, leased.guard))
            if answers[-1]:
                state.lease[leased.id] = lease_end(self.now, lease)
        return answers

    def list_lease_expired(
        self, queues: Iterable[str], *, ours: float, theirs: float, limit: int
    ) -> list[tuple[str, str, float, str, int]]:
        """Queue, id, lease, who held it, how often it was recovered; who is empty where Go took it."""
        expired: list[tuple[str, str, float, str, int]] = []
        for name in queues:
            state = self.queue(name)
            found: list[tuple[str, str, float, str, int]] = []
            for task_id in in_order(state.lease):
                lease = state.lease[task_id]
                is_ours = lease % 1 != 0
                if lease <= self.now - (ours if is_ours else theirs):
                    content = self.hash_of(state, task_id)
                    owner = content.get("owner", "") if is_ours else ""
                    found.append((name, task_id, lease, owner, int(content.get("recovered", 0))))
            expired += found[:limit]
        return expired

    def list_owned(self, queues: Iterable[str], server: str) -> list[tuple[str, str, str, int]]:
        """Queue, id, owner, how often recovered, of what a server of ours holds."""
        found: list[tuple[str, str, str, int]] = []
        for name in queues:
            state = self.queue(name)
            for task_id in state.lease:
                content = self.hash_of(state, task_id)
                owner = content.get("owner", "")
                if owner.startswith(f"{server}:") and self.mine(state, task_id, owner):
                    found.append((name, task_id, owner, int(content.get("recovered", 0))))
        return found

    def repair(self, queues: Iterable[str]) -> list[tuple[str, str]]:
        """The ids that were adopted."""
        adopted: list[tuple[str, str]] = []
        for name in queues:
            state = self.queue(name)
            for task_id in reversed(state.active):
                if task_id not in state.lease:
                    state.lease[task_id] = lease_end(self.now, 0)
                    adopted.append((name, task_id))
            for task_id in in_order(state.lease):
                if task_id not in state.active and state.lease[task_id] <= self.now:
                    state.active.append(task_id)
                    adopted.append((name, task_id))
        return adopted

    def delete_expired_completed(self, queues: Iterable[str]) -> int:
        total = 0
        for name in queues:
            state = self.queue(name)
            for task_id in [task_id for task_id, end in state.completed.items() if end <= self.now]:
                del state.completed[task_id], state.tasks[task_id]
                total += 1
        return total

    # ── what others do to our queues ──

    def go_dequeue(self, queue: str) -> str | None:
        """Go takes the next task, and lets the owner in its hash stand."""
        state = self.queue(queue)
        if not state.pending or state.paused:
            return None
        task_id = state.pending.pop(0)
        state.active.append(task_id)
        state.lease[task_id] = float(math.floor(self.now) + 30)
        self.hash_of(state, task_id).update(state="active")
        self.hash_of(state, task_id).pop("pending_since", None)
        return task_id

    def go_retry(self, queue: str, task_id: str) -> None:
        """Go puts an active task into retry, ours too when it recovers it."""
        state = self.queue(queue)
        self._leave_active(state, task_id)
        state.retry[task_id] = float(math.floor(self.now) + 20)
        self.hash_of(state, task_id).update(state="retry")

    def run_grouped(self, queue: str, task_id: str) -> None:
        """Somebody asks for a task of a group to be run alone."""
        state = self.queue(queue)
        group = self.hash_of(state, task_id)["group"]
        del state.groups[group][task_id]
        if not state.groups[group]:
            assert state.group_names is not None
            state.group_names.discard(group)
        state.pending.append(task_id)
        self.hash_of(state, task_id).update(state="pending")


def trim(model: Model, state: State, max_size: int, max_age: int) -> None:
    """Let go of what an archive cannot hold."""
    by_age = in_order(state.archived)
    old = [task_id for task_id in by_age if state.archived[task_id] <= math.floor(model.now) - max_age]
    young = by_age[len(old) :]
    for task_id in old + young[: max(0, len(young) - max_size)]:
        model.unlock(model.hash_of(state, task_id).get("unique_key", ""), task_id)
        del state.archived[task_id], state.tasks[task_id]


def in_order(scores: dict[str, float]) -> list[str]:
    """The ids as a sorted set has them: by score, then by their bytes."""
    return sorted(scores, key=lambda task_id: (scores[task_id], task_id.encode()))
