"""What commands show: tables and texts for people, JSON for programs."""

from __future__ import annotations

import base64
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any

import typer
from msgspec import Struct
from rich.cells import cell_len, set_cell_size

from aioasynq.logs import clean
from aioasynq.task import Progress

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Page = Annotated[str, typer.Option("--page", metavar="N", help="From 1.")]
Size = Annotated[str, typer.Option("--size", metavar="N", help="How many on a page.")]
NOT_PRINTABLE = "non-printable bytes"
LONGEST = 60  #: characters of a cell of a table on a terminal
GAP = "  "
#: Columns that stand beneath their row where it is wider than the terminal, those first that can be missed first.
BENEATH = ("Payload", "Result", "Last Error", "Options", "Last Failed", "Max Retry", "Queues", "Cluster Nodes", "Type")


def show_json(value: Any) -> None:
    """Print as JSON: moments as ISO 8601, durations in seconds, bytes as text, or {"base64": …} where they are none."""
    _show_json(value, indent=2)


def show_line(value: Any) -> None:
    """The same on one line, at once, where more follows."""
    _show_json(value, indent=None)
    sys.stdout.flush()


def _show_json(value: Any, indent: int | None) -> None:
    text = json.dumps(plain(value), ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # an id that is no text, or a terminal that has no such letters
        text = json.dumps(plain(value), indent=indent)
    typer.echo(text)


def step_text(step: Progress) -> str:
    """How far a task is, for people."""
    return f"{step.fraction:>4.0%}  {step.text}".rstrip()


def plain(value: Any) -> Any:
    """The same as what JSON has."""
    if isinstance(value, Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Progress):
        value = value._asdict()
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value) if isinstance(value, str) else value


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table. On a terminal long cells are cut, and what has no room stands beneath its row.

    Elsewhere a row is a line, whole.
    """
    cells = [[_line(cell) for cell in row] for row in rows]
    beneath: list[int] = []
    room = 0
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns
        beneath = _beneath(headers, [[cut(cell, LONGEST) for cell in row] for row in cells], room)
    beside = [n for n in range(len(headers)) if n not in beneath]
    limit = LONGEST if room else sys.maxsize
    shown = [[cut(row[n], limit) for n in beside] for row in cells]
    names = [headers[n] for n in beside]
    widths = [max(map(cell_len, column)) for column in zip(names, *shown, strict=True)]
    typer.echo(typer.style(_joined(names, widths), bold=True))
    typer.echo(_joined(["-" * len(name) for name in names], widths))
    for row, whole in zip(shown, cells, strict=True):
        typer.echo(_joined(row, widths))
        for n in beneath:
            if whole[n]:
                typer.echo(cut(f"{GAP}{headers[n]}: {whole[n]}", room))


def _beneath(headers: Sequence[str], cells: Sequence[Sequence[str]], room: int) -> list[int]:
    """Which columns stand beneath, so that the others fit."""
    widths = [max(map(cell_len, column)) for column in zip(headers, *cells, strict=True)]
    beneath: list[int] = []
    for name in BENEATH:
        left = [width for n, width in enumerate(widths) if n not in beneath]
        if sum(left) + len(GAP) * (len(left) - 1) <= room:
            break
        if name in headers:
            beneath.append(headers.index(name))
    return sorted(beneath)


def _joined(row: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()


def cut(text: str, longest: int) -> str:
    """As much of a text as has room in so many cells."""
    if cell_len(text) <= longest:
        return text
    return set_cell_size(text, longest - 1).rstrip() + "…"


def pairs(rows: Iterable[tuple[str, object]]) -> None:
    """Names and values, one pair a line."""
    rows = [(_line(name), _line(value)) for name, value in rows]
    width = max((len(name) for name, _ in rows), default=0) + 1
    for name, value in rows:
        typer.echo(f"{name + ':':<{width}}  {value}".rstrip())


def title(text: str) -> None:
    """A title, bold on a terminal."""
    typer.secho(text, bold=True)


def progress(as_json: bool) -> Callable[[int, int], object] | None:
    """A line that changes, where a terminal shows it."""
    if as_json or not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        typer.echo(f"\r{done:,} of {total:,}{end}", err=True, nl=False)

    return show


def payload(data: bytes) -> str:
    """As asynq shows it: text, or a word for what is none."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return NOT_PRINTABLE
    return text if all(char.isprintable() or char in "\n\t" for char in text) else NOT_PRINTABLE


def until(moment: datetime | None, now: datetime) -> str:
    """As in ``in 59m59s``, or ``right now``."""
    if moment is None:
        return "n/a"
    left = (moment - now).total_seconds()
    return f"in {duration(left)}" if left >= 1 else "right now"


def ago(moment: datetime | None, now: datetime) -> str:
    """As in ``5m ago``."""
    return "n/a" if moment is None else f"{duration(max(0.0, (now - moment).total_seconds()))} ago"


def many(count: int, what: str) -> str:
    """As in ``1 task`` and ``2,000 tasks``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """As Go writes it, in whole seconds."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{whole % 60}s"


def moment(value: datetime | None) -> str:
    """A moment, in UTC."""
    return "n/a" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError


def rate(failed: int, processed: int) -> str:
    """Of errors, as in ``12.34%``."""
    return f"{100 * failed / processed:.2f}%" if processed else "N/A"


def _line(cell: object) -> str:
    return clean(" ".join(str(cell).split()))
