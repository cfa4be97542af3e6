"""``aioasynq doctor`` while others are at work: it reports nothing that is not so, and repairs only what is broken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from aioasynq import Inspector, keys
from aioasynq.cli.doctor import Finding, examine
from aioasynq.cli.main import app
from aioasynq.rdb.rdb import RDB
from tests.support.build import LEASE, NOW_S, QUEUE, Clock
from tests.support.meanwhile import Meanwhile, arrange, replace
from tests.support.state import State, assert_states

SOON = float(NOW_S + 60)


@pytest.fixture
def meanwhile(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    return partial(arrange, redis, monkeypatch)


@pytest.fixture
async def rdb(redis: Redis) -> AsyncIterator[RDB]:
    async with RDB(redis, clock=Clock()) as rdb:
        yield rdb


async def _findings(rdb: RDB) -> list[Finding]:
    """What it finds in the queue, besides that nobody serves it."""
    async with Inspector(rdb) as inspector:
        found = [finding async for finding in examine(inspector, rdb) if finding.check.startswith("queue")]
    return [finding for finding in found if "no server" not in finding.text]


APART = State(groups={"g:s": {"a": 1.0}}, aggregation_sets={"g:s": SOON})
HEALTHY: dict[str, tuple[State, str, State]] = {
    "a task runs": (State(pending=["a"]), "next_ids", State(active=["a"], lease={"a": LEASE})),
    "a task has run": (State(pending=["a"]), "next_ids", State(scheduled={"b": SOON})),
    "a running one ends": (State(active=["a"], lease={"a": LEASE}), "queue_stats", State(pending=["b"])),
    "a task has run while keys are counted": (State(pending=["a"]), "_scan", State(scheduled={"b": SOON})),
    "a group is set apart": (State(groups={"g": {"a": 1.0}}), "list_groups", APART),
    "a group becomes one task": (APART, "list_groups", State(pending=["b"])),
    "a group comes into being": (State(pending=["b"]), "list_groups", State(groups={"g": {"a": 1.0}})),
}


@pytest.mark.parametrize(("before", "call", "after"), HEALTHY.values(), ids=HEALTHY)
async def test_nothing_is_wrong_with_a_queue_at_work(
    redis: Redis, rdb: RDB, meanwhile: Meanwhile, before: State, call: str, after: State
) -> None:
    await replace(redis, before)
    meanwhile(call, after)
    assert [finding for finding in await _findings(rdb) if finding.verdict != "ok"] == []


BROKEN: dict[str, tuple[State, State]] = {
    "an id has a task again": (State(pending=["a"], tasks={"a": None}), State(pending=["a"])),
    "an archived id too": (State(archived={"a": 1.0}, tasks={"a": None}), State(archived={"a": 1.0})),
    "a group is apart by now": (State(groups={"g:s": {"a": 1.0}}, group_names=set()), APART),
}


@pytest.mark.parametrize(("before", "after"), BROKEN.values(), ids=BROKEN)
async def test_what_is_well_by_now_is_not_repaired(redis: Redis, rdb: RDB, before: State, after: State) -> None:
    await replace(redis, before)
    repairs = [finding.repair for finding in await _findings(rdb) if finding.repair is not None]
    assert len(repairs) == 1
    await replace(redis, after)
    await repairs[0]()
    await redis.delete(keys.queues())
    await assert_states(redis, {QUEUE: after})


@pytest.mark.parametrize("lease", [{}, {"a": 1.5}])
async def test_what_a_server_has_to_take_back_is_not_called_well(
    redis: Redis, redis_url: str, lease: dict[str, float]
) -> None:
    await replace(redis, State(active=["a"], lease=lease))
    arguments = ["--uri", redis_url, "doctor", "--fix", "--yes", "--json"]
    ran = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    [found] = [each for each in json.loads(ran.stdout) if "not heard of" in each["text"]]
    assert found["verdict"] == "warn"
    assert found["advice"].endswith("a server of the queue has to take them back")
    assert (await State.read(redis, QUEUE)).lease.keys() == {"a"}
