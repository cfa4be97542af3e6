"""Which firings of a periodic task are due, and which were missed. Pure: moments in, moments out."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from aioasynq.cronspec import Every, Schedule

CatchUp: TypeAlias = Literal["skip", "once", "all"]
CATCH_UPS: Final = get_args(CatchUp)

PROMPT: Final = 5.0  #: seconds; what is not later than this was not missed
PATIENCE: Final = 3600.0  #: seconds for which the last firing is tried where missed ones are skipped
MOST: Final = 100  #: firings that are made up for at once


class Due(NamedTuple):
    """Firings to be seen to now, in order, and those that are left out."""

    moments: Sequence[int]
    missed: Sequence[int]


def due(schedule: Schedule, after: float, now: float, catch_up: CatchUp, *, shared: bool = True) -> Due:
    """What of a schedule is due at *now*, when all up to *after* was seen to; unix seconds.

    Firings that are late, since nobody could see to them in time, are all due with ``all`` (the last :data:`MOST`), the
    last of them with ``once``. With ``skip`` that one is due only for :data:`PATIENCE` seconds: so long a scheduler
    that runs tries to get through to Redis.
    """
    found = firings(schedule, after, now, MOST, shared=shared)
    if not found or catch_up == "all":
        return Due(found, ())
    patience = PATIENCE if catch_up == "skip" else float("inf")
    is_due = {moment: now - moment <= PROMPT for moment in found}
    is_due[found[-1]] = now - found[-1] <= patience
    return Due([m for m in found if is_due[m]], [m for m in found if not is_due[m]])


def following(schedule: Schedule, after: float, *, shared: bool = True) -> int | None:
    """The first firing later than *after*."""
    if shared and isinstance(schedule, Every):
        return schedule.next_shared(after)
    return schedule.next(after)


def firings(schedule: Schedule, after: float, until: float, most: int, *, shared: bool = True) -> list[int]:
    """The firings later than *after* and not later than *until*; the last ones, where there are more than *most*."""
    if isinstance(schedule, Every):
        first = schedule.next_shared(after) if shared else schedule.next(after)
        return list(range(first, int(until // 1) + 1, schedule.interval)[-most:])
    # It can only be looked forward; so from nearer and nearer to the end, backwards, until there are enough
    span = 60.0
    while True:
        begin = at = max(after, until - span)
        found: deque[int] = deque(maxlen=most)
        while (moment := schedule.next(at)) is not None and moment <= until:
            found.append(moment)
            at = moment
        if len(found) == most or begin <= after:
            return list(found)
        span *= 4
