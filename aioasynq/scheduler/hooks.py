"""What users may have called around an enqueue. Whatever a hook does, the scheduler goes on."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from aioasynq.options import Options
from aioasynq.task import Task, TaskInfo

log = logging.getLogger(__name__)

LIMIT = 10.0  #: seconds an async hook may take

PreEnqueue: TypeAlias = Callable[[Task, Options], Any]
PostEnqueue: TypeAlias = Callable[[TaskInfo | None, Exception | None], Any]
OnError: TypeAlias = Callable[[Task, Options, Exception], Any]


class Hooks:
    """The hooks of a scheduler; each may be a plain function or an async one, or None."""

    def __init__(self, pre: PreEnqueue | None, post: PostEnqueue | None, on_error: OnError | None) -> None:
        for name, hook in (("pre_enqueue", pre), ("post_enqueue", post), ("error_handler", on_error)):
            if hook is not None and not callable(hook):
                raise TypeError(f"{name} must be callable or None, got {hook!r}")
        self._pre = pre
        self._post = post
        self._on_error = on_error

    async def before(self, task: Task, options: Options) -> None:
        """A task is about to be enqueued."""
        await _call("pre_enqueue", self._pre, task, options)

    async def after(self, info: TaskInfo) -> None:
        """A task was enqueued."""
        await _call("post_enqueue", self._post, info, None)

    async def failed(self, task: Task, options: Options, error: Exception) -> None:
        """A task was not enqueued, or perhaps not."""
        await _call("post_enqueue", self._post, None, error)
        await _call("error_handler", self._on_error, task, options, error)


async def _call(name: str, hook: Callable[..., Any] | None, *args: object) -> None:
    if hook is None:
        return
    me = asyncio.current_task()
    cancelled = me.cancelling() if me is not None else 0
    try:
        result = hook(*args)
        if inspect.isawaitable(result):
            async with asyncio.timeout(LIMIT):
                await result
    except asyncio.CancelledError:
        if me is not None and me.cancelling() > cancelled:
            raise
        log.warning("the hook %s of a scheduler was cancelled", name)  # by itself, or by what it awaited
    except (KeyboardInterrupt, SystemExit, GeneratorExit):  # about the program, not this hook
        raise
    except BaseException:
        log.exception("the hook %s of a scheduler failed", name)
