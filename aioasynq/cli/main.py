"""The parser: ``aioasynq COMMAND``. One file a command beside this one."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from aioasynq._version import __version__
from aioasynq.cli.exits import INTERRUPTED, WRONG_USE
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
    try:
        code = app(prog_name="aioasynq", standalone_mode=False)
    except typer.Abort:  # what Ctrl-C has become
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
