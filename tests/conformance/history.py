"""What a side reported, in order, for a test to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

Json = dict[str, Any]

PATIENCE = 20.0  #: seconds until something that has to happen counts as not happening


class EndedError(Exception):
    """The program ended while something was expected of it."""


class History:
    """Events: objects with an ``event``, which is their name, and other members."""

    def __init__(self) -> None:
        self._history: list[Json] = []
        self._news = asyncio.Event()
        self._ended = False

    def add(self, event: Json) -> None:
        self._history.append(event)
        self._tell()

    async def wait(self, event: str, *, times: int = 1, timeout: float = PATIENCE, **members: object) -> Json:
        """The event of this name and with these members, once it has been seen; with *times*, the last of so many.

        Events that came before the call count as well, so nothing is lost by waiting late.

        Raises:
            TimeoutError: it did not come within *timeout* seconds.
            EndedError: the program ended without it.
        """
        found: list[Json] = []
        looked = 0
        try:
            async with asyncio.timeout(timeout):
                while True:
                    found += _matching(self._history[looked:], event, members)
                    looked = len(self._history)
                    if len(found) >= times:
                        return found[times - 1]
                    if self._ended:
                        raise self._end(f"no event {event} {members}")
                    await self._news.wait()
        except TimeoutError:
            seen = "\n".join(map(str, self._history))
            raise TimeoutError(
                f"no event {event} {members} in {timeout} s; there were:\n{seen}\n{self._last_words()}"
            ) from None

    def events(self, event: str | None = None, **members: object) -> list[Json]:
        """The events so far, all or those of this name and with these members."""
        return _matching(self._history, event, members)

    async def settled(self, id: str, *, as_: str | None = None, times: int = 1) -> Json:  # noqa: A002
        """Wait until the outcome of a task is in Redis: done, completed, retry, archived or pending."""
        members: Json = {"as": as_} if as_ else {}
        return await self.wait("settled", times=times, id=id, **members)

    def end(self) -> None:
        """Nothing more is to come."""
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()  # each who waits holds the one that was set

    def _end(self, what: str) -> EndedError:
        return EndedError(what)

    def _last_words(self) -> str:
        return ""


def _matching(events: Iterable[Json], event: str | None, members: Mapping[str, object]) -> list[Json]:
    return [
        seen
        for seen in events
        if event in {None, seen["event"]} and all(seen.get(name) == value for name, value in members.items())
    ]
