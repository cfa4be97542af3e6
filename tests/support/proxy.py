"""A TCP proxy between a client and Redis that understands enough of both to break things at a chosen place.

``Proxy`` runs in the loop of the test, ``ThreadedProxy`` in a thread with a loop of its own, for clients in other
processes or tests that block their loop. Each fault counts in ``fired`` how often it really struck, so that a test
which claims to have lost a reply can prove it.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future as ThreadFuture
from typing import Concatenate, Literal, ParamSpec, Self, TypeVar, cast
from urllib.parse import unquote, urlsplit

from aioasynq.devserver import HOST, free_port
from tests.support.resp import PUSH, Command, ReplyScanner, read_command

P = ParamSpec("P")
R = TypeVar("R")

#: Which requests a fault is about: a command's name, or a predicate.
Match = str | Callable[[Command], bool]

#: After these a server no longer answers each request with one reply, so the connection is passed through unpaired.
_UNPAIRED = frozenset(
    {
        b"SUBSCRIBE",
        b"PSUBSCRIBE",
        b"SSUBSCRIBE",
        b"UNSUBSCRIBE",
        b"PUNSUBSCRIBE",
        b"SUNSUBSCRIBE",
        b"MONITOR",
        b"SYNC",
        b"PSYNC",
    }
)
_CROSS_THREAD_TIMEOUT = 10.0  # seconds

Kind = Literal["lose_reply", "cut_after", "cut_before"]


def script(sha: str) -> Callable[[Command], bool]:
    """Match the calls of one script by its SHA-1."""
    wanted = sha.encode()

    def is_call(command: Command) -> bool:
        return command[0] == b"EVALSHA" and command[1] == wanted

    return is_call


class Fault:
    """One thing that is to go wrong with one call, or some in a row."""

    def __init__(self, kind: Kind, match: Match, nth: int, times: int | None, label: str) -> None:
        self.kind = kind
        self.label = label
        self.seen = 0  #: calls that matched
        self.fired = 0  #: calls that were struck
        self._nth = nth
        self._times = times
        if isinstance(match, str):
            name = match.upper().encode()
            self._match: Callable[[Command], bool] = lambda command: command[0] == name
        else:
            self._match = match

    def strikes(self, command: Command) -> bool:
        """Count *command* if it is one of those meant, and tell whether its turn has come."""
        if not self._match(command):
            return False
        self.seen += 1
        return self.seen >= self._nth and (self._times is None or self.seen < self._nth + self._times)


def _in_own_loop(method: Callable[Concatenate[Proxy, P], R]) -> Callable[Concatenate[Proxy, P], R]:
    """Make *method* callable from any thread: it runs in the proxy's loop, and the caller waits for it."""

    @functools.wraps(method)
    def call(self: Proxy, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self.thread_id in {0, threading.get_ident()}:  # 0: not started yet
            return method(self, *args, **kwargs)
        done: ThreadFuture[R] = ThreadFuture()

        def run() -> None:
            try:
                done.set_result(method(self, *args, **kwargs))
            except Exception as exc:  # noqa: BLE001 - it is the caller's
                done.set_exception(exc)

        self.loop.call_soon_threadsafe(run)
        return done.result(_CROSS_THREAD_TIMEOUT)

    return call


class Proxy:
    """Stands before the server at *upstream*, a ``redis://`` or ``unix://`` URL; clients use :attr:`url`.

    ``async with Proxy(server.url) as proxy``. Replies are paired with requests in order, connection by connection, also
    when they are pipelined, and pushes of RESP3 are left out. From a SUBSCRIBE, MONITOR, SYNC or CLIENT REPLY on a
    connection is passed through: its commands are still counted, but no fault about single calls strikes there.
    Inside MULTI the reply of a command is its ``+QUEUED``.
    """

    def __init__(self, upstream: str) -> None:
        self.commands: Counter[str] = Counter()  #: requests seen, by name in capitals
        self.fired: Counter[str] = Counter()  #: how often each fault struck, by its label
        self.bytes_sent = 0  #: from clients to the server
        self.bytes_received = 0  #: from the server to clients
        self.accepted = 0  #: connections since the start
        self.thread_id = 0
        self.loop: asyncio.AbstractEventLoop
        self.port = 0  #: kept while the proxy is down
        self.request_delay = 0.0
        self.reply_delay = 0.0
        self.dark = False
        self.faults: list[Fault] = []
        self.links: set[Link] = set()
        self._upstream = urlsplit(upstream)
        self._listener: socket.socket | None = None
        self._welcomes: set[asyncio.Task[None]] = set()  # connections that were just accepted
        self._refusing = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: list[tuple[Callable[[], bool], ThreadFuture[None]]] = []

    @property
    def url(self) -> str:
        """The server's URL, with the proxy's address in it."""
        parts = self._upstream
        login, at, _ = parts.netloc.rpartition("@")
        path = parts.path if parts.scheme != "unix" else "/0"
        return f"redis://{login}{at}{HOST}:{self.port}{path}"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return sum(not link.is_cut for link in self.links)

    async def start(self) -> None:
        """Listen; the running loop becomes the proxy's."""
        self.loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        while not self.port:
            self.port = free_port()
            try:
                await self._listen()
            except OSError:  # somebody was faster
                self.port = 0

    async def close(self) -> None:
        """Close all that is open. A wait that is still under way is cancelled."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._stop_listening()
        links = list(self.links)
        for link in links:
            link.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, *(link.gone.wait() for link in links), return_exceptions=True)
        for _, waiter in self._waiters:
            waiter.cancel()
        self._waiters.clear()
        for _ in range(10):  # turns in which a socket that was being connected appears, and is closed
            await asyncio.sleep(0)
            late = [link for link in self.links if not link.is_cut]
            for link in late:
                link.cut()
            await asyncio.gather(*(link.gone.wait() for link in late))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    # faults about single calls

    def lose_reply(self, match: Match, *, nth: int = 1, times: int | None = 1, label: str = "") -> Fault:
        """Let the server run the *nth* call that matches, and *times* - 1 further ones; the client never hears of it.

        The connection stays open, but as on a link that broke in one direction nothing reaches the client on it any
        more: with a gap in the middle the next reply would be taken for the one that is missing, which TCP never does.

        Args:
            match: a command's name, or a predicate on the request (see :func:`script`).
            nth: counted from the moment the fault is set.
            times: how many calls are struck; None for all from the *nth* on.
            label: the fault's name in ``fired``; made up from kind and match when empty.
        """
        return self._add("lose_reply", match, nth, times, label)

    def cut_after(self, match: Match, *, nth: int = 1, times: int | None = 1, label: str = "") -> Fault:
        """As :meth:`lose_reply`, but the connection is cut as soon as the server has run the call."""
        return self._add("cut_after", match, nth, times, label)

    def cut_before(self, match: Match, *, nth: int = 1, times: int | None = 1, label: str = "") -> Fault:
        """As :meth:`lose_reply`, but the connection is cut instead of handing the call to the server."""
        return self._add("cut_before", match, nth, times, label)

    @_in_own_loop
    def _add(self, kind: Kind, match: Match, nth: int, times: int | None, label: str) -> Fault:
        what = match if isinstance(match, str) else getattr(match, "__name__", "call")
        fault = Fault(kind, match, nth, times, label or f"{kind} {what}")
        self.faults.append(fault)
        return fault

    @_in_own_loop
    def remove(self, fault: Fault) -> None:
        """Let *fault* strike no further call."""
        self.faults.remove(fault)

    # faults about connections

    @_in_own_loop
    def cut_all(self, label: str = "cut_all") -> int:
        """Cut all connections now, whatever they wait for; return how many there were. New ones are accepted."""
        links = [link for link in self.links if not link.is_cut]
        for link in links:
            link.cut()
        self.fired[label] += len(links)
        self.check_waiters()
        return len(links)

    @_in_own_loop
    def cut_every(self, seconds: float | None) -> None:
        """Cut all connections every *seconds* from now on; None ends that. ``fired`` counts connections."""

        def strike() -> None:
            self.cut_all("cut_every")
            self.cut_every(seconds)

        self._set_timer("cut_every", seconds, strike)

    @_in_own_loop
    def delay(self, *, request: float = 0.0, reply: float = 0.0) -> None:
        """Let all data take so many seconds longer, each way; ``fired`` counts the pieces of data held up."""
        self.request_delay = request
        self.reply_delay = reply

    @_in_own_loop
    def black_hole(self, seconds: float | None = None) -> None:
        """Read nothing and forward nothing, for *seconds* or until :meth:`resume`.

        New connections are accepted and meet the same silence, and nobody learns that a peer has closed; all that
        comes to light when it is over. ``fired`` counts the connections concerned.
        """
        self.dark = True
        self.fired["black_hole"] += self.connections
        for link in self.links:
            link.update_reading()
        self._set_timer("black_hole", seconds, self.resume)

    @_in_own_loop
    def resume(self) -> None:
        """End a black hole: all that has waited is forwarded."""
        self._set_timer("black_hole", None, self.resume)
        self.dark = False
        for link in list(self.links):
            link.update_reading()

    @_in_own_loop
    def refuse(self, refuse: bool = True) -> None:
        """Reset new connections as soon as they are made, until told otherwise; ``fired`` counts them."""
        self._refusing = refuse

    async def down(self) -> None:
        """Be gone, as a server that died: connections are cut and the port is closed until :meth:`up`."""

        async def stop() -> None:
            await self._stop_listening()
            self.cut_all("down")

        await self._run_in_own_loop(stop())

    async def up(self) -> None:
        """Listen again, on the same port."""
        await self._run_in_own_loop(self._listen())

    # what tests wait for

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds; it is looked at whenever something went through or a connection changed.

        It is called in the proxy's loop and should only look at the proxy: ``until(lambda: fault.fired == 1)``,
        ``until(lambda: proxy.commands["BLMOVE"] > 2)``.
        """
        waiter: ThreadFuture[None] = ThreadFuture()
        self._wait_for(condition, waiter)
        await asyncio.wrap_future(waiter)

    @_in_own_loop
    def _wait_for(self, condition: Callable[[], bool], waiter: ThreadFuture[None]) -> None:
        self._waiters.append((condition, waiter))
        self.check_waiters()

    def check_waiters(self) -> None:
        """Something has changed: wake those who wait for it."""
        if not self._waiters:
            return
        still = []
        for condition, waiter in self._waiters:
            if not condition():
                still.append((condition, waiter))
            elif waiter.set_running_or_notify_cancel():
                waiter.set_result(None)
        self._waiters = [(condition, waiter) for condition, waiter in still if not waiter.cancelled()]

    # inside

    def connect(self, link: Link) -> bool:
        """Take in a client that has just connected; False when it is refused."""
        self.accepted += 1
        self.links.add(link)
        if self._refusing:
            self.fired["refuse"] += 1
            self.check_waiters()
            return False
        if self.dark:
            self.fired["black_hole"] += 1
        task = self.loop.create_task(self._connect_upstream(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.check_waiters()
        return True

    def note(self, command: Command) -> Fault | None:
        """Count a request, and return the fault that is to strike it; the first, where several would."""
        self.commands[command[0].decode(errors="replace")] += 1
        struck = [fault for fault in self.faults if fault.strikes(command)] if self.faults else ()
        return struck[0] if struck else None

    def forget(self, link: Link) -> None:
        """A connection is gone, on both sides."""
        self.links.discard(link)
        self.check_waiters()

    async def _connect_upstream(self, link: Link) -> None:
        address = self._upstream
        try:
            if address.scheme == "unix":
                await self.loop.create_unix_connection(lambda: link.server, unquote(address.path))
            else:
                await self.loop.create_connection(lambda: link.server, address.hostname or HOST, address.port or 6379)
        except OSError:  # a server that is down looks to clients as if it cut the connection
            link.cut()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port))
            self._listener.setblocking(False)
            self.loop.add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        """Accept a connection, in one step: asyncio's own ways leave open what they accept as they are stopped."""
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, ConnectionError):  # it is gone already
            return
        accepted.setblocking(False)
        welcome = self.loop.create_task(self._welcome(accepted))
        self._welcomes.add(welcome)
        welcome.add_done_callback(self._welcomes.discard)

    async def _welcome(self, accepted: socket.socket) -> None:
        await self.loop.connect_accepted_socket(lambda: Link(self).client, accepted)

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            self.loop.remove_reader(listener)
            listener.close()
            await asyncio.gather(*self._welcomes, return_exceptions=True)

    def _set_timer(self, name: str, seconds: float | None, call: Callable[[], None]) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()
        if seconds is not None:
            self._timers[name] = self.loop.call_later(seconds, call)

    async def _run_in_own_loop(self, work: Coroutine[object, object, None]) -> None:
        if self.thread_id == threading.get_ident():
            await work
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))


