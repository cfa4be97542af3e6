"""How a command ends: its exit codes, and what it says then."""

from __future__ import annotations

from typing import NoReturn

import typer

STOPPED = 0  #: it was told to stop, and has
REFUSED = 1  #: Redis does not take us, or a bug ended the server
WRONG_USE = 2  #: something in the command, or in the module it names, has to be changed
INTERRUPTED = 130  #: Ctrl-C before there was anything to stop


def refuse(text: str, code: int = WRONG_USE) -> NoReturn:
    """Say what is wrong, and end."""
    typer.echo(f"aioasynq: {text}", err=True)
    raise typer.Exit(code) from None
