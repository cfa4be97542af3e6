"""Nothing is destroyed without a word."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from aioasynq.cli.exits import REFUSED, refuse

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def confirm(what: str, yes: bool) -> None:
    """Ask on a terminal whether *what* is to be done; elsewhere ``--yes`` is needed."""
    if yes:
        return
    if not sys.stdin.isatty():
        refuse(f"nobody can be asked here, add --yes to {what}")
    if not typer.confirm(f"{what[0].upper()}{what[1:]}?", err=True):
        refuse("nothing was done", REFUSED)
