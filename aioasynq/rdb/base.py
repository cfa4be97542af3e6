"""Operations: the connection, the clock, and running a script to its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    ConnectionError as RedisConnectionError,
    NoPermissionError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError as RedisTimeoutError,
    TryAgainError,
)

from aioasynq.errors import BrokerError, BrokerRefusedError
from aioasynq.rdb.connection import AnyRedis, Link, connection_for, hint, open_link
from aioasynq.rdb.pipe import SLOWEST, OnReply, Pipe, pack
from aioasynq.rdb.script import Script

OPERATION_TIMEOUT = 5.0  #: seconds an operation may take, repeats included; shorter than a receipt's life of 60 s
ATTEMPT_TIMEOUT = 2.0  #: seconds after which one attempt is given up and repeated on another connection
MAX_BATCH = 256  #: tasks in one script: a script holds Redis up while it runs
MAX_BATCH_BYTES = 1 << 20  #: bytes of messages in one script, unless a single task is larger
MAX_SHARED = MAX_BATCH_BYTES + (1 << 17)  #: bytes of a call on the connection that calls share: a batch with its keys

Arg = str | bytes | int | float
T = TypeVar("T")

# The connection is gone or was never there, or a Cluster is rearranging itself: the next attempt may pass.
_PASSING = (
    RedisConnectionError,
    RedisTimeoutError,
    TimeoutError,
    OSError,
    TryAgainError,
    ClusterDownError,
    ClusterError,
    RedisClusterException,
)
_REFUSED = (AuthenticationError, AuthorizationError, NoPermissionError)
#: A script was refused a command in its midst; what came before that is done.
_TORN_TEXTS = (
    "The user executing the script can't",  # Redis 7.0, of a command within a script
    "ACL failure in script",  # the same since 7.2
)
_REFUSED_TEXTS = (
    "WRONGPASS",
    "NOAUTH",
    "NOPERM",
    "invalid username-password",
    "invalid password",
    *_TORN_TEXTS,
    "DB index is out of range",
    "invalid DB index",
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Who makes a writing call, and the how manyth of its calls it is.

    Whoever repeats a call repeats its receipt, and gets the answer of the call that was done. A caller has one call
    under way at a time, and its numbers rise.
    """

    caller: str
    number: int


class Receipts:
    """The receipts of one caller."""

    __slots__ = ("_caller", "_numbers")

    def __init__(self, caller: str) -> None:
        self._caller = caller
        self._numbers = itertools.count(1)

    def next(self) -> Receipt:
        """The receipt of a call that was not made before."""
        return Receipt(self._caller, next(self._numbers))


