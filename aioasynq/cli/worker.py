"""``aioasynq worker module:name``: process tasks until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from aioasynq.cli import flags, given
from aioasynq.cli.alone import Alone
from aioasynq.cli.child import Child
from aioasynq.cli.exits import refuse
from aioasynq.cli.figures import OfProcesses, OfServer, Recorder, Source
from aioasynq.cli.limits import Limits, resident, shown
from aioasynq.cli.observers import beside, observers
from aioasynq.cli.orphan import Orphan
from aioasynq.cli.parent import Parent
from aioasynq.cli.process import command
from aioasynq.cli.reload import Reloader, need_watchfiles
from aioasynq.cli.serve import serve, set_up_logging
from aioasynq.cli.target import load, split
from aioasynq.cli.unknown import Unknown
from aioasynq.observer import Observer
from aioasynq.rdb.url import DEFAULT_URL, URL_VARIABLE
from aioasynq.server import Server

LOOPBACK = "127.0.0.1"


def worker(
    target: flags.Target,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help=f"Redis. Default: {URL_VARIABLE}, else redis://localhost:6379/0.")
    ] = None,
    queues: flags.Queues = None,
    strict: flags.Strict = False,
    concurrency: flags.Concurrency = None,
    burst: Annotated[
        bool, typer.Option("--burst", help="End when nothing in its queues is pending, running or due.")
    ] = False,
    log_level: flags.LogLevel = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="text, or json: a JSON object a line. Default: text.")
    ] = None,
    shutdown_timeout: flags.ShutdownTimeout = None,
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
    reload: Annotated[
        bool, typer.Option("--reload", help="Start anew when a Python file has changed; for development.")
    ] = False,
    reload_dir: flags.ReloadDirs = None,
    metrics_port: Annotated[
        str | None,
        typer.Option(
            metavar="PORT", help="Answer /metrics for Prometheus, /healthz and /readyz there; 0 for any free port."
        ),
    ] = None,
    metrics_host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Where that listens. Default: 127.0.0.1.")
    ] = None,
    otel: Annotated[
        bool, typer.Option("--otel", help="Traces and metrics of tasks through the OpenTelemetry SDK that is set up.")
    ] = False,
    parent: Annotated[str | None, typer.Option(hidden=True)] = None,
    introduce: Annotated[str | None, typer.Option(hidden=True)] = None,
    report: Annotated[bool, typer.Option("--report", hidden=True)] = False,
) -> None:
    """Process tasks until SIGTERM or SIGINT, then let what runs finish; a second signal gives it back at once."""
    server_flags = flags.ServerFlags(queues, strict, concurrency, shutdown_timeout)
    options = server_flags.checked()
    level = given.level("--log-level", log_level)
    url = given.url(url)
    limits = Limits(given.size("--max-memory", max_memory), given.whole("--max-tasks", max_tasks))
    count = given.whole("--processes", processes)
    as_json = given.log_format("--log-format", log_format) == "json"
    port = given.port("--metrics-port", metrics_port)
    host = given.host("--metrics-host", metrics_host, "--metrics-port", is_there=port is not None) or LOOPBACK
    of_each = {"--max-memory": max_memory, "--max-tasks": max_tasks}
    _check_reload(
        reload, reload_dir, {"--processes": processes, **of_each, "--burst": burst}, is_led=parent is not None
    )
    watching = observers(otel=otel)
    if port is not None:
        _need_prometheus()
    folders = flags.folders(reload_dir)
    if parent is None and (reload or count is not None or limits != Limits()):
        typed = {
            "--url": url,
            **server_flags.typed(),
            **of_each,
            "--burst": burst,
            "--reload": reload,
            "--log-level": log_level,
            "--log-format": log_format,
            "--otel": otel,
            "--report": port is not None,
        }
        set_up_logging(level, many=not reload, as_json=as_json)
        split(target)
        figures = OfProcesses()
        argv = command(target, [*flags.words(typed), *flags.folder_words(reload_dir)])
        leader = Reloader(argv, folders, figures) if reload else Parent(argv, count or 1, figures, burst=burst)
        with _exposed(figures, host, port, many=True):
            raise typer.Exit(asyncio.run(leader.run()))
    orphan = None if parent is None else Orphan(int(parent))  # before the module is imported, where it may get stuck
    recorder = Recorder() if report or port is not None else None
    server = _server(target, options, [*watching, *([] if recorder is None else [recorder])], strict=strict)
    unknown = Unknown(server.mux)
    server.config = replace(server.config, error_handler=unknown.before(server.config.error_handler))
    set_up_logging(level, many=parent is not None and not reload, as_json=as_json)
    also = _also(reload=reload, folders=folders, burst=burst)
    if parent is not None and orphan is not None:
        _need_memory(limits)
        child = Child(
            int(parent),
            orphan,
            processes=int(introduce or 0),
            limits=limits,
            redis=_url_of(server, url),
            unknown=unknown,
            also=also,
            recorder=recorder,
        )
        serve(server, url, child.run)
        return
    with contextlib.nullcontext() if recorder is None else _exposed(OfServer(server, recorder), host, port):
        serve(server, url, Alone(unknown, also, burst=burst).run)


def _check_reload(
    reload: bool, folders: list[str] | None, others: Mapping[str, object], *, is_led: bool
) -> None:  # fmt: skip
    """Refuse what does not go with ``--reload``."""
    if not reload:
        if folders:
            refuse(f"--reload-dir is about --reload, as in --reload --reload-dir {folders[0]}; there is none")
        return
    for name, value in others.items():
        if value:
            refuse(
                f"--reload and {name} exclude each other: it runs one process for development, and goes on until it "
                "is told to stop; leave one of them out"
            )
    if not is_led:
        need_watchfiles("--reload")


def _also(*, reload: bool, folders: list[Path], burst: bool) -> dict[str, str]:
    also: dict[str, str] = {}
    if reload:
        also["reload"] = f"when a Python file changes in {', '.join(map(str, folders))}"
    if burst:
        also["burst"] = "ends when nothing is pending, running or due"
    return also


def _exposed(
    source: Source, host: str, port: int | None, *, many: bool = False
) -> contextlib.AbstractContextManager[object]:
    if port is None:
        return contextlib.nullcontext()
    from aioasynq.cli.exposition import exposed

    return exposed(source, host, port, many=many)


def _need_prometheus() -> None:
    try:
        importlib.import_module("prometheus_client")
    except ImportError:
        refuse("--metrics-port needs prometheus-client: pip install 'aioasynq[prometheus]'")


def _need_memory(limits: Limits) -> None:
    if limits.memory is not None and (used := resident()) > limits.memory:
        refuse(
            f"--max-memory {shown(limits.memory)} is less than the {shown(used)} that a worker holds before its "
            "first task"
        )


def _url_of(server: Server, url: str | None) -> str | None:
    """Of the Redis that the server will open; None when the program brings a client."""
    redis = server._redis if url is None else url  # noqa: SLF001 - what the server will open
    if redis is None:
        redis = os.environ.get(URL_VARIABLE) or DEFAULT_URL
    return redis if isinstance(redis, str) else None


def _server(target: str, options: dict[str, Any], watching: list[Observer], *, strict: bool) -> Server:
    found = load(target)
    server = found if isinstance(found, Server) else Server(None, found)
    if watching:
        options["observers"] = beside(server.config.observers, watching)
    try:
        server.config = replace(server.config, **options)
    except (ValueError, TypeError) as exc:
        refuse(str(exc))
    if strict and len(server.config.queues) == 1:
        refuse("--strict is about several queues, as in --queues critical:2,default:1 --strict; there is one")
    return server
