"""A connection that many calls share: each is written at once, and the answers come in the order of the calls.

redis-py opens it: address, TLS, password, database. From then on this module reads and writes the transport itself. A
call through a pool costs a dozen turns of the event loop and about 100 µs of CPU, a call here two turns and a tenth.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import hiredis
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError as RedisConnectionError,
    InvalidResponse,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

Word: TypeAlias = str | bytes | int | float
OnReply: TypeAlias = Callable[[Any], None]

_ERRORS: dict[str, type[Exception]] = {
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "LOADING": BusyLoadingError,
    "MASTERDOWN": MasterDownError,
    "MOVED": MovedError,
    "NOAUTH": AuthenticationError,
    "NOPERM": NoPermissionError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
    "TRYAGAIN": TryAgainError,
    "WRONGPASS": AuthenticationError,
}
_NOTHING = object()
_NO_MASTER = (ReadOnlyError, MasterDownError)

SELDOM = 0.25  #: seconds between two answers from which on a connection is little used
SLOWEST = 500_000  #: bytes a second that a link should carry


def _error(text: str) -> Exception:
    """What Redis said went wrong, as redis-py would raise it."""
    code, _, rest = text.partition(" ")
    if "-READONLY You can't write" in text:  # of a script, as Redis 6.2 says it
        return ReadOnlyError(text)
    return _ERRORS[code](rest) if code in _ERRORS else ResponseError(text)


#: A command as Redis reads it; a ``UnicodeEncodeError`` where a word is no text. (Its stub forgets bytes.)
pack: Callable[[tuple[Word, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]


class Pipe(asyncio.Protocol):
    """One connection. It lives until it breaks, is silent for too long, or is closed; then another is made.

    Attributes:
        patience: seconds without a byte from Redis after which a call that waits ends the connection; more for large
            ones, which take their time on a slow link.
    """

    def __init__(self, writer: asyncio.StreamWriter, patience: float) -> None:
        self._writer = writer  # closes the transport when it is forgotten
        self._transport = writer.transport
        self.patience = patience
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=_error, notEnoughData=_NOTHING)
        self._unsent: deque[tuple[bytes, tuple[OnReply, ...]]] = deque()  # empty but while one sends
        self._is_sending = False
        self._calls: deque[tuple[OnReply, float, int]] = deque()
        self._unanswered = 0  # bytes of the calls that wait
        self._heard = 0.0  # when a byte came, by the loop's clock
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None
        self._gone = asyncio.Event()
        self.is_open = True
        self._transport.set_protocol(self)

    @classmethod
    async def over(cls, connection: AbstractConnection, patience: float) -> Pipe | None:
        """Connect, and take the transport over; None where there is none, as in a Redis that is only imitated."""
        try:
            await connection.connect()
        except BaseException:  # redis-py does not undo a connect that was cancelled
            await drop(connection)
            raise
        writer = getattr(connection, "_writer", None)
        if not isinstance(writer, asyncio.StreamWriter):
            await connection.disconnect(nowait=True)
            return None
        connection._reader = connection._writer = None  # noqa: SLF001 - it has no public way to give these away
        return cls(writer, patience)

    def send(self, packed: bytes, on_reply: OnReply) -> None:
        """Write a command (see :func:`pack`); *on_reply* gets the reply, or the exception in its place.

        It must not raise.

        Raises:
            redis.exceptions.ConnectionError: it is closed; nothing was written.
        """
        self._send(packed, (on_reply,))

    def send_two(self, packed: bytes, on_first: OnReply, on_second: OnReply) -> None:
        """The same for two commands that are written together."""
        self._send(packed, (on_first, on_second))

    def _send(self, packed: bytes, on_replies: tuple[OnReply, ...]) -> None:
        if not self.is_open:  # perhaps Redis closed it before its opener had its turn
            raise RedisConnectionError("lost while connecting to it")
        self._unsent.append((packed, on_replies))
        # Python may collect garbage at any point here, and what is collected may send too, as a coroutine that was left
        # alone does in its ``finally``. That one waits here, for replies come in the order in which calls are written.
        while self._unsent and not self._is_sending:
            self._is_sending = True
            try:
                self._send_next()
            finally:
                self._is_sending = False

    def _send_next(self) -> None:
        packed, on_replies = self._unsent.popleft()
        if not self.is_open:
            for on_reply in on_replies:
                on_reply(RedisConnectionError("the connection was closed"))
            return
        self._transport.write(packed)  # first of all: Redis is at work while the books are kept
        now, size = self._loop.time(), len(packed)
        for on_reply in on_replies:
            self._calls.append((on_reply, now, size))
            size = 0
        self._unanswered += len(packed)
        if self._timer is None:
            self._timer = self._loop.call_at(now + self.patience, self._look)

    async def drain(self) -> None:
        """Wait until every call is answered."""
        if self._calls:
            if self._idle is None:
                self._idle = self._loop.create_future()
            await asyncio.shield(self._idle)

    @property
    def is_usable(self) -> bool:
        """Whether it is open, and of the running event loop."""
        return self.is_open and self._loop is asyncio.get_running_loop()

    @property
    def busy(self) -> bool:
        """Whether a call waits for its answer."""
        return bool(self._calls)

    def close(self, why: BaseException | None = None) -> None:
        """End the connection; what waits gets *why*."""
        if not self.is_open:
            return
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(RuntimeError):  # its event loop is closed already
            self._transport.abort()  # what Redis has not taken yet, it need not take
        error = why or RedisConnectionError("the connection was closed")
        while self._calls:
            self._calls.popleft()[0](error)
        self._rest()

    async def aclose(self) -> None:
        """The same, and wait until the socket is closed."""
        usable = self.is_usable
        self.close()
        if not usable:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._gone.wait()

    # ── what the event loop calls ──

    def data_received(self, data: bytes) -> None:
        """Hand replies to the calls they belong to."""
        before, self._heard = self._heard, self._loop.time()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING:
                if isinstance(reply, hiredis.PushNotification):
                    continue  # of RESP3; nobody asked for it
                on_reply, _, size = self._calls.popleft()
                self._unanswered -= size
                on_reply(reply)
                if isinstance(reply, _NO_MASTER):  # the next connection finds one
                    self.close()
        except (InvalidResponse, IndexError) as exc:
            self.close(RedisConnectionError(f"an answer that makes no sense: {exc}"))
        if not self._calls:
            if self._idle is not None:
                self._rest()
            if self._heard - before > SELDOM and self._timer is not None:
                self._timer.cancel()  # or an idle process would be woken by a look at nothing
                self._timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all that wait."""
        self._gone.set()
        self.close(
            RedisConnectionError(str(exc) or "the connection was lost" if exc else "Redis closed the connection")
        )

    def _look(self) -> None:
        """Is there a call that waits, and has Redis been silent all the while?"""
        self._timer = None
        if not self._calls:
            return
        end = max(self._calls[0][1], self._heard) + self.patience + self._unanswered / SLOWEST
        if self._loop.time() >= end - 0.001:
            self.close(TimeoutError())
        else:
            self._timer = self._loop.call_at(end, self._look)

    def _rest(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        self._idle = None


def hang_up(connection: AbstractConnection) -> None:
    """End a connection at once; whoever reads from it is told that it is lost."""
    writer: Any = getattr(connection, "_writer", None)  # none while it is not connected, or was taken over
    if writer is not None:
        writer.transport.abort()


async def drop(connection: AbstractConnection) -> None:
    """End a connection at once that nobody uses any more, also one whose connect was cut short.

    One with TLS that is closed in a friendly way waits for the other side, and stays when the event loop ends first.
    """
    hang_up(connection)
    with contextlib.suppress(Exception):
        await connection.disconnect(nowait=True)
