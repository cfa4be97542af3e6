"""Consumers: N places in which handlers run. Take a task, run its handler, hand the outcome on.

A handler gets an asyncio task of its own and a fresh copy of the context the server was started in. Why it is ended
stands in its entry in ``running``, and is never guessed from the exception. Whatever users' code raises here, even what
is no ``Exception``, ends no more than its own task.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from textwrap import shorten
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from aioasynq import observer
from aioasynq.codecs import to_plain
from aioasynq.context import CURRENT, RUN_IN_THREAD
from aioasynq.errors import (
    AioasynqError,
    ChildTaskError,
    HandlerNotFoundError,
    LeaseExpiredError,
    RetryAfter,
    RevokeTask,
    SkipRetry,
    TaskCancelledError,
    TaskDeadlineError,
    TaskTimeoutError,
)
from aioasynq.hooks import NO_HOOKS, Hooks, tell
from aioasynq.logs import clean, task_fields
from aioasynq.message import DEFAULT_TIMEOUT
from aioasynq.observer import Processing
from aioasynq.rdb.lifecycle import Completed, Failed, Killed
from aioasynq.server.outcome import Done, Outcome, Requeued, error_text, trace_of_users
from aioasynq.server.progress import Reporters
from aioasynq.server.running import NAMED, Held, Pulse, Running, Why
from aioasynq.server.verdict import verdict
from aioasynq.task import Task
from aioasynq.typed.target import RUN_IN_PROCESS

if TYPE_CHECKING:
    from aioasynq.context import RunInThread
    from aioasynq.mux import Ends, ServeMux
    from aioasynq.rdb.lifecycle import Leased
    from aioasynq.rdb.rdb import RDB
    from aioasynq.server.config import Config
    from aioasynq.server.counts import Counts
    from aioasynq.server.settler import Settler
    from aioasynq.typed.target import RunInProcess

log = logging.getLogger(__name__)

SOON = 2 * Pulse.INTERVAL  #: seconds; a task whose time is over later than that gets its timer when a beat sees it

_NEVER_BEGUN = asyncio.CancelledError()  # stands for what a handler raised that was to end before it began

_encode_result = msgspec.json.Encoder(enc_hook=to_plain).encode


class _ResultWriter(Struct, eq=False, gc=False):
    """Writes what a handler says is its result; one is made for each task, and hardly any is used."""

    rdb: RDB
    leased: Leased

    def __call__(self, data: bytes) -> Awaitable[int]:
        return self.rdb.write_result(self.leased.queue, self.leased.id, data, owner=self.leased.guard)


class Consumers:
    """The places of a server.

    Args:
        mux: what a task is given to.
        elsewhere: how a function runs in a thread, and a handler in a child process.
        on_free: called when a place has become free.
    """

    def __init__(
        self,
        rdb: RDB,
        config: Config,
        mux: ServeMux,
        held: Held,
        pulse: Pulse,
        elsewhere: tuple[RunInThread, RunInProcess],
        on_free: Callable[[], None],
        counts: Counts,
    ) -> None:
        self._rdb = rdb
        self._config = config
        self._mux = mux
        self._held = held
        self._pulse = pulse
        pulse.tell(self._set_timers)
        self._on_free = on_free
        self._counts = counts
        self._settler: Settler | None = None
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._context.run(RUN_IN_THREAD.set, elsewhere[0])
        self._context.run(RUN_IN_PROCESS.set, elsewhere[1])
        self._extra: set[asyncio.Task[None]] = set()
        self._observers = config.observers
        self._reporters = Reporters(rdb, held)
        self._note_progress = self._reporters.note
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
        running = Running(leased, msg, now, deadline, time.monotonic() + deadline - now, self._pulse.lost)
        self._held.add(running)
        self.busy += 1
        if deadline <= now and msg.deadline:
            running.why = Why.DEADLINE  # over before it began: its handler is not called, as in Go
        elif deadline < now + SOON:
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
            write_result=_ResultWriter(self._rdb, leased),
            ends=running.deadline,
            note_progress=self._note_progress,
        )
        running.handed = task
        CURRENT.set(task)
        if self._observers:
            running.processing = self._observe(task)
        ends = self._mux.ends(msg.type)
        value: object = None
        error: BaseException | None = _NEVER_BEGUN
        if running.why is None:
            try:
                if ends.hooks.start:
                    await tell("on_start", ends.hooks.start, task)
                if running.why is None:  # a hook may have taken the cancellation for its own
                    value = await self._mux(task)
                    error = None
            except BaseException as exc:  # noqa: BLE001 - whatever a handler raises is its task's affair
                error = exc
        if running.timer is not None:
            running.timer.cancel()
        if running.abandoned:
            log.warning(
                "%s, which had been left to itself, has ended; its outcome is thrown away",
                _name(running),
                extra=_fields(running),
            )
            self._reporters.forget(task)
            return
        running.ended = True
        if running.processing is not None:
            running.processing.handled()
        if self._reporters:
            with suppress(asyncio.CancelledError):  # the handler may have cancelled this at its end
                await self._reporters.finish(task)
        await self._end(running, task, ends, self._reason(running, error), value)
        running.task = running.handed = None  # or they and their context would live until its outcome is written
        if isinstance(error, KeyboardInterrupt):
            raise error

    # ── a task is to end ──

    def _set_timers(self) -> None:
        """At each beat: of those that may soon run out of time. Most tasks end long before, and never have a timer."""
        soon = time.monotonic() + SOON
        for running in self._held:
            if running.ends < soon and running.timer is None and running.why is None and not running.ended:
                running.timer = self._loop.call_later(running.ends - soon + SOON, self._overdue, running)

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
        if running.processing is not None:
            running.processing.handled()
        self._counts.abandoned += 1
        if running.task is not None:
            running.task.set_name(_name(running))  # for whoever lists what keeps the process from ending
        log.error(
            "%s did not end when cancelled (%s) and is left to itself",
            _name(running),
            _why(running),
            extra=_fields(running),
        )
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
        await self._end(running, task, self._mux.ends(msg.type), error)

    # ── a task has ended ──

    async def _end(
        self, running: Running, task: Task, ends: Ends, error: BaseException | None, value: object = None
    ) -> None:
        """Settle it, tell the hooks, and free its place."""
        result: Outcome | None
        try:
            try:
                if error is None:
                    result, error = self._succeeded(running, value)
                else:
                    result = await self._failed(running, task, ends, error)
            except BaseException as exc:
                log.exception("%s could not be settled; its lease decides", _name(running), extra=_fields(running))
                self._held.discard(running)
                _tell_end(running, "lost", exc)
            else:
                if ends.hooks is not NO_HOOKS:
                    await _tell(ends.hooks, task, result, value, error)
        finally:
            self._free()

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

    def _succeeded(self, running: Running, value: object) -> tuple[Outcome, BaseException | None]:
        """Settle it as a success, unless its result cannot be stored."""
        leased = running.leased
        result: bytes | None = None
        if running.msg.retention > 0 and value is not None:
            try:
                result = value if isinstance(value, bytes) else _encode_result(value)
            except BaseException as exc:  # noqa: BLE001 - a hook of the value's class may raise anything
                what = error_text(exc)
                text = f"the result of the handler, of class {type(value).__name__}, cannot be stored as JSON: {what}"
                # the handler did its work; no traceback helps
                log.error("%s: %s", _name(running), text, extra=_fields(running))  # noqa: TRY400
                return self._settle(Killed(leased, text), running, exc), TypeError(text)
        done = Completed(leased, result) if running.msg.retention > 0 else Done(leased)
        return self._settle(done, running), None

    async def _failed(self, running: Running, task: Task, ends: Ends, error: BaseException) -> Outcome | None:
        """Settle it as a failure, or as whatever else its error says; None when it is not ours any more."""
        if running.why is Why.SHUTDOWN and isinstance(error, TaskCancelledError):
            return self._settle(Requeued(running.leased), running, error)
        if self._config.error_handler is not None:
            with suppress(asyncio.CancelledError):
                await tell("error_handler", (self._config.error_handler,), task, error)
        if running.why is Why.LOST:
            self.settled(running, still_ours=False)
            _tell_end(running, "lost", error)
            return None
        result = verdict(running.leased, task, error, ends, self._config)
        if isinstance(result, Killed) or (isinstance(result, Failed) and result.is_failure):
            self._counts.failed += 1
        self._settle(result, running, error)
        _report(running, error, result, self._hint(error))
        return result

    def _hint(self, error: BaseException) -> str:
        if not isinstance(error, HandlerNotFoundError):
            return ""
        names = ", ".join(self._mux.patterns[:NAMED])
        more = len(self._mux) - NAMED
        return (
            f"; this server handles {names}{f' and {more} more' if more > 0 else ''}: was all imported that registers?"
        )

    def _settle(self, result: Outcome, running: Running, error: BaseException | None = None) -> Outcome:
        assert self._settler is not None  # noqa: S101 - set before the first task starts
        self._settler.add(result, running)
        if running.processing is not None:
            _tell_end(running, _word(result, error), error)
        return result

    def _observe(self, task: Task) -> Processing:
        pattern = self._mux.pattern_of(task.type)
        return Processing(self._observers, task, pattern=pattern, address=self._rdb.address)

    def _free(self) -> None:
        self.busy -= 1
        self._counts.processed += 1
        self._on_free()

    def settled(self, running: Running, still_ours: bool) -> None:  # noqa: FBT001 - the settler's callback
        """Redis has answered for this task."""
        if not still_ours:
            self._counts.lost += 1
            log.warning("%s is not ours any more; what it did is not recorded", _name(running), extra=_fields(running))
        self._held.discard(running)


async def _tell(hooks: Hooks, task: Task, result: Outcome | None, value: object, error: BaseException | None) -> None:
    """Tell of what was handed to the settler. It does not wait for hooks, so that nothing is lost by one that hangs."""
    if error is None:
        if hooks.success:
            await tell("on_success", hooks.success, task, value)
        return
    if hooks.failure and (isinstance(result, Killed) or (isinstance(result, Failed) and result.is_failure)):
        await tell("on_failure", hooks.failure, task, error)
    if hooks.retry and isinstance(result, Failed):
        await tell("on_retry", hooks.retry, task, error, result.delay)
    if hooks.archive and isinstance(result, Killed):
        await tell("on_archive", hooks.archive, task, error)


def _report(running: Running, error: BaseException, result: Outcome, hint: str) -> None:
    """One line on what happened and what comes next, with the traceback of what the handler did not mean to raise."""
    meant = isinstance(error, AioasynqError | SkipRetry | RevokeTask | RetryAfter)
    tries = f"try {running.msg.retried + 1} of {running.msg.retry + 1}"
    text = error_text(error)
    kind = error.kind if isinstance(error, ChildTaskError) else "" if meant else type(error).__name__
    if kind and text != kind and not text.startswith(f"{kind}: "):
        text = f"{kind}: {text}"
    text += hint
    what = clean(shorten(text, 300))
    if isinstance(error, ChildTaskError):
        what += f"\n{error.traceback}"
    fields = _fields(running)
    trace = None if meant or error.__traceback__ is None else (type(error), error, trace_of_users(error))
    if isinstance(result, Failed) and not result.is_failure:
        log.info("%s comes back in %.1f s: %s", _name(running), result.delay, what, exc_info=trace, extra=fields)
    elif isinstance(result, Failed):
        log.warning(
            "%s failed (%s), again in %.1f s: %s",
            _name(running),
            tries,
            result.delay,
            what,
            exc_info=trace,
            extra=fields,
        )
    elif isinstance(result, Killed):
        log.error(
            "%s failed (%s) and goes to the archive: %s", _name(running), tries, what, exc_info=trace, extra=fields
        )
    else:
        log.info("%s was revoked: %s", _name(running), what, extra=fields)


def _tell_end(running: Running, word: observer.Outcome, error: BaseException | None) -> None:
    if running.processing is not None:
        running.processing.ended(word, error)


def _word(result: Outcome, error: BaseException | None) -> observer.Outcome:
    match result:
        case Done():
            return "done" if error is None else "revoked"
        case Completed():
            return "completed"
        case Failed():
            return "retry" if result.is_failure else "postponed"
        case Killed():
            return "archived"
        case Requeued():
            return "requeued"


def _fields(running: Running) -> dict[str, object]:
    msg = running.msg
    return task_fields(msg.id, msg.type, running.leased.queue, msg.retried)


def _name(running: Running) -> str:
    return f"task {running.leased.shown} ({clean(running.msg.type)}) of queue {running.leased.queue}"


def _why(running: Running) -> str:
    return running.why.value if running.why is not None else "no reason"
