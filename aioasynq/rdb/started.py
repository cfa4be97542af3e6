"""A call that was started, with what it takes to make it again; and how many replicas have to have what it did."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct
from redis.exceptions import NoScriptError

from aioasynq.rdb.pipe import OnReply, Pipe, Word, pack

if TYPE_CHECKING:
    from aioasynq.rdb.base import Operations
    from aioasynq.rdb.script import Script


@dataclass(frozen=True, slots=True)
class Copies:
    """How many replicas have to have what a call wrote before it is answered, and for how long they are waited for."""

    replicas: int
    seconds: float


class Copied(NamedTuple):
    """The answer of a call, and how many replicas have what it wrote."""

    answer: Any
    replicas: int


class Started(Struct, eq=False):
    """A call that was started."""

    rdb: Operations
    script: Script
    keys: Sequence[str]
    args: Sequence[Word]
    repeated: Sequence[Word] | None  #: the arguments of a repeat, where they differ
    on_answer: OnReply
    end: float  #: when it has to be over, by the loop's clock
    shares: bool  #: the connection; a larger call would keep all others waiting on a slow link
    writes: bool
    copies: Copies | None  #: wait for replicas too; the answer is then a :class:`Copied`

    def on_reply(self, reply: Any) -> None:
        """Hand the answer over, unless it takes another attempt, or one to say what the error means."""
        if isinstance(reply, Exception):
            if self.repeated is not None and not isinstance(reply, NoScriptError):  # else it did not run at all
                self.args = self.repeated
            self.go_on(reply)
        else:
            self.on_answer(reply)

    def go_on(self, failed: Exception | None = None, *, attempt: float = math.inf) -> None:
        """Try until it passes, in a task of its own; *failed* is what a first attempt ended with.

        *attempt* is how many seconds one may take, where no connection of ours sees to that.
        """
        rdb = self.rdb
        work = rdb._repeat(  # noqa: SLF001 - a part of it, kept out of its way
            self.script.name,
            self._attempt,
            self.end,
            writes=self.writes,
            attempt=attempt,
            failed=failed,
            key=self.keys[0],
        )
        rdb._own(tell(work, self.on_answer))  # noqa: SLF001 - as above

    async def _attempt(self) -> Any:
        words = (*self.keys, *self.args)
        self.args = self.args if self.repeated is None else self.repeated
        try:
            return await self._send(words)
        except UnicodeEncodeError:  # as when it was started
            return await self._send([unescaped(word) for word in words])

    async def _send(self, words: Sequence[Word]) -> Any:
        execute = self._execute
        try:
            return await execute("EVALSHA", self.script.sha, len(self.keys), *words)
        except NoScriptError:
            return await execute("EVAL", self.script.text, len(self.keys), *words)

    async def _execute(self, *words: Word) -> Any:
        if self.copies is not None:
            return await self._with_copies(self.copies, words)
        execute: Callable[..., Awaitable[Any]] = self.rdb.command if self.shares else self.rdb.client.execute_command
        return await execute(*words)

    async def _with_copies(self, copies: Copies, words: Sequence[Word]) -> Copied:
        """The call and a WAIT, written together on one connection, as WAIT is about what that connection wrote."""
        pipe = await self.rdb._line_to(self.keys[0])  # noqa: SLF001 - as above
        both = [ask(pipe, *words), ask(pipe, "WAIT", copies.replicas, math.ceil(copies.seconds * 1000))]
        done, waited = await asyncio.gather(*both, return_exceptions=True)
        if isinstance(done, BaseException):
            raise done
        if isinstance(waited, BaseException):
            raise waited
        return Copied(done, waited)


def ask(pipe: Pipe, *words: Word) -> asyncio.Future[Any]:
    """The reply to a command on *pipe*."""
    reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    pipe.send(pack_any(words), lambda said: None if reply.done() else give(reply, said))
    return reply


def give(answer: asyncio.Future[Any], reply: Any) -> None:
    """Answer a future with a reply, which may be an exception."""
    if isinstance(reply, asyncio.CancelledError):
        answer.cancel()
    elif isinstance(reply, Exception):
        answer.set_exception(reply)
    else:
        answer.set_result(reply)


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


def pack_any(words: tuple[Word, ...]) -> bytes:
    """A command as Redis reads it, also one with an id that is no text."""
    try:
        return pack(words)
    except UnicodeEncodeError:
        return pack(tuple(map(unescaped, words)))


def unescaped(word: Word) -> Word:
    """An id that is no text came out of Redis escaped, and goes back as it was."""
    return word.encode("utf-8", "surrogateescape") if isinstance(word, str) else word
