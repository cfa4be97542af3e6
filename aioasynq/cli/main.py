"""The parser: ``aioasynq COMMAND``. One file a command beside this one."""

from __future__ import annotations

from typing import Annotated

import typer

from aioasynq._version import __version__
from aioasynq.cli.worker import worker

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they would show the values of variables, and so passwords
    rich_markup_mode=None,  # an error of one line stays one line
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(worker)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"aioasynq {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Task queues on Redis, for asyncio."""


def main() -> None:
    """What the installed command runs."""
    app(prog_name="aioasynq")
