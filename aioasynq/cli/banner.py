"""What a worker says about itself before it begins."""

from __future__ import annotations

import asyncio
import logging
import textwrap
from typing import TYPE_CHECKING

import typer

from aioasynq._version import __version__
from aioasynq.logs import JsonFormatter, clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aioasynq.rdb.rdb import RDB
    from aioasynq.server import Server

log = logging.getLogger(__name__)

WIDTH = 100  #: columns of the text, where there is no terminal to ask
NAMES = 13  #: columns of the names


def rows(server: Server, rdb: RDB) -> dict[str, str]:
    """What there is to say about a worker."""
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


def introduce(
    about: Mapping[str, str | Sequence[str]], title: str = f"aioasynq {__version__}", *, kind: str = "worker"
) -> None:
    """Say it to stderr: in colours at a terminal; where lines are JSON, as one of them, under its *kind*; else as text.

    What has several texts takes as many lines.
    """
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers):
        log.info("%s", title, extra={kind: dict(about)})
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        table.add_column(style="cyan", width=NAMES + 1)
        table.add_column(overflow="fold")
        for name, text in _lines(about):
            table.add_row(f"  {name}", Text(text))
        console.print(Text(title, style="bold"), table, sep="\n")
    else:
        typer.echo(_as_text(about, title), err=True)


def _as_text(about: Mapping[str, str | Sequence[str]], title: str) -> str:
    lines = [title]
    for name, text in _lines(about):
        head = f"  {name:<{NAMES}}"
        lines += textwrap.wrap(
            text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
        )
    return "\n".join(lines)


def _lines(about: Mapping[str, str | Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Each text with its name, which stands before the first of several only."""
    for name, texts in about.items():
        shown = name
        for text in [texts] if isinstance(texts, str) else texts:
            yield shown, clean(text)
            shown = ""
