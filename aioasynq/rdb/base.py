"""Operations: the connection, the clock, and running a script to its end."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import uuid
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import anyio
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
    NoScriptError,
    TimeoutError as RedisTimeoutError,
)

from aioasynq.errors import BrokerError, BrokerRefusedError
from aioasynq.rdb.connection import (
    Link,
    ToRedis,
    close,
    connection_for,
    hint,
    is_led_to_master,
    masters_of,
    open_link,
    passing,
    refresh,
)
from aioasynq.rdb.failures import (
    FAILURES,
    PASSING,
    REDIRECTED,
    REFUSED,
    advice,
    is_astray,
    is_demoted,
    is_refusal,
    is_torn,
    never_sent,
    reason,
)
from aioasynq.rdb.pipe import SLOWEST, OnReply, Pipe, hang_up
from aioasynq.rdb.receipts import Receipt
from aioasynq.rdb.script import Script
from aioasynq.rdb.sentinel import Masters
from aioasynq.rdb.started import Copies, Started, ask, give, pack_any, unescaped
from aioasynq.rdb.url import AnyRedis

OPERATION_TIMEOUT = 5.0  #: seconds an operation may take, repeats included; shorter than a receipt's life of 60 s
ATTEMPT_TIMEOUT = 2.0  #: seconds after which one attempt is given up and repeated on another connection
MAX_BATCH = 256  #: tasks in one script: a script holds Redis up while it runs
MAX_BATCH_BYTES = 1 << 20  #: bytes of messages in one script, unless a single task is larger
MAX_SHARED = MAX_BATCH_BYTES + (1 << 17)  #: bytes of a call on the connection that calls share: a batch with its keys

Arg = str | bytes | int | float
T = TypeVar("T")


class Waits(Protocol):
    """A connection that waits on one node of a Cluster."""

    def look_where(self) -> None:
        """End it, if what it waits for is elsewhere by now."""


class Operations:
    """What all families of operations share."""

    def __init__(
        self,
        redis: ToRedis | Link | None = None,
        *,
        clock: Callable[[], float] | None = None,
        operation_timeout: float = OPERATION_TIMEOUT,
    ) -> None:
        self._clock = clock
        self._timeout = operation_timeout
        self._copies: Copies | None = None  #: of what stores tasks
        self._begin(redis if isinstance(redis, Link) else open_link(redis))

    def _begin(self, link: Link) -> None:
        self._link = link
        self._redis = link.client
        self._under_way: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._pipe: Pipe | None = None
        self._opening: asyncio.Task[None] | None = None
        self._is_cluster = isinstance(self._redis, RedisCluster)
        self._shared = not self._is_cluster  # calls share a connection; else each takes one
        self._watching: asyncio.Task[None] | None = None  # whether the Sentinels name another master
        self.waits: WeakSet[Waits] = WeakSet()  #: connections of others that may have to go elsewhere
        self._learning: asyncio.Task[None] | None = None  # which node of a Cluster holds what
        self._pipes: dict[str, Pipe] = {}  # by node, of those that wait for replicas where calls share none
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
        return self._copies is None and self._pipe is not None and self._pipe.is_usable

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
                give(answer, reply)
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
        copies: Copies | None = None,
    ) -> None:
        """The same for one who does not wait: *on_answer* gets the answer, or the exception in its place.

        The common case costs no task: what is written at once cannot be torn, and its reply finds its way.

        Raises:
            BrokerError: this connection to Redis is closed.
        """
        packed = pack_any(("EVALSHA", script.sha, len(keys), *keys, *args))
        size = len(packed)
        end = asyncio.get_running_loop().time() + self._allowance(size)
        if copies is not None:
            end += copies.seconds
        shares = size <= MAX_SHARED
        pipe = self._pipe
        started = Started(self, script, keys, args, repeated, on_answer, end, shares, writes, copies)
        if shares and copies is None and pipe is not None and pipe.is_usable:
            pipe.send(packed, started.on_reply)
        else:
            self._check_open(script.name)
            # Of a Cluster: calls each take a connection of its client, which waits for a silent node for ever.
            started.go_on(attempt=ATTEMPT_TIMEOUT + size / SLOWEST if self._is_cluster and copies is None else math.inf)

    def _allowance(self, size: int) -> float:
        """Seconds that a call of *size* bytes may take."""
        return self._timeout + size / SLOWEST

    async def command(self, *words: Arg, **options: Any) -> Any:
        """One attempt at a command, on the connection that calls share where there is one; the reply as it comes.

        *options* are for a Cluster: which node.
        """
        pipe = await self._line()
        if pipe is None:
            try:
                return await self._redis.execute_command(*words, **options)
            except UnicodeEncodeError:  # as in pack_any
                return await self._redis.execute_command(words[0], *map(unescaped, words[1:]), **options)
        return await ask(pipe, *words)

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
        was_connected = self._pipe is not None
        try:
            connection, _ = await connection_for(self._redis, "")
            async with asyncio.timeout(ATTEMPT_TIMEOUT):
                self._pipe = await Pipe.over(connection, self._silence)
            self._shared = self._pipe is not None
            if was_connected:
                self._look_again()
            if self._watching is None and (masters := masters_of(self._redis)) is not None:
                self._watching = asyncio.get_running_loop().create_task(masters.watch(_hang_up(self, masters)))
        finally:
            self._opening = None

    @property
    def _silence(self) -> float:
        """Seconds that a connection of ours may be silent."""
        return min(ATTEMPT_TIMEOUT, self._timeout) + (0.0 if self._copies is None else self._copies.seconds)

    async def _line_to(self, key: str) -> Pipe:
        """A connection to the server that holds *key*, for commands that have to come one after another there."""
        if (pipe := await self._line()) is not None:
            return pipe
        async with asyncio.timeout(ATTEMPT_TIMEOUT):
            connection, node = await connection_for(self._redis, key)
            name = "" if node is None else node.name
            pipe = self._pipes.get(name)
            if pipe is not None and pipe.is_usable:
                return pipe
            pipe = await Pipe.over(connection, self._silence)
        if pipe is None:
            raise BrokerError(f"{self.address}: this client has no connections of its own that wait for replicas")
        other = self._pipes.get(name)
        if other is not None and other.is_usable:  # somebody was faster
            pipe.close()
            return other
        self._pipes[name] = pipe
        return pipe

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
        key: str = "",
    ) -> T:
        loop = asyncio.get_running_loop()
        pause = 0.0
        sent = False
        before: Exception | None = None  # how the attempt before this one ended
        while True:
            limit = min(attempt, end - loop.time())
            try:
                if failed is not None:
                    first, failed = failed, None
                    raise first
                async with asyncio.timeout(limit):
                    with passing():
                        answer = await call()
                self._answered = True
                return answer
            except NoScriptError:  # of a first attempt
                continue
            except FAILURES as exc:
                if not self._may_pass(exc):
                    self._answered = self._answered or not isinstance(exc, PASSING + REFUSED)
                    maybe_done = writes and (sent or is_torn(exc))
                    kind = BrokerRefusedError if self._is_final(exc) else BrokerError
                    raise kind(self._text(what, exc), maybe_done=maybe_done, answered=True) from exc
                sent = sent or not never_sent(exc)
                pause = min(0.5, max(0.02, pause * 2))
                delay = pause * random.uniform(0.5, 1.0) if pause > 0.02 else 0.0
                if loop.time() + delay >= end - 0.01:
                    is_cut = isinstance(exc, TimeoutError) and limit < ATTEMPT_TIMEOUT  # it had no time to say why
                    why = before if is_cut and before is not None else exc
                    raise BrokerError(self._text(what, why), maybe_done=writes and sent) from why
                before = exc
                await self._after(exc, key)
                await asyncio.sleep(delay)

    def _is_final(self, exc: BaseException) -> bool:
        """Will each attempt end like this?"""
        return is_refusal(exc) or is_astray(exc, is_cluster=self._is_cluster)

    def _may_pass(self, exc: BaseException) -> bool:
        """Is another attempt worth while?"""
        if self._is_final(exc):
            return False
        return isinstance(exc, PASSING + REDIRECTED) or (is_demoted(exc) and is_led_to_master(self._redis))

    async def _after(self, exc: BaseException, key: str) -> None:
        """What is to be done after an attempt that failed and before the next, which may meet another server."""
        self._look_again()
        # Where a connection of its client's breaks, redis-py does that itself.
        if self._copies is not None or isinstance(exc, (TimeoutError, RedisTimeoutError, *REDIRECTED)):
            await self.learn_anew(key)

    def _look_again(self) -> None:
        """The Redis behind the address may be another than it was, and lack what was written last."""

    async def learn_anew(self, suspect: str) -> None:
        """Ask a Cluster which node holds what, the one that holds the key *suspect* last; elsewhere do nothing."""
        if isinstance(self._redis, RedisCluster):
            if self._learning is None or self._learning.done():
                self._learning = self._own(refresh(self._redis, suspect))
            with contextlib.suppress(*FAILURES):  # the next attempt will tell
                await asyncio.shield(self._learning)
            for waits in tuple(self.waits):
                waits.look_where()

    def _text(self, what: str, exc: BaseException) -> str:
        why = reason(exc)
        hint = advice(exc, is_cluster=self._is_cluster) or self.hint(why)
        return f"{what} failed on {self.address}: {why}{hint}"

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
            node = random.choice(self._redis.get_primaries())  # one that is silent is hardly asked twice
            return await self._redis.execute_command("TIME", target_nodes=node)  # type: ignore[no-any-return]
        return await self.command("TIME")  # type: ignore[no-any-return]

    @property
    def _own_pipes(self) -> list[Pipe]:
        return [*([] if self._pipe is None else [self._pipe]), *self._pipes.values()]

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
        for pipe in self._own_pipes:
            pipe.close(asyncio.CancelledError())
        if self._watching is not None:
            self._watching.cancel()

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
        for pipe in self._own_pipes if hasattr(self, "_pipes") else ():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                pipe.close(asyncio.CancelledError())
        watching: asyncio.Task[None] | None = getattr(self, "_watching", None)
        if watching is not None:
            with contextlib.suppress(RuntimeError):  # as above
                watching.cancel()

    async def _close(self) -> None:
        await self.settled()
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        for pipe in self._own_pipes:
            await pipe.aclose()
        if self._link.owned:
            await close(self._redis)


def _hang_up(rdb: Operations, masters: Masters) -> Callable[[], None]:
    """What ends all connections to a master that is none any more, so that they are made anew to the other one."""
    whose = weakref.ref(rdb)  # the watch must not keep it

    def switched() -> None:
        for connection in tuple(masters.connections):
            hang_up(connection)
        if (own := whose()) is not None:
            for pipe in own._own_pipes:  # noqa: SLF001 - a part of it
                pipe.close(RedisConnectionError("the Sentinels have made another server the master"))

    return switched


async def _give(reply: T, to: Callable[[T], Awaitable[object]]) -> None:
    await to(reply)


def at_most_a_batch(items: Sequence[object]) -> None:
    """Refuse a call that would hold Redis up for long."""
    if len(items) > MAX_BATCH:
        raise ValueError(f"at most {MAX_BATCH} tasks go in one call, got {len(items)}")
