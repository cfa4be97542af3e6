"""The pytest plugin as a project uses it that has aioasynq installed: in a pytest of its own."""

from __future__ import annotations

import textwrap

import pytest

from aioasynq.devserver import ENV_URL

pytest_plugins = ["pytester"]

TASKS = """
from aioasynq import ServeMux

mux = ServeMux()
ran = []


@mux.task("greet", max_retry=2, retry=60)
async def greet(name: str) -> None:
    ran.append(name)
    if name == "nobody":
        raise ValueError(name)
"""

#: What is the same for each plugin; MARK makes it a test of one.
TESTS = """
import pytest
from tasks import greet, mux, ran
from aioasynq.testing import run_until_idle


MARK
async def test_time_is_moved(aioasynq_client, aioasynq_clock):
    ran.clear()
    await greet.enqueue(aioasynq_client, name="nobody")
    aioasynq_client.assert_enqueued("greet", name="nobody")
    assert await run_until_idle(mux, aioasynq_client) == (1, 1)
    assert await run_until_idle(mux, aioasynq_client) == (0, 0)
    aioasynq_clock.advance(60)
    assert await run_until_idle(mux, aioasynq_client) == (1, 1)
    assert ran == ["nobody"] * 2


MARK
async def test_a_worker(aioasynq_worker, aioasynq_client):
    ran.clear()
    server = await aioasynq_worker(mux, concurrency=1)
    assert await run_until_idle(server, aioasynq_client) == (0, 0)  # nothing is left of the test before
    await greet.enqueue(aioasynq_client, name="Ada")
    await run_until_idle(server, aioasynq_client)
    assert ran == ["Ada"]
    assert server.status == "active"


@pytest.fixture
def app(aioasynq_client):
    return aioasynq_client


MARK
async def test_from_another_fixture(app):
    app.assert_not_enqueued("greet")


def test_without_a_loop(aioasynq_redis):
    from aioasynq import Client

    with Client(aioasynq_redis) as client:
        assert client.enqueue_sync(greet.task("Ada")).state == "pending"
"""

BACKEND = """
@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

PLUGINS = {
    "pytest-asyncio, strict": ("@pytest.mark.asyncio", "", ("-o", "asyncio_mode=strict")),
    "pytest-asyncio, auto": ("", "", ("-o", "asyncio_mode=auto")),
    "pytest-asyncio, one loop": (
        "@pytest.mark.asyncio",
        "",
        *(("-o", "asyncio_default_fixture_loop_scope=session", "-o", "asyncio_default_test_loop_scope=session"),),
    ),
    "anyio alone": ("@pytest.mark.anyio", BACKEND, ("-p", "no:asyncio")),
    "anyio beside pytest-asyncio": ("@pytest.mark.anyio", BACKEND, ("-o", "asyncio_mode=strict")),
}


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """``project(text, *arguments)``: run pytest on a file, with warnings as errors."""
    monkeypatch.delenv(ENV_URL, raising=False)
    pytester.makepyfile(tasks=TASKS)

    def run(text: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=textwrap.dedent(text))
        if "no:asyncio" not in arguments and not any("fixture_loop_scope" in each for each in arguments):
            arguments = ("-o", "asyncio_default_fixture_loop_scope=function", *arguments)
        quick = [f"-pno:{plugin}" for plugin in ("cacheprovider", "xdist", "faker", "hypothesispytest")]
        return pytester.runpytest_subprocess("-W", "error", *quick, *arguments)

    return run


@pytest.mark.parametrize(("mark", "more", "arguments"), PLUGINS.values(), ids=PLUGINS)
def test_the_fixtures_work_with(project, mark, more, arguments):
    project(TESTS.replace("MARK", mark) + more, *arguments).assert_outcomes(passed=4)


WRONG = {
    "no loop, pytest-asyncio is there": (
        "def test_it(aioasynq_client): ...",
        ("-o", "asyncio_mode=strict"),
        [
            "aioasynq_client needs a test that runs in an event loop, and test_it does not. Make it an `async def`, *",
            "  mark it @pytest.mark.asyncio, or set asyncio_mode = auto;",
            "  or mark it @pytest.mark.anyio: anyio and its plugin come with aioasynq.",
        ],
    ),
    "no plugin at all": (
        "def test_it(aioasynq_worker): ...",
        ("-p", "no:asyncio", "-p", "no:anyio"),
        [
            "aioasynq_worker needs a test that runs in an event loop, and test_it does not. *",
            "  install pytest-asyncio, and mark it @pytest.mark.asyncio, or set asyncio_mode = auto;",
        ],
    ),
    "trio": (
        """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "trio"

        @pytest.mark.anyio
        async def test_it(aioasynq_client): ...
        """,
        ("-p", "no:asyncio"),
        [
            "aioasynq_client needs asyncio, on which aioasynq runs, and test_it runs on trio: have a fixture *",
        ],
    ),
}


@pytest.mark.parametrize(("text", "arguments", "said"), WRONG.values(), ids=WRONG)
def test_what_is_missing_is_said(project, text, arguments, said):
    ran = project(text, *arguments)
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines([line.replace("[", "[[]") for line in said])
    assert "Traceback" not in ran.stdout.str()


def test_there_is_no_redis_server(project, monkeypatch, tmp_path):
    """Said once, by what to install."""
    ran = project(
        """
        import pytest
        from aioasynq import devserver

        def nothing(*_):
            raise devserver.DevServerError("no Redis server was found; install one")
        devserver.find_server = nothing

        def test_it(aioasynq_redis): ...
        """,
        *("-p", "no:asyncio"),
    )
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines(["aioasynq_redis needs a Redis server to start, and there is none: no Redis server was*"])
