"""Fixtures for tests of programs that use aioasynq: a Redis that holds nothing, a client, workers, and a clock.

pytest loads this wherever aioasynq is installed, so nothing else is imported before a fixture is asked for. Async
fixtures work with pytest-asyncio and with the plugin of anyio, whichever runs the test.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    from aioasynq import RDB, ServeMux, Server
    from aioasynq.devserver import DevServer
    from aioasynq.testing import Clock, RecordingClient

StartWorker: TypeAlias = "Callable[..., Awaitable[Server]]"

_ASYNCIO = "asyncio"  # pytest-asyncio, as pytest's list of plugins has it
_NO_LOOP = """\
{fixture} needs a test that runs in an event loop, and {test} does not. Make it an `async def`, and either
  {install}mark it @pytest.mark.asyncio, or set asyncio_mode = auto;
  or mark it @pytest.mark.anyio: anyio and its plugin come with aioasynq."""
_OTHER_LOOP = """\
{fixture} needs asyncio, on which aioasynq runs, and {test} runs on {backend}: have a fixture `anyio_backend` that \
returns "asyncio"."""
_NO_SERVER = """\
aioasynq_redis needs a Redis server to start, and there is none: {why}"""


@pytest.fixture(scope="session")
def _aioasynq_server() -> Iterator[DevServer]:
    from aioasynq.devserver import DevServer, DevServerError  # noqa: PLC0415 - only where it is asked for

    try:
        server = DevServer()
        server.start()
    except DevServerError as exc:
        pytest.fail(_NO_SERVER.format(why=exc), pytrace=False)
    with server:
        yield server


@pytest.fixture
def aioasynq_redis(_aioasynq_server: DevServer) -> str:
    """The URL of a real Redis that holds nothing. It is started once in a run, and emptied before each test."""
    import redis  # noqa: PLC0415 - as above

    with redis.Redis.from_url(_aioasynq_server.url) as client:
        client.flushall()
    return _aioasynq_server.url


@pytest.fixture
def aioasynq_clock() -> Clock:
    """The clock of client and workers: it stands still until it is moved, as by ``aioasynq_clock.advance(60)``."""
    from aioasynq.testing import Clock  # noqa: PLC0415 - as above

    return Clock()


@pytest.fixture
def aioasynq_client(request: pytest.FixtureRequest) -> RecordingClient:
    """A client of ``aioasynq_redis``, which remembers what it has enqueued: ``aioasynq_client.assert_enqueued(…)``."""
    client: RecordingClient = request.getfixturevalue(_of_this_loop(request, "aioasynq_client"))
    return client


@pytest.fixture
def aioasynq_worker(request: pytest.FixtureRequest) -> StartWorker:
    """What starts servers, which work until the test ends; it takes a ServeMux and the options of a Server.

    ``server = await aioasynq_worker(mux, concurrency=1)``
    """
    start: StartWorker = request.getfixturevalue(_of_this_loop(request, "aioasynq_worker"))
    return start


# ── async fixtures, for each plugin that can run them ──


def _of_this_loop(request: pytest.FixtureRequest, fixture: str) -> str:
    """The fixture that belongs to the plugin that runs the test."""
    node, plugins = request.node, request.config.pluginmanager
    if node.get_closest_marker("asyncio") is not None and plugins.hasplugin(_ASYNCIO):
        return f"_{fixture}_of_pytest_asyncio"
    if "anyio_backend" in request.fixturenames:
        backend = request.getfixturevalue("anyio_backend_name")
        if backend != "asyncio":
            pytest.fail(_OTHER_LOOP.format(fixture=fixture, test=node.name, backend=backend), pytrace=False)
        return f"_{fixture}_of_anyio"
    install = "" if plugins.hasplugin(_ASYNCIO) else "install pytest-asyncio, and "
    pytest.fail(_NO_LOOP.format(fixture=fixture, test=node.name, install=install), pytrace=False)


@asynccontextmanager
async def _client(url: str, clock: Clock) -> AsyncGenerator[RecordingClient]:
    from aioasynq import RDB  # noqa: PLC0415 - as above
    from aioasynq.testing import RecordingClient  # noqa: PLC0415 - as above

    async with RDB(url, clock=clock) as rdb, RecordingClient(rdb) as client:
        yield client


@asynccontextmanager
async def _workers(url: str, clock: Clock) -> AsyncGenerator[StartWorker]:
    from aioasynq import RDB, Server  # noqa: PLC0415 - as above

    async with AsyncExitStack() as started:

        async def start(mux: ServeMux, **options: Any) -> Server:
            rdb: RDB = await started.enter_async_context(RDB(url, clock=clock))
            return await started.enter_async_context(Server(rdb, mux, **options))

        yield start


def _async_fixtures(plugin: str, decorate: Callable[..., Any]) -> ModuleType:
    """The async fixtures as a plugin runs them that has a decorator of its own, or knows those of pytest.

    Functions of their own for each, as decorators leave marks; in a module, since there pytest looks for fixtures.
    """

    async def client(aioasynq_redis: str, aioasynq_clock: Clock) -> AsyncGenerator[RecordingClient]:
        async with _client(aioasynq_redis, aioasynq_clock) as opened:
            yield opened

    async def worker(aioasynq_redis: str, aioasynq_clock: Clock) -> AsyncGenerator[StartWorker]:
        async with _workers(aioasynq_redis, aioasynq_clock) as start:
            yield start

    fixtures: Any = ModuleType(f"aioasynq_fixtures_of_{plugin}")
    fixtures.client = decorate(name=f"_aioasynq_client_of_{plugin}")(client)
    fixtures.worker = decorate(name=f"_aioasynq_worker_of_{plugin}")(worker)
    return fixtures  # type: ignore[no-any-return]


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures of the plugins that there are."""
    config.pluginmanager.register(_async_fixtures("anyio", pytest.fixture))
    if config.pluginmanager.hasplugin(_ASYNCIO):
        import pytest_asyncio  # noqa: PLC0415 - the user's own

        config.pluginmanager.register(_async_fixtures("pytest_asyncio", pytest_asyncio.fixture))
