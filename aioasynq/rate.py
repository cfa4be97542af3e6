"""Semaphore: at most so many tasks at once, over all workers, Go's among them.

It lies under the key of asynq's x/rate and counts as that does, so Python and Go share one.
"""

from __future__ import annotations

import logging
import random
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from aioasynq.context import current_task
from aioasynq.errors import BrokerError, RetryAfter, TokenNotFoundError
from aioasynq.options import seconds_of
from aioasynq.rdb.rdb import RDB, open_rdb
from aioasynq.task import Task

if TYPE_CHECKING:
    from types import TracebackType

    from aioasynq.rdb.connection import ToRedis

log = logging.getLogger(__name__)

MAX_TOKENS = 2**31 - 1
MAX_SCOPE = 1024  #: characters
MANY = 1000  #: tokens that are remembered before those that have ended are forgotten


class Semaphore:
    """Tokens that running tasks share; a task holds one at most.

    In a handler::

        async with semaphore:  # no token is free: the task comes back later, which is no failure
            ...

    or by hand, as in Go: :meth:`acquire` tells whether there is one, and never waits.

    A token ends with the attempt that took it, a second past its deadline, so a worker that dies keeps none. Redis's
    clock counts; Go counts by the clocks of its machines.

    Args:
        redis: a URL, a ``redis.asyncio`` client (never closed here), an :class:`~aioasynq.RDB`, or None for the URL in
            ``AIOASYNQ_REDIS_URL``.
        scope: the name of the semaphore.
        max_tokens: how many tasks may hold one at once. It is not stored: whoever asks counts by its own.
        retry_after: seconds, or a ``timedelta``, after which a task comes back that ``async with`` has no token for;
            up to a quarter more, so that not all come at once.

    Raises:
        ValueError, TypeError: an argument is wrong; it is named with its value.
    """

    def __init__(
        self,
        redis: ToRedis | RDB | None,
        scope: str,
        max_tokens: int,
        *,
        retry_after: float | timedelta = 1.0,
    ) -> None:
        _check_scope(scope)
        if not isinstance(max_tokens, int) or isinstance(max_tokens, bool):
            raise TypeError(f"max_tokens must be a whole number, got {max_tokens!r}")
        if not 1 <= max_tokens <= MAX_TOKENS:
            raise ValueError(f"max_tokens must be from 1 to {MAX_TOKENS}, got {max_tokens!r}")
        self._retry_after = seconds_of("retry_after", retry_after)
        self._scope = scope
        self._max_tokens = max_tokens
        self._held: dict[tuple[str, datetime], str] = {}  # by task and attempt: what Redis calls the token
        self._rdb = open_rdb(redis)

    async def acquire(self, task: Task | None = None) -> bool:
        """Take a token for *task*, by default the one that is being handled here; False when none is free.

        A task that holds one keeps it, for as long as its present attempt may take. (asynq says no to it when all are
        taken.) When the caller is cancelled the token goes back.

        Raises:
            RuntimeError: no task is given, and none is being handled here.
            ValueError: the task is not being processed, so it has no deadline with which the token would end.
            BrokerError: Redis did not answer in time; with ``maybe_done`` the token may be taken until that deadline.
        """
        task_id, deadline = _attempt(task)
        token = await self._rdb.acquire_token(
            self._scope,
            task_id,
            tokens=self._max_tokens,
            seconds=max(0.0, deadline.timestamp() - time.time()),
            orphaned=lambda token: self._rdb.release_token(self._scope, task_id, token),
        )
        if not token:
            return False
        if len(self._held) >= MANY:
            self._forget()
        self._held[task_id, deadline] = token
        return True

    async def release(self, task: Task | None = None) -> None:
        """Give the token of *task* back, by default of the one that is being handled here.

        Raises:
            TokenNotFoundError: it holds none, or not any more.
            RuntimeError, ValueError: as for :meth:`acquire`.
            BrokerError: Redis did not answer in time; the token ends with the attempt.
        """
        task_id, deadline = _attempt(task)
        token = self._held.pop((task_id, deadline), "")
        if not await self._rdb.release_token(self._scope, task_id, token):
            raise TokenNotFoundError(self._scope, task_id)

    async def aclose(self) -> None:
        """Close the connection; a client that was handed in stays open."""
        await self._rdb.aclose()

    async def __aenter__(self) -> None:
        if not await self.acquire():
            raise RetryAfter(
                self._retry_after * random.uniform(1.0, 1.25), f"no token of semaphore {self._scope!r} is free"
            )

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.release()
        except TokenNotFoundError:  # it had ended; nothing is left to do
            pass
        except BrokerError as error:  # what the handler did is done, and must not be done again for this
            log.warning("a token of semaphore %r ends only with its attempt: %s", self._scope, error)

    def __repr__(self) -> str:
        return f"<Semaphore {self._scope!r} of {self._max_tokens} on {self._rdb.address}>"

    def _forget(self) -> None:
        """Tokens that have ended were never given back; without this they would pile up."""
        now = time.time() - 60  # clocks differ a little
        self._held = {key: token for key, token in self._held.items() if float(token) > now}


def _attempt(task: Task | None) -> tuple[str, datetime]:
    """A task's id, and the deadline of the attempt that is under way."""
    if task is None:
        try:
            task = current_task()
        except RuntimeError:
            raise RuntimeError(
                "a semaphore was asked outside a handler: tokens are for tasks, and none is being processed here"
            ) from None
    elif not isinstance(task, Task):
        raise TypeError(f"task must be a Task that a handler got, got {task!r}")
    deadline = task.deadline
    if not task.id or deadline is None:
        raise ValueError(f"task must be one that is being processed, with an id and a deadline, got {task!r}")
    return task.id, deadline


def _check_scope(scope: str) -> None:
    if not isinstance(scope, str):
        raise TypeError(f"scope must be a str, got {scope!r}")
    if not scope.strip():
        raise ValueError(f"scope must contain one or more characters that are not blank, got {scope!r}")
    if len(scope) > MAX_SCOPE:
        raise ValueError(f"scope must have at most {MAX_SCOPE} characters, got {len(scope)}")
    try:
        scope.encode()
    except UnicodeEncodeError:
        raise ValueError(f"scope must be valid Unicode text, got {scope!r}") from None
