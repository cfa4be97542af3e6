"""What becomes of a task whose handler raised, as users' rules have it: those of its type, then the server's.

A rule that raises, or says what makes no sense, is logged and passed over; asynq's own delay counts then.
"""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from typing import TYPE_CHECKING

from aioasynq.errors import ChildTaskError
from aioasynq.logs import clean
from aioasynq.retry import default_delay
from aioasynq.server.outcome import Outcome, outcome

if TYPE_CHECKING:
    from aioasynq.mux import Ends
    from aioasynq.rdb.lifecycle import Leased
    from aioasynq.server.config import Config
    from aioasynq.task import Task

log = logging.getLogger(__name__)


def verdict(leased: Leased, task: Task, error: BaseException, ends: Ends, config: Config) -> Outcome:
    """What is to be written for a try of *task* that ended with *error*."""
    return outcome(
        leased,
        error,
        delay=lambda retried, exc: _delay(retried, exc, task, ends, config),
        is_failure=lambda exc: _is_failure(exc, config),
        is_final=lambda exc: _is_final(exc, task, ends),
    )


def _delay(retried: int, error: BaseException, task: Task, ends: Ends, config: Config) -> float:
    name, rule = ("retry_delay", config.retry_delay) if ends.retry is None else ("retry", ends.retry)
    try:
        said = rule(retried, error, task)
        delay = said.total_seconds() if isinstance(said, timedelta) else float(said)
    except BaseException:
        log.exception("%s failed for task %s; the default delay counts", name, clean(task.id))
        return default_delay(retried, error, task)
    if not math.isfinite(delay):
        log.error("%s gave %r for task %s; the default delay counts", name, delay, clean(task.id))
        return default_delay(retried, error, task)
    return max(0.0, delay)


def _is_failure(error: BaseException, config: Config) -> bool:
    try:
        return bool(config.is_failure(error))
    except BaseException:
        log.exception("is_failure failed; it counts as a failure")
        return True


def _is_final(error: BaseException, task: Task, ends: Ends) -> bool:
    try:
        if isinstance(error, ChildTaskError) and error.is_a(ends.dont_retry):
            return True
        return isinstance(error, ends.dont_retry)
    except BaseException:  # a class may have a say in what its instances are
        log.exception("dont_retry failed for task %s; it may be retried", clean(task.id))
        return False
