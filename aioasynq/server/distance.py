"""Distance: is Redis so near that a round trip costs next to nothing?"""

from __future__ import annotations

import math

NEAR = 0.003  #: seconds the quickest call takes at most when Redis is near; else round trips are what costs time
WINDOW = 5.0  #: seconds of which the quickest call counts, and that of the window before


class Distance:
    """Judges by the quickest of the last calls: any one of them may have met a busy Redis, or a busy machine."""

    def __init__(self) -> None:
        self._quickest = self._before = math.inf
        self._window_ends = 0.0

    @property
    def is_near(self) -> bool:
        """Unknown is far."""
        return min(self._quickest, self._before) < NEAR

    def answered(self, seconds: float, now: float) -> None:
        """A call was answered after *seconds*, less what this thread itself computed meanwhile.

        For the event loop runs handlers while a call is under way, and looks for answers only afterwards: where it is
        busy, no call to however near a Redis is quick.
        """
        if now >= self._window_ends:
            self._before, self._quickest, self._window_ends = self._quickest, math.inf, now + WINDOW
        self._quickest = min(self._quickest, seconds)
