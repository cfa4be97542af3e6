"""Each fault once, short: nothing acknowledged is lost, run twice without need, or stuck, and no worker ends.

``make faults`` runs them longer.
"""

from __future__ import annotations

import pytest

from tests.conformance import go_build
from tests.faults.faults import FAULTS
from tests.faults.harness import Settings, run
from tests.faults.report import table

# Whoever strikes one of many calls needs few tasks; those that strike at random moments need more.
FEW = 80
MORE = 200


def _tasks(name: str) -> int:
    return FEW if name.startswith("F4b") else MORE


def _params() -> list[object]:
    rows = [row for row in FAULTS.values() if not row.only_long]
    return [pytest.param(row.name, marks=[pytest.mark.long] if row.slow else []) for row in rows]


@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", _params())
async def test_fault(name, server_program):
    if FAULTS[name].needs_go:
        try:
            go_build.build("go")
        except go_build.GoMissingError as missing:
            pytest.skip(f"a worker of Go's cannot be had: {missing}")
    report = await run(FAULTS[name], Settings(tasks=_tasks(name), binary=server_program))
    assert report.passed, f"\n{table([report])}\n{report.details()}"
