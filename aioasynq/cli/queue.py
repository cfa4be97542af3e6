"""``aioasynq queue``: see, pause and remove queues."""

from __future__ import annotations

from typing import Annotated

import typer

from aioasynq.cli.confirm import Yes, confirm
from aioasynq.cli.connect import run
from aioasynq.cli.exits import REFUSED, refuse
from aioasynq.cli.given import whole
from aioasynq.cli.output import Json, pairs, rate, show_json, size, table, title
from aioasynq.errors import AioasynqError, QueueNotEmptyError
from aioasynq.inspector import Inspector
from aioasynq.inspector.base import MAX_DAYS
from aioasynq.logs import clean
from aioasynq.rdb.rdb import RDB

app = typer.Typer(no_args_is_help=True, help="See, pause and remove queues.")
Names = Annotated[list[str], typer.Argument(metavar="QUEUE…")]
STATES = ("active", "pending", "aggregating", "scheduled", "retry", "archived", "completed")


@app.command("list")
@app.command("ls", hidden=True)
def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List queues."""

    async def work(inspector: Inspector, rdb: RDB) -> tuple[list[str], list[tuple[str, int, str]] | None]:
        names = await inspector.queues()
        return names, [await _where(inspector, name) for name in names] if rdb.is_cluster else None

    names, places = run(ctx, work)
    if as_json:
        show_json(names)
    elif places:
        table(("Queue", "Cluster KeySlot", "Cluster Nodes"), places)
    else:
        for name in names:
            typer.echo(clean(name))


async def _where(inspector: Inspector, name: str) -> tuple[str, int, str]:
    nodes = await inspector.cluster_nodes(name)
    return name, await inspector.cluster_key_slot(name), " ".join(node.addr for node in nodes)


@app.command()
def inspect(ctx: typer.Context, names: Names, as_json: Json = False) -> None:
    """Show the numbers of queues."""

    async def work(inspector: Inspector, _: RDB) -> list[object]:
        return [(await inspector.get_queue_info(name), await inspector.history(name, 1)) for name in names]

    found = run(ctx, work)
    if as_json:
        show_json([info for info, _ in found])
        return
    for n, (info, _) in enumerate(found):
        if n:
            typer.echo(f"\n{'=' * 49}\n")
        title("Queue Info")
        pairs(
            [
                ("Name", info.queue),
                ("Size", info.size),
                ("Groups", info.groups),
                ("Paused", str(info.paused).lower()),
                ("Latency", f"{info.latency:.1f} s"),
                ("Memory", size(info.memory_usage or 0)),
            ]
        )
        title("\nTask Count by State")
        table(STATES, [[getattr(info, state) for state in STATES]])
        title(f"\nDaily Stats {info.timestamp:%Y-%m-%d} UTC")
        table(("processed", "failed", "error rate"), [(info.processed, info.failed, rate(info.failed, info.processed))])


@app.command()
def history(
    ctx: typer.Context,
    names: Names,
    days: Annotated[
        str, typer.Option("--days", "-x", metavar="N", help="How many days, today first; up to 90.")
    ] = "10",
    as_json: Json = False,
) -> None:
    """Show what was processed and failed on each day."""
    count = whole("--days", days, most=MAX_DAYS)

    async def work(inspector: Inspector, _: RDB) -> list[object]:
        return [await inspector.history(name, count) for name in names]

    found = run(ctx, work)
    if as_json:
        show_json([day for stats in found for day in stats])
        return
    for name, stats in zip(names, found, strict=True):
        title(f"Queue: {name}")
        rows = [(day.date, day.processed, day.failed, rate(day.failed, day.processed)) for day in stats]
        table(("date (UTC)", "processed", "failed", "error rate"), rows)


@app.command()
def pause(ctx: typer.Context, names: Names, as_json: Json = False) -> None:
    """Let no server take tasks of queues."""
    _each(ctx, names, "paused", as_json)


@app.command()
@app.command("unpause", hidden=True)
def resume(ctx: typer.Context, names: Names, as_json: Json = False) -> None:
    """Let servers take tasks of queues again."""
    _each(ctx, names, "unpaused", as_json)


@app.command()
@app.command("rm", hidden=True)
@app.command("delete", hidden=True)
def remove(
    ctx: typer.Context,
    names: Names,
    force: Annotated[bool, typer.Option("--force", "-f", help="Also queues that hold tasks.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete queues with all that they have."""
    confirm(f"delete {', '.join(names)}{' with all tasks' if force else ''}", yes)
    _each(ctx, names, "removed", as_json, force=force)


def _each(ctx: typer.Context, names: list[str], done: str, as_json: bool, *, force: bool = False) -> None:
    """Do it to each; go on where one is refused, and say so in the end."""
    refused: list[str] = []
    well: list[str] = []

    async def work(inspector: Inspector, _: RDB) -> None:
        for name in names:
            try:
                if done == "removed":
                    await inspector.delete_queue(name, force=force)
                else:
                    await (inspector.pause_queue(name) if done == "paused" else inspector.unpause_queue(name))
            except AioasynqError as exc:
                hint = "; --force deletes its tasks too" if isinstance(exc, QueueNotEmptyError) and not force else ""
                refused.append(f"{exc}{hint}")
            else:
                well.append(name)
                if not as_json:
                    typer.echo(f'Successfully {done} queue "{name}"')

    run(ctx, work)
    if as_json:
        show_json({done: well, "errors": refused})
    for text in refused[:-1]:
        typer.echo(f"aioasynq: {text}", err=True)
    if refused:
        refuse(refused[-1], REFUSED)
