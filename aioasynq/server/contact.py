"""Contact with Redis: one log line when it is lost, one when it is back, and how long to wait between two tries."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING

from aioasynq.server.counts import Counts

if TYPE_CHECKING:
    from aioasynq.errors import BrokerError

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
_REFUSAL_PAUSE = 1.0
_SAME_REFUSAL = 60.0  #: seconds in which the same refusal is logged once


class Contact:
    """Whether Redis answers. Shared by all parts of a server on one event loop, as are its *counts*."""

    def __init__(self, address: str, counts: Counts | None = None) -> None:
        self._address = address
        self.counts = Counts() if counts is None else counts
        self.ever = False  #: Redis has answered at least once
        self._lost_at: float | None = None
        self._pause = _FIRST_PAUSE
        self._refusals: dict[str, float] = {}
        self.since = time.monotonic()  #: when contact was made, monotonic seconds

    @property
    def there(self) -> bool:
        """Redis answered when last asked."""
        return self._lost_at is None

    def lost(self, error: BrokerError) -> float:
        """An operation failed; returns how many seconds to wait before the next try, with jitter."""
        if error.answered:
            self.counts.refused += 1
            self._refused(str(error))
            return _REFUSAL_PAUSE * random.uniform(0.8, 1.2)
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            self._pause = _FIRST_PAUSE
            self.counts.contact_lost += 1
            log.warning("no contact with Redis at %s: %s; trying again until there is", self._address, error)
        else:
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        return self._pause * random.uniform(0.5, 1.0)

    def made(self) -> None:
        """An operation succeeded."""
        self.ever = True
        if self._lost_at is not None:
            now = time.monotonic()
            log.warning("contact with Redis at %s again after %.1f s", self._address, now - self._lost_at)
            self._lost_at = None
            self.since = now

    def _refused(self, text: str) -> None:
        now = time.monotonic()
        if now < self._refusals.get(text, 0.0):
            return
        if len(self._refusals) > 100:
            self._refusals.clear()
        self._refusals[text] = now + _SAME_REFUSAL
        log.warning("Redis refuses: %s; trying again", text)
