"""Runs cells in rounds, the systems of each work in a new order each time, and keeps what came out."""

from __future__ import annotations

import json
import math
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from aioasynq.devserver import DevServer, DevServerError
from benchmarks.cell import Cell, CellError
from benchmarks.environments import HOME, Installed
from benchmarks.hop import Hop, round_trip
from benchmarks.works import Figures, Work

RESULTS = HOME / "results"

Way: TypeAlias = Callable[[int], Hop]  # from a Redis's port to another way to reach it


@dataclass
class CellResult:
    work: str
    system: str
    round: int
    figures: Figures = field(default_factory=dict[str, float])
    error: str = ""


@dataclass
class Run:
    """All that a report needs; written as JSON."""

    machine: dict[str, Any]
    versions: dict[str, str]
    missing: dict[str, str]
    rounds: int
    seed: int
    hop: float = 0.0  #: milliseconds by which answers of Redis came later
    round_trip: float = 0.0  #: milliseconds that a PING then took
    survey: bool = False  #: all systems at the main works, to see which of them to compare with
    cells: list[CellResult] = field(default_factory=list[CellResult])

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".tmp")
        fresh.write_text(json.dumps(asdict(self), indent=1))
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> Run:
        data = json.loads(path.read_text())
        data["cells"] = [CellResult(**cell) for cell in data["cells"]]
        return cls(**data)

    # --- questions ---

    @property
    def place(self) -> str:
        """What docs/performance.md calls the room for it."""
        return "hop" if self.hop else "survey" if self.survey else "results"

    def by_round(self, work: str, system: str, figure: str) -> dict[int, float]:
        return {
            cell.round: cell.figures[figure]
            for cell in self.cells
            if cell.work == work and cell.system == system and cell.figures.get(figure) is not None
        }

    def errors(self, work: str, system: str) -> list[str]:
        return [cell.error for cell in self.cells if cell.work == work and cell.system == system and cell.error]

    def systems(self) -> list[str]:
        return list(self.versions)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    load = os.getloadavg()[0]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": model,
        "cores": os.cpu_count(),
        "load at the begin": round(load, 2),
        "redis": _redis_version(),
    }


def _redis_version() -> str:
    try:
        with DevServer() as server:
            return server.version
    except DevServerError as exc:
        sys.exit(str(exc))


def carry_out(
    run: Run, works: Iterable[Work], systems: Sequence[Installed], path: Path, way: Way | None = None
) -> None:
    """Run all cells that belong to *run*; it is saved after each."""
    if way is not None:
        with DevServer() as server, way(server.port) as hop:
            run.round_trip = round_trip(hop.url)
    chance = random.Random(run.seed)
    works = list(works)
    begin = time.monotonic()
    for number in range(max(work.rounds_of(run.rounds) for work in works)):
        for work in works:
            if number >= work.rounds_of(run.rounds):
                continue
            able = [
                installed
                for installed in systems
                if work.needs <= installed.system.can and (installed.system.ours or not work.ours_only)
            ]
            for installed in chance.sample(able, len(able)):
                result = one(work, installed, number, way)
                run.cells.append(result)
                run.save(path)
                text = result.error.splitlines()[0] if result.error else shown(result.figures)
                spent = time.monotonic() - begin
                print(
                    f"{spent:6.0f} s  round {number + 1}  {work.name:<6} {installed.system.name:<14} {text}", flush=True
                )


def one(work: Work, installed: Installed, number: int, way: Way | None) -> CellResult:
    result = CellResult(work.name, installed.system.name, number)
    try:
        with Cell(installed, work.tasks, way) as cell:
            result.figures = {name: value for name, value in work.run(cell).items() if not math.isnan(value)}
    except (CellError, DevServerError, OSError) as exc:
        result.error = str(exc)
    return result


def shown(figures: Figures) -> str:
    """For the terminal; what is counted for each command stays in the file."""
    plain = {name: value for name, value in figures.items() if ":" not in name}
    return "  ".join(
        f"{name} {value:.4g}" if value < 1_000 else f"{name} {value:,.0f}" for name, value in plain.items()
    )
