"""``aioasynq worker module:attribute``: process tasks until told to stop."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from aioasynq._version import __version__
from aioasynq.errors import BrokerRefusedError, ServerStateError
from aioasynq.mux import ServeMux
from aioasynq.rdb.connection import URL_VARIABLE
from aioasynq.rdb.rdb import open_rdb
from aioasynq.server import Config, Server

if TYPE_CHECKING:
    from aioasynq.rdb.rdb import RDB

log = logging.getLogger(__name__)

WRONG_USE = 2  #: exit code: something in the command has to be changed
REFUSED = 1  #: exit code: Redis does not take us

LEAVE_LIMIT = 0.5  #: seconds that what is still running after the shutdown may take to end
WIDTH = 100  #: columns of the banner

LOG_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-8s %(name)s: %(message)s"
LOG_TIME = "%H:%M:%S"


class LogLevel(StrEnum):
    """What ``--log-level`` takes."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def worker(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:ATTRIBUTE",
            help="Where the handlers are: a ServeMux, or a Server, whose options hold where none is given here.",
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
    concurrency: Annotated[int | None, typer.Option(metavar="N", help="Tasks that run at once. Default: 100.")] = None,
    log_level: Annotated[LogLevel | None, typer.Option(case_sensitive=False, help="Default: info.")] = None,
    shutdown_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long tasks may go on once the worker has to stop. Default: 8."),
    ] = None,
) -> None:
    """Process tasks until SIGTERM or SIGINT, then let what runs finish; a second signal gives it back at once."""
    found = _load(target)
    mux = found.mux if isinstance(found, Server) else found
    if not mux.patterns:
        _refuse(f"{target} has no handler")
    options: dict[str, Any] = {
        "queues": None if queues is None else _weights(queues),
        "strict_priority": strict or None,
        "concurrency": concurrency,
        "shutdown_timeout": shutdown_timeout,
    }
    given = {name: value for name, value in options.items() if value is not None}
    try:
        config = replace(found.config, **given) if isinstance(found, Server) else Config(**given)
    except (ValueError, TypeError) as exc:
        _refuse(str(exc))
    _set_up_logging(log_level)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(found, url, config))
    except BrokerRefusedError as exc:
        _refuse(str(exc), REFUSED)
    except ServerStateError as exc:
        _refuse(str(exc))


# ── what to run ──


def _load(target: str) -> ServeMux | Server:
    """Import *target* as uvicorn does: from the working directory first; the attribute may have dots."""
    module_name, colon, attribute = target.partition(":")
    if not (colon and module_name and attribute) or module_name.startswith(".") or ":" in attribute:
        _refuse(f"{target!r} is no MODULE:ATTRIBUTE, as in myapp.tasks:mux")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - an entry of sys.path is a string
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        # Only what was asked for: that some other module is missing is shown with the place that imports it.
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise
        _refuse(f"there is no module {exc.name!r} for {target!r}; it was looked for in {os.getcwd()} first")  # noqa: PTH109
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            _refuse(f"module {module_name!r} has no attribute {attribute!r}")
    if not isinstance(found, ServeMux | Server):
        _refuse(f"{target!r} is of type {type(found).__name__}; a ServeMux or a Server is needed")
    return found


def _weights(text: str) -> dict[str, int]:
    weights: dict[str, int] = {}
    for part in text.split(","):
        name, colon, weight = part.strip().partition(":")
        if not name or (colon and not weight.isdecimal()) or name in weights:
            why = "is there twice" if name in weights else "is no NAME or NAME:WEIGHT"
            _refuse(f"--queues {text!r}: {part.strip()!r} {why}; write it as in critical:6,default:3")
        weights[name] = int(weight) if colon else 1
    return weights


def _refuse(text: str, code: int = WRONG_USE) -> NoReturn:
    typer.echo(f"aioasynq: {text}", err=True)
    raise typer.Exit(code) from None


def _set_up_logging(level: LogLevel | None) -> None:
    root = logging.getLogger()
    if not root.handlers:  # else the program has set it up as it likes
        logging.basicConfig(format=LOG_FORMAT, datefmt=LOG_TIME, level=(level or LogLevel.INFO).upper())
    elif level is not None:
        logging.getLogger("aioasynq").setLevel(level.upper())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


# ── running it ──


async def _serve(found: ServeMux | Server, url: str | None, config: Config) -> None:
    # A pool of our own for asyncio.to_thread: asyncio would wait for the default one for ever.
    threads = ThreadPoolExecutor(thread_name_prefix="aioasynq-to-thread")
    asyncio.get_running_loop().set_default_executor(threads)
    server = found if isinstance(found, Server) else Server(None, found)
    server.config = config
    redis = server._redis if url is None else url  # noqa: SLF001 - the server shown and the server run are one
    try:
        rdb, owned = open_rdb(redis)
    except ValueError as exc:
        _refuse(str(exc))
    server._redis = rdb  # noqa: SLF001 - as above
    typer.echo(_banner(server, rdb), err=True)
    try:
        await server.run()
    except BaseException:
        await _leave(threads, 1)
        raise
    finally:
        if owned:
            await rdb.aclose()
    await _leave(threads, 0)


def _banner(server: Server, rdb: RDB) -> str:
    config = server.config
    order = "strict" if config.strict_priority else "weighted"
    queues = ", ".join(f"{name} {weight}" for name, weight in config.queues.items())
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    rows = {
        "server": server.name.rpartition(":")[0],
        "redis": rdb.address,
        "queues": f"{queues} ({order})" if len(config.queues) > 1 else queues,
        "concurrency": f"{config.concurrency}, on {loop}",
        "handlers": ", ".join(server.mux.patterns),
    }
    lines = [f"aioasynq {__version__}"]
    for name, text in rows.items():
        head = f"  {name:<13}"
        lines += textwrap.wrap(
            text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
        )
    return "\n".join(lines)


async def _leave(threads: ThreadPoolExecutor, code: int) -> None:
    """Return when nothing would keep the process from ending; else end it here.

    A thread cannot be ended from outside, and a coroutine may swallow its cancellation; what they work on was given
    back by now.
    """
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=LEAVE_LIMIT)
    threads.shutdown(wait=False, cancel_futures=True)
    end = time.monotonic() + LEAVE_LIMIT
    pooled = [thread for thread in threading.enumerate() if thread.name.startswith("aioasynq-") and not thread.daemon]
    for thread in pooled:
        thread.join(max(0.0, end - time.monotonic()))
    stuck = [f"task {task.get_name()}" for task in tasks if not task.done()]
    stuck += [f"thread {thread.name}{_place(thread)}" for thread in pooled if thread.is_alive()]
    if not stuck:
        return
    if (error := sys.exception()) is not None:
        traceback.print_exception(error)
    log.error("the process ends although something in it does not: %s", "; ".join(stuck))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _place(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - documented for just this
    if frame is None:
        return ""
    return f" at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
