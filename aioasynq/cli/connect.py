"""Which Redis: the options before a command, asynq's environment variables, its configuration file."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from aioasynq._version import __version__
from aioasynq.cli.exits import REFUSED, refuse
from aioasynq.errors import AioasynqError
from aioasynq.inspector import Inspector
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.url import URL_VARIABLE

DEFAULT_ADDRESS = "127.0.0.1:6379"
DEFAULT_NODES = ",".join(f"127.0.0.1:{port}" for port in range(7000, 7006))
CONFIG = ".asynq.yaml"
#: Commands that run what a program has, on the Redis that the program says; --url is theirs.
OF_THEIR_OWN = {"worker", "scheduler"}

_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off", ""}


@dataclass(slots=True)
class Where:
    """What was said about Redis, in one place; None: nothing."""

    uri: str | None = None
    db: str | None = None
    username: str | None = None
    password: str | None = None
    cluster: str | None = None
    cluster_addrs: str | None = None
    tls: str | None = None
    tls_server: str | None = None
    insecure: str | None = None

    def over(self, other: Where) -> Where:
        """This, and what the other says about what this says nothing about. A URL says all."""
        if self.is_url:
            return self
        return Where(*(a if (a := getattr(self, f.name)) is not None else getattr(other, f.name) for f in fields(self)))

    @property
    def is_url(self) -> bool:
        """Whether a URL was given, and not HOST:PORT."""
        return "://" in (self.uri or "")

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said."""
        return self == Where()


def show_version(wanted: bool) -> None:
    """What ``--version`` does."""
    if wanted:
        print(f"aioasynq {__version__}")
        raise typer.Exit