class ThreadedProxy(Proxy):
    """A proxy in a thread of its own: ``with ThreadedProxy(server.url) as proxy``. Every method works from outside."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self._thread: threading.Thread | None = None
        self._end = asyncio.Event()

    def __enter__(self) -> Self:
        started: ThreadFuture[None] = ThreadFuture()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), name="proxy", daemon=True)
        self._thread.start()
        started.result(_CROSS_THREAD_TIMEOUT)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        if self._thread is not None:
            self._thread.join(_CROSS_THREAD_TIMEOUT)

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.to_thread(self.__exit__)

    async def _serve(self, started: ThreadFuture[None]) -> None:
        try:
            await self.start()
        except OSError as exc:
            started.set_exception(exc)
            return
        started.set_result(None)
        await self._end.wait()
        await self.close()


class Link:
    """One connection through the proxy: a client's side, the server's side, and the calls that are under way."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.client = _ClientSide(self)
        self.server = _ServerSide(self)
        self.awaited: deque[Fault | None] = deque()  # for each unanswered request: what happens to its reply
        self.pass_through_after: int | None = None  # replies that are still to be paired; then none is
        self.silent = False  # nothing reaches the client any more
        self.is_cut = False
        self.gone = asyncio.Event()

    def request(self, command: Command, fault: Fault | None) -> Fault | None:
        """Expect the reply to *command*, which *fault* is to strike; return the fault if it has to strike before."""
        if self.pass_through_after is not None:
            return None
        if fault is not None and fault.kind == "cut_before":
            return fault
        name = command[0]
        if name in _UNPAIRED or (name == b"CLIENT" and len(command) > 1 and command[1].upper() == b"REPLY"):
            self.pass_through_after = len(self.awaited)
        else:
            self.awaited.append(fault)
        return None

    def replied(self) -> Fault | None:
        """A reply is there; return the fault that is to strike it."""
        if self.pass_through_after:
            self.pass_through_after -= 1
        return self.awaited.popleft() if self.awaited else None

    def strike(self, fault: Fault) -> None:
        """*fault* has happened."""
        fault.fired += 1
        self.proxy.fired[fault.label] += 1

    def cut(self, *, deliver: bool = False) -> None:
        """Cut both sides now; with *deliver* the client gets what was already on its way to it."""
        self.is_cut = True
        self.server.abort()
        if deliver:
            self.client.finish()
        else:
            self.client.abort()

    def cut_before(self) -> None:
        """Cut the client off now, but let the server have what was already on its way to it."""
        self.is_cut = True
        self.server.finish()
        self.client.abort()

    def update_reading(self) -> None:
        """Read from each side only in the light, and while the other side takes what is read."""
        self.client.update_reading()
        self.server.update_reading()

    def lost(self, side: _Side) -> None:
        """One side has closed: the other one gets the rest, and is closed."""
        other = self.server if side is self.client else self.client
        other.finish()
        if self.client.is_lost and self.server.is_lost and not self.gone.is_set():
            self.gone.set()
            self.proxy.forget(self)


