"""Queue figures for Prometheus: a scrape of ours is one of asynq's x/metrics, and more."""

from __future__ import annotations

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from aioasynq import Client, Inspector, ServeMux, Server, Task, keys
from aioasynq.metrics import QueueCollector
from tests.conformance.go_side import GoError, GoMetrics
from tests.server.stage import eventually

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

LATENCY = "asynq_queue_latency_seconds"
MEMORY = "asynq_queue_memory_usage_approx_bytes"
OURS = {"aioasynq_scrape_up", "aioasynq_queue_scrape_failures_total"}


def read(text: str) -> tuple[dict[str, str], Samples]:
    """The type of each metric by its name, and all samples."""
    types: dict[str, str] = {}
    samples: Samples = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split()
            types[name] = kind
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name, frozenset(sample.labels.items())] = sample.value
    return types, samples


async def ours(url: str) -> tuple[dict[str, str], Samples]:
    with QueueCollector(url) as collector:
        registry = CollectorRegistry()
        registry.register(collector)
        types, samples = read((await asyncio.to_thread(generate_latest, registry)).decode())
    return (
        {name: kind for name, kind in types.items() if name not in OURS},
        {key: value for key, value in samples.items() if key[0] not in OURS},
    )


async def test_a_scrape_is_that_of_go(go_programs, redis_url, redis):
    """Queues with tasks in each state, one that is paused, one that is empty, one with a name that needs escaping."""
    mux = ServeMux()

    @mux.handler("fail")
    async def fail(task: Task) -> None:
        raise ValueError("no")

    mux.add("ok", lambda task: None)
    async with Client(redis_url) as client, Inspector(redis_url) as inspector, GoMetrics(redis_url) as go:
        await client.enqueue_many([Task("ok"), Task("ok", retention=600), Task("fail"), Task("fail", max_retry=0)])
        async with Server(redis_url, mux):
            await eventually(lambda: _processed(inspector, 4))
        await client.enqueue_many([Task("later", process_in=600), Task("first"), Task("second"), Task("g", group="g")])
        await client.enqueue(Task("x", b"p" * 3000), queue='a "quoted" \\ name')
        await inspector.pause_queue('a "quoted" \\ name')
        await redis.sadd(keys.queues(), "empty")

        go_types, theirs = read(await go.scrape())
        types, mine = await ours(redis_url)
    assert types == go_types
    assert len(theirs) == 3 * 12
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        if key[0] == LATENCY:  # asked one after the other, by different clocks
            assert mine[key] == pytest.approx(value, abs=5)
        elif key[0] == MEMORY:  # both estimate, and ours counts the keys of groups too
            assert mine[key] == pytest.approx(value, rel=0.1)
        else:
            assert mine[key] == value, key


async def test_a_bad_queue_takes_all_figures_of_go_and_its_own_of_ours(go_programs, redis_url, redis: Redis):
    async with Client(redis_url) as client, GoMetrics(redis_url) as go:
        await client.enqueue(Task("ok"))
        await redis.sadd(keys.queues(), "junk")
        await redis.set(keys.pending("junk"), f"no list, since {time.time():.0f}")
        try:
            _, theirs = read(await go.scrape())
        except GoError:
            theirs = {}
        assert theirs == {}
        _, mine = await ours(redis_url)
        assert {dict(labels)["queue"] for _, labels in mine} == {"default"}
        assert len(mine) == 12


async def _processed(inspector: Inspector, count: int) -> bool:
    return (await inspector.get_queue_info("default")).processed == count
