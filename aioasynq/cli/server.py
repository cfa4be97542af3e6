"""``aioasynq server``: servers, Python's and Go's."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from aioasynq.cli.connect import run
from aioasynq.cli.output import Json, ago, show_json, table
from aioasynq.inspector import Inspector
from aioasynq.inspector.records import ServerStatus
from aioasynq.rdb.rdb import RDB

app = typer.Typer(no_args_is_help=True, help="See servers.")


@app.command("list")
@app.command("ls", hidden=True)
def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List the servers that live."""

    async def work(inspector: Inspector, _: RDB) -> list[ServerStatus]:
        return await inspector.servers()

    servers = run(ctx, work)
    if as_json:
        show_json(servers)
    elif servers:
        table(("Host", "PID", "State", "Active Workers", "Queues", "Started"), rows_of(servers))
    else:
        typer.echo("No running servers")


def rows_of(servers: list[ServerStatus]) -> list[tuple[object, ...]]:
    """Servers as rows."""
    now = datetime.now(UTC)
    return [
        (
            server.host,
            server.pid,
            server.status,
            f"{len(server.active_workers)}/{server.concurrency}",
            " ".join(f"{name}:{weight}" for name, weight in sorted(server.queues.items(), key=lambda q: (-q[1], q[0]))),
            ago(server.started, now),
        )
        for server in servers
    ]
