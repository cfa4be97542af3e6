"""A real Redis Cluster on loopback, formed without redis-cli, which not every server comes with."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import redis
from redis.asyncio import Redis as AsyncRedis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from aioasynq.devserver import HOST, DevServer, DevServerError

SLOTS = 16_384
_BUS_OFFSET = 10_000  # Redis 6.2 has no setting for the port of the bus
#: So that neither a server's port nor that of its bus is one that outgoing connections are given.
_PORTS = range(10_240, 22_768)
_PORT_TRIES = 10
_FORM_TIMEOUT = 60.0  # seconds
_POLL = 0.02  # seconds


class Cluster:
    """Three masters, each with as many replicas as asked for: ``with Cluster() as cluster``.

    Args:
        binary: the server program; ``None`` takes what ``find_server`` finds.
        replicas: replicas for each master.
        config: further settings of every server.
        tls: settings of a server's TLS, its certificate and so on; the servers then speak TLS among themselves, and to
            clients on :attr:`tls_port` as well.
    """

    def __init__(
        self,
        binary: Path | None = None,
        *,
        replicas: int = 0,
        config: dict[str, str] | None = None,
        tls: dict[str, str] | None = None,
    ) -> None:
        self._binary = binary
        self._replicas = replicas
        self._tls = {**tls, "tls-cluster": "yes", "tls-replication": "yes"} if tls else {}
        self._tls_ports: dict[DevServer, int] = {}
        self._config = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-announce-ip": HOST,
            "repl-diskless-sync-delay": "0",  # no further replica is coming; Redis 7 would wait 5 s for one
            "repl-ping-replica-period": "1",  # clients hear of no replica before its first PING
            **(config or {}),
        }
        self._open = ExitStack()
        self.masters: list[DevServer] = []  #: the n-th has the n-th third of the slots
        self.replicas: list[DevServer] = []  #: the n-th follows master n modulo 3

    @property
    def servers(self) -> list[DevServer]:
        """Masters, then replicas."""
        return [*self.masters, *self.replicas]

    @property
    def host(self) -> str:
        """Where all servers are."""
        return HOST

    @property
    def port(self) -> int:
        """A server to ask for all others."""
        return self.masters[0].port

    @property
    def tls_port(self) -> int:
        """The same, for TLS."""
        return self._tls_ports[self.masters[0]]

    @property
    def url(self) -> str:
        """In the scheme that tells a Cluster from a single server."""
        return f"redis-cluster://{HOST}:{self.port}"

    def start(self) -> None:
        """Start the servers, form the Cluster and wait until every one of them says it is complete.

        Raises:
            DevServerError: no server was found, or the Cluster is not complete after a minute.
        """
        with ExitStack() as opened:
            self.masters = [self._start_server(opened) for _ in range(3)]
            self.replicas = [self._start_server(opened) for _ in range(3 * self._replicas)]
            self._form()
            self._open = opened.pop_all()

    def stop(self) -> None:
        """End all servers and remove their data."""
        self._open.close()

    def flush(self) -> None:
        """Delete every key."""
        for server in self.servers:
            if _ask(server, "ROLE")[0] == b"master":
                _ask(server, "FLUSHALL")

    def holder(self, key: str) -> DevServer:
        """The master that holds *key*, as most servers that answer see it."""
        slot = key_slot(key.encode())
        named: list[int] = []
        for server in self.servers:
            with suppress(redis.RedisError):
                for first, last, (_, port, *_), *_ in _ask(server, "CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        named.append(port)
        port = max(set(named), key=named.count)
        return next(server for server in self.servers if server.port == port)

    async def until_failed_over(self, old: DevServer, key: str) -> DevServer:
        """Wait until another master than *old* holds *key*, and return it."""
        while (holder := await asyncio.to_thread(self.holder, key)) is old:
            await asyncio.sleep(_POLL)
        return holder

    async def until_complete(self) -> None:
        """Wait until every server says that the Cluster is complete, and each replica follows its master."""
        for server in self.servers:
            await asyncio.to_thread(_wait, self._is_in_order, server, "finds the Cluster incomplete")

    async def move_slot(self, key: str, to: DevServer, *, step: int = 10, pause: float = 0.0) -> int:
        """Move the slot of *key* to another master as ``redis-cli --cluster reshard`` does, under way or not.

        Args:
            step: keys that are moved at once.
            pause: seconds to wait after each step.

        Returns:
            How many keys were moved.
        """
        slot, source = key_slot(key.encode()), self.holder(key)
        here, there = (_text(_ask(server, "CLUSTER", "MYID")) for server in (source, to))
        moved = 0
        async with AsyncRedis.from_url(source.url) as old, AsyncRedis.from_url(to.url) as new:
            await new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", here)
            await old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", there)
            while keys := await old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, step):
                await old.execute_command("MIGRATE", HOST, to.port, "", 0, 5000, "KEYS", *keys)
                moved += len(keys)
                await asyncio.sleep(pause)
            await new.execute_command("CLUSTER", "SETSLOT", slot, "NODE", there)
            await old.execute_command("CLUSTER", "SETSLOT", slot, "NODE", there)
        for server in self.masters:
            if server not in (source, to):
                _ask(server, "CLUSTER", "SETSLOT", slot, "NODE", there)
        return moved

    def _is_in_order(self, server: DevServer) -> bool:
        info = _text(_ask(server, "INFO", "replication"))
        if "cluster_state:ok" not in _text(_ask(server, "CLUSTER", "INFO")):
            return False
        return "role:master" in info or "master_link_status:up" in info

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _start_server(self, opened: ExitStack) -> DevServer:
        for tries_left in reversed(range(_PORT_TRIES)):
            tls_port = secrets.choice(_PORTS)
            tls = {**self._tls, "tls-port": str(tls_port)} if self._tls else {}
            server = DevServer(self._binary, port=secrets.choice(_PORTS), config=self._config | tls)
            try:
                opened.enter_context(server)
                if tls:
                    self._tls_ports[server] = tls_port
                return server
            except DevServerError as exc:
                if "already in use" not in str(exc) or not tries_left:
                    raise
        raise AssertionError("unreachable")

    def _form(self) -> None:
        third = SLOTS / len(self.masters)
        for i, server in enumerate(self.masters):
            slots = range(round(i * third), round((i + 1) * third))
            _ask(server, "CLUSTER", "ADDSLOTS", *slots)  # ADDSLOTSRANGE would ask for Redis 7
        for epoch, server in enumerate(self.servers, start=1):
            _ask(server, "CLUSTER", "SET-CONFIG-EPOCH", epoch)  # else they are told apart only after collisions
        for server in self.servers:
            for other in self.servers:
                if other is not server:
                    _ask(server, "CLUSTER", "MEET", HOST, self._tls_ports.get(other, other.port))
        for server in self.servers:
            _wait(self._knows_all, server, "does not know all others")
        for i, server in enumerate(self.replicas):
            _ask(server, "CLUSTER", "REPLICATE", _text(_ask(self.masters[i % 3], "CLUSTER", "MYID")))
        for server in self.servers:
            _wait(self._is_complete, server, "finds the Cluster incomplete")

    def _knows_all(self, server: DevServer) -> bool:
        nodes = _text(_ask(server, "CLUSTER", "NODES"))
        return nodes.count("\n") == len(self.servers) and "handshake" not in nodes

    def _is_complete(self, server: DevServer) -> bool:
        if "cluster_state:ok" not in _text(_ask(server, "CLUSTER", "INFO")):
            return False
        if server in self.replicas:
            return "master_link_status:up" in _text(_ask(server, "INFO", "replication"))
        # Clients learn the Cluster from this, so it has to name every replica too.
        slots = _ask(server, "CLUSTER", "SLOTS")
        return sum(len(row) - 2 for row in slots) == len(self.servers)


def _ask(server: DevServer, *command: str | int) -> Any:
    with redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0), socket_timeout=5.0) as client:
        client.response_callbacks.clear()  # the plain reply of every version, not what the library makes of it
        return client.execute_command(*command)


def _text(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _wait(condition: Callable[[DevServer], bool], server: DevServer, trouble: str) -> None:
    deadline = time.monotonic() + _FORM_TIMEOUT
    while True:
        with suppress(redis.ConnectionError):  # it is being started
            if condition(server):
                return
        if time.monotonic() > deadline:
            raise DevServerError(f"the server on port {server.port} {trouble} after {_FORM_TIMEOUT:g} s")
        time.sleep(_POLL)
