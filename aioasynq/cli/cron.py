"""``aioasynq cron``: what schedulers enqueue."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from aioasynq.cli import given
from aioasynq.cli.connect import run
from aioasynq.cli.output import Json, Page, Size, ago, moment, payload, show_json, table, title, until
from aioasynq.inspector import Inspector
from aioasynq.inspector.records import SchedulerEnqueueEventInfo, SchedulerEntryInfo
from aioasynq.rdb.rdb import RDB

app = typer.Typer(no_args_is_help=True, help="See periodic tasks.")


@app.command("list")
@app.command("ls", hidden=True)
def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List the entries of schedulers that live."""

    async def work(inspector: Inspector, _: RDB) -> list[SchedulerEntryInfo]:
        return await inspector.scheduler_entries()

    entries = run(ctx, work)
    if as_json:
        show_json(entries)
        return
    if not entries:
        typer.echo("No scheduler entries")
        return
    now = datetime.now(UTC)
    table(
        ("EntryID", "Spec", "Type", "Payload", "Options", "Next", "Prev"),
        [
            (
                entry.id,
                entry.spec,
                entry.task_type,
                payload(entry.task_payload),
                ", ".join(entry.options),
                until(entry.next, now).replace("right now", "Now"),
                ago(entry.prev, now) if entry.prev else "N/A",
            )
            for entry in entries
        ],
    )


@app.command()
def history(
    ctx: typer.Context,
    entries: Annotated[list[str], typer.Argument(metavar="ENTRY…")],
    page: Page = "1",
    size: Size = "30",
    as_json: Json = False,
) -> None:
    """Show what was enqueued for entries, the last one first."""
    number, count = given.page(page, size)

    async def work(inspector: Inspector, _: RDB) -> dict[str, list[SchedulerEnqueueEventInfo]]:
        return {
            entry: await inspector.list_scheduler_enqueue_events(entry, page=number, page_size=count)
            for entry in entries
        }

    found = run(ctx, work)
    if as_json:
        show_json(found)
        return
    for entry, events in found.items():
        title(f"Entry: {entry}")
        if events:
            table(("TaskID", "EnqueuedAt"), [(event.task_id, moment(event.enqueued_at)) for event in events])
        else:
            typer.echo(f'No scheduler enqueue events found for entry "{entry}"')