class Operations:
    """What all families of operations share."""

    def __init__(
        self,
        redis: str | AnyRedis | Link | None = None,
        *,
        clock: Callable[[], float] | None = None,
        operation_timeout: float = OPERATION_TIMEOUT,
    ) -> None:
        self._clock = clock
        self._timeout = operation_timeout
        self._begin(redis if isinstance(redis, Link) else open_link(redis))

    def _begin(self, link: Link) -> None:
        self._link = link
        self._redis: AnyRedis = link.client
        self._under_way: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._pipe: Pipe | None = None
        self._opening: asyncio.Task[None] | None = None
        self._shared = not isinstance(self._redis, RedisCluster)  # calls share a connection; else each takes one
        self._answered = False  # so that it is the Redis it should be

    @property
    def address(self) -> str:
        """Where Redis is, for people: a URL without its password."""
        return self._link.address

    @property
    def client(self) -> AnyRedis:
        """The redis.asyncio client underneath."""
        return self._redis

    @property
    def is_ordered(self) -> bool:
        """Whether calls reach Redis in the order in which they are made, as long as none has to be repeated."""
        return self._pipe is not None and self._pipe.is_usable

    def clock_argument(self) -> str:
        """What scripts are told of the time: nothing, so that Redis's clock counts, except in tests."""
        return "" if self._clock is None else repr(self._clock())

    def _receipt(self, receipt: Receipt | None) -> Receipt:
        """A call without a receipt is the only one of its caller."""
        return receipt or Receipt(uuid.uuid4().hex, 1)

    async def _run(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Arg],
        *,
        writes: bool = True,
        repeated: Sequence[Arg] | None = None,
        orphaned: Callable[[Any], Awaitable[object]] | None = None,
    ) -> Any:
        """Run *script* to its end, repeating it while the operation timeout allows, even if the caller is cancelled.

        A script that writes must bear to be repeated: it carries a receipt, or does no more the second time.
        *repeated* are the arguments of a repeat, where they differ; *orphaned* is given an answer for which nobody
        waits any more.

        Raises:
            BrokerRefusedError: Redis refuses this user or this password.
            BrokerError: Redis could not be reached in time, or answered with an error.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def on_answer(reply: Any) -> None:
            if not answer.done():
                _answer(answer, reply)
            elif orphaned is not None and not isinstance(reply, BaseException):
                self._own(_give(reply, orphaned))

        self._start(script, keys, args, on_answer, writes=writes, repeated=repeated)
        try:
            return await answer
        except asyncio.CancelledError:
            # Perhaps the answer came just before.
            if answer.done() and not answer.cancelled() and answer.exception() is None and orphaned is not None:
                self._own(_give(answer.result(), orphaned))
            raise

    def _start(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Arg],
        on_answer: OnReply,
        *,
        writes: bool = True,
        repeated: Sequence[Arg] | None = None,
    ) -> None:
        """The same for one who does not wait: *on_answer* gets the answer, or the exception in its place.

        The common case costs no task: what is written at once cannot be torn, and its reply finds its way.

        Raises:
            BrokerError: this connection to Redis is closed.
        """
        words: tuple[Arg, ...] = ("EVALSHA", script.sha, len(keys), *keys, *args)
        try:
            packed = pack(words)
        except UnicodeEncodeError:  # an id that is no text: it came out of Redis escaped, and goes back as it was
            packed = pack(tuple(_unescaped(word) for word in words))
        size = len(packed)
        end = asyncio.get_running_loop().time() + self._timeout + size / SLOWEST
        started = _Started(self, script, keys, args, repeated, on_answer, end, shares=size <= MAX_SHARED, writes=writes)
        if started.shares and self._pipe is not None and self._pipe.is_usable:
            self._pipe.send(packed, started.on_reply)
        else:
            self._check_open(script.name)
            started.go_on()

    async def command(self, *words: Arg, **options: Any) -> Any:
        """One attempt at a command, on the connection that calls share where there is one; the reply as it comes.

        *options* are for a Cluster: which node.
        """
        pipe = await self._line()
        if pipe is None:
            return await self._redis.execute_command(*words, **options)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        pipe.send(pack(words), lambda reply: None if answer.done() else _answer(answer, reply))
        return await answer

    async def _line(self) -> Pipe | None:
        if not self._shared:
            return None
        if self._pipe is None or not self._pipe.is_usable:
            if self._opening is None:
                self._opening = self._own(self._open())
            try:
                await asyncio.shield(self._opening)
            except TimeoutError:
                raise RedisConnectionError("no answer in time when connecting to it") from None
        return self._pipe

    async def _open(self) -> None:
        try:
            connection, _ = await connection_for(self._redis, "")
            async with asyncio.timeout(ATTEMPT_TIMEOUT):
                self._pipe = await Pipe.over(connection, min(ATTEMPT_TIMEOUT, self._timeout))
            self._shared = self._pipe is not None
        finally:
            self._opening = None

    async def _plain(
        self,
        what: str,
        call: Callable[[], Awaitable[T]],
        *,
        writes: bool = False,
        timeout: float | None = None,
    ) -> T:
        """The same for a plain command, which must bear to be repeated too.

        *timeout* is the operation's, in seconds.

        It runs in a task of its own, which nobody outside holds: ``task.cancel()``, ``asyncio.timeout`` and
        ``wait_for`` cut through any shield that is only a scope, and a reply that nobody reads strands the tasks it
        names.
        """
        self._check_open(what)
        end = asyncio.get_running_loop().time() + (self._timeout if timeout is None else timeout)
        task = self._own(self._repeat(what, call, end, writes=writes))
        return await asyncio.shield(task)

    def _check_open(self, what: str) -> None:
        if self._closed:  # or a client that was closed would open a connection that nobody closes
            raise BrokerError(f"{what} failed on {self.address}: this connection to Redis is closed")

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also when the caller has gone

    async def _repeat(
        self,
        what: str,
        call: Callable[[], Awaitable[T]],
        end: float,
        *,
        writes: bool,
        attempt: float = ATTEMPT_TIMEOUT,
        failed: Exception | None = None,
    ) -> T:
        loop = asyncio.get_running_loop()
        pause = 0.0
        sent = False
        while True:
            try:
                if failed is not None:
                    first, failed = failed, None
                    raise first
                async with asyncio.timeout(min(attempt, end - loop.time())):
                    answer = await call()
                self._answered = True
                return answer
            except NoScriptError:  # of a first attempt
                continue
            except _REFUSED as exc:
                maybe_done = writes and (sent or _is_torn(exc))
                raise BrokerRefusedError(self._text(what, exc), maybe_done=maybe_done, answered=True) from exc
            except _PASSING as exc:
                if any(text in str(exc) for text in _REFUSED_TEXTS):
                    raise BrokerRefusedError(self._text(what, exc), maybe_done=writes and sent, answered=True) from exc
                sent = sent or not _never_sent(exc)
                pause = min(0.5, max(0.02, pause * 2))
                delay = pause * random.uniform(0.5, 1.0) if pause > 0.02 else 0.0
                if loop.time() + delay >= end - 0.01:
                    raise BrokerError(self._text(what, exc), maybe_done=writes and sent) from exc
                await asyncio.sleep(delay)
            except (ResponseError, RedisError) as exc:
                self._answered = True
                if any(text in str(exc) for text in _REFUSED_TEXTS):
                    maybe_done = writes and (sent or _is_torn(exc))
                    raise BrokerRefusedError(self._text(what, exc), maybe_done=maybe_done, answered=True) from exc
                raise BrokerError(self._text(what, exc), maybe_done=writes and sent, answered=True) from exc

    def _text(self, what: str, exc: BaseException) -> str:
        reason = str(exc) or type(exc).__name__
        if isinstance(exc, TimeoutError) and not str(exc):
            reason = "no answer in time"
        reason = reason.rstrip(".")
        return f"{what} failed on {self.address}: {reason}{self.hint(reason)}"

    def hint(self, why: str) -> str:
        """What may be behind the failure *why*, if Redis has answered nothing yet; else ""."""
        return "" if self._answered else hint(self.address, why)

    async def _redis_now(self) -> float:
        """Redis's clock, unix seconds; on a Cluster that of one node."""
        if self._clock is not None:
            return self._clock()
        seconds, micros = await self._plain("TIME", self._time)
        return int(seconds) + int(micros) / 1e6

    async def _time(self) -> tuple[int, int]:
        if isinstance(self._redis, RedisCluster):
            await self._redis.initialize()
            node = self._redis.get_default_node()
            return await self._redis.execute_command("TIME", target_nodes=node)  # type: ignore[no-any-return]
        return await self.command("TIME")  # type: ignore[no-any-return]

    async def settled(self) -> None:
        """Wait until no operation is under way."""
        while self._under_way or (self._pipe is not None and self._pipe.busy):
            if self._pipe is not None:
                await self._pipe.drain()
            if self._under_way:
                await asyncio.wait(self._under_way)

    def abort(self) -> None:
        """Give up what is under way, as if the process died; for the very end, when Redis does not answer."""
        for task in tuple(self._under_way):
            task.cancel()
        if self._pipe is not None:
            self._pipe.close(asyncio.CancelledError())

    async def aclose(self) -> None:
        """Let operations end, then close the connections, unless the client was handed in.

        Cancelled meanwhile, it gives up what is under way, and closes all the same.
        """
        closing = asyncio.get_running_loop().create_task(self._close())
        cancelled = False
        with anyio.CancelScope(shield=True):  # or a scope that is cancelled would cut through each await anew
            while not closing.done():
                try:
                    await asyncio.shield(closing)
                except asyncio.CancelledError:
                    cancelled = True
                    self.abort()
        if cancelled:
            raise asyncio.CancelledError
        closing.result()

    def __del__(self) -> None:
        # Whoever hands a client in may take it that there is nothing to close.
        pipe: Pipe | None = getattr(self, "_pipe", None)
        if pipe is not None and pipe.is_open:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                pipe.close(asyncio.CancelledError())

    async def _close(self) -> None:
        await self.settled()
        self._closed = True
        if self._pipe is not None:
            await self._pipe.aclose()
        if self._link.owned:
            await self._redis.aclose()


