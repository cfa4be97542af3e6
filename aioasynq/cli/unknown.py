"""Tasks of types that a worker has no handler for: said at its start, and at the first task of each type."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

from aioasynq.errors import BrokerError, HandlerNotFoundError, MessageDecodeError
from aioasynq.proto.codec import decode_task
from aioasynq.task import TaskState

if TYPE_CHECKING:
    from aioasynq.mux import ServeMux
    from aioasynq.rdb.rdb import RDB
    from aioasynq.server.config import ErrorHandler
    from aioasynq.task import Task

log = logging.getLogger(__name__)

LOOKED_AT = 10  #: tasks of each state of each queue, those that run first
MOST = 100  #: types that are told apart: whoever makes up types does not fill the log
SHOWN = 5  #: patterns that a line names


class Unknown:
    """Says once of each type that *mux* has no handler for it."""

    def __init__(self, mux: ServeMux) -> None:
        self._mux = mux
        self._said: set[str] = set()

    def before(self, error_handler: ErrorHandler | None) -> ErrorHandler:
        """What hears of each try that failed, before *error_handler* does: a task that succeeds costs nothing."""

        async def heard(task: Task, error: BaseException) -> None:
            if isinstance(error, HandlerNotFoundError):
                self.say(task.type, task.queue)
            if error_handler is not None:
                await error_handler(task, error)

        return heard

    @asynccontextmanager
    async def looking(self, rdb: RDB, queues: Iterable[str]) -> AsyncGenerator[None]:
        """Look at what waits, beside whatever is done in the block."""
        look = asyncio.get_running_loop().create_task(self._look(rdb, queues))
        try:
            yield
        finally:
            look.cancel()
            await asyncio.wait({look})

    async def _look(self, rdb: RDB, queues: Iterable[str]) -> None:
        try:
            for queue in queues:
                for state in (TaskState.PENDING, TaskState.RETRY, TaskState.SCHEDULED):
                    ids = await rdb.list_ids(queue, state, None, 0, LOOKED_AT)
                    for found in await rdb.read_tasks(queue, ids) if ids else ():
                        if found is not None:
                            self._look_at(found.data, queue)
        except BrokerError as exc:  # whether Redis is there is said by the server
            log.debug("no look at what waits: %s", exc)

    def _look_at(self, data: bytes, queue: str) -> None:
        try:
            task_type = decode_task(data).type
        except MessageDecodeError:
            return  # whoever takes it archives it
        if not self._mux.pattern_of(task_type):
            self.say(task_type, queue)

    def say(self, task_type: str, queue: str) -> None:
        """Warn, the first time."""
        if task_type in self._said or len(self._said) >= MOST:
            return
        self._said.add(task_type)
        patterns = self._mux.patterns
        near = get_close_matches(task_type, patterns, 1)
        more = f" and {len(patterns) - SHOWN} more" if len(patterns) > SHOWN else ""
        log.warning(
            "no handler for tasks of type %r, as in queue %s: each try fails, and at last they go to the archive; %s",
            task_type,
            queue,
            f"is {near[0]!r} meant?" if near else f"there are handlers for {', '.join(patterns[:SHOWN])}{more}",
        )
