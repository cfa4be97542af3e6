"""Tokens of semaphores, under the keys of asynq's x/rate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aioasynq import keys
from aioasynq.rdb.base import Operations
from aioasynq.rdb.script import Script

_ACQUIRE_TOKEN = Script("acquire_token")
_RELEASE_TOKEN = Script("release_token")


class Tokens(Operations):
    """Operations on semaphores."""

    async def acquire_token(
        self,
        scope: str,
        task_id: str,
        *,
        tokens: int,
        seconds: float,
        orphaned: Callable[[str], Awaitable[object]] | None = None,
    ) -> str:
        """Take one of *tokens* for at most *seconds*; "" when none is free, else what :meth:`release_token` is given.

        A task has one token at most: whoever has one gets it renewed, so that a repeat takes no second one. *orphaned*
        gets the token of a caller that was cancelled meanwhile.
        """

        async def give_back(reply: bytes) -> None:
            if reply and orphaned is not None:
                await orphaned(reply.decode())

        reply: bytes = await self._run(
            _ACQUIRE_TOKEN,
            (keys.semaphore(scope),),
            (self.clock_argument(), tokens, f"{seconds:.3f}", task_id),
            orphaned=give_back,
        )
        return reply.decode()

    async def release_token(self, scope: str, task_id: str, token: str = "") -> bool:
        """Give a token back; False when the task does not hold it, or not any more.

        Without *token* it is whichever the task holds.
        """
        key, args = keys.semaphore(scope), (task_id, token)
        return bool(await self._run(_RELEASE_TOKEN, (key,), (*args, 0), repeated=(*args, 1)))
