"""How long a failed task waits before it is tried again."""

from __future__ import annotations

import random
from typing import Protocol


class Chance(Protocol):
    """Where chance comes from: the module ``random``, or a ``random.Random``."""

    def randrange(self, stop: int, /) -> int:
        """A whole number from 0 to below *stop*."""
        ...


def default_delay(
    retried: int, error: BaseException | None = None, task: object = None, *, random: Chance = random
) -> float:
    """Seconds until the next try of a task that had failed *retried* times before.

    It is asynq's rule, ``retried⁴ + 15 + r · (retried + 1)`` with a whole *r* from 0 to 29, so that tasks that failed
    together do not come back together: 15 to 44 s at first, 1.6 to 3.6 min after three failures, a week after 28.
    *error* and *task* are there because rules of one's own have the same form; this one ignores them.
    """
    del error, task
    return float(retried**4 + 15 + random.randrange(30) * (retried + 1))
