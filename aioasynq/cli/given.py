"""Options as they are written on a command line. What is wrong with one is said with its value and an example."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from typing import overload

from aioasynq import keys
from aioasynq.cli.exits import refuse
from aioasynq.inspector.base import MAX_PAGE, MAX_PAGE_SIZE
from aioasynq.inspector.option_strings import duration
from aioasynq.queues import weights_of
from aioasynq.rdb.url import URL_VARIABLE

LEVELS = ("debug", "info", "warning", "error")
ASYNQ_LEVELS = ("warn", "fatal")  #: its names for what Python calls warning and critical
FORMATS = ("text", "json")

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_QUEUES = "write NAME:WEIGHT or NAME, with commas between, as in critical:6,default:3"


@overload
def whole(option: str, text: str, least: int = 1, most: int | None = None) -> int: ...
@overload
def whole(option: str, text: str | None, least: int = 1, most: int | None = None) -> int | None: ...
def whole(option: str, text: str | None, least: int = 1, most: int | None = None) -> int | None:
    """A whole number of a range."""
    if text is None:
        return None
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least or (most is not None and number > most):
        to = "" if most is None else f" to {most:,}"
        refuse(f"{option} must be a whole number from {least}{to}, as in {option} 20; got {text!r}")
    return number


@overload
def seconds(option: str, text: str) -> float: ...
@overload
def seconds(option: str, text: str | None) -> float | None: ...
def seconds(option: str, text: str | None) -> float | None:
    """Seconds, zero allowed; also as Go writes them."""
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        try:
            number = duration(text)
        except ValueError:
            number = -1.0
    if not math.isfinite(number) or number < 0:
        refuse(f"{option} must be seconds or a duration, as in {option} 30 or 1h30m; got {text!r}")
    return number


def page(number: str, size: str) -> tuple[int, int]:
    """A page of a list, and how many are on one."""
    return whole("--page", number, most=MAX_PAGE), whole("--size", size, most=MAX_PAGE_SIZE)


def headers(texts: Sequence[str] | None) -> dict[str, str] | None:
    """``NAME=VALUE``, as often as it is written."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, sign, value = text.partition("=")
        if not name or not sign:
            refuse(f"--header must be NAME=VALUE, as in --header trace=abc; got {text!r}")
        found[name] = value
    return found or None


def size(option: str, text: str | None) -> int | None:
    """Bytes: a number with kB, MB or GB (powers of 1000) or KiB, MiB, GiB (of 1024)."""
    if text is None:
        return None
    matched = _SIZE.fullmatch(text.strip())
    number = 0
    if matched:
        amount, power, binary = matched.groups()
        number = int(float(amount) * (1024 if binary else 1000) ** _POWERS[power.lower()])
    if number < 1:
        refuse(f"{option} must be a size, as in {option} 500MB or {option} 1.5GiB; got {text!r}")
    return number


def level(option: str, text: str | None) -> int | None:
    """A level of logging."""
    if text is None:
        return None
    if text.lower() not in LEVELS + ASYNQ_LEVELS:
        refuse(f"{option} must be one of {', '.join(LEVELS)}; got {text!r}")
    return logging.getLevelNamesMapping()[text.upper()]


def port(option: str, text: str | None) -> int | None:
    """A port of TCP; 0 for any free one."""
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        refuse(f"{option} must be a port, from 0 (any free one) to 65535, as in {option} 9100; got {text!r}")
    return int(text)


def host(option: str, text: str | None, needs: str, *, is_there: bool) -> str | None:
    """Where to listen, which says nothing without a port."""
    if text is None:
        return None
    if not is_there:
        refuse(f"{option} is about {needs}, as in {needs} 9100 {option} {text or '0.0.0.0'}; there is none")  # noqa: S104 - an example
    if not text.strip():
        refuse(f"{option} is empty; write {option} 0.0.0.0 for all addresses, or leave it out for 127.0.0.1")
    return text


def log_format(option: str, text: str | None) -> str | None:
    """How lines of the log look."""
    if text is not None and text.lower() not in FORMATS:
        refuse(f"{option} must be one of {', '.join(FORMATS)}; got {text!r}")
    return None if text is None else text.lower()


def url(text: str | None) -> str | None:
    """A URL; whether it is one is seen when it is opened."""
    if text is not None and not text.strip():
        refuse(
            f"--url is empty (a shell variable that is not set?); write --url redis://HOST:6379/0, or leave it out "
            f"for the URL in {URL_VARIABLE}"
        )
    return text


def weights(text: str | None) -> dict[str, int] | None:
    """Queues and their weights."""
    if text is None:
        return None
    try:
        found = weights_of(text)
        for name in found:
            keys.check_queue_name(name)
    except ValueError as exc:
        refuse(f"--queues {text!r}: {exc}; {_QUEUES}")
    return found
