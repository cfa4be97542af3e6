"""``aioasynq migrate``: carry over what asynq of 2020 left in Redis."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from aioasynq.cli.confirm import Yes, confirm
from aioasynq.cli.connect import run
from aioasynq.cli.exits import REFUSED, refuse
from aioasynq.cli.given import seconds
from aioasynq.cli.output import Json, pairs, progress, show_json, table, title
from aioasynq.inspector import Inspector, MigrationReport
from aioasynq.keys import check_queue_name
from aioasynq.logs import clean
from aioasynq.rdb.migration import process_of
from aioasynq.rdb.rdb import RDB

STATES = ("pending", "scheduled", "retry", "archived")
LISTED = 20  #: of what is left in place; --json lists more


def migrate(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what there is.")] = False,
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Also while processes of the old asynq live.")] = False,
    counters_queue: Annotated[
        str, typer.Option("--counters-queue", help="The queue that is given the old counters, which had none.")
    ] = "default",
    timeout: Annotated[
        str, typer.Option("--timeout", help="Seconds for tasks with neither timeout nor deadline.")
    ] = "1800",
    as_json: Json = False,
) -> None:
    """Carry over what asynq v0.1 to v0.9 (2020) left in Redis: show it, ask, and do it.

    It can be stopped and begun again at any moment. What cannot be read stays where it is, and is listed.
    """
    limit = seconds("--timeout", timeout)
    if not limit:
        refuse("--timeout must be more than 0 seconds, as in --timeout 1800; every task has a limit today")
    try:
        check_queue_name(counters_queue)
    except ValueError as exc:
        refuse(f"--counters-{exc}")

    async def work(inspector: Inspector, _: RDB, *, dry: bool) -> MigrationReport:
        return await inspector.migrate(
            dry_run=dry,
            force=force,
            counters_queue=counters_queue,
            timeout=limit,
            progress=None if dry else progress(as_json),
        )

    if dry_run or not yes:
        found: MigrationReport = run(ctx, partial(work, dry=True))
        if not as_json:
            _show(found)
        elif dry_run:
            show_json(found)
        if dry_run:
            return
        confirm(f"carry over {found.total:,} tasks", yes)
    done: MigrationReport = run(ctx, partial(work, dry=False))
    if as_json:
        show_json(done)
    else:
        _show(done)
    if done.remaining:
        refuse(
            f"{done.remaining:,} tasks came meanwhile: stop the clients of the old asynq, and run this again", REFUSED
        )


def _is_nothing(report: MigrationReport) -> bool:
    return not (report.total or any(report.counters.values()) or report.left_total or report.same or report.processes)


def _show(report: MigrationReport) -> None:
    if _is_nothing(report):
        typer.echo(
            "There is no task and no counter of asynq's layout of 2020 here. Is it the right server and database?"
        )
        return
    title("To be carried over" if report.dry_run else "Carried over")
    rows = [(queue, *(states.get(state, 0) for state in STATES)) for queue, states in report.tasks.items()]
    table(("queue", *STATES), rows)
    pairs([(f"attempts {kind}", count) for kind, count in report.counters.items()])
    if report.same:
        pairs([("there already", report.same)])
    if report.dry_run and report.processes:
        typer.echo(f"\nStop these first, or give --force: {', '.join(clean(process_of(n)) for n in report.processes)}")
    if report.left_total:
        title(f"\nLeft in place: {report.left_total:,}")
        # As Python writes bytes: nothing in them steers a terminal.
        rows_left = [(left.place, left.reason, repr(left.data)[1:] if left.data else "") for left in report.left]
        table(("where", "why", "begins with"), rows_left[:LISTED])
        if report.left_total > LISTED:
            typer.echo(f"and {report.left_total - min(LISTED, len(rows_left)):,} more; --json lists the first 1,000")
