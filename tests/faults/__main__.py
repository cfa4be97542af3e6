"""``python -m tests.faults --tasks 2000 --seed 1 --rounds 3 --only F1``: run the faults, print a table."""

import argparse
import asyncio
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.faults.faults import FAULTS
from tests.faults.harness import Fault, Settings, run
from tests.faults.report import Report, table, version_line, worst


def main() -> int:
    """Run what the command line asks for; 1 when something was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Kill, cut, and count what is lost.")
    parser.add_argument("--tasks", type=int, default=500, help="tasks in each run (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each further one adds 1")
    parser.add_argument("--rounds", type=int, default=1, help="how often all is run (default %(default)s)")
    parser.add_argument("--only", action="append", metavar="NAME", help="rows whose name begins so; may be repeated")
    parser.add_argument("--concurrency", type=int, default=20, help="of each worker (default %(default)s)")
    parser.add_argument("--lease", type=float, help="seconds a lease lasts (default 2, with --long 15)")
    parser.add_argument("--long", action="store_true", help="leases as in production, more rows, and more strikes")
    parser.add_argument("--jobs", type=int, default=2, help="rows that run at the same time (default %(default)s)")
    parser.add_argument("--list", action="store_true", help="say which faults there are, and end")
    options = parser.parse_args()
    prefixes = tuple(options.only or [])
    rows = [row for row in FAULTS.values() if _chosen(row, prefixes, thorough=options.long)]
    if options.list:
        for row in rows:
            print(f"{row.name:30} {row.text}")
        return 0
    if not rows:
        parser.error(f"no fault has a name that begins with {' or '.join(prefixes)}; see --list")
    if shutil.which("go") is None and (left_out := [row.name for row in rows if row.needs_go]):
        print(f"left out, since there is no Go: {', '.join(left_out)}")
        rows = [row for row in rows if not row.needs_go]
    every = Settings(
        tasks=options.tasks,
        lease=options.lease or (15.0 if options.long else 2.0),
        concurrency=options.concurrency,
        thorough=options.long,
    )
    print(version_line(every), flush=True)
    runs = [
        (row, Settings(**(vars(every) | {"seed": options.seed + n}))) for n in range(options.rounds) for row in rows
    ]
    reports: list[Report] = []
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        for (row, _), report in zip(runs, pool.map(lambda pair: asyncio.run(run(*pair)), runs), strict=True):
            reports.append(report)
            notes = f" ({', '.join(report.notes)})" if report.notes else ""
            print(f"{'ok' if report.passed else 'FAILED':7}{row.name}: {row.text}{notes}", flush=True)
            if not report.passed:
                print(report.details(), flush=True)
    print()
    print(table(reports))
    if options.rounds > 1:
        print("\nthe worst of each fault:\n")
        print(worst(reports))
    return 0 if all(report.passed for report in reports) else 1


def _chosen(row: Fault, prefixes: tuple[str, ...], *, thorough: bool) -> bool:
    """``F4`` means F4 and not F4b; ``F4b`` means all of it. What is named runs, however long it takes."""
    if prefixes:
        return any(row.name == prefix or row.name.startswith(f"{prefix} ") for prefix in prefixes)
    return thorough or not row.only_long


if __name__ == "__main__":
    sys.exit(main())
