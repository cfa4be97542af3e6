"""``aioasynq scheduler module:name``: enqueue periodic tasks until told to stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from aioasynq.cli import given
from aioasynq.cli.banner import introduce
from aioasynq.cli.exits import REFUSED, refuse
from aioasynq.cli.observers import beside, observers
from aioasynq.cli.serve import live, set_up_logging
from aioasynq.cli.target import fail, load_scheduler
from aioasynq.errors import BrokerRefusedError, SchedulerStateError
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.url import URL_VARIABLE
from aioasynq.scheduler import PeriodicTaskManager, Scheduler
from aioasynq.scheduler.entry import Entry

SHOWN = 20  #: entries that the banner lists


def scheduler(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:NAME",
            help="Where the entries are, as in myapp.periodic:scheduler: a Scheduler, a PeriodicTaskManager, or a "
            "function that makes one.",
        ),
    ],
    url: Annotated[
        str | None, typer.Option(metavar="URL", help=f"Redis. Default: {URL_VARIABLE}, else redis://localhost:6379/0.")
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="debug, which shows each firing, info, warning or error. Default: info."),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="text, or json: a JSON object a line. Default: text.")
    ] = None,
    otel: Annotated[
        bool, typer.Option("--otel", help="Traces and metrics of tasks through the OpenTelemetry SDK that is set up.")
    ] = False,
) -> None:
    """Enqueue periodic tasks until SIGTERM or SIGINT. Several with the same entries enqueue each firing once."""
    level = given.level("--log-level", log_level)
    url = given.url(url)
    as_json = given.log_format("--log-format", log_format) == "json"
    watching = observers(otel=otel)
    found = load_scheduler(target)
    one = found.scheduler if isinstance(found, PeriodicTaskManager) else found
    one._observers = tuple(beside(one._observers, watching))  # noqa: SLF001 - as a worker's are its server's
    set_up_logging(level, as_json=as_json)

    async def run(one: Scheduler, rdb: RDB) -> None:
        introduce(_rows(found, one, rdb), kind="scheduler")
        if isinstance(found, PeriodicTaskManager):
            await _manage(found)
        else:
            await found.run()

    live(one, url, run)


async def _manage(manager: PeriodicTaskManager) -> None:
    """Run a manager; a provider that fails at the start is whoever wrote it to see to."""
    try:
        await manager.run()
    except (BrokerRefusedError, SchedulerStateError):
        raise
    except Exception as exc:
        if manager._supervisor is not None:  # noqa: SLF001 - it was started, so this is a bug of ours
            raise
        if isinstance(exc, TypeError) and "provider" in str(exc):  # it answered, but not with configs
            refuse(str(exc))
        fail("the provider of periodic tasks failed at the start", exc, code=REFUSED)


def _rows(found: Scheduler | PeriodicTaskManager, one: Scheduler, rdb: RDB) -> dict[str, str | Sequence[str]]:
    """What there is to say about a scheduler before it begins."""
    entries = [_line(entry) for entry in one._entries.values()]  # noqa: SLF001 - as the server's handlers are shown
    if len(entries) > SHOWN:
        entries[SHOWN:] = [f"and {len(entries) - SHOWN} more"]
    if isinstance(found, PeriodicTaskManager):
        provider = getattr(found._provider, "__qualname__", repr(found._provider))  # noqa: SLF001 - as above
        entries.append(f"as {provider} says, which is asked every {found._interval:g} s")  # noqa: SLF001 - as above
    return {
        "scheduler": one.id.rpartition(":")[0],
        "redis": rdb.address,
        "zone": str(one._zone),  # noqa: SLF001 - as above
        "entries": entries,
    }


def _line(entry: Entry) -> str:
    return f"{entry.spec}: {entry.task.type} in queue {entry.queue}, {entry.coming()}"
