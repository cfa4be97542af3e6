"""``aioasynq group``: groups of a queue."""

from __future__ import annotations

from typing import Annotated

import typer

from aioasynq.cli.connect import run
from aioasynq.cli.output import Json, show_json, table
from aioasynq.inspector import Inspector
from aioasynq.inspector.records import GroupInfo
from aioasynq.rdb.rdb import RDB

app = typer.Typer(no_args_is_help=True, help="See groups of tasks.")


@app.command("list")
@app.command("ls", hidden=True)
def list_(
    ctx: typer.Context, queue: Annotated[str, typer.Option("--queue", "-q", help="The queue.")], as_json: Json = False
) -> None:
    """List groups, and how many tasks wait in each."""

    async def work(inspector: Inspector, _: RDB) -> list[GroupInfo]:
        await inspector.get_queue_info(queue, memory=False)  # refuses a queue that there is not
        return await inspector.groups(queue)

    groups = run(ctx, work)
    if as_json:
        show_json(groups)
    elif groups:
        table(("Group", "Size"), [(group.group, group.size) for group in groups])
    else:
        typer.echo(f'No groups found in queue "{queue}"')
