"""Messages as asynq wrote them in 2020: a JSON object, read without changing a byte of the payload."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Annotated

import msgspec

from aioasynq import keys
from aioasynq.message import TaskMessage

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]  # what today's message can hold
_MAX_SECONDS = 2**63 - 1
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


class _Message(msgspec.Struct, forbid_unknown_fields=True):  # what is not known would be lost
    ID: str
    Type: str
    Payload: msgspec.Raw = msgspec.Raw(b"null")
    Queue: str = ""
    Retry: _Count = 0
    Retried: _Count = 0
    ErrorMsg: str = ""
    Timeout: str | int = ""  # of some versions: "30s"; in July 2020 a number of seconds
    Deadline: str | int = ""  # of some versions: RFC 3339; in July 2020 unix seconds
    UniqueKey: str = ""


_decoder = msgspec.json.Decoder(_Message)


def read_message(data: bytes, queue: str | None, timeout: int) -> tuple[TaskMessage, str]:
    """Read a message; return today's, and the key of the lock it was enqueued with, empty if it was not unique.

    Args:
        data: the bytes that are in a list or a sorted set.
        queue: the queue in whose list it stands; None: the one that it names, in small letters as asynq had them then.
        timeout: seconds for a task that has neither timeout nor deadline, which stood for "no limit" then.

    Raises:
        ValueError: it is none; the text says why.
    """
    try:
        old = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError(str(exc)) from None
    payload = bytes(old.Payload)
    if payload != b"null" and not payload.startswith(b"{"):
        raise ValueError("Payload must be an object or null")
    if not old.ID.strip():
        raise ValueError(f"ID must contain one or more characters that are not blank, got {old.ID!r}")
    if queue is None:
        queue = old.Queue.lower()
        keys.check_queue_name(queue)
    limit, deadline = _timeout(old.Timeout), _deadline(old.Deadline)
    msg = TaskMessage(
        type=old.Type,
        payload=payload,
        id=old.ID,
        queue=queue,
        retry=old.Retry,
        retried=old.Retried,
        error_msg=old.ErrorMsg,
        timeout=limit if limit or deadline else timeout,
        deadline=deadline,
        unique_key=keys.unique(queue, old.Type, payload) if old.UniqueKey else "",
    )
    return msg, old.UniqueKey


def _timeout(value: str | int) -> int:
    """Whole seconds, rounded up, for 0 stands for none."""
    if isinstance(value, int):
        seconds = float(value)
    elif value in {"", "0"}:
        return 0
    else:
        parts = _PART.findall(value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise ValueError(f"Timeout must look like 1h2m3.5s, got {value!r}")
        seconds = math.fsum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not 0 <= seconds < _MAX_SECONDS:
        raise ValueError(f"Timeout must be 0 or more seconds, got {value!r}")
    return math.ceil(seconds)


def _deadline(value: str | int) -> int:
    """Unix seconds; Go's zero time stands for none, like 0."""
    if isinstance(value, int):
        if not 0 <= value < _MAX_SECONDS:
            raise ValueError(f"Deadline must be unix seconds, got {value!r}")
        return value
    if not value:
        return 0
    try:
        found = datetime.fromisoformat(value) if _MOMENT.fullmatch(value) else None
    except ValueError:
        found = None
    if found is None:
        raise ValueError(f"Deadline must look like 2020-02-29T12:00:00Z, got {value!r}")
    if found.replace(tzinfo=None) == datetime.min:  # noqa: DTZ901 - the zone has been taken off
        return 0
    return max(1, math.floor(found.timestamp()))  # one of before 1970 has passed, and is no "none"
