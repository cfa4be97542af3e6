"""The parser: ``aioasynq COMMAND``. One file a command beside this one."""

from __future__ import annotations

import sys

import typer

from aioasynq._version import __version__
from aioasynq.cli import connect, cron, group, queue, server, task
from aioasynq.cli.dev import dev
from aioasynq.cli.doctor import doctor
from aioasynq.cli.exits import INTERRUPTED, WRONG_USE
from aioasynq.cli.migrate import migrate
from aioasynq.cli.scheduler import scheduler
from aioasynq.cli.stats import stats
from aioasynq.cli.top import top
from aioasynq.cli.worker import worker

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they would show the values of variables, and so passwords
    rich_markup_mode=None,  # an error of one line stays one line
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(short_help="Process tasks, until SIGTERM or SIGINT.")(worker)
app.command(short_help="A Redis, a worker that reloads and a view of both, for development.")(dev)
app.command(short_help="Enqueue periodic tasks, until SIGTERM or SIGINT.")(scheduler)
app.command()(stats)
app.add_typer(queue.app, name="queue")
app.add_typer(task.app, name="task")
app.add_typer(server.app, name="server")
app.add_typer(cron.app, name="cron")
app.add_typer(group.app, name="group")
app.command(short_help="Show queues, servers and tasks as they change.")(top)
app.command("dash", hidden=True)(top)  # asynq's name
app.command(short_help="Look whether all is well, and repair.")(doctor)
app.command(short_help="Carry asynq's layout of 2020 over to today's.")(migrate)


@app.command(hidden=True)
def version() -> None:
    """Show the version."""
    typer.echo(f"aioasynq {__version__}")


app.callback()(connect.where)


def main() -> None:
    """What the installed command runs."""
    try:
        code = app(prog_name="aioasynq", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):  # what Ctrl-C has become
        typer.echo(err=True)
        code = INTERRUPTED
    except Exception as exc:
        text = getattr(exc, "format_message", None)  # the base of such errors is in click or in typer, by version
        if text is None:
            raise
        _say(text(), getattr(getattr(exc, "ctx", None), "command_path", "aioasynq"))
        code = WRONG_USE
    sys.exit(code if isinstance(code, int) else 0)


def _say(text: str, command: str) -> None:
    """An error in two lines; the help that a bare ``aioasynq`` asks for stays as it is."""
    if "\n" in text:
        typer.echo(text, err=True)
    else:
        typer.echo(f"aioasynq: {text.rstrip('.')}\n{command} --help tells what there is", err=True)
