"""A worker in this process: one server until it is told to stop, and an end whatever is stuck in it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

import typer

from aioasynq._version import __version__
from aioasynq.cli.exits import REFUSED, refuse
from aioasynq.errors import BrokerRefusedError, ServerStateError
from aioasynq.rdb.rdb import open_rdb
from aioasynq.server import Server

if TYPE_CHECKING:
    from aioasynq.rdb.rdb import RDB

log = logging.getLogger(__name__)

LEAVE_LIMIT = 0.5  #: seconds that what is still running after the shutdown may take to end
WIDTH = 100  #: columns of the banner

LOG_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-8s %(name)s: %(message)s"
LOG_FORMAT_OF_MANY = "%(asctime)s.%(msecs)03d %(process)d %(levelname)-8s %(name)s: %(message)s"
LOG_TIME = "%H:%M:%S"

Run: TypeAlias = "Callable[[Server, RDB], Awaitable[None]]"


def set_up_logging(level: int | None, *, many: bool = False) -> None:
    """Log to stderr, unless the program has set that up as it likes; *many* processes are told apart."""
    root = logging.getLogger()
    if not root.handlers:
        logging.basicConfig(
            format=LOG_FORMAT_OF_MANY if many else LOG_FORMAT, datefmt=LOG_TIME, level=level or logging.INFO
        )
    elif level is not None:
        logging.getLogger("aioasynq").setLevel(level)


async def run_alone(server: Server, rdb: RDB) -> None:
    """Run a server until a signal."""
    typer.echo(banner(rows(server, rdb)), err=True)
    await server.run()


def serve(server: Server, url: str | None, run: Run = run_alone) -> None:
    """Run *server* to its end, on uvloop where that is installed."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(server, url, run))
    except BrokerRefusedError as exc:
        refuse(str(exc), REFUSED)
    except ServerStateError as exc:
        refuse(str(exc))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(server: Server, url: str | None, run: Run) -> None:
    # A pool of our own for asyncio.to_thread: asyncio would wait for the default one for ever.
    threads = ThreadPoolExecutor(thread_name_prefix="aioasynq-to-thread")
    asyncio.get_running_loop().set_default_executor(threads)
    redis = server._redis if url is None else url  # noqa: SLF001 - the server shown and the server run are one
    try:
        rdb = open_rdb(redis)
    except ValueError as exc:
        refuse(str(exc))
    server._redis = rdb  # noqa: SLF001 - as above
    try:
        await run(server, rdb)
    except BaseException:
        await _leave(threads, 1)
        raise
    finally:
        await rdb.aclose()
    await _leave(threads, 0)


def rows(server: Server, rdb: RDB) -> dict[str, str]:
    """What there is to say about a worker before it begins."""
    config = server.config
    order = "strict" if config.strict_priority else "weighted"
    queues = ", ".join(f"{name} {weight}" for name, weight in config.queues.items())
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return {
        "server": server.name.rpartition(":")[0],
        "redis": rdb.address,
        "queues": f"{queues} ({order})" if len(config.queues) > 1 else queues,
        "concurrency": f"{config.concurrency}, on {loop}",
        "handlers": ", ".join(server.mux.patterns),
    }


def banner(about: Mapping[str, str]) -> str:
    """The same as text."""
    lines = [f"aioasynq {__version__}"]
    for name, text in about.items():
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
    stuck = [_name(task) for task in tasks if not task.done()]
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


def _name(task: asyncio.Task[object]) -> str:
    """Handlers that were left to themselves bear the names of their tasks."""
    name = task.get_name()
    return name if name.startswith("task ") else f"task {name}"


def _place(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - documented for just this
    if frame is None:
        return ""
    return f" at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