class _Side(asyncio.Protocol):
    """One of the two sockets of a link: what arrives on it, and what is to be sent on it, late if need be."""

    transport: asyncio.Transport | None = None
    is_lost = False

    def __init__(self, link: Link) -> None:
        self.link = link
        self._proxy = link.proxy
        self._unsent: deque[tuple[float, bytes]] = deque()  # when it is due, by the loop's clock
        self._timer: asyncio.TimerHandle | None = None
        self._finishing = False
        self._clogged = False  # the peer does not read: nothing more should be read for it

    @property
    def other(self) -> _Side:
        raise NotImplementedError

    @property
    def delay(self) -> float:
        """Seconds that data sent on this side are held up."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is of no class that could be checked
        if self.link.is_cut:
            self.transport.abort()
            return
        self.link.update_reading()
        self._proxy.loop.call_soon(self.link.update_reading)  # uvloop starts to read only after this

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._drop()
        self.link.lost(self)

    def pause_writing(self) -> None:
        self._clogged = True
        self.other.update_reading()

    def resume_writing(self) -> None:
        self._clogged = False
        self.other.update_reading()

    def send(self, data: bytes) -> None:
        """Send *data* when the delay is over; always in order."""
        if self.is_lost or self._finishing:
            return
        if self.delay:
            self._proxy.fired["delay"] += 1
        elif not self._unsent and not self._proxy.dark and self.transport is not None:
            self.transport.write(data)
            return
        due = self._proxy.loop.time() + self.delay
        self._unsent.append((max(due, self._unsent[-1][0]) if self._unsent else due, data))
        self._flush()

    def finish(self) -> None:
        """Close once all is sent."""
        self._finishing = True
        self._flush()

    def abort(self) -> None:
        """Close now."""
        self._drop()
        self._finishing = True
        if self.transport is not None:
            self.transport.abort()
        elif not self.is_lost:  # it never was connected, and nobody else will say that it is gone
            self.is_lost = True
            self.link.lost(self)

    def update_reading(self) -> None:
        """Read, or do not, and send what may be sent."""
        if self.transport is None or self.transport.is_closing():
            return
        if self._proxy.dark or self.other.transport is None or self.other._clogged:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()
        self._flush()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.transport is None:
            if self._finishing:
                self.abort()
            return
        if self._proxy.dark:
            return
        now = self._proxy.loop.time()
        while self._unsent and self._unsent[0][0] <= now:
            self.transport.write(self._unsent.popleft()[1])
        if self._unsent:
            self._timer = self._proxy.loop.call_at(self._unsent[0][0], self._flush)
        elif self._finishing:
            self.transport.close()

    def _drop(self) -> None:
        self._unsent.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _ClientSide(_Side):
    """Reads requests, counts them and finds those that are to be struck."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._rest = b""

    @property
    def other(self) -> _Side:
        return self.link.server

    @property
    def delay(self) -> float:
        return self._proxy.reply_delay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._proxy.connect(self.link):
            super().connection_made(transport)
            return
        # Lingering for no time at all makes close() send a reset instead of an orderly end.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.link.is_cut = self.link.server.is_lost = True
        cast("asyncio.Transport", transport).abort()

    def data_received(self, data: bytes) -> None:
        proxy, link = self._proxy, self.link
        data = self._rest + data
        position = 0
        cut_by: Fault | None = None
        while cut_by is None and (found := read_command(data, position)):
            command, end = found
            if command:
                cut_by = link.request(command, proxy.note(command))
            if cut_by is None:
                position = end
        if position:
            proxy.bytes_sent += position
            link.server.send(data[:position])
        self._rest = data[position:]
        if cut_by is not None:
            link.strike(cut_by)
            link.cut_before()
        proxy.check_waiters()


class _ServerSide(_Side):
    """Reads replies and keeps back those that are to be lost."""

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self._rest = b""
        self._scanner = ReplyScanner()

    @property
    def other(self) -> _Side:
        return self.link.client

    @property
    def delay(self) -> float:
        return self._proxy.request_delay

    def data_received(self, data: bytes) -> None:
        self._proxy.bytes_received += len(data)
        if self.link.silent:
            return
        data = self._rest + data
        self._rest = b""
        position = 0
        fault: Fault | None = None
        while position < len(data):
            if self.link.pass_through_after == 0:
                position = len(data)
                break
            end = self._scanner.end_of_reply(data, position)
            if end < 0:
                break
            if data[position] != PUSH and (fault := self.link.replied()):
                break
            position = end
        if position:
            self.link.client.send(data[:position])
        if fault is None:
            self._rest = data[position:]
        else:
            self.link.strike(fault)
            if fault.kind == "cut_after":
                self.link.cut(deliver=True)
            else:
                self.link.silent = True
        self._proxy.check_waiters()
