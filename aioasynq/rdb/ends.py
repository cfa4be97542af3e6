"""Ends of tasks: who waits for them, and how they ended."""

from __future__ import annotations

from typing import NamedTuple

from aioasynq import keys
from aioasynq.errors import MessageDecodeError
from aioasynq.proto.codec import decode_task
from aioasynq.rdb.base import Operations
from aioasynq.task import Progress


class End(NamedTuple):
    """Where a task is, and what is known of its end."""

    state: str
    result: bytes | None
    error: str  #: the last one


class Step(NamedTuple):
    """Where a task is, and how far."""

    state: str
    progress: Progress | None


def read_progress(fraction: bytes | None, text: bytes | None) -> Progress | None:
    """What is stored of a task's progress; None where there is none, or what is none."""
    try:
        return Progress(min(1.0, max(0.0, float(fraction or b""))), (text or b"").decode("utf-8", "replace"))
    except ValueError:
        return None


class Ends(Operations):
    """Operations of those who wait for tasks: for their ends, and for how far they are."""

    async def read_end(self, queue: str, task_id: str) -> End | None:
        """How a task ended, if it has; None when there is no such task."""
        state, result, msg, error = await self._plain(
            "reading a result",
            lambda: self.command("HMGET", keys.task(queue, task_id), keys.STATE, keys.RESULT, keys.MSG, keys.ERROR),
        )
        if state is None:
            return None
        text = (error or b"").decode("utf-8", "replace")
        try:
            text = decode_task(msg or b"").error_msg or text
        except MessageDecodeError as exc:
            text = text or str(exc)
        return End(state.decode("utf-8", "replace"), result, text)

    async def read_step(self, queue: str, task_id: str) -> Step | None:
        """How far a task is; None when there is no such task."""
        state, fraction, text = await self._plain(
            "reading the progress of a task",
            lambda: self.command("HMGET", keys.task(queue, task_id), keys.STATE, keys.PROGRESS, keys.PROGRESS_TEXT),
        )
        return None if state is None else Step(state.decode("utf-8", "replace"), read_progress(fraction, text))

    async def await_ends(self, queue: str, seconds: int) -> None:
        """Have servers tell of the ends of tasks of *queue*, and of their progress, for so many seconds."""
        await self._plain(
            "waiting for results", lambda: self.command("SET", keys.awaited(queue), 1, "EX", seconds), writes=True
        )

    def ends_channel(self, queue: str) -> str:
        """The channel on which the ids of tasks are told that have ended, or got on."""
        return keys.awaited(queue)
