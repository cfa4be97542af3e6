"""Options as they are written on a command line. What is wrong with one is said with its value and an example."""

from __future__ import annotations

import logging
import math
import re

from aioasynq import keys
from aioasynq.cli.exits import refuse
from aioasynq.rdb.connection import URL_VARIABLE

LEVELS = ("debug", "info", "warning", "error")

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_QUEUES = "write NAME:WEIGHT or NAME, with commas between, as in critical:6,default:3"


def whole(option: str, text: str | None) -> int | None:
    """A whole number, at least 1."""
    if text is None:
        return None
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        refuse(f"{option} must be a whole number from 1, as in {option} 20; got {text!r}")
    return number


def seconds(option: str, text: str | None) -> float | None:
    """Seconds, zero allowed."""
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not math.isfinite(number) or number < 0:
        refuse(f"{option} must be a number of seconds, as in {option} 30; got {text!r}")
    return number


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
    if text.lower() not in LEVELS:
        refuse(f"{option} must be one of {', '.join(LEVELS)}; got {text!r}")
    return logging.getLevelNamesMapping()[text.upper()]


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
    found: dict[str, int] = {}
    for part in (each.strip() for each in text.split(",")):
        name, colon, weight = part.partition(":")
        why = ""
        if not part:
            why = "there is a comma too many" if "," in text else "it is empty"
        elif "=" in part and not colon:
            why = f"{part!r} has a = where a : belongs"
        elif not name or (colon and not re.fullmatch(r"0*[1-9][0-9]*", weight)) or " " in part:
            why = f"in {part!r} the weight must be a whole number from 1" if name and colon else f"{part!r} is no name"
        elif name in found:
            why = f"{name!r} is there twice"
        if why:
            refuse(f"--queues {text!r}: {why}; {_QUEUES}")
        try:
            keys.check_queue_name(name)
        except ValueError as exc:
            refuse(f"--queues {text!r}: {exc}; {_QUEUES}")
        found[name] = int(weight) if colon else 1
    return found
