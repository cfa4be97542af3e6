"""What becomes of a task whose handler has ended. Pure: a message and an error in, an outcome out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from aioasynq.errors import PayloadError, RetryAfter, RevokeTask, SkipRetry
from aioasynq.rdb.lifecycle import Completed, Failed, Killed, Leased

MAX_ERROR = 32_768  #: characters of an error's text that are kept; it goes to Redis with every try


class Done(NamedTuple):
    """It succeeded, or is not wanted any more; nothing of it is kept."""

    leased: Leased


class Requeued(NamedTuple):
    """It was not finished and goes back to the head of its queue, as if it had not been taken."""

    leased: Leased


Outcome: TypeAlias = Done | Completed | Failed | Killed | Requeued


def outcome(
    leased: Leased,
    error: BaseException | None,
    *,
    result: bytes | None = None,
    delay: Callable[[int, BaseException], float],
    is_failure: Callable[[BaseException], bool],
) -> Outcome:
    """Decide as asynq does (processor.go, handleFailedMessage).

    ``SkipRetry``, ``RevokeTask`` and ``RetryAfter`` count also as the cause of another exception. A task that comes
    back with ``RetryAfter`` has not failed, so it comes back even when it has no retries left.
    """
    msg = leased.msg
    if msg is None:
        return Killed(leased, leased.error)
    if error is None:
        return Completed(leased, result) if msg.retention > 0 else Done(leased)
    verdict = _verdict(error)
    if isinstance(verdict, RevokeTask):
        return Done(leased)
    if isinstance(verdict, RetryAfter):
        return Failed(leased, verdict.delay, error_text(error), is_failure=False)
    if isinstance(verdict, SkipRetry | PayloadError) or msg.retried >= msg.retry:
        return Killed(leased, error_text(error))
    return Failed(leased, delay(msg.retried, error), error_text(error), is_failure=is_failure(error))


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
    """What is kept of an error: its text, cut where nobody reads on, or the name of its class when it has none."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - a broken __str__ must not keep a task from being settled
        text = ""
    if len(text) > MAX_ERROR:
        text = f"{text[:MAX_ERROR]}… ({len(text) - MAX_ERROR:,} more characters)"
    return text or type(error).__name__


def _verdict(error: BaseException) -> BaseException | None:
    """The first of the exception and its causes that steers its task."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, SkipRetry | RevokeTask | RetryAfter | PayloadError):
            return current
        seen.add(id(current))
        current = current.__cause__
    return None
