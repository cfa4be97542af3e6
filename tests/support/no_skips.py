"""Where nothing may be missing (``AIOASYNQ_REQUIRE_ALL=1``), a skipped test is a failed one.

A test that cannot run on some server or on a Cluster is to be deselected there, not skipped.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


def pytest_report_header() -> str | None:
    return "AIOASYNQ_REQUIRE_ALL=1: a skip is a failure" if _required() else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if _required() and report.skipped and not hasattr(report, "wasxfail"):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if _required() and report.skipped:
        _fail(report)
    return report


def _required() -> bool:
    return os.environ.get("AIOASYNQ_REQUIRE_ALL") == "1"


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    where, line, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
    report.outcome = "failed"
    report.longrepr = f"{where}:{line}: {reason.removeprefix('Skipped: ')} (a skip, and AIOASYNQ_REQUIRE_ALL=1)"
