"""Nap: a sleep that somebody else may end."""

from __future__ import annotations

import asyncio


class Nap:
    """Sleep of one task at a time, for so many seconds or until it is woken.

    ``asyncio.timeout`` around an event does the same by cancelling its task, which costs a sleeper that wakes once a
    second a good part of what it does then.
    """

    __slots__ = ("_sleeper", "_timer", "_woken")

    def __init__(self) -> None:
        self._sleeper: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False

    def reset(self, seconds: float) -> None:
        """Let the sleep under way, if there is one, last *seconds* from now. On the sleeper's loop."""
        if self._sleeper is not None and self._timer is not None:
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(seconds, _end, self._sleeper)

    def wake(self) -> None:
        """End the sleep, or the next one if nobody sleeps now. On the sleeper's loop."""
        self._woken = True
        _end(self._sleeper)

    async def sleep(self, seconds: float) -> bool:
        """Sleep at most *seconds*, and say whether it was woken."""
        if not self._woken:
            loop = asyncio.get_running_loop()
            self._sleeper = loop.create_future()
            self._timer = loop.call_later(seconds, _end, self._sleeper)
            try:
                await self._sleeper
            finally:
                self._timer.cancel()
                self._sleeper = self._timer = None
        woken, self._woken = self._woken, False
        return woken


def _end(sleeper: asyncio.Future[None] | None) -> None:
    if sleeper is not None and not sleeper.done():
        sleeper.set_result(None)
