"""Busy polling: an event loop that stays awake for the moment in which an answer is due."""

from __future__ import annotations

import math
import os
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

LONGEST = 0.0001  #: seconds for which a loop is kept awake; a Redis on the same machine has answered by then
RAREST = 1024  #: one answer in so many is still waited for like this where none comes in time


class BusyPoll:
    """Keeps one event loop awake while a lone caller waits for an answer.

    A loop that has nothing to do sleeps, and its CPU with it. To wake both takes longer than a Redis nearby takes to
    answer, and costs Redis and us about as much CPU as was saved. So the loop goes on turning for a moment, as Go's
    scheduler does; all else that is ready has its turns as ever. Where answers do not come within the moment, from a
    Redis that is far, say, or on a machine that is busy, this is tried ever more rarely; a process that is bound to one
    CPU never tries.
    """

    __slots__ = ("_call", "_due", "_end", "_every", "_loop", "_rests")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._call: object = None  #: whose answer is waited for awake
        self._due = False  #: the next turn is asked for
        self._end = 0.0
        self._every = 1  #: one answer in so many is waited for like this
        self._rests: float = 0 if _cpus() > 1 else math.inf  #: calls to come whose answers are not

    def begin(self, call: object) -> None:
        """A call was made."""
        if self._call is not None:
            return  # one at a time, or none would be seen to come too late
        if self._rests:
            self._rests -= 1
            return
        self._call = call
        self._end = perf_counter() + LONGEST
        self._go_on()

    def answered(self, call: object) -> None:
        """The answer to a call has come."""
        if self._call is call:
            self._call = None
            self._every = 1

    def _go_on(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._due = False
        if self._call is None:
            return
        if perf_counter() < self._end:
            self._go_on()
        else:
            self._call = None
            self._every = min(2 * self._every, RAREST)
            self._rests = self._every - 1


def _cpus() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
