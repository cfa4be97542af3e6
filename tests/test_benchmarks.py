"""The benchmarks run: one tiny cell of each kind, in this environment, so that nothing is installed."""

from __future__ import annotations

import shutil
import sys
import xml.etree.ElementTree as ET

import pytest

from benchmarks import environments, plots, report, targets
from benchmarks.cell import Cell
from benchmarks.environments import Installed
from benchmarks.hop import Hop, round_trip
from benchmarks.registry import GO, OURS, QUICK, SYSTEMS
from benchmarks.runner import CellResult, Run
from benchmarks.works import _growth, drain, works

SYSTEM = {system.name: system for system in SYSTEMS}
pytestmark = pytest.mark.timeout(180)  # the first build of the Go program downloads its modules


@pytest.fixture(scope="module", params=[OURS, GO])
def installed(request):
    if request.param == OURS:
        return Installed(SYSTEM[OURS], (sys.executable, "-m", "benchmarks.systems.aioasynq"), "", sys.executable)
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    return environments.install(SYSTEM[GO], sys.executable)


def test_tasks_are_enqueued_and_drained(installed):
    with Cell(installed, 300) as cell:
        cell.preload(200)
        enqueued = cell.enqueue("callers", 90, first=200, warm=10)
        assert enqueued.count == 90
        assert enqueued.rate > 0
        figures = drain(cell, 300)
    assert (figures["count"], figures["twice"], figures["whole"]) == (300, 0, 1)
    assert figures["rate"] > 0


def test_each_task_knows_when_it_was_sent_and_began(installed):
    with Cell(installed, 20) as cell:
        cell.work()
        cell.settle_down(first=5, pause=0)
        cell.enqueue("paced", 5, pause=0.001)
        assert cell.wait_for("working", lambda: cell.shared.handled() >= 15, 30)
        assert all(cell.shared.began[number] > cell.shared.sent[number] > 0 for number in range(5))


def test_growth_is_measured_beside_an_empty_redis():
    python = Installed(SYSTEM[OURS], (sys.executable, "-m", "benchmarks.systems.aioasynq"), "", sys.executable)
    with Cell(python, 500) as cell:
        figures = _growth(100, pending=50, queues=4, used=2)(cell)
        assert cell.redis.smembers("asynq:queues") == {b"default", b"q0", b"q1"}  # only the preload is of the first
    assert 100 <= figures["count"] <= 200, "the warming up is counted where it was drained too"
    assert (figures["twice"], figures["whole"]) == (0, 1)
    assert min(figures[name] for name in ("rate", "enqueue_rate", "plain_rate", "plain_enqueue_rate")) > 0


def test_a_hop_lets_answers_come_later_and_changes_nothing_else(installed):
    try:
        program = environments.hop_program()
    except environments.MissingError as missing:
        pytest.skip(f"the hop cannot be had: {missing}")
    with Cell(installed, 100, lambda port: Hop(program, port, 5)) as cell:
        assert cell.url != cell.server.url
        assert round_trip(cell.url) >= 5.0
        cell.preload(100)
        figures = drain(cell, 100)
    assert (figures["count"], figures["twice"], figures["whole"]) == (100, 0, 1)


def test_a_run_is_saved_read_and_reported(tmp_path):
    run = Run({"cores": 2}, {OURS: "1", GO: "0.26"}, {"huey": "no network"}, 2, 1)
    for number in range(2):
        run.cells += [
            CellResult("W3", OURS, number, {"rate": 30_000.0 + number, "cpu_us": 40.0, "redis_us": 12.0}),
            CellResult("W3", GO, number, {"rate": 9_000.0, "cpu_us": 95.0, "redis_us": 55.0}),
            CellResult("W3", "arq", number, error="no\nRedis"),
        ]
    run.save(tmp_path / "run.json")
    again = Run.load(tmp_path / "run.json")
    assert again == run
    report.write(again, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| huey | missing: no network |" in text
    assert "| **aioasynq** | 30,000 (30,000-30,001) | 40 (40-40) | 12 (12-12) |  |" in text
    assert "| arq | failed | failed | failed | failed in 2 rounds |" in text
    ET.fromstring((tmp_path / "w3.svg").read_text())


def test_a_run_that_was_broken_off_says_so():
    run = Run({"cores": 2}, {OURS: "1", GO: "0.26"}, {}, 2, 1)
    run.cells = [CellResult(work, system, 0, {"rate": 1.0}) for work in ("W2", "W3") for system in (OURS, GO)]
    run.cells += [CellResult("W2", OURS, 1, {"rate": 1.0}), CellResult("W2", GO, 1, error="no Redis")]
    run.cells += [CellResult("W3", OURS, 1, {"rate": 1.0})]
    assert "broken off: W3: no whole last round" in report.about(run)
    run.cells += [CellResult("W3", GO, 1, {"rate": 1.0})]
    assert "broken off" not in report.about(run)


def test_targets_are_computed_within_rounds():
    run = Run({}, {}, {}, 2, 1)
    for number, (ours, theirs) in enumerate([(40_000.0, 10_000.0), (10_000.0, 4_000.0)]):
        run.cells += [CellResult("W3", OURS, number, {"rate": ours}), CellResult("W3", GO, number, {"rate": theirs})]
    line = next(line for line in targets.lines(run) if line.work == "W3")
    assert (line.got, line.behind, line.answer) == ("3.25 x (2.5 to 4)", "25,000 : 7,000", "reached")
    assert {line.answer for line in targets.lines(run) if line.work == "W1"} == {"not measured"}


def test_growth_is_compared_with_what_stood_beside_it():
    run = Run({}, {OURS: "1"}, {}, 2, 1)
    for number, (rate, plain) in enumerate([(40_000.0, 50_000.0), (20_000.0, 20_000.0), (19_000.0, 20_000.0)]):
        run.cells.append(CellResult("W9 10 queues", OURS, number, {"rate": rate, "plain_rate": plain}))
        run.cells.append(CellResult("W9 10,000 pending", OURS, number, {"rate": rate / 2, "plain_rate": plain}))
    ten, many = (line for line in targets.lines(run) if line.work == "W9" and line.reached is not None)
    assert (ten.got, ten.behind, ten.answer) == ("0.95 x (0.8 to 1)", "20,000 : 20,000", "reached")
    assert (many.got, many.answer) == ("0.475 x (0.4 to 0.5)", "NOT reached")
    ET.fromstring(report.pictures(run)["w9.svg"])


def test_names_are_unique_and_quick_systems_exist():
    assert len({work.name for work in works()}) == len(works())
    assert set(QUICK) <= set(SYSTEM)
    assert all((environments.ROOT / "benchmarks/systems" / f"{s.module}.py").exists() for s in SYSTEMS if s.python)


def test_names_in_plots_are_escaped():
    ET.fromstring(plots.bars("a < b", [plots.Bar("<x>", 1.0, 1.0, 2.0, ours=True)]))
    ET.fromstring(plots.lines("a < b", {"<x>": [("1", 1.0), ("2", 2.0)]}, "<x>"))


def test_in_how_many_rounds_a_work_is_run():
    rounds = {work.name: work.rounds_of(3) for work in works()}
    assert (rounds["W2"], rounds["W6"], rounds["W7"]) == (3, 3, 2)
    assert (rounds["W1"], rounds["W9 10 queues"], rounds["W9 1,000,000 pending"]) == (9, 15, 9)
