"""Logs as data: which task a line is about, and lines as JSON."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec

from aioasynq.context import CURRENT

#: How a worker logs, where nobody has set up another way; the second with the number of the process.
LINE = "%(asctime)s.%(msecs)03d %(levelname)-8s %(name)s: %(message)s"
LINE_OF_MANY = "%(asctime)s.%(msecs)03d %(process)d %(levelname)-8s %(name)s: %(message)s"
LINE_TIME = "%H:%M:%S"

#: What every record has, so that the rest is what somebody added to it.
_USUAL = {*vars(logging.makeLogRecord({})), "asctime", "message", "taskName"}


def task_fields(task_id: str, task_type: str, queue: str, retried: int) -> dict[str, object]:
    """What a line about a task has as ``extra``: its attempts count from 1."""
    return {"task_id": task_id, "task_type": task_type, "queue": queue, "attempt": retried + 1}


def clean(text: str) -> str:
    """Text of others, as ids and types are: what would begin a line or steer a terminal is shown by its code."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class TaskFilter(logging.Filter):
    """Gives each record of a handler the fields ``task_id``, ``task_type``, ``queue`` and ``attempt`` of its task.

    For formatters that do not ask themselves, and for handlers that format elsewhere, as a ``QueueHandler``. Records
    from outside of handlers pass as they are, so a format that names the fields needs defaults for them:
    ``logging.Formatter(…, defaults={"task_id": "-"})``.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields, unless the record has its own; let all pass."""
        if "task_id" not in record.__dict__:
            record.__dict__.update(_current())
        return True


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON.

    It has ``time`` (UTC, RFC 3339), ``level``, ``logger``, ``message`` and ``process``; ``task_id``, ``task_type``,
    ``queue`` and ``attempt`` where a task is concerned, also in what a handler logs; all that was given as ``extra``;
    ``exception`` and ``stack`` where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        extra = {name: value for name, value in record.__dict__.items() if name not in _USUAL}
        line |= {**({} if "task_id" in extra else _current()), **extra}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except Exception:  # noqa: BLE001 - whatever somebody put into a record, its line is not to be lost
            return msgspec.json.encode({_shown(name): _encodable(value) for name, value in line.items()}).decode()


def _current() -> dict[str, object]:
    task = CURRENT.get(None)
    return {} if task is None else task_fields(task.id, task.type, task.queue, task.retried)


def _encodable(value: object) -> msgspec.Raw | str:
    try:
        return msgspec.Raw(msgspec.json.encode(value, enc_hook=str))
    except Exception:  # noqa: BLE001 - as above
        return _shown(value)


def _shown(value: object) -> str:
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - as above
        text = f"<{type(value).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()
