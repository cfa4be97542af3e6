"""Sentinel: connections that lead to whatever server is the master now.

Each connection asks the Sentinels where the master is, goes there, and asks the server itself whether it is one: for
some seconds after a failover a Sentinel may not have heard of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

from redis.asyncio.connection import AbstractConnection, Connection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError as RedisConnectionError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from aioasynq.rdb.pipe import drop
from aioasynq.rdb.tls import TLSConnection

log = logging.getLogger(__name__)

PORT = 26379
#: Channels on which Sentinels tell of a new master: the one that leads the failover has it sooner than it says so.
_SWITCHES = ("+switch-master", "+failover-state-reconf-slaves")
_SILENCE = 10.0  #: seconds without a message after which a Sentinel is tried with a PING
_PATIENCE = 0.5  #: seconds a Sentinel may take to answer before the next one is asked
#: What is raised by an answer of another shape than expected.
_NONSENSE = (TypeError, ValueError, KeyError, IndexError, AttributeError)
#: What Sentinels say that they will say again.
REFUSED_TEXTS = ("knows no master named", "is no Sentinel", " refuses: ")

Address = tuple[str, int]


class Masters:
    """Asks the Sentinels of one service for its master. Of no event loop or thread.

    Args:
        options: of connections to the Sentinels: password, TLS.
    """

    def __init__(
        self,
        service: str,
        sentinels: Sequence[Address],
        options: Mapping[str, Any],
        connection_class: type[Connection] = Connection,
    ) -> None:
        self.service = service
        self.sentinels = tuple(sentinels)
        self.connections: WeakSet[MasterConnection] = WeakSet()  #: to the master
        self.switches = 0  #: how often another server has become the master, by :meth:`watch`
        self._options: dict[str, Any] = {"socket_timeout": None, **options}
        self._class = connection_class

    def __repr__(self) -> str:
        return f"<Masters {self.service} of {self.names}>"

    @property
    def names(self) -> str:
        """The Sentinels, for people."""
        return ",".join(f"{host}:{port}" for host, port in self.sentinels)

    async def find(self) -> Address:
        """The master by the word of the Sentinel that knows of the latest failover.

        Raises:
            redis.exceptions.ConnectionError: none of them names any.
        """
        answers = await asyncio.gather(*(self._ask(*sentinel) for sentinel in self.sentinels))
        named = [answer for answer in answers if not isinstance(answer, str)]
        if not named:
            errors = "; ".join(answer for answer in answers if isinstance(answer, str))
            raise RedisConnectionError(f"no Sentinel names a master for {self.service!r}: {errors}")
        return max(named)[1]

    async def watch(self, switched: Callable[[], object]) -> None:
        """Call *switched* whenever the Sentinels have made another server the master, until cancelled.

        A master that was frozen or cut off goes on taking writes for some ten seconds after it was replaced, and loses
        them: nobody should talk to it any more by then.
        """
        known: Address | None = None
        while True:
            for place in random.sample(self.sentinels, len(self.sentinels)):
                connection = self._connection(*place)
                try:
                    async with asyncio.timeout(4 * _PATIENCE):
                        await connection.connect()
                        await connection.send_command("SUBSCRIBE", *_SWITCHES)
                    while await self._hears(connection):
                        now = await self.find()
                        if known not in (None, now):
                            self.switches += 1
                            switched()
                        known = now
                except (RedisError, OSError, TimeoutError, EOFError, *_NONSENSE) as exc:
                    log.debug("Sentinel %s:%d is not heard: %s", *place, exc)
                finally:
                    await drop(connection)
            await asyncio.sleep(2 * _PATIENCE)

    async def _hears(self, connection: Connection) -> bool:
        """Wait for news of this service, or of any that may have been missed; False when the Sentinel is silent."""
        while True:
            # Its own timeout: one from outside would end the connection.
            message = await connection.read_response(timeout=_SILENCE)
            if message is None:
                await connection.send_command("PING", check_health=False)
                message = await connection.read_response(timeout=2 * _PATIENCE)
                if message is None:
                    return False
            if message[0] != b"message" or self.service in message[2].decode().split(" "):
                return True

    def _connection(self, host: str, port: int) -> Connection:
        return self._class(
            host=host, port=port, socket_connect_timeout=_PATIENCE, retry=Retry(NoBackoff(), 0), **self._options
        )

    async def _ask(self, *sentinel: Any) -> tuple[int, Address] | str:
        """The number of the last failover that one Sentinel knows of, and where the master is; or why it cannot say."""
        connection = self._connection(*sentinel)
        where = "{}:{}".format(*sentinel)
        try:
            async with asyncio.timeout(2 * _PATIENCE):
                await connection.connect()
                await connection.send_command("SENTINEL", "MASTER", self.service)
                about: Any = await connection.read_response()
                # In the midst of a failover only this one names the new master.
                await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
                named: Any = await connection.read_response()
        except (AuthenticationError, NoPermissionError) as exc:
            return f"Sentinel {where} refuses: {exc}"
        except ResponseError as exc:
            if "No such master" in str(exc):
                return f"Sentinel {where} knows no master named {self.service!r}"
            return f"{where} is no Sentinel: {exc}"
        except (RedisError, OSError, TimeoutError, EOFError) as exc:
            return f"Sentinel {where}: {str(exc) or 'no answer in time'}"
        finally:
            await drop(connection)
        if named is None:  # it has forgotten it since
            return f"Sentinel {where} knows no master named {self.service!r}"
        try:
            epoch = dict(zip(about[::2], about[1::2], strict=True))[b"config-epoch"]
            return int(epoch), (named[0].decode(), int(named[1]))
        except _NONSENSE:
            return f"{where} is no Sentinel: where its master is cannot be read from what it answers"


class MasterConnection(Connection):
    """A connection to the master that *masters* knows of at that moment."""

    def __init__(self, *, masters: Masters, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._masters = masters
        masters.connections.add(self)

    async def connect(self) -> None:
        """Connect to the server that says that it is the master."""
        if self.is_connected:
            await super().connect()  # type: ignore[no-untyped-call]  # redis-py's
            return
        switches = self._masters.switches
        self.host, self.port = await self._masters.find()
        await super().connect()  # type: ignore[no-untyped-call]  # as above
        # One that was frozen is as slow to answer, and sure to be the master.
        if not await self._is_master() or self._masters.switches != switches:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"{self.host}:{self.port} is not the master any more, or not yet")

    async def _is_master(self) -> bool:
        try:
            await self.send_command("ROLE", check_health=False)
            role: Any = await super().read_response()
        except NoPermissionError:
            return True  # a write will tell
        return bool(role[0] == b"master")

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read an answer; one that shows a master that was demoted ends the connection."""
        try:
            return await super().read_response(*args, **kwargs)
        except ReadOnlyError as exc:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"the master is a replica now: READONLY {exc}") from exc


class MasterTLSConnection(MasterConnection, TLSConnection):
    """The same with TLS."""


def follows_master(connection_class: type[AbstractConnection]) -> bool:
    """Whether a new connection of this class leads to the master, whichever that is by then; ours or redis-py's."""
    return issubclass(connection_class, MasterConnection | SentinelManagedConnection)
