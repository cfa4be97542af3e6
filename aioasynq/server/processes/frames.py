"""What a server and its children say to each other: MessagePack with its length, in four bytes, in front."""

from __future__ import annotations

import struct
from typing import Any, TypeAlias

import msgspec

_LENGTH = struct.Struct("!I")
HEAD = _LENGTH.size
MAX_FRAME = 2**32 - 1  #: bytes


class Hello(msgspec.Struct, tag=True, tag_field="frame"):
    """To a child, once: what it needs to be like its parent."""

    path: list[str]  #: ``sys.path``
    argv: list[str]
    main_name: str | None  #: of the module that is the program, where that has one, as with ``python -m``
    main_file: str | None  #: the same where it is a file
    levels: dict[str, int]  #: of loggers that have one; the root's under ""
    disabled: int  #: up to which level nothing is logged


class Run(msgspec.Struct, tag=True, tag_field="frame"):
    """To a child: a task, and the handler that the parent has registered for it."""

    job: int  #: whatever a child says of it has this number
    module: str
    name: str
    around: str
    type: str
    payload: bytes | None
    headers: dict[str, str]
    id: str
    queue: str
    retried: int
    max_retry: int
    ends: float  #: unix seconds


class Wrote(msgspec.Struct, tag=True, tag_field="frame"):
    """To a child: how its ``write_result`` went."""

    number: int
    size: int
    error: str | None
    is_missing: bool = False  #: there is no such task, or it is somebody else's by now


class Began(msgspec.Struct, tag=True, tag_field="frame"):
    """From a child: it has got the task."""

    job: int


class Note(msgspec.Struct, tag=True, tag_field="frame"):
    """From a child: how far the task is."""

    job: int
    fraction: float
    text: str


class Write(msgspec.Struct, tag=True, tag_field="frame"):
    """From a child: a result to store while the handler runs."""

    job: int
    number: int  #: the answer has the same
    data: bytes


class Log(msgspec.Struct, tag=True, tag_field="frame"):
    """From a child: a record of its logging, with its text made."""

    record: dict[str, Any]


class Returned(msgspec.Struct, tag=True, tag_field="frame"):
    """From a child: the handler returned *data*, as JSON if it was no bytes; None for None."""

    job: int
    data: bytes | None
    is_json: bool
    unfit: str | None = None  #: name of the class of what JSON cannot hold
    why: str = ""


class Raised(msgspec.Struct, tag=True, tag_field="frame"):
    """From a child: the handler raised an error."""

    job: int
    text: str
    kind: str
    traceback: str
    kinds: list[str]  #: ``module:name`` of its class and of those it is derived from
    verdict: str | None = None  #: SkipRetry, RevokeTask, RetryAfter or PayloadError, if it is one or one is its cause
    verdict_text: str = ""
    delay: float = 0.0
    is_direct: bool = True  #: the error is the verdict itself


ToChild: TypeAlias = Hello | Run | Wrote
FromChild: TypeAlias = Began | Note | Write | Log | Returned | Raised

_encode = msgspec.msgpack.Encoder().encode
decode_to_child = msgspec.msgpack.Decoder(ToChild).decode
decode_from_child = msgspec.msgpack.Decoder(FromChild).decode


def pack(frame: ToChild | FromChild) -> bytes:
    """A frame as bytes.

    Raises:
        ValueError: it is too long.
    """
    body = _encode(frame)
    if len(body) > MAX_FRAME:
        raise ValueError(f"a result must have at most {MAX_FRAME:,} bytes, got {len(body):,}")
    return _LENGTH.pack(len(body)) + body


def length_of(head: bytes) -> int:
    """How many bytes follow."""
    length: int = _LENGTH.unpack(head)[0]
    return length
