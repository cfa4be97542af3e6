"""A real master with replicas, watched by real Sentinels, on loopback."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from aioasynq.devserver import HOST, DevServer, DevServerError, free_port

SERVICE = "tasks"
QUORUM = 2
_FORM_TIMEOUT = 60.0  # seconds
_POLL = 0.02  # seconds


class Sentinels:
    """One master, two replicas and three Sentinels: ``with Sentinels() as sentinels``.

    Args:
        binary: the server program; ``None`` takes what ``find_server`` finds.
        down_after: seconds without an answer after which a Sentinel thinks that the master is down.
        password: of the Redis servers.
        sentinel_password: of the Sentinels.
        config: further settings of the Redis servers.
        tls: settings of a server's TLS, its certificate and so on; all then speak TLS among themselves, and to clients
            on the ports of :attr:`tls_hosts` as well.
    """

    def __init__(
        self,
        binary: Path | None = None,
        *,
        down_after: float = 1.0,
        password: str = "",
        sentinel_password: str = "",
        config: dict[str, str] | None = None,
        tls: dict[str, str] | None = None,
    ) -> None:
        self._binary = binary
        self._tls = {**tls, "tls-replication": "yes"} if tls else {}
        self._tls_ports: dict[DevServer, int] = {}
        self._down_after = down_after
        self._password = password
        self._sentinel_password = sentinel_password
        self._config = {
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
            **({"requirepass": password, "masterauth": password} if password else {}),
            **(config or {}),
        }
        self._open = ExitStack()
        self.servers: list[DevServer] = []  #: the first one is the master at first
        self.sentinels: list[DevServer] = []

    @property
    def hosts(self) -> str:
        """Where the Sentinels are, as in a URL."""
        return ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)

    @property
    def tls_hosts(self) -> str:
        """The same, for TLS."""
        return ",".join(f"{HOST}:{self.tls_port(sentinel)}" for sentinel in self.sentinels)

    def tls_port(self, server: DevServer) -> int:
        """The port by which others know a server or a Sentinel; without TLS its only one."""
        return self._tls_ports.get(server, server.port)

    @property
    def url(self) -> str:
        """For clients."""
        login = f":{self._password}@" if self._password else ""
        query = f"?sentinel_password={self._sentinel_password}" if self._sentinel_password else ""
        return f"redis-sentinel://{login}{self.hosts}/{SERVICE}/0{query}"

    def start(self) -> None:
        """Start all, and wait until each Sentinel knows the replicas and the other Sentinels.

        Raises:
            DevServerError: no server was found, or they do not know each other after a minute.
        """
        with ExitStack() as opened:
            master = opened.enter_context(self._server({}))
            following = {"replicaof": [HOST, str(self.tls_port(master))]}
            replicas = [opened.enter_context(self._server(following)) for _ in range(2)]
            self.servers = [master, *replicas]
            _wait(lambda: self._replicas_of(master) == 2, "the replicas do not follow the master")
            self.sentinels = [opened.enter_context(_Sentinel(self, master)) for _ in range(3)]
            for sentinel in self.sentinels:
                _wait(lambda sentinel=sentinel: _knows_all(sentinel, self), "the Sentinels do not know each other")
            self._open = opened.pop_all()

    def _server(self, config: dict[str, Any]) -> DevServer:
        tls = self.with_tls_port()
        server = DevServer(self._binary, config={**self._config, **config, **tls})
        if tls:
            self._tls_ports[server] = int(tls["tls-port"])
        return server

    def with_tls_port(self) -> dict[str, str]:
        """Settings of TLS with a port of its own; none without TLS."""
        return {**self._tls, "tls-port": str(free_port())} if self._tls else {}

    def stop(self) -> None:
        """End all servers and remove their data."""
        self._open.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def master(self) -> DevServer:
        """The server that most Sentinels call the master."""
        alive = (sentinel for sentinel in self.sentinels if sentinel.running)
        named = [int(_ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1]) for sentinel in alive]
        port = max(set(named), key=named.count)
        return next(server for server in self.servers if self.tls_port(server) == port)

    def flush(self) -> None:
        """Delete every key."""
        _ask(self.master, "FLUSHALL")

    def until_complete(self) -> None:
        """Wait until all others follow the master: one that was replaced does so some ten seconds later."""
        _wait(lambda: self._replicas_of(self.master) == len(self.servers) - 1, "not all follow the master")

    @property
    def failovers(self) -> int:
        """How many there have been."""
        alive = [sentinel for sentinel in self.sentinels if sentinel.running]
        return max(int(_mapping(_ask(s, "SENTINEL", "MASTER", SERVICE))["config-epoch"]) for s in alive)

    def failover(self) -> None:
        """Have the Sentinels make a replica the master, and wait until all of them say so."""
        old = self.master
        deadline = time.monotonic() + _FORM_TIMEOUT
        while True:
            try:
                _ask(self.sentinels[0], "SENTINEL", "FAILOVER", SERVICE)
                break
            except redis.ResponseError as exc:  # one is under way, or no replica is good enough yet
                if time.monotonic() > deadline:
                    raise DevServerError(f"no failover: {exc}") from exc
                time.sleep(0.2)
        _wait(lambda: self.has_failed_over(old), "the Sentinels do not agree on a new master")

    def has_failed_over(self, old: DevServer) -> bool:
        """Whether another server than *old* is the master, and all Sentinels say so."""
        ports = {int(_ask(s, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1]) for s in self.sentinels if s.running}
        if len(ports) > 1 or self.tls_port(old) in ports:
            return False
        master = next(server for server in self.servers if self.tls_port(server) in ports)
        return bool(_ask(master, "ROLE")[0] == b"master")

    async def until_failed_over(self, old: DevServer) -> DevServer:
        """Wait until another server than *old* is the master, and return it."""
        while not await asyncio.to_thread(self.has_failed_over, old):
            await asyncio.sleep(_POLL)
        return self.master

    async def until_replica(self, server: DevServer) -> None:
        """Wait until *server* follows the master."""

        def follows() -> bool:
            role = _ask(server, "ROLE")
            return bool(role[0] == b"slave" and role[3] == b"connected")

        await asyncio.to_thread(_wait, follows, "the old master does not follow the new one")

    def _replicas_of(self, master: DevServer) -> int:
        info = _ask(master, "INFO", "replication")
        text = info.decode() if isinstance(info, bytes) else str(info)
        return text.count("state=online")


class _Sentinel(DevServer):
    """A Sentinel; the program is the server's, in another mode."""

    def __init__(self, of: Sentinels, master: DevServer) -> None:
        super().__init__(of._binary)
        self._of = of
        self._master = master
        self._tls = of.with_tls_port()
        if self._tls:
            of._tls_ports[self] = int(self._tls["tls-port"])

    def _arguments(self) -> list[str]:
        of = self._of
        lines = [
            f"port {self._port}",
            f"bind {HOST}",
            f"dir {self.data_dir}",
            f"sentinel myid {secrets.token_hex(20)}",
            *(f"{name} {value}" for name, value in self._tls.items()),
            f"sentinel monitor {SERVICE} {HOST} {of.tls_port(self._master)} {QUORUM}",
            f"sentinel down-after-milliseconds {SERVICE} {round(of._down_after * 1000)}",
            f"sentinel failover-timeout {SERVICE} 10000",
            f"sentinel parallel-syncs {SERVICE} 2",
        ]
        if of._password:
            lines.append(f"sentinel auth-pass {SERVICE} {of._password}")
        if of._sentinel_password:
            lines += [f"requirepass {of._sentinel_password}", f"sentinel sentinel-pass {of._sentinel_password}"]
            self._config["requirepass"] = of._sentinel_password
        file = self.data_dir / "sentinel.conf"
        if not file.exists():
            file.write_text("\n".join(lines) + "\n")
        return [str(file), "--sentinel"]


