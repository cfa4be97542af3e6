"""Consumers: N places in which handlers run. Take a task, run its handler, hand the outcome on.

A handler gets an asyncio task of its own and a fresh copy of the context the server was started in. Why it is ended
stands in its entry in ``running``, and is never guessed from the exception. Whatever users' code raises here, even what
is no ``Exception``, ends no more than its own task.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from textwrap import shorten
from typing import TYPE_CHECKING

import msgspec

from aioasynq.context import CURRENT, RUN_IN_THREAD
from aioasynq.errors import (
    AioasynqError,
    LeaseExpiredError,
    RetryAfter,
    RevokeTask,
    SkipRetry,
    TaskCancelledError,
    TaskDeadlineError,
    TaskTimeoutError,
)
from aioasynq.message import DEFAULT_TIMEOUT
from aioasynq.rdb.lifecycle import Failed, Killed
from aioasynq.retry import default_delay
from aioasynq.server.outcome import Outcome, Requeued, error_text, outcome
from aioasynq.server.running import Held, Pulse, Running, Why
from aioasynq.task import Task

if TYPE_CHECKING:
    from aioasynq.context import RunInThread
    from aioasynq.rdb.lifecycle import Leased
    from aioasynq.rdb.rdb import RDB
    from aioasynq.server.config import Config
    from aioasynq.server.counts import Counts
    from aioasynq.server.settler import Settler

log = logging.getLogger(__name__)

ERROR_HANDLER_LIMIT = 30.0  #: seconds an error handler may take before its task goes on without it

_encode_result = msgspec.json.Encoder().encode


class Consumers:
    """The places of a server.

    Args:
        handle: what a task is given to; normally a ServeMux.
        on_free: called when a place has become free.
    """

    def __init__(
        self,
        rdb: RDB,
        config: Config,
        handle: Callable[[Task], Awaitable[object]],
        held: Held,
        pulse: Pulse,
        run_in_thread: RunInThread,
        on_free: Callable[[], None],
        counts: Counts,
    ) -> None:
        self._rdb = rdb
        self._config = config
        self._handle = handle
        self._held = held
        self._pulse = pulse
        self._on_free = on_free
        self._counts = counts
        self._settler: Settler | None = None
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._context.run(RUN_IN_THREAD.set, run_in_thread)
        self._extra: set[asyncio.Task[None]] = set()
        self.busy = 0  #: handlers that run

    def settle_with(self, settler: Settler) -> None:
        """Hand outcomes to *settler*."""
        self._settler = settler

    # ── a task begins ──

    def start(self, leased: Leased) -> None:
        """Run the handler of a task. There must be a free place."""
        msg = leased.msg
        assert msg is not None  # noqa: S101 - the fetcher settles those itself
        self._pulse.quicken()
        now = time.time()
        deadline = msg.effective_deadline(now)
        running = Running(leased, msg, now, deadline, self._pulse.lost)
        self._held.add(running)
        self.busy += 1
        if deadline <= now and msg.deadline:
            running.why = Why.DEADLINE  # over before it began: its handler is not called, as in Go
        else:
            running.timer = self._loop.call_later(deadline - now, self._overdue, running)
        running.task = self._loop.create_task(self._run(running), context=self._context.copy())

    async def _run(self, running: Running) -> None:
        running.started = True
        msg, leased = running.msg, running.leased
        task = Task.received(
            msg.type,
            msg.payload,
            msg.headers,
            id=msg.id,
            queue=leased.queue,
            retried=msg.retried,
            max_retry=msg.retry,
            write_result=self._result_writer(leased),
        )
        CURRENT.set(task)
        value: object = None
        error: BaseException | None = asyncio.CancelledError()  # stays when it was to end before it began
        if running.why is None:
            try:
                value = await self._handle(task)
                error = None
            except BaseException as exc:  # noqa: BLE001 - whatever a handler raises is its task's affair
                error = exc
        if running.timer is not None:
            running.timer.cancel()
        if running.abandoned:
            log.warning("%s, which had been left to itself, has ended; its outcome is thrown away", _name(running))
            return
        running.ended = True
        raised = error
        try:
            error = self._reason(running, raised)
            if error is None:
                self._succeeded(running, value)
            else:
                await self._failed(running, task, error)
        except BaseException:
            log.exception("%s could not be settled; its lease decides", _name(running))
            self._held.discard(running)
        finally:
            self._free()
        if isinstance(raised, KeyboardInterrupt):
            raise raised

    def _result_writer(self, leased: Leased) -> Callable[[bytes], Awaitable[int]]:
        rdb = self._rdb

        def write(data: bytes) -> Awaitable[int]:
            return rdb.write_result(leased.queue, leased.id, data, owner=leased.guard)

        return write

    # ── a task is to end ──

    def _overdue(self, running: Running) -> None:
        msg = running.msg
        lost = self._pulse.look() - running.credit
        by_deadline = bool(msg.deadline) and running.deadline >= msg.deadline
        if lost > 0 and not by_deadline:  # the loop stood still for a while: that was not this handler's time
            running.credit += lost
            running.deadline += lost
            running.ends += lost
            running.timer = self._loop.call_later(lost, self._overdue, running)
            return
        self.cancel(running, Why.DEADLINE if by_deadline else Why.TIMEOUT)

    def cancel(self, running: Running, why: Why, grace: float | None = None) -> None:
        """End a handler; if it has not ended after *grace* seconds (``cancel_grace``), leave it to itself."""
        if running.ended or running.why is not None:
            return
        running.why = why
        if running.timer is not None:
            running.timer.cancel()
        if running.started and running.task is not None:
            running.task.cancel()
        running.timer = self._loop.call_later(
            self._config.cancel_grace if grace is None else grace, self.abandon, running
        )

    def abandon(self, running: Running) -> None:
        """Settle a task although its handler goes on; its place is free again."""
        if running.ended:
            return
        running.ended = running.abandoned = True
        self._counts.abandoned += 1
        if running.task is not None:
            running.task.set_name(_name(running))  # for whoever lists what keeps the process from ending
        log.error("%s did not end when cancelled (%s) and is left to itself", _name(running), _why(running))
        error = self._reason(running, None) or TaskCancelledError()
        task = self._loop.create_task(self._end_abandoned(running, error), context=self._context.copy())
        self._extra.add(task)
        task.add_done_callback(self._extra.discard)

    async def _end_abandoned(self, running: Running, error: BaseException) -> None:
        msg = running.msg
        task = Task.received(
            msg.type,
            msg.payload,
            msg.headers,
            id=msg.id,
            queue=running.leased.queue,
            retried=msg.retried,
            max_retry=msg.retry,
            write_result=None,
        )
        try:
            await self._failed(running, task, error)
        except BaseException:
            log.exception("%s could not be settled; its lease decides", _name(running))
            self._held.discard(running)
        finally:
            self._free()

    # ── a task has ended ──

    def _reason(self, running: Running, raised: BaseException | None) -> BaseException | None:
        """What ended the handler: why it was cancelled if it was, else what it raised."""
        match running.why:
            case None:
                return TaskCancelledError() if isinstance(raised, asyncio.CancelledError) else raised
            case Why.SHUTDOWN if raised is None and not running.abandoned:
                return None  # it finished after all
            case Why.TIMEOUT | Why.DEADLINE | Why.CANCELLED | Why.SHUTDOWN if isinstance(
                raised, SkipRetry | RevokeTask
            ):
                return raised
            case Why.TIMEOUT:
                return TaskTimeoutError(running.msg.timeout or DEFAULT_TIMEOUT)
            case Why.DEADLINE:
                return TaskDeadlineError()
            case Why.LOST:
                return LeaseExpiredError()
            case _:
                return TaskCancelledError()

    def _succeeded(self, running: Running, value: object) -> None:
        result: bytes | None = None
        if running.msg.retention > 0 and value is not None:
            try:
                result = value if isinstance(value, bytes) else _encode_result(value)
            except BaseException as exc:  # noqa: BLE001 - a hook of the value's class may raise anything
                what = error_text(exc)
                text = f"the result of the handler, a {type(value).__name__}, cannot be stored as JSON: {what}"
                log.error("%s: %s", _name(running), text)  # noqa: TRY400 - the handler did its work; no traceback helps
                self._settle(Killed(running.leased, text), running)
                return
        self._settle(
            outcome(running.leased, None, result=result, delay=default_delay, is_failure=self._config.is_failure),
            running,
        )

    async def _failed(self, running: Running, task: Task, error: BaseException) -> None:
        if running.why is Why.SHUTDOWN and isinstance(error, TaskCancelledError):
            self._settle(Requeued(running.leased), running)
            return
        await self._tell(task, error)
        if running.why is Why.LOST:
            self.settled(running, still_ours=False)
            return
        result = outcome(
            running.leased,
            error,
            delay=lambda retried, exc: self._delay(retried, exc, task),
            is_failure=self._is_failure,
        )
        if isinstance(result, Killed) or (isinstance(result, Failed) and result.is_failure):
            self._counts.failed += 1
        self._settle(result, running)
        _report(running, error, result)

    async def _tell(self, task: Task, error: BaseException) -> None:
        handler = self._config.error_handler
        if handler is None:
            return
        try:
            async with asyncio.timeout(ERROR_HANDLER_LIMIT):
                await handler(task, error)
        except asyncio.CancelledError:
            log.warning("error_handler was cancelled for task %s", task.id)
        except BaseException:
            log.exception("error_handler failed for task %s", task.id)

    def _delay(self, retried: int, error: BaseException, task: Task) -> float:
        try:
            delay = float(self._config.retry_delay(retried, error, task))
        except BaseException:
            log.exception("retry_delay failed for task %s; the default delay counts", task.id)
            return default_delay(retried, error, task)
        if not math.isfinite(delay):
            log.error("retry_delay gave %r for task %s; the default delay counts", delay, task.id)
            return default_delay(retried, error, task)
        return max(0.0, delay)

    def _is_failure(self, error: BaseException) -> bool:
        try:
            return bool(self._config.is_failure(error))
        except BaseException:
            log.exception("is_failure failed; it counts as a failure")
            return True

    def _settle(self, result: Outcome, running: Running) -> None:
        assert self._settler is not None  # noqa: S101 - set before the first task starts
        self._settler.add(result, running)

    def _free(self) -> None:
        self.busy -= 1
        self._counts.processed += 1
        self._on_free()

    def settled(self, running: Running, still_ours: bool) -> None:  # noqa: FBT001 - the settler's callback
        """Redis has answered for this task."""
        if not still_ours:
            self._counts.lost += 1
            log.warning("%s is not ours any more; what it did is not recorded", _name(running))
        self._held.discard(running)


def _report(running: Running, error: BaseException, result: Outcome) -> None:
    """One line on what happened and what comes next, with the traceback of what the handler did not mean to raise."""
    meant = isinstance(error, AioasynqError | SkipRetry | RevokeTask | RetryAfter)
    tries = f"try {running.msg.retried + 1} of {running.msg.retry + 1}"
    text = error_text(error) if meant else f"{type(error).__name__}: {error_text(error)}"
    what = shorten(text, 300).encode("utf-8", "backslashreplace").decode()
    trace = None if meant or error.__traceback__ is None else error
    if isinstance(result, Failed) and not result.is_failure:
        log.info("%s comes back in %.1f s: %s", _name(running), result.delay, what, exc_info=trace)
    elif isinstance(result, Failed):
        log.warning("%s failed (%s), again in %.1f s: %s", _name(running), tries, result.delay, what, exc_info=trace)
    elif isinstance(result, Killed):
        log.error("%s failed (%s) and goes to the archive: %s", _name(running), tries, what, exc_info=trace)
    else:
        log.info("%s was revoked: %s", _name(running), what)


def _name(running: Running) -> str:
    return f"task {running.leased.id} ({running.msg.type}) of queue {running.leased.queue}"


def _why(running: Running) -> str:
    return running.why.value if running.why is not None else "no reason"
