"""Turns a run into tables and plots: on the terminal, in files, and into docs/performance.md."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

from benchmarks import plots, targets
from benchmarks.environments import ROOT
from benchmarks.registry import OURS, SYSTEMS, System
from benchmarks.runner import Run
from benchmarks.works import PLAIN, Work, works

DOCS = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "performance"


def write(run: Run, folder: Path) -> None:
    """Print the report of *run*, and write it with its plots to *folder*."""
    text = markdown(run)
    (folder / "report.md").write_text(text)
    for name, svg in pictures(run).items():
        (folder / name).write_text(svg)
    print(f"\n{text}\nwritten to {folder}: run.json, report.md and plots", flush=True)


def into_docs(run: Run) -> None:
    """Put the tables and plots of *run* where docs/performance.md has room for them."""
    text = DOCS.read_text()
    begin, end = f"<!-- {run.place}: begin -->", f"<!-- {run.place}: end -->"
    if begin not in text or end not in text:
        sys.exit(f"{DOCS} has no lines {begin} and {end}")
    head, rest = text.split(begin, 1)
    tail = rest.split(end, 1)[1]
    is_main = run.place == "results"
    drawn = pictures(run) if is_main else {}
    PICTURES.mkdir(exist_ok=True)
    for name, svg in drawn.items():
        (PICTURES / name).write_text(svg)
    shown = "\n".join(f"![{name.removesuffix('.svg')}](performance/{name})" for name in drawn)
    tables = markdown(run, level="###" if is_main else "####")
    DOCS.write_text(f"{head}{begin}\n\n{tables}\n{shown}\n\n{end}{tail}".replace("\n\n\n", "\n\n"))
    print(f"{DOCS.relative_to(ROOT)} has the run of {run.machine['date']}")


def markdown(run: Run, *, level: str = "##") -> str:
    measured = [work for work in works() if any(cell.work == work.name for cell in run.cells)]
    parts = [
        f"{level} The run\n\n{about(run)}",
        # They are for a Redis that is near, and for medians.
        *([f"{level} Targets\n\n{targets_table(run)}"] if run.place == "results" else []),
        f"{level} Figures\n\nMedian of the rounds, with the least and the most. A dash: the system cannot do it.\n",
        *(table(run, work) for work in measured),
    ]
    if any(cell.work == "W3" for cell in run.cells):
        parts.append(f"{level} What Redis does for a task\n\n{commands_table(run)}")
    if failed := errors(run):
        parts.append(f"{level} Cells that failed\n\n{failed}")
    return "\n".join(parts)


def about(run: Run) -> str:
    machine = "; ".join(f"{name}: {value}" for name, value in run.machine.items())
    rows = [f"| {name} | {version} |" for name, version in run.versions.items()]
    rows += [f"| {name} | missing: {reason} |" for name, reason in run.missing.items()]
    if run.hop:
        machine += f"; each answer {run.hop:g} ms later: a PING takes {run.round_trip:.2f} ms"
    if lacking := [work.name for work in works() if _lacks(run, work)]:
        machine += f"; broken off: {' and '.join(lacking)}: no whole last round"
    return (
        f"{machine}; rounds: {run.rounds}; seed: {run.seed}\n\n| system | versions |\n|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _lacks(run: Run, work: Work) -> bool:
    """Whether a system that did this work before has not done it in its last round."""
    last = work.rounds_of(run.rounds) - 1
    did = {
        number: {cell.system for cell in run.cells if (cell.work, cell.round) == (work.name, number)}
        for number in (0, last)
    }
    return did[0] > did[last]


def targets_table(run: Run) -> str:
    rows = ["| work | what | wanted | got: median (least to most) | ours : theirs | |", "|---|---|---|---|---|---|"]
    rows += [
        f"| {line.work} | {line.what} | {line.wanted} | {line.got} | {line.behind} | {line.answer} |"
        for line in targets.lines(run)
    ]
    return "\n".join(rows) + "\n"


def table(run: Run, work: Work) -> str:
    """One work: a row a system, the best first."""
    columns = [(work.figure, "", work.unit), *work.also]
    heads = [f"{title} ({unit})" if title and unit else title or unit for _, title, unit in columns]
    rows = []
    for name in ordered(run, work):
        cells = [spread(list(run.by_round(work.name, name, figure).values())) for figure, _, _ in columns]
        rows.append(f"| {f'**{name}**' if name == OURS else name} | {' | '.join(cells)} | {remark(run, work, name)} |")
    rows += [
        f"| {system.name} |{' - |' * len(columns)} {reason(system, work)} |"
        for system in SYSTEMS
        if system.name in run.versions and not work.needs <= system.can and not work.ours_only
    ]
    head = f"| **{work.name}** {work.title} | {' | '.join(heads)} | |\n|---|{'---:|' * len(columns)}---|"
    return head + "\n" + "\n".join(rows) + "\n"


def reason(system: System, work: Work) -> str:
    """Why *system* has no figure at *work*."""
    return system.no_delays if "at" in work.needs else "has no bulk call" if "bulk" in work.needs else ""


def ordered(run: Run, work: Work) -> list[str]:
    """The systems that were tried at *work*, the best first, those that failed last."""
    tried = {cell.system for cell in run.cells if cell.work == work.name}
    sign = -1 if work.more_is_better else 1

    def place(name: str) -> tuple[int, float, str]:
        values = run.by_round(work.name, name, work.figure).values()
        return (0, sign * median(values), name) if values else (1, 0.0, name)

    return sorted(tried, key=place)


def commands_table(run: Run) -> str:
    """Of W3, from INFO commandstats."""
    head = (
        "While W3 drains: microseconds a task of each command, and in parentheses how often a task it ran. A script's"
    )
    rows = []
    for system in SYSTEMS:
        names = sorted({name for cell in run.cells if cell.work == "W3" for name in cell.figures if ":" in name})
        found = {name: median(values) for name in names if (values := run.by_round("W3", system.name, name).values())}
        times = {name.removeprefix("usec:"): value for name, value in found.items() if name.startswith("usec:")}
        most = sorted(times, key=times.__getitem__, reverse=True)[:6]
        if most:
            said = (f"{name} {plain(times[name])} ({plain(found[f'calls:{name}'])})" for name in most)
            rows.append(f"| {system.name} | {', '.join(said)} |")
    return (
        f"{head} time has that of the commands it calls.\n\n| system | commands |\n|---|---|\n" + "\n".join(rows) + "\n"
    )


def remark(run: Run, work: Work, name: str) -> str:
    """What a reader has to know about these figures."""
    said = []
    if failures := run.errors(work.name, name):
        said.append(f"failed in {len(failures)} rounds")
    whole = run.by_round(work.name, name, "whole").values()
    if whole and not all(whole):
        counts = run.by_round(work.name, name, "count").values()
        said.append(f"stopped by the clock, after {min(counts):,.0f} tasks at the least")
    if twice := sum(run.by_round(work.name, name, "twice").values()):
        said.append(f"{twice:,.0f} ran twice")
    if early := sum(run.by_round(work.name, name, "early").values()):
        said.append(f"{early:,.0f} ran early")
    return "; ".join(said)


def errors(run: Run) -> str:
    rows = [
        f"* {cell.work}, {cell.system}, round {cell.round + 1}: {cell.error.strip().splitlines()[-1][:300]}"
        for cell in run.cells
        if cell.error
    ]
    return "\n".join(rows) + "\n" if rows else ""


def spread(values: list[float]) -> str:
    if not values:
        return "failed"
    middle = plain(median(values))
    return middle if len(values) == 1 else f"{middle} ({plain(min(values))}-{plain(max(values))})"


def plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def pictures(run: Run) -> dict[str, str]:
    """Plots by file name: bars for each work, lines for processes and growth."""
    drawn: dict[str, str] = {}
    for work in works():
        if work.ours_only or work.name.startswith("W3m"):
            continue
        bars = [
            plots.Bar(name, median(values), min(values), max(values), name == OURS)
            for name in ordered(run, work)
            if (values := list(run.by_round(work.name, name, work.figure).values()))
        ]
        if len(bars) > 1:
            title = f"{work.name}: {work.title} ({work.unit}; {'more' if work.more_is_better else 'less'} is better)"
            drawn[f"{work.name.lower()}.svg"] = plots.bars(title, bars, logarithmic=not work.more_is_better)
    by_system = {name: (name, "rate") for name in run.systems()}
    drawn |= _lines("w3m.svg", "W3m: drain no-ops with 1, 2 and 4 processes (tasks/s)", _points(run, "W3m", by_system))
    ours = {OURS: (OURS, "rate"), "beside it, one queue and 0 pending": (OURS, f"{PLAIN}rate")}
    return drawn | _lines("w9.svg", "W9: drain no-ops as queues grow (tasks/s)", _points(run, "W9", ours))


def _points(run: Run, family: str, named: dict[str, tuple[str, str]]) -> dict[str, list[tuple[str, float]]]:
    """For each name the medians of a system's figure over the works of a family."""
    members = [work for work in works() if work.name.split()[0] == family]
    return {
        name: [
            (work.name.removeprefix(family).strip(), median(values))
            for work in members
            if (values := run.by_round(work.name, system, figure).values())
        ]
        for name, (system, figure) in named.items()
    }


def _lines(file: str, title: str, points: dict[str, list[tuple[str, float]]]) -> dict[str, str]:
    points = {name: line for name, line in points.items() if len(line) > 1}
    return {file: plots.lines(title, points, OURS)} if points else {}
