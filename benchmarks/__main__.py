"""Compares aioasynq with Go asynq and the Python queues on Redis: ``python -m benchmarks``; see docs/performance.md."""

import argparse
import signal
import sys
from pathlib import Path

from benchmarks import environments, report, runner
from benchmarks.hop import Hop
from benchmarks.registry import QUICK, SYSTEMS, System
from benchmarks.works import Work, works

MOST_HOP = 1_000  #: milliseconds
MAIN_WORKS = ("W1", "W2", "W2b", "W3", "W4", "W5")  #: those that a hop makes slower, and that end nevertheless


def main() -> None:
    options = _parser().parse_args()
    if not 0 <= options.hop <= MOST_HOP:
        sys.exit(f"--hop {options.hop:g}: give milliseconds, at most {MOST_HOP}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else the systems that run would stay
    if options.survey and options.hop:
        sys.exit("--survey and --hop: give one of them")
    place = "hop" if options.hop else "survey" if options.survey else ""
    path = Path(options.results or runner.RESULTS / place) / "run.json"
    if options.report:
        report.into_docs(runner.Run.load(path))
        return
    if options.show:
        report.write(runner.Run.load(path), path.parent)
        return
    way = _way(options.hop)
    chosen_works = _works(options)
    chosen = _systems(options)
    python = environments.find_python(options.python)
    installed, versions, missing = [], {}, {}
    for system in chosen:
        try:
            made = environments.install(system, python)
        except environments.MissingError as exc:
            missing[system.name] = str(exc)
            print(f"{system.name}: missing, {exc}", flush=True)
        else:
            installed.append(made)
            versions[system.name] = made.version
            print(f"{system.name}: {made.version}", flush=True)
    if options.install:
        return
    rounds = options.rounds or (1 if options.survey else 3)
    run = runner.Run(runner.machine(), versions, missing, rounds, options.seed, options.hop, survey=options.survey)
    print("  ".join(f"{name}: {value}" for name, value in run.machine.items()), flush=True)
    runner.carry_out(run, chosen_works, installed, path, way)
    report.write(run, path.parent)


def _way(milliseconds: float) -> runner.Way | None:
    if not milliseconds:
        return None
    try:
        program = environments.hop_program()
    except environments.MissingError as exc:
        sys.exit(f"--hop: {exc}")
    return lambda port: Hop(program, port, milliseconds)


def _works(options: argparse.Namespace) -> list[Work]:
    known = works()
    if options.works:
        names = options.works.split(",")
        found = [work for work in known if work.name in names or work.name.split()[0] in names]
        if unknown := set(names) - {work.name for work in found} - {work.name.split()[0] for work in found}:
            sys.exit(f"no such work: {', '.join(sorted(unknown))}; there are {', '.join(w.name for w in known)}")
        return found
    main_only = options.hop or options.survey
    return [work for work in known if options.full or (work.name in MAIN_WORKS if main_only else work.quick)]


def _systems(options: argparse.Namespace) -> list[System]:
    names = options.systems.split(",") if options.systems else None
    if names and (unknown := set(names) - {system.name for system in SYSTEMS}):
        sys.exit(f"no such system: {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in SYSTEMS)}")
    if names is None and not options.full and not options.survey:
        names = list(QUICK)
    return [system for system in SYSTEMS if names is None or system.name in names]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare aioasynq with others.")
    parser.add_argument("--full", action="store_true", help="all systems and all works, in place of the quick form")
    parser.add_argument("--works", metavar="W1,W3", help="these works only")
    parser.add_argument("--systems", metavar="A,B", help="these systems only, with commas between them")
    parser.add_argument("--rounds", type=int, metavar="N", help="3 if not given, 1 for a survey")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the order within a round")
    parser.add_argument("--python", metavar="PATH", help="the interpreter for all; python3.12 or later if there is one")
    parser.add_argument("--results", metavar="FOLDER", help="where the results go")
    parser.add_argument("--hop", type=float, default=0.0, metavar="MS", help="let each answer of Redis come MS later")
    parser.add_argument("--survey", action="store_true", help="all systems at the main works, once")
    parser.add_argument("--install", action="store_true", help="make the environments and run nothing")
    parser.add_argument("--show", action="store_true", help="write the report of the last run again")
    parser.add_argument("--report", action="store_true", help="put the tables of the last run into docs/performance.md")
    return parser


if __name__ == "__main__":
    main()
