"""How a run ended, for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioasynq.devserver import DevServer
from tests.faults.ledger import Verdict

if TYPE_CHECKING:
    from tests.faults.harness import Settings

_COUNTS = ("acked", "refused", "LOST", "DUP", "STUCK", "reruns", "struck")
_HEAD = ("fault", "seed", *_COUNTS, "wait", "recovery", "exits", "")


@dataclass
class Report:
    """How a run ended."""

    fault: str
    seed: int
    verdict: Verdict
    struck: int
    recovery: float  #: seconds; until tasks of a killed worker ran again, else until all had come to rest
    exits: int
    problems: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])  #: measured, and no problem
    allow_refusals: bool = False

    @property
    def passed(self) -> bool:
        """Whether all that was promised was kept."""
        refused = self.verdict.refused and not self.allow_refusals
        return self.verdict.faultless and not (refused or self.exits or self.problems) and self.struck > 0

    def details(self) -> str:
        """Everything that is wrong, for people."""
        verdict = self.verdict
        lines = [] if self.struck else ["the fault never struck"]
        for what in ("lost", "dup", "stuck", "archived"):
            ids: dict[str, str] = getattr(verdict, what)
            lines += [f"{what.upper()} {task_id}: {why}" for task_id, why in list(ids.items())[:10]]
            if len(ids) > 10:
                lines.append(f"{what.upper()} … {len(ids)} in all")
        return "\n".join(f"  {line}" for line in (*lines, *self.problems[:20]))


def table(reports: Iterable[Report]) -> str:
    """The reports in lines and columns."""
    return _in_columns((report.fault, str(report.seed), *_cells([report])) for report in reports)


def worst(reports: Iterable[Report]) -> str:
    """One line for each fault, with the worst of its rounds: the fewest acked and struck, the most of the rest."""
    rounds: dict[str, list[Report]] = {}
    for report in reports:
        rounds.setdefault(report.fault, []).append(report)
    return _in_columns((fault, f"{len(of)} of them", *_cells(of)) for fault, of in rounds.items())


def _cells(rounds: list[Report]) -> tuple[str, ...]:
    verdicts = [report.verdict for report in rounds]
    counts = (
        min(verdict.acknowledged for verdict in verdicts),
        max(verdict.refused for verdict in verdicts),
        max(len(verdict.lost) for verdict in verdicts),
        max(len(verdict.dup) for verdict in verdicts),
        max(len(verdict.stuck) for verdict in verdicts),
        max(verdict.reruns for verdict in verdicts),
        min(report.struck for report in rounds),
    )
    return (
        *map(str, counts),
        f"{max(verdict.longest_wait for verdict in verdicts):.1f} s",
        f"{max(report.recovery for report in rounds):.1f} s",
        str(max(report.exits for report in rounds)),
        "ok" if all(report.passed for report in rounds) else "FAILED",
    )


def _in_columns(lines: Iterable[tuple[str, ...]]) -> str:
    rows = [_HEAD, *lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(_HEAD) - 1
    return "\n".join(
        "  ".join(
            cell.ljust(width) if n in {0, last} else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def version_line(settings: Settings) -> str:
    """What this ran on, for the head of a table."""
    with DevServer(settings.binary) as server:
        python = sys.version.split()[0]
        return f"Redis {server.version}, Python {python}, {os.cpu_count()} cores, lease {settings.lease:g} s"
