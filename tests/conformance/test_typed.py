"""Typed tasks beside Go: it reads every payload that one writes, and writes payloads that one accepts."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec
import pydantic
import pytest

from aioasynq import Client, Exponential, ServeMux, Server, Task
from tests.conformance.go_side import GoError, GoInspector, GoProgram
from tests.conformance.history import PATIENCE
from tests.conformance.python_side import differences, read_task


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Address:
    city: str
    zip_codes: list[int]


class Point(NamedTuple):
    x: float
    y: float


class User(pydantic.BaseModel):
    name: str
    born: date | None = None


class Arguments(msgspec.Struct):
    """The struct of cmd/typed, in our words."""

    id: int
    name: str
    ratio: float
    active: bool
    note: str | None
    at: datetime
    day: date
    wait: timedelta
    price: Decimal
    key: UUID
    color: Color
    mode: Literal["slow", "fast"]
    data: bytes
    tags: list[str]
    counts: dict[str, int]
    home: Address
    point: Point
    user: User


FULL = Arguments(
    id=2**53 + 1,
    name="grün \U0001f600 <&> \u2028",
    ratio=0.1,
    active=True,
    note="x",
    at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
    day=date(2026, 1, 2),
    wait=timedelta(days=1, seconds=5),
    price=Decimal("10.10"),
    key=UUID(int=2**127),
    color=Color.BLUE,
    mode="fast",
    data=b"\x00\xff",
    tags=["a", ""],
    counts={"b": 1, "ü": -2},
    home=Address("Rome", [1, 2]),
    point=Point(1.5, -2.0),
    user=User(name="Ada", born=date(1815, 12, 10)),
)
BARE = Arguments(
    id=-(2**63),
    name="",
    ratio=0.0,
    active=False,
    note=None,
    at=datetime(1, 1, 1, tzinfo=UTC),
    day=date(1, 1, 1),
    wait=timedelta(0),
    price=Decimal(0),
    key=UUID(int=0),
    color=Color.RED,
    mode="slow",
    data=b"",
    tags=[],
    counts={},
    home=Address("", []),
    point=Point(0.0, 0.0),
    user=User(name=""),
)


@pytest.fixture
async def back(go_programs, redis_url: str, queue: str) -> AsyncIterator[str]:
    """The queue to which Go sends what it has read from *queue*."""
    async with GoProgram("typed", "--redis", redis_url, "--queue", queue, "--back", f"{queue}-back") as go:
        await go.wait("ready")
        yield f"{queue}-back"


def typed(got: asyncio.Queue[Arguments]) -> tuple[ServeMux, Any]:
    mux = ServeMux()

    @mux.task("typed:python")
    async def handle(
        id: int,  # noqa: A002 - a name as others have it
        name: str,
        ratio: float,
        active: bool,
        note: str | None,
        at: datetime,
        day: date,
        wait: timedelta,
        price: Decimal,
        key: UUID,
        color: Color,
        mode: Literal["slow", "fast"],
        data: bytes,
        tags: list[str],
        counts: dict[str, int],
        home: Address,
        point: Point,
        user: User,
    ) -> None:
        got.put_nowait(
            Arguments(
                *(id, name, ratio, active, note, at, day, wait, price),
                *(key, color, mode, data, tags, counts, home, point, user),
            )
        )

    return mux, handle


@pytest.mark.parametrize("arguments", [FULL, BARE], ids=["full", "bare"])
async def test_arguments_go_to_go_and_come_back(redis_url, queue, back, arguments):
    got: asyncio.Queue[Arguments] = asyncio.Queue()
    mux, handle = typed(got)
    values = {name: getattr(arguments, name) for name in Arguments.__struct_fields__}
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, Server(redis_url, mux, queues=[back]):
        await client.enqueue(Task("typed:go", handle.task(**values).payload), queue=queue)
        assert await got.get() == arguments


async def test_what_go_writes_for_a_nil_slice_does_not_fit(redis_url, go_inspector: GoInspector, queue, back):
    """Go writes null for it; whoever takes that says so: ``list[str] | None``."""
    mux, handle = typed(asyncio.Queue())
    values = {name: getattr(FULL, name) for name in Arguments.__struct_fields__}
    members = msgspec.json.decode(handle.task(**values).payload)
    del members["tags"]
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, Server(redis_url, mux, queues=[back]):
        await client.enqueue(Task("typed:go", msgspec.json.encode(members)), queue=queue)
        info = await _in_state(go_inspector, back, "archived")
    assert info["retried"] == 0
    assert (
        info["last_err"]
        == "payload of task 'typed:python' does not fit its handler: 'tags': expected `array`, got `null`"
    )


async def test_go_sees_an_ordinary_retry(redis, redis_url, go_inspector: GoInspector, queue):
    server = Server(redis_url, queues=[queue])

    @server.task("retried", queue=queue, max_retry=7, retry=Exponential(first=600, jitter=False))
    async def handle() -> None:
        raise OSError("no answer")

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await handle.with_options(task_id="back").enqueue(client)
        info = await _in_state(go_inspector, queue, "retry")
    assert (info["retried"], info["max_retry"], info["last_err"], info["headers"]) == (1, 7, "no answer", {})
    assert info["next_process_at"] == pytest.approx(time.time() + 600, abs=5)
    assert differences(info, await read_task(redis, queue, "back")) == {}


async def _in_state(inspector: GoInspector, queue: str, state: str) -> dict[str, Any]:
    while True:
        with suppress(GoError):  # it may not be there yet
            info = await inspector.task(queue, "back")
            if info["state"] == state:
                return info
        await asyncio.sleep(0.02)