def freeze(server: DevServer) -> None:
    """Stop a server by SIGSTOP: it holds its connections and says nothing."""
    import os

    os.kill(server.pid, signal.SIGSTOP)


def _ask(server: DevServer, *command: str | int) -> Any:
    with redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0), socket_timeout=2.0) as client:
        client.response_callbacks.clear()  # the plain reply of every version, not what the library makes of it
        return client.execute_command(*command)


def _knows_all(sentinel: DevServer, of: Sentinels) -> bool:
    about = _mapping(_ask(sentinel, "SENTINEL", "MASTER", SERVICE))
    replicas = [_mapping(replica) for replica in _ask(sentinel, "SENTINEL", "REPLICAS", SERVICE)]
    linked = sum(replica.get("master-link-status") == "ok" for replica in replicas)
    return int(about["num-other-sentinels"]) == 2 and linked == len(of.servers) - 1


def _mapping(reply: Any) -> dict[str, str]:
    """Names and values one after another; RESP3 makes them a mapping."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {name.decode(): value.decode() for name, value in pairs}


def _wait(condition: Any, trouble: str) -> None:
    deadline = time.monotonic() + _FORM_TIMEOUT
    while True:
        try:
            if condition():
                return
        except redis.RedisError as exc:
            trouble = f"{trouble} ({exc})"
        if time.monotonic() > deadline:
            raise DevServerError(f"{trouble} after {_FORM_TIMEOUT:g} s")
        time.sleep(_POLL)
