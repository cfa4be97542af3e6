"""Go asynq beside us: fixtures that build its programs and start them on the Redis of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conformance.go_build import GoBuildError, GoMissingError, build
from tests.conformance.go_side import Asynqmon, GoClient, GoInspector, GoPlayer
from tests.conformance.python_side import PythonClient

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            # The time it takes to compile Go, on a machine that never did, is not the test's.
            item.add_marker(pytest.mark.timeout(60, func_only=True))


def _built(module: str) -> Path:
    try:
        return build(module)
    except GoMissingError as missing:
        pytest.skip(f"conformance with Go cannot be tested: {missing}")
    except GoBuildError as broken:
        pytest.fail(f"the Go programs in tests/conformance/{module} do not compile:\n{broken}", pytrace=False)


@pytest.fixture(scope="session")
def go_programs() -> Path:
    """The folder of the Go programs, built."""
    return _built("go")


@pytest.fixture(scope="session")
def go_2020_program() -> Path:
    """The folder of asynq v0.1.0, built."""
    return _built("go_2020")


@pytest.fixture(scope="session")
def asynqmon_program() -> Path:
    """The folder of asynqmon, built."""
    return _built("asynqmon")


@pytest.fixture
async def go_client(go_programs: Path, redis_url: str) -> AsyncIterator[GoClient]:
    async with GoClient(redis_url) as client:
        yield client


@pytest.fixture
async def go_inspector(go_programs: Path, redis_url: str) -> AsyncIterator[GoInspector]:
    async with GoInspector(redis_url) as inspector:
        yield inspector


@pytest.fixture
async def go_player(go_programs: Path, redis_url: str) -> AsyncIterator[GoPlayer]:
    async with GoPlayer(redis_url) as player:
        yield player


@pytest.fixture
async def asynqmon(asynqmon_program: Path, redis_url: str) -> AsyncIterator[Asynqmon]:
    async with Asynqmon(redis_url) as monitor:
        yield monitor


@pytest.fixture
async def python_client(redis_url: str) -> AsyncIterator[PythonClient]:
    async with PythonClient(redis_url) as client:
        yield client


@pytest.fixture
def queue() -> str:
    return f"q-{uuid4().hex[:12]}"