class _Started:
    """A call that was started, with what it takes to make it again."""

    __slots__ = ("_args", "_end", "_keys", "_on_answer", "_rdb", "_repeated", "_script", "_writes", "shares")

    def __init__(
        self,
        rdb: Operations,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Arg],
        repeated: Sequence[Arg] | None,
        on_answer: OnReply,
        end: float,
        *,
        shares: bool,
        writes: bool,
    ) -> None:
        self._rdb = rdb
        self._script = script
        self._keys = keys
        self._args = args
        self._repeated = repeated
        self._on_answer = on_answer
        self._end = end
        self._writes = writes
        self.shares = shares  #: the connection; a larger call would keep all others waiting on a slow link

    def on_reply(self, reply: Any) -> None:
        """Hand the answer over, unless it takes another attempt, or one to say what the error means."""
        if isinstance(reply, Exception):
            self._args = self._args if self._repeated is None else self._repeated
            self.go_on(reply)
        else:
            self._on_answer(reply)

    def go_on(self, failed: Exception | None = None) -> None:
        """Try until it passes, in a task of its own; *failed* is what a first attempt ended with."""
        rdb = self._rdb
        work = rdb._repeat(  # noqa: SLF001 - a part of it, kept out of its way
            self._script.name, self._attempt, self._end, writes=self._writes, attempt=math.inf, failed=failed
        )
        rdb._own(tell(work, self._on_answer))  # noqa: SLF001 - as above

    async def _attempt(self) -> Any:
        words = (*self._keys, *self._args)
        self._args = self._args if self._repeated is None else self._repeated
        try:
            return await self._send(words)
        except UnicodeEncodeError:  # as in _start
            return await self._send([_unescaped(word) for word in words])

    async def _send(self, words: Sequence[Arg]) -> Any:
        execute = self._rdb.command if self.shares else self._rdb.client.execute_command
        try:
            return await execute("EVALSHA", self._script.sha, len(self._keys), *words)
        except NoScriptError:
            return await execute("EVAL", self._script.text, len(self._keys), *words)


