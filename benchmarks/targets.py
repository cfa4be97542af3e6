"""What aioasynq is to reach, computed from a run: each target is a line with both figures. None is typed in by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from benchmarks.registry import GO, OURS, SYSTEMS
from benchmarks.runner import Run
from benchmarks.works import GROWTH, PLAIN

KINDS = {system.name: system.kind for system in SYSTEMS}
ASYNC = [name for name, kind in KINDS.items() if kind == "asyncio" and name != OURS]
PYTHON = [name for name, kind in KINDS.items() if kind != "go" and name != OURS]
OTHERS = [name for name in KINDS if name != OURS]


@dataclass(frozen=True)
class Line:
    """One target, answered."""

    work: str
    what: str
    wanted: str
    #: The median over the rounds, with the least and the most.
    got: str
    #: None: not measured in this run.
    reached: bool | None
    #: The figures behind a ratio, as medians.
    behind: str = ""

    @property
    def answer(self) -> str:
        return {True: "reached", False: "NOT reached", None: "not measured"}[self.reached]


def lines(run: Run) -> list[Line]:
    """Every target of the project, in the order of the works."""
    ask = _Ask(run)
    return [
        ask.ratio("W1", "rate", ASYNC, "best asyncio peer", at_least=1.1),
        ask.ratio("W1", "rate", [GO], "Go asynq", at_least=0.6),
        ask.ratio("W2", "rate", [GO], "Go asynq", at_least=1.25),
        ask.ratio("W2", "rate", PYTHON, "best Python peer", at_least=2.5),
        ask.ratio("W2b", "rate", PYTHON, "best Python peer", at_least=1.4),
        ask.ratio("W3", "rate", [GO], "Go asynq", at_least=3.0),
        ask.ratio("W3", "rate", PYTHON, "best Python peer", at_least=3.0),
        ask.figure("W3", "cpu_us", "worker CPU a task", "µs", at_most=35),
        ask.figure("W3", "redis_us", "Redis CPU a task", "µs", at_most=20),
        ask.figure("W4", "ideal", "part of the ideal 20,000/s", "", at_least=0.75),
        ask.ratio("W5", "p50_ms", OTHERS, "best of all", at_most=0.85, what="p50"),
        ask.ratio("W5", "p99_ms", OTHERS, "best of all", at_most=1.0, what="p99"),
        ask.figure("W5h", "p99_ms", "p99 with 20 idle workers", "ms", at_most=5),
        ask.figure("W5h", "commands", "commands an enqueue, 20 idle workers", "", at_most=8),
        ask.figure("W6", "commands_s", "commands of an idle worker", "/s", at_most=5),
        ask.figure("W6", "cpu_percent", "CPU of an idle worker", "%", at_most=0.1),
        ask.ratio("W7", "bytes", [GO], "Go asynq", at_most=1.02, what="bytes a pending task"),
        ask.figure("W7", "over_bare_mib", "worker over a bare process, after a drain", "MiB", at_most=12),
        ask.ratio("W8", "p50_ms", OTHERS, "best of all", at_most=0.5, what="late, p50"),
        ask.ratio("W8", "p99_ms", OTHERS, "best of all", at_most=0.5, what="late, p99"),
        ask.figure("W8", "early", "tasks run early", "", at_most=0),
        *_growth(ask),
        ask.against("W10", "W3", "rate", "everything on, of our own W3", at_least=0.5),
    ]


def _growth(ask: _Ask) -> Iterable[Line]:
    for title, *_ in GROWTH:
        wanted = 0.7 if title.startswith("100 queues") else 0.9
        for figure, what in (("enqueue_rate", "enqueue"), ("rate", "drain")):
            text = f"{what} with {title}, of that with one queue and 0 pending"
            yield ask.against(f"W9 {title}", f"W9 {title}", figure, text, base_figure=PLAIN + figure, at_least=wanted)


class _Ask:
    def __init__(self, run: Run) -> None:
        self._run = run

    def ratio(
        self,
        work: str,
        figure: str,
        others: list[str],
        whom: str,
        *,
        what: str = "rate",
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> Line:
        """Ours by the best of *others*, within each round."""
        ours = self._run.by_round(work, OURS, figure)
        best: dict[int, float] = {}
        names: list[str] = []
        for name in others:
            for number, value in self._run.by_round(work, name, figure).items():
                better = max if at_least is not None else min
                best[number] = better(best.get(number, value), value)
            if self._run.by_round(work, name, figure):
                names.append(name)
        ratios = [ours[number] / best[number] for number in sorted(ours.keys() & best.keys()) if best[number]]
        whom = whom if len(others) == 1 else f"{whom} ({self._best(work, figure, names, at_least)}, of {len(names)})"
        behind = f"{_plain(median(ours.values()))} : {_plain(median(best.values()))}" if ratios else ""
        return _line(work, f"{what}, by {whom}", ratios, "x", at_least, at_most, behind)

    def figure(
        self,
        work: str,
        figure: str,
        what: str,
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> Line:
        """Ours as it is, with Go asynq's beside it: how fast the machine was has a part in both."""
        values = list(self._run.by_round(work, OURS, figure).values())
        theirs = list(self._run.by_round(work, GO, figure).values())
        behind = f"{_plain(median(values))} : {_plain(median(theirs))} ({GO})" if values and theirs else ""
        return _line(work, what, values, unit, at_least, at_most, behind)

    def against(self, work: str, base: str, figure: str, what: str, *, base_figure: str = "", at_least: float) -> Line:
        """Ours by ours at another work, or by another figure of the same, within each round."""
        top = self._run.by_round(work, OURS, figure)
        bottom = self._run.by_round(base, OURS, base_figure or figure)
        ratios = [top[number] / bottom[number] for number in sorted(top.keys() & bottom.keys())]
        behind = f"{_plain(median(top.values()))} : {_plain(median(bottom.values()))}" if ratios else ""
        return _line(work.split(maxsplit=1)[0], what, ratios, "x", at_least, None, behind)

    def _best(self, work: str, figure: str, names: list[str], at_least: float | None) -> str:
        medians = {name: median(self._run.by_round(work, name, figure).values()) for name in names}
        if not medians:
            return "none"
        pick: Callable[..., str] = max if at_least is not None else min
        return pick(medians, key=medians.__getitem__)


def _line(
    work: str,
    what: str,
    values: list[float],
    unit: str,
    at_least: float | None,
    at_most: float | None,
    behind: str = "",
) -> Line:
    unit = f" {unit}" if unit else ""
    wanted = f"≥ {at_least:g}{unit}" if at_least is not None else f"≤ {at_most:g}{unit}"
    if not values:
        return Line(work, what, wanted, "-", None)
    middle = median(values)
    reached = middle >= at_least if at_least is not None else middle <= (at_most or 0)
    got = f"{_plain(middle)}{unit}"
    if len(values) > 1:
        got += f" ({_plain(min(values))} to {_plain(max(values))})"
    return Line(work, what, wanted, got, reached, behind)


def _plain(value: float) -> str:
    """Three digits, or whole."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
