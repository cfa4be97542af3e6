"""``@pytest.mark.rows(13, 14)`` says which rows of asynq's own list of tests a test covers.

With ``--rows FILE`` the outcomes of such tests are written there, by row: docs/conformance.md is made from that.
"""

from __future__ import annotations

import ast
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
#: By row, then by test (``tests/unit/test_keys.py::test_key``): how many of its cases passed, failed, were skipped.
Outcomes = dict[int, dict[str, Counter[str]]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", metavar="FILE", type=Path, help="write what became of the rows of asynq's test list")


def pytest_configure(config: pytest.Config) -> None:
    if (file := config.getoption("--rows")) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Collector(file), "rows-collector")


def pytest_itemcollected(item: pytest.Item) -> None:
    # Properties go with a report from xdist's processes to the one that collects.
    item.user_properties.extend(("row", row) for row in sorted(rows_of(item)))


def rows_of(item: pytest.Item) -> set[int]:
    return {row for mark in item.iter_markers("rows") for row in mark.args}


class _Collector:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: defaultdict[int, defaultdict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        for name, row in report.user_properties:
            if name == "row" and isinstance(row, int):
                self._seen[row][report.nodeid.partition("[")[0]][report.outcome] += 1

    def pytest_sessionfinish(self) -> None:
        self._file.write_text(json.dumps(self._seen, indent=1, sort_keys=True) + "\n")


def read_outcomes(file: Path) -> Outcomes:
    return {
        int(row): {test: Counter(outcomes) for test, outcomes in tests.items()}
        for row, tests in json.loads(file.read_text()).items()
    }


def marked_tests() -> dict[int, set[str]]:
    """The tests of each row, by what stands in the files: none of them is imported or run."""
    found: defaultdict[int, set[str]] = defaultdict(set)
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text()
        if "mark.rows" not in text:
            continue
        for test, row in _marks(ast.parse(text)):
            found[row].add(f"{path.relative_to(TESTS.parent)}::{test}")
    return dict(found)


def _marks(module: ast.Module) -> Iterator[tuple[str, int]]:
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.rows":
                    yield from ((node.name, ast.literal_eval(row)) for row in mark.args)
