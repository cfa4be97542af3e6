"""All faults, by name, in the order in which they run. Each family of rows is a module of its own."""

from __future__ import annotations

from tests.faults import (
    clocks,
    deaths,
    failovers,
    fleets,
    handlers,
    links,
    lost_replies,
    outages,
    poison,
    refusals,
    shutdowns,
    sizes,
)
from tests.faults.harness import Fault

_FAMILIES = (
    deaths,
    shutdowns,
    outages,
    links,
    lost_replies,
    refusals,
    poison,
    handlers,
    clocks,
    sizes,
    fleets,
    failovers,
)

FAULTS: dict[str, Fault] = {}

for _family in _FAMILIES:
    for _row in _family.ROWS:
        if _row.name in FAULTS:
            raise ValueError(f"there is a fault {_row.name!r} already")
        FAULTS[_row.name] = _row
