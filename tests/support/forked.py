"""Commands of ours that end by themselves, each in a process forked from one that has loaded the program already.

The process is a real one, with its own folder, environment and exit code, and costs a tenth of a new interpreter.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

PATIENCE = 30  # seconds until a command that has to end counts as one that does not
PRELOADED = [
    "aioasynq.cli.main",
    "aioasynq.cli.target",
    "aioasynq.cli.serve",
    "aioasynq.inspector",
    "tests.support.forked",
]


class Ran(NamedTuple):
    """What became of a command."""

    code: int | None  #: negative: the signal that ended it
    said: str  #: on both outputs


def run(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Ran:
    """Run ``aioasynq`` with *arguments* until it ends."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with TemporaryDirectory() as folder:
        output = Path(folder, "output")
        variables = {**os.environ, "COLUMNS": "200", **(env or {})}
        process = context.Process(target=_command, args=(list(arguments), cwd, variables, output))
        process.start()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
            raise AssertionError(f"{arguments} does not end; it said: {output.read_text()}")
        return Ran(process.exitcode, output.read_text())


def _command(arguments: list[str], cwd: Path, variables: dict[str, str], output: Path) -> None:
    with output.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = ["/somewhere/aioasynq/__main__.py", *arguments]
    sys.path.insert(0, str(cwd))

    from aioasynq.cli.main import main

    main()