def _answer(answer: asyncio.Future[Any], reply: Any) -> None:
    if isinstance(reply, asyncio.CancelledError):
        answer.cancel()
    elif isinstance(reply, Exception):
        answer.set_exception(reply)
    else:
        answer.set_result(reply)


async def _give(reply: T, to: Callable[[T], Awaitable[object]]) -> None:
    await to(reply)


async def tell(work: Coroutine[Any, Any, object], on_answer: OnReply) -> None:
    """Await *work*, and hand over what comes of it."""
    try:
        answer = await work
    except asyncio.CancelledError as exc:
        on_answer(exc)
        raise
    except Exception as exc:  # noqa: BLE001 - whoever waits judges it
        on_answer(exc)
    else:
        on_answer(answer)


def _unescaped(word: Arg) -> Arg:
    return word.encode("utf-8", "surrogateescape") if isinstance(word, str) else word


def _is_torn(exc: BaseException) -> bool:
    return any(text in str(exc) for text in _TORN_TEXTS)


def _never_sent(exc: BaseException) -> bool:
    """Did the attempt end before anything was written? redis-py tells by its texts only."""
    if isinstance(exc, BusyLoadingError | ClusterDownError | TryAgainError):  # Redis took it and did nothing
        return True
    text = str(exc)
    return (
        "max number of clients" in text
        or "connecting to" in text
        or "Connect call failed" in text
        or "connecting" in text.lower()
    )


def at_most_a_batch(items: Sequence[object]) -> None:
    """Refuse a call that would hold Redis up for long."""
    if len(items) > MAX_BATCH:
        raise ValueError(f"at most {MAX_BATCH} tasks go in one call, got {len(items)}")
