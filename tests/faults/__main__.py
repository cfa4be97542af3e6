"""``python -m tests.faults --tasks 2000 --seed 1 --rounds 3 --only F1``: run the faults, print a table."""

import argparse
import asyncio
import sys

from tests.faults.faults import FAULTS
from tests.faults.harness import Report, Settings, run, table, version_line


def main() -> int:
    """Run what the command line asks for; 1 when something was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Kill, cut, and count what is lost.")
    parser.add_argument("--tasks", type=int, default=500, help="tasks in each run (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each further one adds 1")
    parser.add_argument("--rounds", type=int, default=1, help="how often all is run (default %(default)s)")
    parser.add_argument("--only", action="append", metavar="NAME", help="rows whose name begins so; may be repeated")
    parser.add_argument("--concurrency", type=int, default=20, help="of each worker (default %(default)s)")
    parser.add_argument("--lease", type=float, help="seconds a lease lasts (default 2, with --long 15)")
    parser.add_argument("--long", action="store_true", help="leases as in production, and more strikes")
    parser.add_argument("--list", action="store_true", help="say which faults there are, and end")
    options = parser.parse_args()
    prefixes = tuple(options.only or [""])
    rows = [row for row in FAULTS.values() if any(_begins(row.name, prefix) for prefix in prefixes)]
    if options.list:
        for row in rows:
            print(f"{row.name:24} {row.text}")
        return 0
    if not rows:
        parser.error(f"no fault has a name that begins with {' or '.join(prefixes)}; see --list")
    lease = options.lease or (15.0 if options.long else 2.0)
    reports: list[Report] = []
    for n in range(options.rounds):
        settings = Settings(
            tasks=options.tasks,
            seed=options.seed + n,
            lease=lease,
            concurrency=options.concurrency,
            thorough=options.long,
        )
        if not n:
            print(version_line(settings), flush=True)
        for row in rows:
            report = asyncio.run(run(row, settings))
            reports.append(report)
            print(f"{'ok' if report.passed else 'FAILED':7}{row.name}: {row.text}", flush=True)
            if not report.passed:
                print(report.details(), flush=True)
    print()
    print(table(reports))
    return 0 if all(report.passed for report in reports) else 1


def _begins(name: str, prefix: str) -> bool:
    """``F4`` means F4 and not F4b; ``F4b`` means all of it."""
    return name == prefix or name.startswith(f"{prefix} ") or not prefix


if __name__ == "__main__":
    sys.exit(main())
