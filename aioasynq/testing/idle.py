"""run_until_idle: let a real server work until nothing is left to do now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import NamedTuple

from aioasynq.client import Client
from aioasynq.mux import ServeMux
from aioasynq.rdb.rdb import RDB
from aioasynq.server import Config, Server
from aioasynq.task import DEFAULT_QUEUE

LOOK_AGAIN = 0.005  #: seconds


class Ran(NamedTuple):
    """What was done until nothing was left."""

    tries: int  #: times that a handler was run
    failures: int  #: tries that counted as failed


async def run_until_idle(server: Server | ServeMux, client: Client, *, timeout: float = 10.0) -> Ran:
    """Run tasks until none is pending, active or due, and ripe groups have become tasks.

    Tasks go their real way: through Redis, a server and middleware, with retries and hooks. Retried and scheduled tasks
    run when they are due by the clock of *client*: move a :class:`Clock`, and call this again.

    Args:
        server: a ServeMux, whose handlers get the tasks of all queues there are. Or a Server: one that runs is waited
            for, with its own queues; one that was not started lends its handlers and options, any number of times.
        client: says which Redis it is, and which clock counts.
        timeout: seconds, of the real time, that it may take.

    Raises:
        TimeoutError: it took longer; the text says where tasks are left.
        ServerStateError: there is no handler.
        RuntimeError: the server is closed, or is about to be.
        TypeError, ValueError: an argument is wrong.
    """
    if not isinstance(server, Server | ServeMux):
        raise TypeError(f"server must be a Server or a ServeMux, got {server!r}")
    if not isinstance(client, Client):
        raise TypeError(f"client must be a Client, got {client!r}")
    if not timeout > 0:
        raise ValueError(f"timeout must be more than 0 seconds, got {timeout!r}")
    rdb = client._rdb  # noqa: SLF001 - what both have to agree on
    queues: set[str] = set()
    try:
        async with asyncio.timeout(timeout):
            if isinstance(server, Server) and server.status != "new":
                queues = set(server.config.queues)
                return await _idle(server, rdb)
            total = Ran(0, 0)
            while more := await _queues(server, rdb) - queues:  # handlers may enqueue to queues that were not there
                queues |= more
                async with _twin(server, rdb, queues) as twin:
                    ran = await _idle(twin, rdb)
                total = Ran(total.tries + ran.tries, total.failures + ran.failures)
            return total
    except TimeoutError:
        left = "; ".join([await _left(rdb, queue) for queue in sorted(queues)])
        raise TimeoutError(f"there is still something to do after {timeout:g} s: {left}") from None


@asynccontextmanager
async def _twin(server: Server | ServeMux, rdb: RDB, queues: Iterable[str]) -> AsyncGenerator[Server]:
    """A server of the same kind, on the same Redis and clock, for once."""
    config = Config(queues=dict.fromkeys(queues, 1)) if isinstance(server, ServeMux) else server.config
    mux = server if isinstance(server, ServeMux) else server.mux
    async with rdb.twin() as own, Server(own, mux, config=replace(config, health_check=None)) as twin:
        yield twin


async def _queues(server: Server | ServeMux, rdb: RDB) -> set[str]:
    if isinstance(server, Server):
        return set(server.config.queues)
    return {DEFAULT_QUEUE, *server.queues, *await rdb.list_queues()}


async def _idle(server: Server, rdb: RDB) -> Ran:
    """Wait until a running server has nothing to do."""
    counts, queues = server.counts, tuple(server.config.queues)
    processed, failed = counts.processed, counts.failed
    engine = server._engine  # noqa: SLF001 - its loops are told to look at once: no one knows that the clock was moved
    while server.status == "active" and engine is not None:
        engine.scheduler.due_in(0)
        if engine.aggregator.is_needed:
            await engine.aggregator._look()  # noqa: SLF001 - as above
        before = counts.processed
        is_busy = server.running > 0 or bool(engine.aggregator._working)  # noqa: SLF001 - as above
        # What is due comes first: it becomes pending, then active, and is missed by who looks the other way.
        is_busy = is_busy or any(due <= 0 for due in (await rdb.next_due(*queues)).values())
        for queue in queues:
            stats = await rdb.queue_stats(queue)
            is_busy = is_busy or stats.active > 0 or (stats.pending > 0 and not stats.is_paused)
        # A task that ended while the queues were looked at may have put another into one that had been looked at.
        if not is_busy and counts.processed == before:
            return Ran(counts.processed - processed, counts.failed - failed)
        await asyncio.sleep(LOOK_AGAIN)
    raise RuntimeError(f"server must be one that runs, or was not started yet, got {server!r}")


async def _left(rdb: RDB, queue: str) -> str:
    stats = await rdb.queue_stats(queue)
    due = (await rdb.next_due(queue)).get(queue, 1.0) <= 0
    return f"queue {queue!r} has {stats.pending} pending, {stats.active} active{', and some that are due' * due}"
