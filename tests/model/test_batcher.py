"""Whatever is answered to whichever call, each caller of a Batcher is answered once, and truly.

Redis is a list of calls here, which the test answers in an order and in a way that hypothesis chooses.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from aioasynq.client import batcher
from aioasynq.client.batcher import CALLS, Answer, Answers, Batcher
from aioasynq.compose import Composed
from aioasynq.errors import BrokerError, BrokerRefusedError, TaskIDConflictError
from aioasynq.message import TaskMessage
from aioasynq.rdb.base import MAX_BATCH, MAX_BATCH_BYTES
from aioasynq.rdb.receipts import Receipt
from aioasynq.rdb.storing import STORED_ONE, AloneError, Scheduled
from aioasynq.task import TaskState
from tests.support.build import message

QUEUES = ["a", "b", "c"]
HOW = ["stored", "some alone", "some taken", "refused", "no right", "lost", "torn", "a bug"]


class Calls:
    """What a batcher sees of an RDB; *under_way* are calls that wait for their answer."""

    address = "redis://here"

    def __init__(self, *, spans: bool, ordered: bool) -> None:
        self.spans_queues = spans
        self.is_ordered = ordered
        self.under_way: list[tuple[list[TaskMessage], Callable[[Any], None], tuple[str, str]]] = []
        self.numbers: dict[tuple[str, str], int] = {}
        self.wrong: list[AssertionError] = []
        self.sent: Counter[str] = Counter()

    def hint(self, _: str) -> str:
        return ""

    def start_to(self, route: str, items: Sequence[Any], receipt: Receipt, on_answers: Callable[[Any], None]) -> None:
        msgs = [item.msg if isinstance(item, Scheduled) else item for item in items]
        caller = (msgs[0].queue, receipt.caller)  # as the key of the receipt has it
        try:
            self._check(route, msgs, caller, receipt.number)
        except AssertionError as exc:  # or the batcher would give it to those who wait
            self.wrong.append(exc)
        self.numbers[caller] = receipt.number
        self.sent.update(msg.id for msg in msgs)
        self.under_way.append((msgs, on_answers, caller))

    def start_one(self, msg: TaskMessage, receipt: Receipt, on_answers: Callable[[Any], None], now: float) -> None:
        assert now <= asyncio.get_running_loop().time()
        self.start_to("enqueue", [msg], receipt, on_answers)

    def _check(self, route: str, msgs: Sequence[TaskMessage], caller: tuple[str, str], number: int) -> None:
        assert 1 <= len(msgs) <= MAX_BATCH
        assert len(msgs) == 1 or sum(msg.size for msg in msgs) <= MAX_BATCH_BYTES
        runs = [queue for queue, _ in groupby(msg.queue for msg in msgs)]
        if route == "enqueue_several":
            assert self.spans_queues
            assert 1 < len(runs) == len(set(runs)), "tasks of a queue are side by side"
        else:
            assert len(runs) == 1
        assert caller not in {each for _, _, each in self.under_way}, "a caller has one call at a time"
        assert number > self.numbers.get(caller, 0)

    def answer(self, which: int, how: str) -> None:
        """Answer one of the calls under way."""
        msgs, on_answers, _ = self.under_way.pop(which % len(self.under_way))
        if how == "some alone" and len({msg.queue for msg in msgs}) == 1:
            how = "stored"  # of one queue no task is to go alone
        match how:
            case "stored":
                on_answers(STORED_ONE if len(msgs) == 1 else [None] * len(msgs))
            case "some alone":
                on_answers([AloneError() if msg.queue == "b" else None for msg in msgs])
            case "some taken":
                on_answers([TaskIDConflictError(m.queue, m.id) if m.queue == "a" else None for m in msgs])
            case "refused":
                on_answers(BrokerError("refused", answered=True))
            case "no right":
                on_answers(BrokerRefusedError("no right", answered=True))
            case "lost":
                on_answers(BrokerError("lost", maybe_done=True))
            case "torn":
                on_answers(BrokerError("torn", maybe_done=True, answered=True))
            case _:
                on_answers(ValueError("a bug"))


# What happens: a task comes, for a queue, now or for later, of a size; a call is answered; a caller gives up; a turn.
COMES = st.tuples(
    st.just("comes"), st.sampled_from(QUEUES), st.sampled_from(["enqueue", "schedule"]), st.integers(0, 3)
)
ANSWERED = st.tuples(st.just("answered"), st.integers(0, 7), st.sampled_from(HOW), st.just(0))
GIVES_UP = st.tuples(st.just("gives up"), st.integers(0, 200), st.just(""), st.just(0))
TURN = st.tuples(st.just("turn"), st.just(0), st.just(""), st.just(0))
MANY = st.tuples(st.just("many"), st.sampled_from(QUEUES), st.integers(0, 3), st.integers(1, 60))
BULK = st.tuples(st.just("bulk"), st.sampled_from(QUEUES), st.integers(0, 3), st.integers(1, 300))
STEPS = st.lists(st.one_of(COMES, COMES, COMES, MANY, BULK, ANSWERED, ANSWERED, GIVES_UP, TURN), max_size=60)
SIZES = [1, 100, MAX_BATCH_BYTES // 3, MAX_BATCH_BYTES + 1]
PAYLOADS = {size: b"x" * size for size in SIZES}


def is_true(answer: object, told: list[str]) -> bool:
    """Whether what a caller was told is what was said of the calls that had its task, in their order."""
    *before, last = told
    if any(each not in ("some alone", "refused", "no right") for each in before):
        return False  # it was sent again although it may be stored
    match answer:
        case None:
            return last in ("stored", "some alone", "some taken")
        case TaskIDConflictError():
            return last == "some taken"
        case BrokerError(maybe_done=maybe_done):
            return last in ("refused", "no right", "lost", "torn") and maybe_done == (last in ("lost", "torn"))
        case _:
            return last == "a bug"


class Game:
    """A batcher, its callers, and what they have to be told."""

    def __init__(self, *, spans: bool, ordered: bool) -> None:
        self.calls = Calls(spans=spans, ordered=ordered)
        self.batcher = Batcher(self.calls, "test", patience=3600)  # type: ignore[arg-type]  # what it sees of one
        self.asked: dict[str, Answer] = {}
        self.bulks: list[tuple[list[str], Answers]] = []
        self.told: dict[str, list[str]] = {}
        self.withdrawn: set[str] = set()

    def comes(self, queue: str, route: Any, size: int) -> None:
        msg = message(f"{len(self.asked)}", queue, payload=PAYLOADS[size])
        answer = self.asked[msg.id] = self.batcher.answer()
        when = "+1.000" if route == "schedule" else ""
        self.batcher.add(Composed(msg, route, when, 0, TaskState.PENDING, None), size, answer)

    def come_together(self, queue: str, size: int, count: int) -> None:
        """As enqueue_many hands them over."""
        answers, worth = self.batcher.answers(count), self.batcher.worth(count)
        ids = [f"{len(self.bulks)}:{number}" for number in range(count)]
        self.bulks.append((ids, answers))
        for number, task_id in enumerate(ids):
            msg = message(task_id, QUEUES[number % 3] if queue == "a" else queue, payload=PAYLOADS[size])
            composed = Composed(msg, "enqueue", "", 0, TaskState.PENDING, None)
            self.batcher.add(composed, size, answers, number, worth if number < count - 1 else 1)

    def replies(self, which: int, how: str) -> None:
        if self.calls.under_way:
            for msg in self.calls.under_way[which % len(self.calls.under_way)][0]:
                self.told.setdefault(msg.id, []).append(how)
            self.calls.answer(which, how)

    def gives_up(self, task_id: str) -> None:
        if task_id in self.asked:
            if not self.calls.sent[task_id]:
                self.withdrawn.add(task_id)
            self.asked[task_id].all.cancel()

    async def step(self, what: str, first: Any, second: Any, third: int) -> None:
        match what:
            case "comes":
                self.comes(first, second, SIZES[third])
            case "many":
                for number in range(third):
                    self.comes(QUEUES[number % 3] if first == "a" else first, "enqueue", SIZES[second])
            case "bulk":
                self.come_together(first, SIZES[second], third if SIZES[second] < 1000 else min(third, 8))
            case "answered":
                self.replies(first, second)
            case "gives up":
                self.gives_up(str(first))
            case _:
                await asyncio.sleep(0)

    async def end(self) -> None:
        """Answer whatever is under way, until nothing is."""
        draining = asyncio.ensure_future(self.batcher.drain())
        for _ in range(10_000):
            self.replies(0, "stored")
            await asyncio.sleep(0)
            if draining.done():
                break
        assert draining.done()

    def check(self) -> None:
        assert self.calls.wrong == []
        assert not self.calls.under_way
        assert (self.batcher._count, self.batcher._bytes, self.batcher.full) == (0, 0, False)
        for lane in self.batcher._lanes.values():
            assert (lane.size, len(lane.free), lane.calls, list(lane.waiting)) == (0, CALLS, [], [])
            if lane.timer is not None:
                lane.timer.cancel()
        for task_id, answer in self.asked.items():
            assert answer.all.done()
            if task_id in self.withdrawn:
                assert task_id not in self.told, "it was withdrawn before it was sent"
            elif not answer.all.cancelled():
                assert is_true(answer.all.result(), self.told[task_id]), (answer.all.result(), self.told[task_id])
        for ids, answers in self.bulks:
            for task_id, told in zip(ids, answers.all.result(), strict=True):
                assert is_true(told, self.told[task_id]), (told, self.told[task_id])


async def play(steps: Sequence[tuple[str, Any, Any, int]], *, spans: bool, ordered: bool) -> None:
    game = Game(spans=spans, ordered=ordered)
    for step in steps:
        await game.step(*step)
    await game.end()
    game.check()


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(steps=STEPS, spans=st.booleans(), ordered=st.booleans())
def test_each_caller_is_told_once_and_truly(steps: list[tuple[str, Any, Any, int]], spans: bool, ordered: bool) -> None:
    asyncio.run(play(steps, spans=spans, ordered=ordered))


async def test_who_waits_for_room_gets_it_when_others_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "MAX_WAITING", 5)
    game = Game(spans=True, ordered=True)
    for _ in range(6):
        game.comes("a", "enqueue", 1)  # the first is under way at once
    room = asyncio.create_task(game.batcher.wait_for_room())
    await asyncio.sleep(0)
    assert game.batcher.full
    for number in range(1, 6):
        game.gives_up(f"{number}")
    game.replies(0, "stored")
    async with asyncio.timeout(5):
        await room
    await game.end()
    game.check()
