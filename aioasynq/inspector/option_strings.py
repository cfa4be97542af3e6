"""Options as Go writes them into the entries of its schedulers, such as ``Queue("low")`` and ``Timeout(1m30s)``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

_OPTION = re.compile(r"(\w+)\((.*)\)", re.DOTALL)
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """The options as ``Client.enqueue`` takes them, durations in seconds; without those that cannot be read."""
    found: dict[str, Any] = {}
    for text in texts:
        matched = _OPTION.fullmatch(text.strip())
        if matched is None or matched[1] not in _OPTIONS:
            continue
        name, parse = _OPTIONS[matched[1]]
        try:
            value = parse(matched[2])
        except ValueError:
            continue
        if name == "headers":
            value = {**found.get("headers", {}), **value}
        found[name] = value
    return found


def duration(text: str) -> float:
    """Seconds of a duration as Go writes it, as in ``1h2m3.5s``.

    Raises:
        ValueError: it is none.
    """
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text.removeprefix("-").removeprefix("+")
    if rest == "0":
        return 0.0
    parts = _PART.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError(f"a duration must look like 1h2m3.5s, got {text!r}")
    return sign * sum(float(number) * _SECONDS[unit] for number, unit in parts)


def moment(text: str) -> datetime:
    """A moment as Go writes it, as in ``Mon Nov 23 13:49:07 UTC 2026``; other zones are taken for UTC, as in Go.

    Raises:
        ValueError: it is none.
    """
    words = text.split()
    if len(words) != 6:
        raise ValueError(f"a moment must look like Mon Nov 23 13:49:07 UTC 2026, got {text!r}")
    return datetime.strptime(" ".join([*words[:4], words[5]]), "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)


def _text(text: str) -> str:
    """A string as Go quotes it; JSON's quotes are near enough, and ids and names have no more."""
    value = json.loads(text)
    if not isinstance(value, str):
        raise ValueError(f"a quoted string is needed, got {text!r}")  # noqa: TRY004 - as for all that cannot be read
    return value


def _header(text: str) -> dict[str, str]:
    value = json.loads(text)
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)):
        raise ValueError(f"a name and a value are needed, got {text!r}")
    return {value[0]: value[1]}


_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "MaxRetry": ("max_retry", int),
    "Queue": ("queue", _text),
    "TaskID": ("task_id", _text),
    "Timeout": ("timeout", duration),
    "Deadline": ("deadline", moment),
    "Unique": ("unique", duration),
    "ProcessAt": ("process_at", moment),
    "ProcessIn": ("process_in", duration),
    "Retention": ("retention", duration),
    "Group": ("group", _text),
    "Header": ("headers", _header),
}
