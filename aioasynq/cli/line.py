"""What a parent and its children say to each other, over a pair of sockets: a line each.

A child tells who it is before it takes its first task, so that its parent can take back what it held. The end of the
line tells each of them that the other one is gone, however it died.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from aioasynq.cli.burst import Left
from aioasynq.cli.figures import Figures

LONGEST = 1 << 20  #: bytes of a line

# From the parent. Not as signals, for those may also come to each process of a group from somebody else.
STOP = b"stop\n"  #: take no more tasks
SHUTDOWN = b"shutdown\n"  #: finish what runs, and end
HURRY = b"hurry\n"  #: do not wait for what runs
LOOK = b"look\n"  #: say what is left to do


class Hello(msgspec.Struct, tag=True):
    """A child is about to start its server."""

    name: str  #: ``host:pid:server id``, with which the owners of its tasks begin
    redis: str | None  #: URL; None when the program brings a client of its own
    queues: dict[str, int]
    shutdown_timeout: float
    max_archive: int
    archive_days: float


class Ready(msgspec.Struct, tag=True):
    """Its server has started, and it heeds what it is told."""


class Outgrown(msgspec.Struct, tag=True):
    """It has reached a limit and asks to be replaced."""

    why: str


Word: TypeAlias = Hello | Ready | Outgrown | Figures | Left

_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[Word] = msgspec.json.Decoder(Word)


def encode(word: Word) -> bytes:
    """A word as a line."""
    return _encode(word) + b"\n"


def decode(line: bytes) -> Word:
    """A line as a word."""
    return _decoder.decode(line)
