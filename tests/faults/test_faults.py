"""Each fault once, short: nothing acknowledged is lost, run twice without need, or stuck, and no worker ends.

``make faults`` runs them longer.
"""

from __future__ import annotations

import pytest

from tests.faults.faults import FAULTS
from tests.faults.harness import Settings, run, table

# Whoever strikes one of many calls needs few tasks; those that strike at random moments need more.
TASKS = {"F1": 200, "F1b": 200, "F4": 300}
LONG = {
    "F1b",  # leases have to run out
    "F4b wait hang",  # found out only after the longest wait
    # On the same way as enqueue, done and retry, and a silent connection takes two seconds each.
    "F4b schedule hang",
    "F4b complete hang",
    "F4b kill hang",
    "F4b forward hang",
}


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in LONG else []) for name in FAULTS]
)
async def test_fault(name, server_program):
    report = await run(FAULTS[name], Settings(tasks=TASKS.get(name, 80), binary=server_program))
    assert report.passed, f"\n{table([report])}\n{report.details()}"
