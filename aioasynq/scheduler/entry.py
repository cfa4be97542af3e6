"""Entry: a periodic task of a scheduler, and what makes it the same one in another scheduler."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Final

from aioasynq.compose import Composed, compose
from aioasynq.cronspec import Schedule
from aioasynq.message import GO_ZERO_TIME, SchedulerEntry
from aioasynq.observer import Sending
from aioasynq.option_text import option_texts
from aioasynq.options import Options
from aioasynq.scheduler.due import CatchUp, Due, due, following
from aioasynq.task import DEFAULT_QUEUE, Task

REMEMBER: Final = 30 * 24 * 3600  #: seconds that the last firing is remembered, and twice the time to the next one
TOO_FAR: Final = 3600.0  #: seconds in the future that a firing may lie; the same in fire.lua
_NEVER: Final = 5 * 366 * 24 * 3600  #: seconds to the next firing, where there is none


@dataclass(slots=True, eq=False, kw_only=True)
class Entry:
    """What is enqueued when, and how far that is."""

    id: str
    spec: str
    schedule: Schedule
    task: Task
    options: Options  #: given when it was registered; they win over the task's own
    catch_up: CatchUp
    shared: bool  #: with the entries of the same id in other schedulers: one of them fires
    cursor: float  #: unix seconds; what was due up to then is seen to
    last: int | None = None  #: the last firing, by whomever; unix seconds
    is_recalled: bool = False  #: ``last`` was asked for
    is_over: bool = False  #: nothing more is to be fired
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    claimant: str = field(default_factory=lambda: uuid.uuid4().hex)  #: whose claims are its own
    begun: int | None = None  #: the firing that the hook before it was called for
    error: Exception | None = None  #: why the last try failed
    told: int = 0  #: the last firing that the hooks were told of as failed
    sending: Sending | None = None  #: where observers are told of the firing under way
    _composed: tuple[int, Composed] | None = None

    @property
    def queue(self) -> str:
        """Where its tasks go, and where its claims lie."""
        return self.effective.queue or DEFAULT_QUEUE

    @property
    def effective(self) -> Options:
        """The options that its tasks have."""
        return effective(self.task, self.options)

    def due(self, now: float) -> Due:
        """What is due by now and not seen to."""
        return due(self.schedule, self.cursor, now, self.catch_up, shared=self.shared)

    def next(self) -> int | None:
        """The next firing after those that are seen to, unix seconds."""
        return following(self.schedule, self.cursor, shared=self.shared)

    def coming(self) -> str:
        """When it comes next by this machine's clock, for people; also before anything has begun."""
        moment = following(self.schedule, time.time(), shared=self.shared)
        return "never comes" if moment is None else f"next at {shown(moment)}"

    def recall(self, last: int | None) -> None:
        """Go on after the firing that was the last one."""
        self.is_recalled = True
        self.last = last
        if last is not None and self.catch_up != "skip" and last < self.cursor:
            self.cursor = last

    def seen_to(self, moment: int) -> None:
        """Go on after that firing."""
        self.cursor = max(self.cursor, moment)

    def turn_back(self, now: float) -> bool:
        """Forget what was seen to by a clock that was far ahead, if there is such; Redis does with its claims."""
        if self.cursor <= now + TOO_FAR:
            return False
        self.cursor, self.told = now, 0
        return True

    def end(self) -> None:
        """Fire no more."""
        self.is_over = True
        self.wake.set()

    def sent(self, error: Exception | None) -> None:
        """Tell observers what became of the firing under way."""
        sending, self.sending = self.sending, None
        if sending is not None:
            sending.sent(error)

    def composed(self, moment: int, now: float) -> Composed:
        """The task of a firing; the same one when that is tried again."""
        if self._composed is None or self._composed[0] != moment:
            self._composed = (moment, compose(self.task, self.options, now))
        return self._composed[1]

    def remember(self, moment: int) -> int:
        """Seconds that a firing is to be remembered."""
        if not self.shared:
            return 60
        following_one = following(self.schedule, moment, shared=self.shared)
        return REMEMBER + 2 * (_NEVER if following_one is None else following_one - moment)

    def record(self) -> SchedulerEntry:
        """As it is told to others."""
        return SchedulerEntry(
            id=self.id,
            spec=self.spec,
            task_type=self.task.type,
            task_payload=self.task.payload,
            enqueue_options=option_texts(self.effective),
            next_enqueue_time=_nanoseconds(self.next()),
            prev_enqueue_time=_nanoseconds(self.last),
        )


def entry_id(spec: str, task: Task, options: Options, location: str | tzinfo, name: str | None) -> str:
    """The id of an entry: the same for all schedulers that register the same, and after a restart.

    It is a UUID of: spec, location, type, payload, headers, queue and all other options, in whatever order they were
    given; or only of the name, where there is one, and the queue.
    """
    chosen = effective(task, options)
    queue = chosen.queue or DEFAULT_QUEUE
    what: Sequence[object]
    if name is not None:
        what = ("named", queue, name)
    else:
        payload = None if task.raw_payload is None else task.raw_payload.hex()
        what = (spec, str(location), task.type, payload, queue, sorted(option_texts(chosen)))
    digest = hashlib.sha256(json.dumps(what).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=5))


def effective(task: Task, options: Options) -> Options:
    """The options of a task that is enqueued with *options*, its headers among them."""
    chosen = options.over(task.options)
    headers = {**task.headers, **(chosen.headers or {})}
    return chosen._replace(headers=headers or None)


def shown(moment: float) -> str:
    """A moment, unix seconds, for people."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _nanoseconds(moment: int | None) -> int:
    return GO_ZERO_TIME if moment is None else moment * 10**9
