"""Queue figures for Prometheus, under the names and labels of asynq's x/metrics.

prometheus_client asks a collector from whatever thread a scrape comes in, and waits; Redis is asked by asyncio. So a
collector has a thread of its own, with an event loop and a connection that nobody else uses: a scrape neither needs
nor blocks a loop of the program's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, NamedTuple, Self

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as missing:
    raise ImportError("aioasynq.metrics needs prometheus-client: pip install 'aioasynq[prometheus]'") from missing

from aioasynq.errors import AioasynqError
from aioasynq.inspector import Inspector
from aioasynq.rdb.rdb import RDB, open_rdb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aioasynq.inspector.records import QueueInfo
    from aioasynq.rdb.connection import ToRedis

log = logging.getLogger(__name__)

TIMEOUT = 8.0  #: seconds a scrape may take; Prometheus gives up after 10 unless told otherwise
AT_ONCE = 8  #: queues that are read at once
STATES = ("active", "pending", "scheduled", "retry", "archived", "completed")  #: asynq leaves aggregating out
CLOSED = "this collector is closed; unregister it"
LEAVE_LIMIT = 3.0  #: seconds the thread may take to end


class _Reading(NamedTuple):
    """What one scrape has found."""

    up: bool  #: Redis told which queues there are
    infos: list[QueueInfo]
    failed: list[str]  #: queues that could not be read


class QueueCollector(Collector):
    """A collector for a prometheus_client registry; each scrape reads all queues.

    For example::

        with QueueCollector("redis://localhost:6379/0") as queues:
            REGISTRY.register(queues)
            start_http_server(9876)

    A queue that cannot be read, for a key of it is of a wrong kind, say, is left out, and counted in
    ``aioasynq_queue_scrape_failures_total``; the others are there. (asynq's drops them all.) When Redis does not
    answer there is ``aioasynq_scrape_up 0`` and no queue.

    Args:
        redis: a URL, a ``redis.asyncio`` client (its settings are used for a connection of the collector's own), an
            :class:`~aioasynq.RDB`, or None for the URL in ``AIOASYNQ_REDIS_URL``.
        memory: estimate the memory of each queue, as asynq does; that costs Redis some hundred look-ups a queue.
        timeout: seconds a scrape may take; queues that are not read by then count as failed.

    Raises:
        ValueError, TypeError: an argument is wrong; it is named with its value.
    """

    def __init__(self, redis: ToRedis | RDB | None = None, *, memory: bool = True, timeout: float = TIMEOUT) -> None:
        if not isinstance(memory, bool):
            raise TypeError(f"memory must be True or False, got {memory!r}")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float):
            raise TypeError(f"timeout must be a number of seconds, got {timeout!r}")
        if not 0 < timeout <= 3600:
            raise ValueError(f"timeout must be more than 0 and at most 3600 seconds, got {timeout!r}")
        self._rdb = open_rdb(redis)  # never used itself: its twins are, each on the loop of a thread
        self._memory = memory
        self._timeout = timeout
        self._failures: dict[str, int] = {}
        self._counting = threading.Lock()
        self._starting = threading.Lock()
        self._reader: _Reader | None = None
        self._closed = False

    def describe(self) -> Iterable[Metric]:
        """The metrics without figures: a registry asks for them when the collector is registered, and Redis is not."""
        return _families([], {}, up=None)

    def collect(self) -> Iterator[Metric]:
        """Read all queues; from any thread. It never raises for what is wrong with Redis or a queue."""
        reading = self._read()
        with self._counting:
            for name in reading.failed:
                self._failures[name] = self._failures.get(name, 0) + 1
            failures = self._failures.copy()
        yield from _families(reading.infos, failures, up=reading.up)

    def close(self) -> None:
        """End the thread; a scrape under way or afterwards raises a RuntimeError."""
        with self._starting:
            self._closed = True
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> _Reading:
        with self._starting:
            if self._closed:
                raise RuntimeError(CLOSED)
            if self._reader is None or self._reader.pid != os.getpid():  # no thread lives on in a forked process
                self._reader = _Reader(self._rdb)
            reader = self._reader
        try:
            return reader.read(memory=self._memory, timeout=self._timeout)
        except (AioasynqError, TimeoutError) as exc:
            log.warning("no figures of queues from %s: %s", self._rdb.address, str(exc) or "no answer in time")
            return _Reading(up=False, infos=[], failed=[])


class _Reader:
    """The thread, and what runs in it."""

    def __init__(self, rdb: RDB) -> None:
        self.pid = os.getpid()
        self._parent = rdb
        self._begun = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()), name="aioasynq-metrics", daemon=True)
        self._thread.start()
        self._begun.wait()

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        try:
            self._rdb = self._parent.twin()
            self._inspector = Inspector(self._rdb)  # on a connection of its own, which all scrapes share
        finally:
            self._begun.set()
        await self._over.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await self._inspector.aclose()
        await self._rdb.aclose()

    def read(self, *, memory: bool, timeout: float) -> _Reading:
        """All queues, in at most about *timeout* seconds.

        Raises:
            AioasynqError, TimeoutError: not even their names could be read.
            RuntimeError: it is closed, or was meanwhile.
        """
        work = self._all(timeout, memory=memory)
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop was closed in between
            work.close()
            raise RuntimeError(CLOSED) from None
        try:
            return future.result(timeout + 1.0)
        except CancelledError:
            raise RuntimeError(CLOSED) from None
        except BaseException:
            future.cancel()
            raise

    async def _all(self, timeout: float, *, memory: bool) -> _Reading:
        inspector = self._inspector
        reading = _Reading(up=True, infos=[], failed=[])
        places = asyncio.Semaphore(AT_ONCE)
        async with asyncio.timeout(timeout) as limit:
            names = await inspector.queues()
        end = limit.when()

        async def one(name: str) -> None:
            try:
                async with asyncio.timeout_at(end), places:
                    reading.infos.append(await inspector.get_queue_info(name, memory=memory))
            except (AioasynqError, ValueError, TimeoutError) as exc:  # ValueError: Redis may hold any name
                log.warning("the figures of queue %r cannot be read: %s", name, str(exc) or "no answer in time")
                reading.failed.append(name)

        await asyncio.gather(*(one(name) for name in names))
        reading.infos.sort(key=lambda info: info.queue)
        return reading

    def close(self) -> None:
        """End the thread, and with it whatever still reads."""
        if self.pid != os.getpid():
            return
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(LEAVE_LIMIT)
        if self._thread.is_alive():
            log.warning("the thread that reads queues for Prometheus does not end; it is left to itself")


def _families(infos: Iterable[QueueInfo], failures: dict[str, int], *, up: bool | None) -> list[Metric]:
    tasks = GaugeMetricFamily("asynq_tasks_enqueued_total", "Tasks in a queue, by state.", labels=["queue", "state"])
    size = GaugeMetricFamily("asynq_queue_size", "Tasks in a queue, in all states.", labels=["queue"])
    latency = GaugeMetricFamily(
        "asynq_queue_latency_seconds", "For how long the next task of a queue has waited.", labels=["queue"]
    )
    memory = GaugeMetricFamily(
        "asynq_queue_memory_usage_approx_bytes", "Memory that a queue takes in Redis, by samples.", labels=["queue"]
    )
    processed = CounterMetricFamily(
        "asynq_tasks_processed", "Attempts at tasks of a queue, those that failed among them.", labels=["queue"]
    )
    failed = CounterMetricFamily("asynq_tasks_failed", "Attempts at tasks of a queue that failed.", labels=["queue"])
    paused = GaugeMetricFamily("asynq_queue_paused_total", "1 while a queue is paused, else 0.", labels=["queue"])
    bad = CounterMetricFamily(
        "aioasynq_queue_scrape_failures", "Scrapes for which a queue could not be read.", labels=["queue"]
    )
    reached = GaugeMetricFamily("aioasynq_scrape_up", "1 when Redis told which queues there are, else 0.")
    for info in infos:
        queue = [_label(info.queue)]
        for state in STATES:
            tasks.add_metric([*queue, state], getattr(info, state))
        size.add_metric(queue, info.size)
        latency.add_metric(queue, info.latency)
        if info.memory_usage is not None:
            memory.add_metric(queue, info.memory_usage)
        processed.add_metric(queue, info.processed_total)
        failed.add_metric(queue, info.failed_total)
        paused.add_metric(queue, int(info.paused))
    for name, count in sorted(failures.items()):
        bad.add_metric([_label(name)], count)
    if up is not None:
        reached.add_metric([], int(up))
    return [tasks, size, latency, memory, processed, failed, paused, bad, reached]


def _label(name: str) -> str:
    """A name that is no text is shown by its codes: exposition is UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
