"""A worker in this process: one server until it is told to stop, and an end whatever is stuck in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from io import TextIOBase
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from aioasynq.cli.exits import REFUSED, refuse
from aioasynq.errors import BrokerRefusedError, SchedulerStateError, ServerStateError
from aioasynq.logs import LINE, LINE_OF_MANY, LINE_TIME, JsonFormatter
from aioasynq.rdb.rdb import open_rdb
from aioasynq.scheduler import Scheduler
from aioasynq.server import Server
from aioasynq.server.leave import ends_anyway

if TYPE_CHECKING:
    from aioasynq.rdb.rdb import RDB

log = logging.getLogger(__name__)


Run: TypeAlias = "Callable[[Server, RDB], Awaitable[None]]"
S = TypeVar("S", Server, Scheduler)


def set_up_logging(
    level: int | None, *, many: bool = False, as_json: bool = False, stream: TextIOBase | None = None
) -> None:
    """Log to stderr or *stream*, unless the program has set that up as it likes; *many* processes are told apart.

    *as_json* was asked for, so it holds for what the program has set up too.
    """
    root = logging.getLogger()
    if not root.handlers:
        logging.basicConfig(
            format=LINE_OF_MANY if many else LINE, datefmt=LINE_TIME, level=level or logging.INFO, stream=stream
        )
    elif level is not None:
        logging.getLogger("aioasynq").setLevel(level)
    if as_json:
        for handler in root.handlers:
            handler.setFormatter(JsonFormatter())


def serve(server: Server, url: str | None, run: Run) -> None:
    """Run *server* to its end, on uvloop where that is installed."""
    live(server, url, run)


def live(one: S, url: str | None, run: Callable[[S, RDB], Awaitable[None]]) -> None:
    """Run a server or a scheduler to its end, on uvloop where that is installed; *url* wins over its own."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_live(one, url, run))
    except BrokerRefusedError as exc:
        refuse(str(exc), REFUSED)
    except (ServerStateError, SchedulerStateError) as exc:
        refuse(str(exc))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _live(one: S, url: str | None, run: Callable[[S, RDB], Awaitable[None]]) -> None:
    redis = one._redis if url is None else url  # noqa: SLF001 - what is shown and what is run are one
    try:
        rdb = open_rdb(redis)
    except ValueError as exc:
        refuse(str(exc))
    one._redis = rdb  # noqa: SLF001 - as above
    async with ends_anyway():
        try:
            await run(one, rdb)
        finally:
            await rdb.aclose()
