"""What becomes of a task whose handler has ended. Pure: a message and an error in, an outcome out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from msgspec import Struct

from aioasynq.errors import PayloadError, RetryAfter, RevokeTask, SkipRetry
from aioasynq.options import MAX_DURATION
from aioasynq.rdb.lifecycle import Completed, Failed, Killed, Leased

_HERE = f"{Path(__file__).parents[1]}{os.sep}"  # where our own code is
MAX_ERROR = 32_768  #: characters of an error's text that are kept; it goes to Redis with every try


class Done(Struct, frozen=True, gc=False):
    """It succeeded, or is not wanted any more; nothing of it is kept."""

    leased: Leased


class Requeued(Struct, frozen=True, gc=False):
    """It was not finished and goes back to the head of its queue, as if it had not been taken."""

    leased: Leased


Outcome: TypeAlias = Done | Completed | Failed | Killed | Requeued


def _is_never(error: BaseException) -> bool:
    del error
    return False


def outcome(
    leased: Leased,
    error: BaseException | None,
    *,
    result: bytes | None = None,
    delay: Callable[[int, BaseException], float],
    is_failure: Callable[[BaseException], bool],
    is_final: Callable[[BaseException], bool] = _is_never,
) -> Outcome:
    """Decide as asynq does (processor.go, handleFailedMessage).

    *is_final* says of an error that no retry can help; what a handler says by one of its own comes first.
    ``SkipRetry``, ``RevokeTask`` and ``RetryAfter`` count also as the cause of another exception. A task that comes
    back with ``RetryAfter`` has not failed, so it comes back even when it has no retries left. No delay is longer than
    asynq's longest duration: Go reads the moment as a number of 64 bits.
    """
    msg = leased.msg
    if msg is None:
        return Killed(leased, leased.error)
    if error is None:
        return Completed(leased, result) if msg.retention > 0 else Done(leased)
    verdict = steering(error)
    if isinstance(verdict, RevokeTask):
        return Done(leased)
    if isinstance(verdict, RetryAfter):
        return Failed(leased, min(verdict.delay, MAX_DURATION), error_text(error), is_failure=False)
    if isinstance(verdict, SkipRetry | PayloadError) or msg.retried >= msg.retry or is_final(error):
        return Killed(leased, error_text(error))
    seconds = min(delay(msg.retried, error), MAX_DURATION)
    return Failed(leased, seconds, error_text(error), is_failure=is_failure(error))


def recovered(leased: Leased, owner: str, times: int) -> Outcome:
    """What becomes of a task whose worker died or was cut off; *times* it was recovered before.

    It counts as a failure, so that a task that kills its workers ends in the archive. It is tried again after a
    second, doubling each time, at most an hour.
    """
    msg = leased.msg
    if msg is None:
        return Killed(leased, leased.error)
    who = owner.rsplit(":", 1)[0] or "a worker"
    text = f"task lease expired: {who} died or was cut off while it ran"
    if msg.retried >= msg.retry:
        return Killed(leased, text)
    return Failed(leased, min(2.0 ** min(times, 12), 3600.0), text, recovered=times + 1)


def error_text(error: BaseException) -> str:
    """What is kept of an error: its text, cut where nobody reads on, or the name of its class when it has none.

    The name stands in front of a text that says nothing alone: a ``KeyError`` is the missing key, a ``SystemExit`` a
    number.
    """
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - a broken __str__ must not keep a task from being settled
        text = ""
    if text and (isinstance(error, SystemExit) or type(error).__str__ is KeyError.__str__):
        text = f"{type(error).__name__}: {text}"
    if len(text) > MAX_ERROR:
        text = f"{text[:MAX_ERROR]}… ({len(text) - MAX_ERROR:,} more characters)"
    return text or type(error).__name__


def trace_of_users(error: BaseException) -> TracebackType | None:
    """Where it was raised, from the first frame on that is not ours: how a handler is called is the same each time."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_HERE):
        frame = frame.tb_next
    return frame or error.__traceback__


def steering(error: BaseException) -> BaseException | None:
    """The first of the exception and its causes that steers its task."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, SkipRetry | RevokeTask | RetryAfter | PayloadError):
            return current
        seen.add(id(current))
        current = current.__cause__
    return None
