"""The time that schedulers go by: Redis's, so that none of them is early or late because of its own machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioasynq.rdb.rdb import RDB

_JUMP = 0.05  #: seconds by which a new answer may differ from what was expected, before those who sleep are told


class RedisClock:
    """Tells Redis's time without asking each time. Until it was asked, this machine's time stands in.

    Args:
        on_jump: called with the seconds by which another time was believed, and whether that was this machine's.
    """

    def __init__(self, on_jump: Callable[[float, bool], object]) -> None:
        self._ahead = time.time() - time.monotonic()
        self._on_jump = on_jump
        self.is_known = False

    def now(self) -> float:
        """Redis's time, unix seconds."""
        return time.monotonic() + self._ahead

    async def ask(self, rdb: RDB) -> None:
        """Ask Redis.

        Raises:
            BrokerError: it does not answer.
        """
        asked = time.monotonic()
        told = await rdb.redis_time()
        self._set(told - (asked + time.monotonic()) / 2)

    def heard(self, told: float) -> None:
        """Redis has just said that it is so late."""
        self._set(told - time.monotonic())

    def _set(self, ahead: float) -> None:
        jump, was_known = ahead - self._ahead, self.is_known
        self._ahead = ahead
        self.is_known = True
        if abs(jump) > _JUMP:
            self._on_jump(jump, not was_known)
