"""A real Redis Cluster on loopback, formed without redis-cli, which not every server comes with."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import redis

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
    """

    def __init__(self, binary: Path | None = None, *, replicas: int = 0, config: dict[str, str] | None = None) -> None:
        self._binary = binary
        self._replicas = replicas
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
        for server in self.masters:
            _ask(server, "FLUSHALL")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _start_server(self, opened: ExitStack) -> DevServer:
        for tries_left in reversed(range(_PORT_TRIES)):
            server = DevServer(self._binary, port=secrets.choice(_PORTS), config=self._config)
            try:
                return opened.enter_context(server)
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
                    _ask(server, "CLUSTER", "MEET", HOST, other.port)
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
    with redis.Redis.from_url(server.url) as client:
        client.response_callbacks.clear()  # the plain reply of every version, not what the library makes of it
        return client.execute_command(*command)


def _text(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _wait(condition: Callable[[DevServer], bool], server: DevServer, trouble: str) -> None:
    deadline = time.monotonic() + _FORM_TIMEOUT
    while not condition(server):
        if time.monotonic() > deadline:
            raise DevServerError(f"the server on port {server.port} {trouble} after {_FORM_TIMEOUT:g} s")
        time.sleep(_POLL)
