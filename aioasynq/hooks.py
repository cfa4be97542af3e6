"""Hooks: functions of users that are told what happens to tasks. What they raise is logged, and changes nothing."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from aioasynq.task import Task, TaskInfo

log = logging.getLogger(__name__)

HOOK_LIMIT = 30.0  #: seconds a hook may take before its task goes on without it

EnqueueHook: TypeAlias = Callable[[Task, TaskInfo], Awaitable[object] | object]
"""Called with a task and what is known of it, once Redis has it."""
StartHook: TypeAlias = Callable[[Task], Awaitable[object] | object]
"""Called before the handler of a task."""
SuccessHook: TypeAlias = Callable[[Task, Any], Awaitable[object] | object]
"""Called with a task and what its handler returned."""
ErrorHook: TypeAlias = Callable[[Task, BaseException], Awaitable[object] | object]
"""Called with a task and the error of its last try: of a failure, and of a task that goes to the archive."""
RetryHook: TypeAlias = Callable[[Task, BaseException, float], Awaitable[object] | object]
"""Called with a task, the error of its last try, and the seconds until the next one."""


class Hooks(NamedTuple):
    """What is told of the tasks of a mux, in the order in which it was registered."""

    start: tuple[StartHook, ...] = ()
    success: tuple[SuccessHook, ...] = ()
    failure: tuple[ErrorHook, ...] = ()
    retry: tuple[RetryHook, ...] = ()
    archive: tuple[ErrorHook, ...] = ()

    def and_then(self, others: Hooks) -> Hooks:
        """These, then *others*."""
        if others is NO_HOOKS:
            return self
        return others if self is NO_HOOKS else Hooks._make(a + b for a, b in zip(self, others, strict=True))


NO_HOOKS = Hooks()


def check_hook(what: str, hook: object, *, arguments: int) -> None:
    """Refuse what cannot be called with that many *arguments*.

    Raises:
        TypeError: *hook* is no such function; the text names *what*.
    """
    must = f"{what} must be a function of {arguments} argument{'s' * (arguments > 1)}"
    if not callable(hook):
        raise TypeError(f"{must}, got {hook!r}")
    if inspect.isasyncgenfunction(hook) or inspect.isgeneratorfunction(hook):
        raise TypeError(f"{must} that does not yield, got {hook!r}")
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):  # some built-in functions have none to show
        return
    try:
        signature.bind(*[None] * arguments)
    except TypeError as exc:
        raise TypeError(f"{must}, got {hook!r}: {exc}") from None


def enqueue_hooks(given: EnqueueHook | Iterable[EnqueueHook] | None) -> tuple[EnqueueHook, ...]:
    """One hook or many as a tuple, checked."""
    if given is None:
        return ()
    hooks: tuple[EnqueueHook, ...]
    if callable(given):
        hooks = (given,)
    elif isinstance(given, Iterable) and not isinstance(given, str):
        hooks = tuple(given)
    else:
        raise TypeError(f"on_enqueue must be a function of 2 arguments or a list of them, got {given!r}")
    for hook in hooks:
        check_hook("on_enqueue", hook, arguments=2)
    return hooks


async def tell(what: str, hooks: Iterable[Callable[..., object]], task: Task, *about: object) -> None:
    """Call *hooks* one after another with *task* and what is said *about* it; no error of theirs gets out.

    Raises:
        asyncio.CancelledError: whoever called this was cancelled, not a hook by itself.
    """
    me = asyncio.current_task()
    cancelled = me.cancelling() if me is not None else 0
    for hook in hooks:
        try:
            answer = hook(task, *about)
            if inspect.isawaitable(answer):
                async with asyncio.timeout(HOOK_LIMIT):
                    await answer
        except asyncio.CancelledError:
            if me is not None and me.cancelling() > cancelled:
                raise
            log.warning("%s was cancelled for task %s", what, task.id)
        except BaseException:
            log.exception("%s failed for task %s", what, task.id)
