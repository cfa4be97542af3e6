"""Every row of asynq's list has a test, and docs/conformance.md names those that it has."""

from __future__ import annotations

import re

from tests.conformance.checklist import NOTES, PARTS, ROWS
from tests.conformance.page import PAGE, page
from tests.support.rows import marked_tests

#: ``| 13 | what holds | `unit/test_keys.py::test_key`<br>… | 3 passed |``
_ROW = re.compile(r"(?m)^\| (\d+) \| (.*?) \| (.*?) \| (.*?) \|$")


def test_the_rows_are_numbered_through():
    assert list(ROWS) == list(range(1, 151))
    assert len(ROWS) == sum(len(part.rows) for part in PARTS), "a row stands in two parts"
    assert set(NOTES) <= set(ROWS)


def test_every_row_has_a_test():
    assert set(marked_tests()) == set(ROWS)


def test_the_page_is_in_step():
    """Its rows, their sentences, their tests; how many cases there were is the run's."""
    shown = {int(row): (what, set(re.findall(r"`([^`]+::[^`]+)`", tests))) for row, what, tests, _ in _rows()}
    marked = marked_tests()
    blank = {int(row): what for row, what, _, _ in _ROW.findall(page({}))}
    assert shown == {
        row: (what, {name.removeprefix("tests/") for name in marked.get(row, ())}) for row, what in blank.items()
    }, "run `make conformance-table`"


def test_all_passed():
    assert [row for row in _rows() if "FAILED" in row[3]] == []


def _rows() -> list[tuple[str, str, str, str]]:
    return _ROW.findall(PAGE.read_text())
