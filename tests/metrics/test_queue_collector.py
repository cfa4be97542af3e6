"""QueueCollector: the figures of queues for Prometheus, whatever becomes of Redis."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from aioasynq import RDB, Client, Inspector, ServeMux, Server, Task, keys
from aioasynq.metrics import QueueCollector
from tests.server.stage import eventually
from tests.support.proxy import Proxy

ASYNQ = {
    "asynq_queue_latency_seconds",
    "asynq_queue_memory_usage_approx_bytes",
    "asynq_queue_paused_total",
    "asynq_queue_size",
    "asynq_tasks_enqueued_total",
    "asynq_tasks_failed_total",
    "asynq_tasks_processed_total",
}
OURS = {"aioasynq_queue_scrape_failures_total", "aioasynq_scrape_up"}


async def scrape(collector: QueueCollector) -> dict[str, dict[tuple[str, ...], float]]:
    """What Prometheus reads: by name, then by the values of the labels, in the order of their names."""
    registry = CollectorRegistry()
    registry.register(collector)
    text = await asyncio.to_thread(generate_latest, registry)
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


async def test_the_figures_of_a_queue(redis_url):
    mux = ServeMux()
    mux.add("good", lambda task: None)

    @mux.handler("bad")
    async def bad(task: Task) -> None:
        raise ValueError(task.id)

    async with Client(redis_url) as client, Inspector(redis_url) as inspector:
        await client.enqueue_many([Task("good"), Task("good", retention=60), Task("bad"), Task("bad", max_retry=0)])
        async with Server(redis_url, mux):
            await eventually(lambda: _processed(inspector, 4))
        await client.enqueue_many([Task("a"), Task("b"), Task("c", process_in=60), Task("d", group="g")])
        await client.enqueue(Task("e"), queue="other")
        await inspector.pause_queue("other")
        with QueueCollector(redis_url) as collector:
            found = await scrape(collector)
            assert set(found) == ASYNQ | {"aioasynq_scrape_up"}
            assert found["asynq_tasks_enqueued_total"] == {
                **{("default", state): 1 for state in ("archived", "completed", "retry", "scheduled")},
                **{("other", state): 0 for state in ("archived", "completed", "retry", "scheduled", "active")},
                ("default", "active"): 0,
                ("default", "pending"): 2,
                ("other", "pending"): 1,
            }
            assert found["asynq_queue_size"] == {("default",): 7, ("other",): 1}
            assert found["asynq_tasks_processed_total"] == {("default",): 4, ("other",): 0}
            assert found["asynq_tasks_failed_total"] == {("default",): 2, ("other",): 0}
            assert found["asynq_queue_paused_total"] == {("default",): 0, ("other",): 1}
            assert 0 < found["asynq_queue_latency_seconds"]["default",] < 60
            assert 100 < found["asynq_queue_memory_usage_approx_bytes"]["default",] < 10_000
            assert found["aioasynq_scrape_up"] == {(): 1}


async def _processed(inspector: Inspector, count: int) -> bool:
    return (await inspector.get_queue_info("default")).processed == count


async def test_memory_can_be_left_out(redis_url):
    async with Client(redis_url) as client:
        await client.enqueue(Task("a"))
    with QueueCollector(redis_url, memory=False) as collector:
        assert set(await scrape(collector)) == (ASYNQ | {"aioasynq_scrape_up"}) - {
            "asynq_queue_memory_usage_approx_bytes"
        }


async def _junk(redis: Any) -> None:
    await redis.sadd(keys.queues(), "junk")
    await redis.set(keys.pending("junk"), "no list")


async def _no_name(redis: Any) -> None:
    await redis.sadd(keys.queues(), "{junk}")


async def _no_text(redis: Any) -> None:
    await redis.sadd(keys.queues(), b"\xff")


BAD = {"a key of a wrong kind": (_junk, "junk"), "no name": (_no_name, "{junk}"), "no text": (_no_text, r"\xff")}


@pytest.mark.parametrize(("spoil", "label"), BAD.values(), ids=BAD)
async def test_a_bad_queue_is_left_out_and_counted(redis_url, redis, spoil, label, caplog):
    async with Client(redis_url) as client:
        await client.enqueue(Task("a"))
    await spoil(redis)
    with QueueCollector(redis_url) as collector:
        for times in (1, 2):
            found = await scrape(collector)
            assert found["asynq_queue_size"] == {("default",): 1}
            assert found["aioasynq_queue_scrape_failures_total"] == {(label,): times}
            assert found["aioasynq_scrape_up"] == {(): 1}
    assert "cannot be read" in caplog.text


async def test_a_scrape_without_redis(redis_url, proxy: Callable[..., Awaitable[Proxy]], caplog):
    between = await proxy()
    await between.down()
    with QueueCollector(RDB(between.url, operation_timeout=0.2)) as collector:
        assert await scrape(collector) == {"aioasynq_scrape_up": {(): 0}}
        assert "no figures of queues from redis://127.0.0.1:" in caplog.text
        await between.up()
        assert (await scrape(collector))["aioasynq_scrape_up"] == {(): 1}


async def test_a_redis_that_is_silent_takes_no_longer_than_was_said(redis_url, proxy: Callable[..., Awaitable[Proxy]]):
    between = await proxy()
    with QueueCollector(between.url, timeout=0.3) as collector:
        assert (await scrape(collector))["aioasynq_scrape_up"] == {(): 1}
        between.black_hole()
        async with asyncio.timeout(4):
            assert (await scrape(collector))["aioasynq_scrape_up"] == {(): 0}
        between.resume()


async def test_registering_asks_redis_nothing():
    registry = CollectorRegistry(auto_describe=True)
    with QueueCollector("redis://127.0.0.1:1/0") as collector:
        registry.register(collector)
        assert collector._reader is None
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            registry.register(QueueCollector("redis://127.0.0.1:1/0"))


async def test_a_scrape_on_the_loop_of_a_program(redis_url):
    """It stands still meanwhile, but does not wait for itself; a client that is handed in goes on by itself."""
    async with Client(redis_url) as client:
        await client.enqueue(Task("a"))
        with QueueCollector(client._rdb) as collector:
            registry = CollectorRegistry()
            registry.register(collector)
            assert b'asynq_queue_size{queue="default"} 1.0' in generate_latest(registry)
            assert b'asynq_queue_size{queue="default"} 1.0' in generate_openmetrics(registry)
        await client.ping()


async def test_many_scrapes_at_once(redis_url):
    async with Client(redis_url) as client:
        for n in range(20):
            await client.enqueue(Task("a"), queue=f"q{n}")
    with QueueCollector(redis_url) as collector:
        found = await asyncio.gather(*(scrape(collector) for _ in range(5)))
    assert [len(each["asynq_queue_size"]) for each in found] == [20] * 5


async def test_nothing_is_left_of_a_collector_that_is_closed(redis_url):
    collector = QueueCollector(redis_url)
    await scrape(collector)
    assert "aioasynq-metrics" in {thread.name for thread in threading.enumerate()}
    collector.close()
    collector.close()
    assert "aioasynq-metrics" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(RuntimeError, match="this collector is closed; unregister it"):
        list(collector.collect())


async def test_a_collector_that_is_closed_during_a_scrape(redis_url, proxy: Callable[..., Awaitable[Proxy]]):
    between = await proxy()
    between.black_hole()
    collector = QueueCollector(between.url)
    under_way = asyncio.create_task(asyncio.to_thread(lambda: list(collector.collect())))
    await eventually(lambda: collector._reader is not None)
    await asyncio.to_thread(collector.close)
    with pytest.raises(RuntimeError, match="this collector is closed; unregister it"):
        await under_way
    between.resume()


@pytest.mark.parametrize(
    ("timeout", "kind", "text"),
    [
        (0, ValueError, "timeout must be more than 0 and at most 3600 seconds, got 0"),
        (3601, ValueError, "timeout must be more than 0 and at most 3600 seconds, got 3601"),
        ("1", TypeError, "timeout must be a number of seconds, got '1'"),
        (True, TypeError, "timeout must be a number of seconds, got True"),
    ],
)
def test_a_wrong_timeout(timeout, kind, text):
    with pytest.raises(kind, match=f"^{text}$"):
        QueueCollector("redis://127.0.0.1:1/0", timeout=timeout)


def test_a_wrong_memory_is_refused():
    with pytest.raises(TypeError, match="memory must be True or False, got 'no'"):
        QueueCollector("redis://nowhere", memory="no")  # type: ignore[arg-type]
