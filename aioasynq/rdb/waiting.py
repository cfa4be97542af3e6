"""The connection on which an idle server waits for a queue's next task.

It blocks in ``BLMOVE pending pending RIGHT RIGHT``, which changes nothing and returns as soon as a task is there,
whoever put it there. A dequeue of one task may ride along: it is written together with the wait, and Redis runs it as
soon as the wait is over, which saves a round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from aioasynq import keys
from aioasynq.errors import BrokerError
from aioasynq.rdb.connection import connection_for, passing
from aioasynq.rdb.failures import FAILURES, REDIRECTED
from aioasynq.rdb.lifecycle import Batch, add_to_batch, dequeue_call, dequeue_script
from aioasynq.rdb.pipe import drop, hang_up

if TYPE_CHECKING:
    from redis.asyncio.cluster import ClusterNode
    from redis.asyncio.connection import AbstractConnection

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
        self._connection: AbstractConnection | None = None
        self._node: ClusterNode | None = None
        self._client_id = 0
        self._waiting = False
        self.armed = False  #: Redis watches the queue for us
        self.may_unblock = True  #: false once Redis has refused CLIENT UNBLOCK
        rdb.waits.add(self)

    async def wait(self, seconds: float, ride: Ride | None = None) -> tuple[bool, Batch | None]:
        """Wait until a task is there, at most *seconds*.

        Returns:
            Whether one was there, or may be, and what the ride took: None without a ride, or when Redis had forgotten
            the script or a Cluster has moved the queue, so that nothing was taken.

        Raises:
            BrokerError: the connection broke or Redis refused; with a ride ``maybe_done`` is set, and only a repeat
                with its receipt tells whether it took a task.
        """
        sent = False
        try:
            connection = await self._open()
            sent = True
            self._waiting = True
            return await self._ask(connection, seconds if self.may_unblock else min(seconds, SHORT_WAIT), ride)
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

    async def _open(self) -> AbstractConnection:
        if self._connection is None:
            connection, self._node = await connection_for(self._rdb.client, keys.pending(self._queue))
            try:
                async with asyncio.timeout(_GRACE * 2):
                    await connection.connect()
                    await self._introduce(connection)
            except BaseException:  # redis-py does not undo a connect that was cancelled
                await drop(connection)
                raise
            self._connection = connection
        return self._connection

    async def _introduce(self, connection: AbstractConnection) -> None:
        try:
            self._client_id = int(await self._client(connection, "ID"))
            await self._client(connection, "UNBLOCK", self._client_id)  # ends nothing, but tells whether we may
        except NoPermissionError:
            self.may_unblock = False

    async def _client(self, connection: AbstractConnection, *words: str | int) -> Any:
        await connection.send_packed_command(connection.pack_command("CLIENT", *words), check_health=False)
        return await connection.read_response()

    async def _ask(
        self, connection: AbstractConnection, seconds: float, ride: Ride | None
    ) -> tuple[bool, Batch | None]:
        pending = keys.pending(self._queue)
        commands: list[tuple[Any, ...]] = [("BLMOVE", pending, pending, "RIGHT", "RIGHT", f"{seconds:.3f}")]
        if ride is not None:
            call, args = dequeue_call(
                self._queue,
                1,
                ride.owner,
                ride.lease,
                ride.receipt,
                self._rdb.clock_argument(),
                again=False,
            )
            commands.append(("EVALSHA", dequeue_script().sha, len(call), *call, *args))
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        self.armed = True
        refused: ResponseError | None = None
        moved: Any = None
        async with asyncio.timeout(seconds + _GRACE):
            try:
                moved = await connection.read_response()
            except (
                ResponseError
            ) as exc:  # out of memory, read-only, ended by UNBLOCK with an error: the ride still answers
                refused = exc
        batch: Batch | None = None
        if ride is not None:
            async with asyncio.timeout(_GRACE):
                try:
                    answer = await connection.read_response()
                except (NoScriptError, *REDIRECTED):
                    answer = None
            if answer is not None:
                batch = Batch([], [], [])
                add_to_batch(batch, self._queue, ride.owner, answer)
        if refused is not None and not (batch and batch.tasks):
            raise refused
        return moved is not None, batch

    def look_where(self) -> None:
        """End a wait on a node of a Cluster that holds the queue no more, say because it is silent and was replaced."""
        client, node = self._rdb.client, self._node
        if self._connection is None or node is None or not isinstance(client, RedisCluster):
            return
        with contextlib.suppress(*FAILURES):  # nobody is known to hold it
            now = client.get_node_from_key(keys.pending(self._queue))
            if now is not None and now.name != node.name:
                hang_up(self._connection)

    @property
    def is_open(self) -> bool:
        """Whether it holds a connection now."""
        return self._connection is not None

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
        connection, self._connection, self._client_id = self._connection, None, 0
        if connection is not None:
            await drop(connection)
