"""Clock: a time that stands still until a test moves it."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta


class Clock:
    """A time for queues that stands still until it is moved: ``RDB(url, clock=Clock())``.

    Scheduled tasks, retries, groups and the retention of results go by it. What Redis itself lets expire, the locks of
    unique tasks, and the timeouts and deadlines of handlers go by the real time. It begins with the full second of now.
    """

    def __init__(self) -> None:
        self._now = float(int(time.time()))

    def __call__(self) -> float:
        """What time it is, unix seconds: what an RDB asks for."""
        return self._now

    @property
    def now(self) -> datetime:
        """What time it is."""
        return datetime.fromtimestamp(self._now, UTC)

    def advance(self, by: float | timedelta) -> None:
        """Move it forward by so many seconds, or a ``timedelta``. No handler should run meanwhile.

        Raises:
            TypeError: *by* is neither.
            ValueError: it is negative or no number: leases and counters go wrong when time goes backwards.
        """
        seconds = by.total_seconds() if isinstance(by, timedelta) else by
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise TypeError(f"by must be a number of seconds or a timedelta, got {by!r}")
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"by must be 0 or more, since a clock goes forward, got {by!r}")
        self._now += seconds

    def move_to(self, moment: datetime) -> None:
        """Move it forward to an aware *moment*. No handler should run meanwhile.

        Raises:
            TypeError: *moment* is no ``datetime``.
            ValueError: it has no time zone, or has passed.
        """
        if not isinstance(moment, datetime):
            raise TypeError(f"moment must be a datetime, got {moment!r}")
        if moment.tzinfo is None:
            raise ValueError(f"moment must have a time zone, as datetime.now(UTC) has, got {moment!r}")
        if moment < self.now:
            raise ValueError(f"moment must not be before {self.now.isoformat()}, which it is now, got {moment!r}")
        self._now = moment.timestamp()

    def __repr__(self) -> str:
        return f"<Clock {self.now.isoformat()}>"
