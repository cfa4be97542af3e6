"""Options that the commands with a worker in them share, and what a server or another process is told of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from aioasynq.cli import given
from aioasynq.cli.exits import refuse

Target = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:NAME",
        help="Where the handlers are, as in myapp.tasks:mux: a ServeMux, a Server, whose options hold where none "
        "is given here, or a function that makes one.",
    ),
]
Queues = Annotated[
    str | None,
    typer.Option(metavar="NAME:WEIGHT,…", help="As in critical:6,default:3. A weight left out is 1. Default: default."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Take from a queue only when all of a higher weight are empty.")]
Concurrency = Annotated[str | None, typer.Option(metavar="N", help="Tasks that run at once. Default: 100.")]
LogLevel = Annotated[str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error. Default: info.")]
ShutdownTimeout = Annotated[
    str | None,
    typer.Option(metavar="SECONDS", help="How long tasks may go on once the worker has to stop. Default: 8."),
]
ReloadDirs = Annotated[
    list[str] | None,
    typer.Option(
        "--reload-dir",
        metavar="FOLDER",
        help="Watch this one; may be given several times. Default: the working directory.",
    ),
]


class ServerFlags(NamedTuple):
    """Options of a server, as they were typed."""

    queues: str | None
    strict: bool
    concurrency: str | None
    shutdown_timeout: str | None

    def checked(self) -> dict[str, Any]:
        """Those that were given, as fields of its Config."""
        options = {
            "queues": given.weights(self.queues),
            "strict_priority": self.strict or None,
            "concurrency": given.whole("--concurrency", self.concurrency),
            "shutdown_timeout": given.seconds("--shutdown-timeout", self.shutdown_timeout),
        }
        return {name: value for name, value in options.items() if value is not None}

    def typed(self) -> dict[str, str | bool | None]:
        """The same again, for :func:`words`."""
        return {f"--{name.replace('_', '-')}": value for name, value in self._asdict().items()}


def words(typed: Mapping[str, str | bool | None]) -> list[str]:
    """Options as arguments of another process; what was not given is left out."""
    switches = [name for name, value in typed.items() if value is True]
    return switches + [word for name, value in typed.items() if isinstance(value, str) for word in (name, value)]


def folder_words(texts: list[str] | None) -> list[str]:
    """The folders as arguments of another process."""
    return [word for text in texts or () for word in ("--reload-dir", text)]


def folders(texts: list[str] | None) -> list[Path]:
    """Which ones to watch for changes."""
    for text in texts or ():
        path = Path(text)
        if not text.strip():
            refuse(f"--reload-dir {text!r} is empty; give a folder, as in src")
        if path.is_file():
            refuse(f"--reload-dir {text!r} is a file; give the folder it is in")
        if not path.is_dir():
            refuse(f"--reload-dir {text!r} is not there, in {Path.cwd()}")
    return [Path(text) for text in texts] if texts else [Path.cwd()]
