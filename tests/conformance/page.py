"""Makes docs/conformance.md of what a run of the tests said: ``python -m tests.conformance.page FILE``."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from tests.conformance.checklist import NOTES, PARTS, ROWS
from tests.support.rows import Outcomes, read_outcomes

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
_HEAD = """\
# Conformance

Go asynq's own tests hold 150 things. Here they are in our words, each with the tests that hold it for aioasynq and how
many of their cases passed. `make conformance-table` runs those tests and makes this page; do not edit it by hand.

Beside these, `tests/conformance` lets Go asynq and aioasynq work on the same queues:
[its page](../tests/conformance/README.md) tells how.

"""


def page(outcomes: Outcomes) -> str:
    """The page, of what became of each row's tests."""
    covered = [row for row in ROWS if outcomes.get(row)]
    passed = [row for row in covered if not _failures(outcomes[row])]
    text = _HEAD + f"{len(passed)} of {len(ROWS)} rows are covered by tests that passed.\n"
    for part in PARTS:
        text += f"\n## {part.title}\n\n| | What holds | Tests | Result |\n|---|---|---|---|\n"
        for row, sentence in part.rows.items():
            note = f"<br>*{NOTES[row]}*" if row in NOTES else ""
            tests = "<br>".join(f"`{name.removeprefix('tests/')}`" for name in sorted(outcomes.get(row, {})))
            text += f"| {row} | {sentence}.{note} | {tests} | {_result(row, outcomes)} |\n"
    return text


def _result(row: int, outcomes: Outcomes) -> str:
    if tests := outcomes.get(row):
        cases = sum((Counter(test) for test in tests.values()), Counter[str]())
        bad = _failures(tests)
        return f"{bad} of {cases.total()} FAILED" if bad else f"{cases.total()} passed"
    return "no test"


def _failures(tests: dict[str, Counter[str]]) -> int:
    return sum(test.total() - test["passed"] for test in tests.values())


if __name__ == "__main__":
    PAGE.write_text(page(read_outcomes(Path(sys.argv[1]))))
