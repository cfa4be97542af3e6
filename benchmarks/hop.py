"""A network hop between the systems and their Redis: a program of Go's that lets each answer arrive later."""

from __future__ import annotations

import subprocess
from pathlib import Path
from statistics import median
from time import perf_counter
from types import TracebackType
from typing import Self

import redis

from aioasynq.devserver import HOST

_PINGS = 200


class Hop:
    """The way to the Redis at *port* on which each answer takes *milliseconds* longer."""

    def __init__(self, program: Path, port: int, milliseconds: float) -> None:
        self._command = [str(program), f"{HOST}:{port}", f"{milliseconds}ms"]
        self.url = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        self.url = f"redis://{HOST}:{port}/0"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def round_trip(url: str) -> float:
    """Milliseconds from a PING to its answer, the median of many."""
    with redis.Redis.from_url(url) as client:
        client.ping()
        took = []
        for _ in range(_PINGS):
            began = perf_counter()
            client.ping()
            took.append(perf_counter() - began)
    return median(took) * 1e3
