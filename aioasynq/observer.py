"""Observer: what is told of tasks on their way, for traces and metrics.

There is one call where tasks are sent, and one where a handler begins; each may return something that is told how it
went on. Without an observer nothing is called. One that fails is logged, and changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from aioasynq.message import TaskMessage
from aioasynq.task import Task

log = logging.getLogger(__name__)

Outcome: TypeAlias = Literal[
    "done",  # it succeeded, and nothing of it is kept
    "completed",  # it succeeded, and is kept for its retention
    "revoked",  # its handler let go of it
    "retry",  # it failed, and comes back
    "postponed",  # it comes back, which is no failure
    "archived",  # it failed for good
    "requeued",  # it was not finished when the server ended, and goes back
    "lost",  # it was another server's by then, or could not be settled
]


class Ended(NamedTuple):
    """How the processing of a task ended."""

    outcome: Outcome
    error: BaseException | None  #: what its handler raised, or why it was ended
    seconds: float  #: from the begin of its handler to its end


Sent: TypeAlias = Callable[[Sequence[BaseException | None]], object]
"""Is given an answer for each message: None when it is stored, else why it is not."""
Processed: TypeAlias = Callable[[Ended], object]
"""Is told the end."""


class Observer:
    """A base for observers: override what is of interest. Both calls are made often, so they must not block."""

    def sending(self, messages: Sequence[TaskMessage], *, address: str, made_of: Sequence[Task] = ()) -> Sent | None:
        """Tasks are about to be stored, in one call; their ``headers`` may still be written to.

        It runs in the context of whoever enqueues; for what a scheduler enqueues in an empty one. What is returned is
        not called when it was another scheduler that enqueued the task.

        Args:
            messages: what will be stored.
            address: where Redis is, for people: a URL without its password.
            made_of: the tasks of the group that the one message was made of.
        """

    def processing(self, task: Task, *, pattern: str, address: str) -> Processed | None:
        """A handler is about to be called, in the context of this call; what is set in it the handler sees.

        Args:
            task: what the handler gets.
            pattern: under which the handler is registered; "" when there is none for such a task. Types may be without
                number; patterns are not.
            address: as above.
        """


def check_observers(value: object) -> tuple[Observer, ...]:
    """Refuse what are no observers.

    Raises:
        TypeError: *value* is no list of them.
    """
    if isinstance(value, str | bytes | Observer) or not isinstance(value, Sequence):
        raise TypeError(f"observers must be a list of Observers, got {value!r}")
    for each in cast("Sequence[object]", value):
        if not isinstance(each, Observer):
            raise TypeError(f"observers must be a list of Observers, got {each!r} in it")
    return tuple(cast("Sequence[Observer]", value))


class Sending:
    """Tells all observers of what is sent."""

    __slots__ = ("_messages", "_sent")

    def __init__(
        self,
        observers: Sequence[Observer],
        messages: Sequence[TaskMessage],
        *,
        address: str,
        made_of: Sequence[Task] = (),
    ) -> None:
        self._messages = len(messages)
        self._sent = [
            sent
            for each in observers
            if (sent := _call(each.sending, messages, address=address, made_of=made_of)) is not None
        ]

    def sent(self, answers: Sequence[BaseException | None] | BaseException | None) -> None:
        """What became of it: an answer for each message, or one for all."""
        if not isinstance(answers, Sequence):
            answers = [answers] * self._messages
        for each in self._sent:
            _call(each, answers)


class Processing:
    """Tells all observers of a task that is processed."""

    __slots__ = ("_began", "_processed", "_seconds")

    def __init__(self, observers: Sequence[Observer], task: Task, *, pattern: str, address: str) -> None:
        self._processed = [
            processed
            for each in observers
            if (processed := _call(each.processing, task, pattern=pattern, address=address)) is not None
        ]
        self._seconds: float | None = None
        self._began = time.perf_counter()

    def handled(self) -> None:
        """Its handler has ended, or was left to itself."""
        if self._seconds is None:
            self._seconds = time.perf_counter() - self._began

    def ended(self, outcome: Outcome, error: BaseException | None) -> None:
        """What becomes of it is decided; the first time counts."""
        self.handled()
        processed, self._processed = self._processed, []
        for each in processed:
            _call(each, Ended(outcome, error, self._seconds or 0.0))


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except Exception:
        log.exception("an observer failed: %r", function)
        return None
