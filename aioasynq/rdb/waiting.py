"""The connection on which an idle server waits for a queue's next task.

It blocks in ``BLMOVE pending pending RIGHT RIGHT``, which changes nothing and returns as soon as a task is there,
whoever put it there. A dequeue of one task may ride along: it is written together with the wait, and Redis runs it as
soon as the wait is over, which saves a round trip. One that finds nothing says when the queue's next delayed task is
due.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
    NoPermissionError,
    NoScriptError,
    ResponseError,
)

from aioasynq import keys
from aioasynq.errors import BrokerError
from aioasynq.rdb.connection import connection_for, passing
from aioasynq.rdb.failures import FAILURES, REDIRECTED
from aioasynq.rdb.lifecycle import Batch, add_to_batch, dequeue_call, dequeue_script
from aioasynq.rdb.pipe import Pipe
from aioasynq.rdb.started import ask, pack_any

if TYPE_CHECKING:
    from redis.asyncio.cluster import ClusterNode

    from aioasynq.rdb.rdb import RDB
    from aioasynq.rdb.receipts import Receipt

LONGEST_WAIT = 5.0  #: seconds; a connection that died without a word can take one task at most, within this time
SHORT_WAIT = 1.0  #: seconds, where this user may not end a wait with CLIENT UNBLOCK
_MOVING = 0.3  #: seconds until a queue that is elsewhere, or under way there, is looked at
_GRACE = 2.0  #: seconds an answer may be late before the connection counts as dead


@dataclass(frozen=True, slots=True)
class Ride:
    """The dequeue of one task that goes along with a wait."""

    owner: str
    lease: float
    receipt: Receipt


class WaitingConnection:
    """Waits for tasks of one queue. One wait at a time."""

    def __init__(self, rdb: RDB, queue: str) -> None:
        self._rdb = rdb
        self._queue = queue
        self._pipe: Pipe | None = None
        self._node: ClusterNode | None = None
        self._client_id = 0
        self._waiting = False
        self._packed_call: tuple[float, Ride | None, str] | None = None
        self._packed = b""
        self.armed = False  #: Redis watches the queue for us
        self.may_unblock = True  #: false once Redis has refused CLIENT UNBLOCK
        rdb.waits.add(self)

    async def wait(self, seconds: float, ride: Ride | None = None) -> tuple[bool, Batch | None]:
        """Wait until a task is there, at most *seconds*.

        Returns:
            Whether one was there, or may be, and what the ride took: None without a ride, or when Redis had forgotten
            the script or a Cluster has moved the queue, so that nothing was taken. A ride that took nothing tells when
            the queue's next delayed task is due.

        Raises:
            BrokerError: the connection broke or Redis refused; with a ride ``maybe_done`` is set, and only a repeat
                with its receipt tells whether it took a task.
        """
        sent = False
        try:
            pipe = await self._open()
            sent = True
            self._waiting = True
            return await self._ask(pipe, seconds if self.may_unblock else min(seconds, SHORT_WAIT), ride)
        except REDIRECTED:
            await self.close()
            await self._rdb.learn_anew("")
            await asyncio.sleep(_MOVING)  # while the queue is under way to another node it can only be looked at
            return True, None
        except (*FAILURES, EOFError) as exc:
            await self.close()
            await self._rdb.learn_anew(keys.pending(self._queue))
            reason = str(exc) or "no answer in time"
            text = f"waiting for tasks of {self._queue!r} failed on {self._rdb.address}: {reason}"
            raise BrokerError(
                text, maybe_done=ride is not None and sent, answered=isinstance(exc, ResponseError)
            ) from exc
        except BaseException:
            await self.close()
            raise
        finally:
            self._waiting = self.armed = False

    async def _open(self) -> Pipe:
        if self._pipe is None or not self._pipe.is_usable:
            await self.close()
            connection, self._node = await connection_for(self._rdb.client, keys.pending(self._queue))
            async with asyncio.timeout(_GRACE * 2):
                self._pipe = await Pipe.over(connection, _GRACE)
                if self._pipe is None:
                    raise RedisConnectionError("a client without connections cannot wait")
                await self._introduce(self._pipe)
        return self._pipe

    async def _introduce(self, pipe: Pipe) -> None:
        try:
            self._client_id = int(await ask(pipe, "CLIENT", "ID"))
            await ask(pipe, "CLIENT", "UNBLOCK", self._client_id)  # ends nothing, but tells whether we may
        except NoPermissionError:
            self.may_unblock = False

    async def _ask(self, pipe: Pipe, seconds: float, ride: Ride | None) -> tuple[bool, Batch | None]:
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        moved = taken = None

        def on_moved(reply: Any) -> None:
            nonlocal moved
            moved = reply
            if ride is None and not answered.done():
                answered.set_result(None)

        def on_taken(reply: Any) -> None:
            nonlocal taken
            taken = reply
            if not answered.done():
                answered.set_result(None)

        packed = self._pack(seconds, ride)
        pipe.patience = seconds + _GRACE
        if ride is None:
            pipe.send(packed, on_moved)
        else:
            pipe.send_two(packed, on_moved, on_taken)
        self.armed = True
        await answered
        return self._told(moved, taken, ride)

    def _pack(self, seconds: float, ride: Ride | None) -> bytes:
        """A wait and its ride as Redis reads them; an idle server asks the very same each second."""
        call = (seconds, ride, self._rdb.clock_argument())
        if call != self._packed_call:
            pending = keys.pending(self._queue)
            packed = pack_any(("BLMOVE", pending, pending, "RIGHT", "RIGHT", f"{seconds:.3f}"))
            if ride is not None:
                places, args = dequeue_call(
                    self._queue, 1, ride.owner, ride.lease, ride.receipt, call[2], again=False, due=True
                )
                packed += pack_any(("EVALSHA", dequeue_script().sha, len(places), *places, *args))
            self._packed_call, self._packed = call, packed
        return self._packed

    def _told(self, moved: Any, taken: Any, ride: Ride | None) -> tuple[bool, Batch | None]:
        """What the replies to a wait and its ride mean."""
        # Out of memory, read-only, ended by UNBLOCK with an error: the ride may have taken something all the same.
        refused = moved if isinstance(moved, ResponseError) else None
        if isinstance(moved, BaseException) and refused is None:
            raise moved
        batch: Batch | None = None
        forgotten = isinstance(taken, NoScriptError)  # then the next call brings the script along, if it is made
        if isinstance(taken, BaseException):
            if not isinstance(taken, (NoScriptError, *REDIRECTED)):
                raise refused or taken
        elif ride is not None:
            batch = Batch([], [], [])
            add_to_batch(batch, self._queue, ride.owner, taken)
        if refused is not None and not (batch and batch.tasks):
            raise refused
        return forgotten or moved is not None, batch

    def look_where(self) -> None:
        """End a wait on a node of a Cluster that holds the queue no more, say because it is silent and was replaced."""
        client, node = self._rdb.client, self._node
        if self._pipe is None or node is None or not isinstance(client, RedisCluster):
            return
        with contextlib.suppress(*FAILURES):  # nobody is known to hold it
            now = client.get_node_from_key(keys.pending(self._queue))
            if now is not None and now.name != node.name:
                self._pipe.close()

    @property
    def is_open(self) -> bool:
        """Whether it holds a connection now."""
        return self._pipe is not None

    async def unblock(self) -> None:
        """End the wait under way, if it still blocks. To be repeated until :meth:`wait` has returned.

        A wait that is about to begin on the server is not ended by one call.
        """
        if not self._waiting or not self._client_id or not self.may_unblock:
            return
        try:
            options = {} if self._node is None else {"target_nodes": self._node}
            async with asyncio.timeout(_GRACE):
                with passing():
                    await self._rdb.command("CLIENT", "UNBLOCK", self._client_id, **options)
        except NoPermissionError:
            self.may_unblock = False
        except FAILURES:
            pass  # the wait ends by itself

    async def close(self) -> None:
        """Drop the connection; the next wait opens another."""
        pipe, self._pipe, self._client_id = self._pipe, None, 0
        if pipe is not None:
            await pipe.aclose()
