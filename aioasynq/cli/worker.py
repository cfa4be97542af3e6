"""``aioasynq worker module:name``: process tasks until told to stop."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from aioasynq.cli import given
from aioasynq.cli.child import Child
from aioasynq.cli.exits import refuse
from aioasynq.cli.limits import Limits, resident, shown
from aioasynq.cli.parent import Parent
from aioasynq.cli.serve import serve, set_up_logging
from aioasynq.cli.target import load, split
from aioasynq.rdb.connection import URL_VARIABLE
from aioasynq.server import Server

DEFAULT_URL = "redis://localhost:6379/0"


def worker(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:NAME",
            help="Where the handlers are, as in myapp.tasks:mux: a ServeMux, a Server, whose options hold where none "
            "is given here, or a function that makes one.",
        ),
    ],
    url: Annotated[
        str | None, typer.Option(metavar="URL", help=f"Redis. Default: {URL_VARIABLE}, else redis://localhost:6379/0.")
    ] = None,
    queues: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:WEIGHT,…", help="As in critical:6,default:3. A weight left out is 1. Default: default."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Take from a queue only when all of a higher weight are empty.")
    ] = False,
    concurrency: Annotated[str | None, typer.Option(metavar="N", help="Tasks that run at once. Default: 100.")] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error. Default: info.")
    ] = None,
    shutdown_timeout: Annotated[
        str | None,
        typer.Option(metavar="SECONDS", help="How long tasks may go on once the worker has to stop. Default: 8."),
    ] = None,
    processes: Annotated[
        str | None,
        typer.Option(metavar="N", help="Worker processes, under a parent that starts another one where one dies."),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Replace a process that holds more, as in 500MB; its parent does so."),
    ] = None,
    max_tasks: Annotated[
        str | None, typer.Option(metavar="N", help="Replace a process that has had so many tasks.")
    ] = None,
    parent: Annotated[str | None, typer.Option(hidden=True)] = None,
    introduce: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Process tasks until SIGTERM or SIGINT, then let what runs finish; a second signal gives it back at once."""
    options: dict[str, Any] = {
        "queues": given.weights(queues),
        "strict_priority": strict or None,
        "concurrency": given.whole("--concurrency", concurrency),
        "shutdown_timeout": given.seconds("--shutdown-timeout", shutdown_timeout),
    }
    options = {name: value for name, value in options.items() if value is not None}
    level = given.level("--log-level", log_level)
    url = given.url(url)
    limits = Limits(given.size("--max-memory", max_memory), given.whole("--max-tasks", max_tasks))
    count = given.whole("--processes", processes)
    if parent is None and (count is not None or limits != Limits()):
        words = {
            "--url": url,
            "--queues": queues,
            "--concurrency": concurrency,
            "--log-level": log_level,
            "--shutdown-timeout": shutdown_timeout,
            "--max-memory": max_memory,
            "--max-tasks": max_tasks,
        }
        flags = ["--strict"] if strict else []
        flags += [word for name, value in words.items() if value is not None for word in (name, value)]
        set_up_logging(level, many=True)
        raise typer.Exit(_lead(target, flags, count or 1))
    server = _server(target, options, strict=strict)
    set_up_logging(level, many=parent is not None)
    if parent is None:
        serve(server, url)
    else:
        _follow(server, url, int(parent), int(introduce or 0), limits)


def _lead(target: str, flags: list[str], processes: int) -> int:
    """Be the parent of workers that are given *flags*."""
    split(target)
    command = [*_interpreter(), "-m", "aioasynq", "worker", target, *flags]
    return asyncio.run(Parent(command, processes).run())


def _follow(server: Server, url: str | None, line: int, processes: int, limits: Limits) -> None:
    """Be a worker whose parent holds the other end of *line*."""
    if limits.memory is not None and (used := resident()) > limits.memory:
        refuse(
            f"--max-memory {shown(limits.memory)} is less than the {shown(used)} that a worker holds before its "
            "first task"
        )
    redis = server._redis if url is None else url  # noqa: SLF001 - what the server will open
    if redis is None:
        redis = os.environ.get(URL_VARIABLE) or DEFAULT_URL
    child = Child(line, processes=processes, limits=limits, redis=redis if isinstance(redis, str) else None)
    serve(server, url, child.run)


def _interpreter() -> list[str]:
    """Python as this process was started: ``-m`` looks into the working directory first, the installed command last."""
    return [sys.executable] if Path(sys.argv[0]).name == "__main__.py" else [sys.executable, "-P"]


def _server(target: str, options: dict[str, Any], *, strict: bool) -> Server:
    found = load(target)
    server = found if isinstance(found, Server) else Server(None, found)
    try:
        server.config = replace(server.config, **options)
    except (ValueError, TypeError) as exc:
        refuse(str(exc))
    if strict and len(server.config.queues) == 1:
        refuse("--strict is about several queues, as in --queues critical:2,default:1 --strict; there is one")
    return server
