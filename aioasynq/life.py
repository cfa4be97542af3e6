"""Life: what is started once, works until it is told to end, and then ends in order; and the signals that tell it."""

from __future__ import annotations

import asyncio
import logging
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Self

import anyio

from aioasynq.errors import BrokerError, BrokerRefusedError, SchedulerStateError, ServerStateError

if TYPE_CHECKING:
    from aioasynq.rdb.rdb import RDB

log = logging.getLogger(__name__)

START_LIMIT = 1.0  #: seconds the first look at Redis may take; without it the start goes on all the same


class Life(ABC):
    """The life of a server or a scheduler.

    A subclass begins its :meth:`start` within :meth:`_once`, hands what it does to :meth:`_supervise`, and says in
    :meth:`_finish` how it ends.
    """

    _kind: ClassVar[str]  #: what it is, for people
    _state_error: ClassVar[type[ServerStateError | SchedulerStateError]]
    _signals: ClassVar[tuple[signal.Signals, ...]] = (signal.SIGTERM, signal.SIGINT)

    id: str

    def __init__(self) -> None:
        self._status = "new"
        self._starting = False
        self._supervisor: asyncio.Task[None] | None = None  #: goes on until all is over
        self._closing: asyncio.Task[None] | None = None

    @property
    def status(self) -> str:
        """``new``, ``active`` or ``closed``."""
        return self._status

    # ── start ──

    @abstractmethod
    async def start(self) -> None:
        """Begin to work, and return at once."""

    @contextmanager
    def _once(self) -> Generator[None]:
        """Around a start: there is one, and one at a time."""
        if self._status != "new" or self._starting:
            status = "being started" if self._starting else self._status
            raise self._state_error(f"a {self._kind} is started once; this one is {status}")
        self._starting = True
        try:
            yield
        finally:
            self._starting = False

    async def _look_at(self, rdb: RDB, lost: Callable[[BrokerError], object]) -> None:
        """Look whether this Redis will do; *lost* is told when it cannot be reached, which does not matter."""
        try:
            await rdb.check_server(timeout=START_LIMIT)
        except BrokerRefusedError:
            raise
        except BrokerError as exc:
            lost(exc)
        self._check_still_new()

    def _check_still_new(self) -> None:
        if self._status != "new":
            raise self._state_error(f"this {self._kind} was {self._status} while it was started")

    def _supervise(self, work: asyncio.Task[None]) -> None:
        """It works from now on, for as long as *work* goes on."""
        self._status = "active"
        self._supervisor = work
        work.add_done_callback(self._supervised)

    def _supervised(self, work: asyncio.Task[None]) -> None:
        if work.cancelled():
            self._status = "closed"
            log.critical("%s %s ended: its asyncio task was cancelled from outside", self._kind, self.id)
        elif (bug := work.exception()) is not None:
            self._status = "closed"
            log.critical("%s %s ended by a bug", self._kind, self.id, exc_info=bug)

    # ── end ──

    async def shutdown(self) -> None:
        """Let what is under way end, and end.

        It runs to its end even when the caller is cancelled. Calling it again waits for the same end.
        """
        if self._supervisor is None:
            self._status = "closed"
            return
        await asyncio.shield(self._close_soon())

    def _close_soon(self) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._finish())
        return self._closing

    @abstractmethod
    async def _finish(self) -> None:
        """End what was started, in order. It is called once."""

    # ── both ──

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT, then shut down."""
        # Before the start: who sees that it works may send a signal at once.
        with anyio.open_signal_receiver(*self._signals) as received:
            starting = asyncio.get_running_loop().create_task(self.start())
            heeding = asyncio.get_running_loop().create_task(self._heed(received, starting))
            try:
                await asyncio.wait({starting})
                if starting.cancelled():  # by a signal
                    return
                starting.result()
                assert self._supervisor is not None  # noqa: S101 - start has made it
                await asyncio.wait({self._supervisor})
            finally:
                with anyio.CancelScope(shield=True):  # as in __aexit__
                    starting.cancel()
                    await asyncio.wait({starting})
                    await self.shutdown()
                    heeding.cancel()
                    await asyncio.gather(heeding, return_exceptions=True)
        self._raise_what_ended_it(self._supervisor)

    def _raise_what_ended_it(self, work: asyncio.Task[None]) -> None:
        if not work.cancelled() and (bug := work.exception()) is not None:
            raise bug

    async def _heed(self, signals: AsyncIterator[signal.Signals], starting: asyncio.Task[None]) -> None:
        async for number in signals:
            name = signal.Signals(number).name
            if number == signal.SIGTSTP:
                self._pause()
            elif not starting.done():
                log.info("%s received before the %s has started", name, self._kind)
                starting.cancel()
            elif self._closing is None:
                log.info("%s received: shutting down", name)
                self._close_soon()
            else:
                self._close_faster(name)

    def _pause(self) -> None:  # noqa: B027 - most cannot
        """SIGTSTP came, which only those have among their signals that can pause."""

    def _close_faster(self, name: str) -> None:
        """The signal came again, or another."""
        log.info("%s received again: the %s is ending", name, self._kind)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):  # a scope that is cancelled would cut through every await from here on
            await self.shutdown()