def where(
    ctx: typer.Context,
    uri: Annotated[
        str | None,
        typer.Option(
            "--uri", "-u", help=f"URL or HOST:PORT of Redis. Default: {URL_VARIABLE}, else {DEFAULT_ADDRESS}."
        ),
    ] = None,
    db: Annotated[
        str | None, typer.Option("--db", "-n", metavar="N", help="Number of the database. Default: 0.")
    ] = None,
    password: Annotated[
        str | None, typer.Option("--password", "-p", help="Better in PASSWORD: ps shows this one.")
    ] = None,
    username: Annotated[str | None, typer.Option("--username", "-U", help="Redis user.")] = None,
    cluster: Annotated[bool | None, typer.Option("--cluster", help="Redis is a Cluster.")] = None,
    cluster_addrs: Annotated[
        str | None,
        typer.Option(
            "--cluster_addrs", metavar="HOST:PORT,…", help="Nodes of it. Default: six local ones from port 7000."
        ),
    ] = None,
    tls: Annotated[bool | None, typer.Option("--tls", help="Connect with TLS.")] = None,
    tls_server: Annotated[
        str | None, typer.Option("--tls_server", metavar="NAME", help="Name in the certificate; that of HOST.")
    ] = None,
    insecure: Annotated[bool | None, typer.Option("--insecure", help="Take any certificate.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help=f"Configuration file. Default: ~/{CONFIG}.")] = None,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool, typer.Option("--version", help="Show the version and exit.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Task queues on Redis, for asyncio."""
    flags = Where(uri, db, username, password, _yes(cluster), cluster_addrs, _yes(tls), tls_server, _yes(insecure))
    if ctx.invoked_subcommand in OF_THEIR_OWN and (config is not None or flags != Where()):
        command = ctx.invoked_subcommand
        refuse(
            f"aioasynq {command} takes none of the options before it; write aioasynq {command} MODULE:NAME --url "
            f"redis://HOST:6379/0, or put the URL into {URL_VARIABLE}"
        )
    ctx.obj = _Given(flags, config)


@dataclass(slots=True)
class _Given:
    flags: Where
    config: Path | None

    def url(self) -> str | None:
        """That of the options, else the variable of this package (None), asynq's ones, the file, the default."""
        names_one = self.flags.uri or self.flags.cluster or self.flags.cluster_addrs or self.config
        if not names_one and os.environ.get(URL_VARIABLE):
            if not self.flags.is_empty:  # a database of which Redis? of a local one, were it passed over
                refuse(f"{URL_VARIABLE} is set and says all: change it, or give --uri HOST:PORT beside your options")
            return None
        return url_of(self.flags.over(_environment()).over(_file(self.config)), self.flags)


def url_of(where: Where, flags: Where) -> str:
    """One URL of all that was said; *flags* by options, the rest elsewhere."""

    def said(name: str) -> str:
        return f"--{name}" if getattr(flags, name) is not None else f"{name.upper()} (a variable, or {name}: in a file)"

    def is_on(name: str) -> bool:
        value = getattr(where, name)
        text = (value or "").lower()
        if text not in _TRUE | _FALSE:
            refuse(f"{said(name)} must be true or false, got {value!r}")
        return text in _TRUE

    if where.is_url:
        for field in fields(Where):
            if field.name not in {"uri", "tls_server"} and getattr(where, field.name):
                form = "redis-cluster://host:7000" if "cluster" in field.name else "redis://user:password@host:6379/0"
                refuse(f"{said(field.name)} is part of a URL: write it there, as in {form}")
        return where.uri or ""
    credentials = ""
    if where.password or where.username:
        credentials = f"{quote(where.username or '', safe='')}:{quote(where.password or '', safe='')}@"
    tls = is_on("tls") or is_on("insecure")
    tls_query = _tls_query(where, said, tls=tls, insecure=is_on("insecure"))
    if is_on("cluster") or where.cluster_addrs:
        if where.db not in {None, "0"}:
            refuse(f"{said('db')} must be 0 with --cluster, which has no other databases; got {where.db!r}")
        scheme = "rediss-cluster" if tls else "redis-cluster"
        return f"{scheme}://{credentials}{where.cluster_addrs or DEFAULT_NODES}{tls_query}"
    return f"redis{'s' if tls else ''}://{credentials}{_address(where, said)}{tls_query}"


def _address(where: Where, said: Callable[[str], str]) -> str:
    """Host, port and database."""
    uri, database = where.uri or DEFAULT_ADDRESS, where.db or "0"
    host, colon, port = uri.rpartition(":")
    if not colon or not port.isdigit():
        example = f"{DEFAULT_ADDRESS} or redis://{DEFAULT_ADDRESS}/0"
        refuse(f"{said('uri')} must be HOST:PORT or a URL, as in {example}; got {uri!r}")
    if not database.isdigit():
        refuse(f"{said('db')} must be the number of a database, as in --db 0; got {database!r}")
    return f"{host}:{port}/{database}"


def _tls_query(where: Where, said: Callable[[str], str], *, tls: bool, insecure: bool) -> str:
    options: dict[str, str] = {}
    if where.tls_server:
        if not tls:
            refuse(f"{said('tls_server')} goes with --tls: it is the name in the certificate; got {where.tls_server!r}")
        options["ssl_server_name"] = where.tls_server
    if insecure:
        options["ssl_cert_reqs"] = "none"
    return f"?{urlencode(options)}" if options else ""


def run(ctx: typer.Context, work: Callable[[Inspector, RDB], Awaitable[Any]]) -> Any:
    """Do something with Redis; an error ends the command with one line."""
    url = ctx.obj.url() if isinstance(ctx.obj, _Given) else None

    async def with_redis() -> Any:
        async with RDB(url) as rdb, Inspector(rdb) as inspector:
            return await work(inspector, rdb)

    try:
        return asyncio.run(with_redis())
    except AioasynqError as exc:
        refuse(str(exc), REFUSED)
    except (ValueError, TypeError) as exc:
        refuse(str(exc))


def _environment() -> Where:
    """Asynq's variables. USERNAME is on many machines that of the person: it counts beside PASSWORD alone."""
    found = Where(*(os.environ.get(field.name.upper()) for field in fields(Where)))
    if found.password is None:
        found.username = None
    return found


def _file(path: Path | None) -> Where:
    wanted = path is not None
    path = path or Path.home() / CONFIG
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as exc:
        if wanted:
            refuse(f"--config {str(path)!r} cannot be read: {exc.strerror}")
        return Where()
    except UnicodeDecodeError:
        refuse(f"{str(path)!r} is no text")
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.split(" #")[0].strip()
        if not text or text.startswith("#") or text == "---":
            continue
        name, colon, value = text.partition(":")
        if not colon or line[:1].isspace():
            refuse(f"line {number} of {str(path)!r} must be NAME: VALUE, as in uri: {DEFAULT_ADDRESS}; got {line!r}")
        found[name.strip().replace("-", "_").lower()] = value.strip().strip("\"'")
    if found and wanted:
        print(f"Using config file: {path}", file=sys.stderr)
    return Where(**{field.name: found.get(field.name) for field in fields(Where)})


def _yes(flag: bool | None) -> str | None:
    return "true" if flag else None
