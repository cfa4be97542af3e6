"""Options in Go's spelling, such as ``Queue("low")`` and ``Timeout(1m30s)``, as entries of schedulers show them.

What Go asynq reads has to have the form ``Name(argument)``: its inspector ends with a panic at anything without a
parenthesis.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final

from aioasynq.options import Options

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ESCAPES: Final = dict(zip('\a\b\f\n\r\t\v\\"', 'abfnrtv\\"', strict=True))


def option_texts(options: Options) -> list[str]:
    """Each option that is set, in the order of the fields."""
    texts: list[str] = []
    if options.max_retry is not None:
        texts.append(f"MaxRetry({options.max_retry})")
    if options.queue is not None:
        texts.append(f"Queue({quoted(options.queue)})")
    if options.task_id is not None:
        texts.append(f"TaskID({quoted(options.task_id)})")
    if options.timeout is not None:
        texts.append(f"Timeout({duration_text(options.timeout)})")
    if options.deadline is not None:
        texts.append(f"Deadline({moment_text(options.deadline)})")
    if options.unique is not None:
        texts.append(f"Unique({duration_text(options.unique)})")
    if options.process_at is not None:
        texts.append(f"ProcessAt({moment_text(options.process_at)})")
    if options.process_in is not None:
        texts.append(f"ProcessIn({duration_text(options.process_in)})")
    if options.retention is not None:
        texts.append(f"Retention({duration_text(options.retention)})")
    if options.group is not None:
        texts.append(f"Group({quoted(options.group)})")
    pairs = sorted((options.headers or {}).items())
    return [*texts, *(f"Header({json.dumps(pair, ensure_ascii=False, separators=(',', ':'))})" for pair in pairs)]


def duration_text(seconds: float) -> str:
    """A duration as Go prints it: ``1h0m0s``, ``1.5s``, ``20ms``, ``0s``."""
    left = round(abs(seconds) * 10**9)
    sign = "-" if seconds < 0 and left else ""
    if left < 10**9:
        for unit, size in (("ms", 10**6), ("\N{MICRO SIGN}s", 10**3), ("ns", 1)):
            if left >= size:
                return f"{sign}{_decimal(left, size)}{unit}"
        return "0s"
    minutes, left = divmod(left, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(left, 10**9)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else sign + text


def moment_text(seconds: float) -> str:
    """A moment as Go prints it: ``Tue Jan  1 00:00:00 UTC 2030``; *seconds* are unix time, a fraction is cut."""
    at = datetime.fromtimestamp(int(seconds), UTC)
    return f"{_DAYS[at.weekday()]} {_MONTHS[at.month - 1]} {at.day:2} {at:%H:%M:%S} UTC {at.year:04}"


def quoted(text: str) -> str:
    """A string as Go quotes it."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return "\\" + _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _decimal(number: int, size: int) -> str:
    whole, rest = divmod(number, size)
    return f"{whole}.{str(rest).zfill(len(str(size)) - 1).rstrip('0')}" if rest else str(whole)
