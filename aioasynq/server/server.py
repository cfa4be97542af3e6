"""Server: starts loops and consumers, stops them in order, listens to signals."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, Unpack

import anyio

from aioasynq.errors import ServerStateError
from aioasynq.life import Life
from aioasynq.logs import clean
from aioasynq.message import ServerInfo
from aioasynq.mux import ServeMux
from aioasynq.rdb.rdb import RDB, open_rdb
from aioasynq.server.aggregate_loop import AggregateLoop
from aioasynq.server.cancel_loop import cancel_loop
from aioasynq.server.cleanup_loop import cleanup
from aioasynq.server.config import Config, ServerOptions, config_of
from aioasynq.server.consumer import Consumers
from aioasynq.server.contact import Contact
from aioasynq.server.counts import Counts
from aioasynq.server.every import every
from aioasynq.server.farewell import tell_of_waiting
from aioasynq.server.fetcher import Fetcher
from aioasynq.server.health_loop import health_loop
from aioasynq.server.heartbeat import Heartbeat
from aioasynq.server.lifespan import Lifespan
from aioasynq.server.processes import Processes, check_targets, refuse_server
from aioasynq.server.recover_loop import AFTER_CONTACT, INTERVAL, Recovery
from aioasynq.server.running import Held, Pulse, Running, Why, named
from aioasynq.server.scheduler_loop import SchedulerLoop
from aioasynq.server.settler import Settler
from aioasynq.server.threads import Threads

if TYPE_CHECKING:
    from aioasynq.mux import Aggregator, Handler, Middleware
    from aioasynq.rdb.connection import ToRedis
    from aioasynq.typed.options import HandlerOptions, TaskTypeOptions
    from aioasynq.typed.task_type import Registrar

log = logging.getLogger(__name__)

H = TypeVar("H", bound="Handler")
A = TypeVar("A", bound="Aggregator")
M = TypeVar("M", bound="Middleware")

MIN_CONNECTIONS = 2  #: that a client must allow to be handed to a server
HOOKS_LIMIT = 0.5  #: seconds that error handlers may take at the end
SETTLE_LIMIT = 3.0  #: seconds that outcomes may take to be written at the end: an answer that is lost costs two of them
FETCH_LIMIT = 1.0  #: seconds that the last fetch may take to be answered at the end
LAST_GRACE = 0.2  #: seconds a handler may take to end when the shutdown limit is over


class Server(Life):
    """Takes tasks from queues and runs their handlers.

    Embedded in a service::

        async with Server("redis://localhost", mux, concurrency=20):
            ...

    or alone, until SIGTERM or SIGINT::

        await Server("redis://localhost", mux).run()

    Args:
        redis: a URL, a ``redis.asyncio`` client (never closed here), an :class:`RDB`, or None for the URL in
            ``AIOASYNQ_REDIS_URL``.
        mux: the handlers. Without one the server has its own: :meth:`task`, :meth:`handler`, :meth:`use`.
        config: all options ready-made, or
        options: the fields of :class:`Config` one by one.

    Raises:
        ValueError, TypeError: an option is wrong; it is named with its value.
    """

    _kind = "server"
    _state_error = ServerStateError
    _signals = (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP)

    def __init__(
        self,
        redis: ToRedis | RDB | None = None,
        mux: ServeMux | None = None,
        *,
        config: Config | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        if isinstance(redis, ServeMux):
            raise TypeError(f"redis comes first, then the mux: Server(url, mux) or Server(mux=mux), got {redis!r}")
        if mux is not None and not isinstance(mux, ServeMux):
            raise TypeError(f"mux must be a ServeMux, got {mux!r}")
        super().__init__()
        self.config = config_of(config, dict(options))
        self.mux = ServeMux() if mux is None else mux
        self.id = str(uuid.uuid4())
        self.counts = Counts()  #: what it has seen since its start, to be read at any time
        self._redis = redis
        self._host = socket.gethostname() or "unknown-host"
        self._began = time.time()
        self._engine: _Engine | None = None
        self._lifespan: Lifespan | None = None
        self._hurry = asyncio.Event()

    # ── handlers ──

    def handler(self, pattern: str, **options: Unpack[HandlerOptions]) -> Callable[[H], H]:
        """Register a raw handler; see :meth:`ServeMux.handler`."""
        return self.mux.handler(pattern, **options)

    def task(self, type: str, **options: Unpack[TaskTypeOptions]) -> Registrar:  # noqa: A002 - what asynq calls it
        """Register a typed handler; see :meth:`ServeMux.task`."""
        return self.mux.task(type, **options)

    def aggregator(self, function: A) -> A:
        """Register what makes one task of a group; see :meth:`ServeMux.aggregator`."""
        return self.mux.aggregator(function)

    def use(self, middleware: M) -> M:
        """Add middleware; see :meth:`ServeMux.use`."""
        return self.mux.use(middleware)

    # ── life ──

    @property
    def status(self) -> str:
        """``new``, ``active``, ``stopped`` (takes no more tasks) or ``closed``."""
        return self._status

    @property
    def running(self) -> int:
        """Handlers that run now."""
        return self._engine.consumers.busy if self._engine else 0

    @property
    def in_contact(self) -> bool:
        """Redis answered when last asked. Safe from any thread, as are the next two."""
        return self._engine is not None and self._engine.contact.there

    @property
    def is_ready(self) -> bool:
        """It takes tasks: it was started, is not ending, and Redis is there."""
        return self._status == "active" and self.in_contact

    @property
    def standing_still(self) -> float:
        """Seconds for which something has blocked the event loop by now; 0 when nothing does."""
        working = self._engine is not None and self._status in {"active", "stopped"}
        return self._engine.pulse.standing() if working and self._engine is not None else 0.0

    async def start(self) -> None:
        """Begin to process tasks, and return at once.

        When Redis cannot be reached the server starts all the same, says so, and keeps trying.

        Raises:
            ServerStateError: there is no handler, or the server was started before.
                Or a handler takes a state that the lifespan does not yield, or is to run in a child process, which
                could not import it.
            BrokerRefusedError: Redis refuses this password or user, or is older than 6.2.
            ValueError: the client that was handed in allows too few connections.
            Exception: whatever the lifespan raises.
        """
        with self._once():
            if len(self.mux) == 0:
                raise ServerStateError(
                    "the server has no handler; register one with @server.task(...) or @server.handler(...), "
                    "or give it a ServeMux that has one"
                )
            refuse_server()
            check_targets(self.mux.in_processes())
            rdb = open_rdb(self._redis)
            if rdb.max_connections < MIN_CONNECTIONS:
                raise ValueError(
                    f"redis must be a client of at least {MIN_CONNECTIONS} connections for a server, one of which "
                    f"listens for cancelations; got max_connections={rdb.max_connections}"
                )
            contact = Contact(rdb.address, self.counts)
            self._lifespan = Lifespan(self.config.lifespan, self, self._on_broken)
            try:
                await self._look_at(rdb, contact.lost)
                await self._lifespan.enter()
                self._lifespan.check_states(self.mux.task_types())
                self._check_still_new()
            except BaseException:  # refused, cancelled, or shut down meanwhile
                await self._lifespan.leave(self._hurry)
                rdb.abort()
                await rdb.aclose()
                raise
        self._began = time.time()
        context = self._lifespan.context
        self._engine = context.run(_Engine, self, rdb, contact)
        self._supervise(
            asyncio.get_running_loop().create_task(self._engine.run(), name="aioasynq server", context=context)
        )
        log.info(
            "server %s started%s: %s, concurrency %d",
            self.id,
            "" if contact.there else ", without contact to Redis yet",
            rdb.address,
            self.config.concurrency,
        )
        for queue in sorted(self.mux.queues - set(self.config.queues)):
            log.warning("a handler's tasks go to queue %r, which this server does not serve", queue)

    def stop(self) -> None:
        """Take no more tasks; those that run go on. :meth:`shutdown` is still needed."""
        if self._status == "active" and self._engine is not None:
            self._status = "stopped"
            self._engine.fetcher.stop()
            self._engine.heartbeat.beat_now()
            log.info("server %s takes no more tasks", self.id)

    def hurry(self) -> None:
        """End a shutdown under way now: running tasks are cancelled and go back to their queues."""
        self._hurry.set()

    async def shutdown(self) -> None:
        """Take no more tasks, let running ones finish for ``shutdown_timeout``, give the rest back, and end.

        It runs to its end even when the caller is cancelled. Calling it again waits for the same end.
        """
        await super().shutdown()

    async def _finish(self) -> None:
        assert self._engine is not None  # noqa: S101 - only a started server comes here
        assert self._supervisor is not None  # noqa: S101 - as above
        self.stop()
        self._status = "closed"
        await self._engine.finish(self._hurry)
        await asyncio.wait({self._supervisor})
        if self._lifespan is not None:
            await self._lifespan.leave(self._hurry)
        log.info("server %s ended", self.id)

    def _on_broken(self) -> None:
        if self._engine is not None:
            self._close_soon()

    async def run(self) -> None:
        """Process tasks until SIGTERM or SIGINT, then shut down.

        A second signal hurries: what runs is cancelled at once. SIGTSTP only stops fetching.
        """
        await super().run()

    def _raise_what_ended_it(self, work: asyncio.Task[None]) -> None:
        super()._raise_what_ended_it(work)
        if self._lifespan is not None and self._lifespan.error is not None:
            raise self._lifespan.error

    def _pause(self) -> None:
        self.stop()

    def _close_faster(self, name: str) -> None:
        log.warning("%s received again: cancelling what runs", name)
        self.hurry()

    def __repr__(self) -> str:
        return f"<Server {self.id} {self._status}, queues {', '.join(self.config.queues)}>"

    def describe(self) -> ServerInfo:
        """What is told to others about this server. Safe from any thread."""
        return ServerInfo(
            host=self._host,
            pid=os.getpid(),
            server_id=self.id,
            concurrency=self.config.concurrency,
            queues=dict(self.config.queues),
            strict_priority=self.config.strict_priority,
            status=self._status,
            start_time=int(self._began * 1e9),
            active_worker_count=self.running,
        )

    @property
    def name(self) -> str:
        """``host:pid:server id``, as owners of tasks are named."""
        return f"{self._host}:{os.getpid()}:{self.id}"

    @property
    def began(self) -> float:
        """When it was started, unix seconds."""
        return self._began


class _Engine:
    """The parts of a running server, and who outlives whom."""

    def __init__(self, server: Server, rdb: RDB, contact: Contact) -> None:
        config = server.config
        self._config = config
        self._rdb = rdb
        self.contact = contact
        self._ended = asyncio.Event()
        self.held = Held()
        self.pulse = Pulse(self.held)
        self.threads = Threads(config.max_threads)
        self.processes = Processes(config.max_processes, server.mux.in_processes)
        self.consumers = Consumers(
            rdb,
            config,
            server.mux,
            self.held,
            self.pulse,
            (self.threads.run, self.processes.run),
            self._on_free,
            contact.counts,
        )
        self.settler = Settler(rdb, config, contact, server.name, self.consumers.settled, self._on_free, self._on_retry)
        self.consumers.settle_with(self.settler)
        self.fetcher = Fetcher(
            rdb, config, contact, self.consumers, self.settler, server.name, server.began, self._on_due
        )
        self.scheduler = SchedulerLoop(rdb, tuple(config.queues), contact, self.fetcher.announce)
        self.recovery = Recovery(rdb, config, contact)
        self.aggregator = AggregateLoop(rdb, config, contact, server.mux, self.threads.run, self.fetcher.announce)
        self.heartbeat = Heartbeat(
            rdb,
            config,
            self.held,
            self.pulse,
            server.describe,
            lambda: server.mux.patterns,
            self._on_lost,
            contact.counts,
        )
        self._free = asyncio.Event()

    async def run(self) -> None:
        """Work until :meth:`finish` is through."""
        config, rdb, contact = self._config, self._rdb, self.contact
        queues = tuple(config.queues)
        self.pulse.start()
        self.heartbeat.start()  # leases are kept to the very end, whatever the loop does
        try:
            async with anyio.create_task_group() as loops:
                loops.start_soon(self.scheduler.run)
                loops.start_soon(
                    lambda: every(INTERVAL, self.recovery.step, contact, first=config.beat + AFTER_CONTACT)
                )
                loops.start_soon(lambda: every(config.cleanup_interval, cleanup(rdb, queues, contact), contact))
                loops.start_soon(cancel_loop, rdb, self._cancel)
                if self.aggregator.is_needed:
                    loops.start_soon(self.aggregator.run)
                if config.health_check is not None:
                    loops.start_soon(health_loop, rdb, config.health_check, config.health_check_interval)
                # The fetcher is no part of the group: a bug in a loop must not tear a fetch.
                fetching = asyncio.get_running_loop().create_task(self.fetcher.run(), name="aioasynq fetcher")
                fetching.add_done_callback(self._on_fetcher_end)
                await self._ended.wait()
                if not (await asyncio.wait({fetching}, timeout=FETCH_LIMIT))[0]:
                    if contact.ever:
                        log.error(
                            "Redis does not answer; a task that it may just have given runs again after its lease"
                        )
                    fetching.cancel()
                    await asyncio.wait({fetching})
                if fetching.cancelled() or fetching.exception() is not None:
                    await self.fetcher.abort()
                await self.settler.drain(SETTLE_LIMIT)  # the last fetch may have brought tasks, which go back
                loops.cancel_scope.cancel()
        finally:
            self.fetcher.stop()
            await self._close()

    async def finish(self, hurry: asyncio.Event) -> None:
        """Let running tasks finish, give the rest back, and write all outcomes."""
        self.fetcher.stop()
        await self.aggregator.stop()
        telling = asyncio.get_running_loop().create_task(tell_of_waiting(self.held, self._config.shutdown_timeout))
        try:
            await self._until_idle(self._config.shutdown_timeout, hurry)
        finally:
            telling.cancel()
        left = [running for running in self.held.snapshot() if not running.ended]
        if left:
            left.sort(key=lambda running: running.began, reverse=True)  # the last one given back runs first
            log.warning(
                "running tasks that did not finish in time and go back to their queues: %d: %s",
                len(left),
                named(left[::-1]),
            )
            for running in left:
                self.consumers.cancel(running, Why.SHUTDOWN, LAST_GRACE)
            await self._until_idle(LAST_GRACE + 0.1, None)
            for running in self.held.snapshot():
                self.consumers.abandon(running)
        await self._until_idle(HOOKS_LIMIT, None)  # error handlers that still run, and tasks left to themselves
        unsettled = await self.settler.drain(SETTLE_LIMIT)
        if unsettled:
            log.error(
                "outcomes that could not be written, so that their tasks run again when their leases end: %d: %s",
                unsettled,
                named(self.held.snapshot()) or "none of them running",
            )
        self._ended.set()

    async def _until_idle(self, limit: float, hurry: asyncio.Event | None) -> None:
        end = time.monotonic() + limit
        while self.consumers.busy and not (hurry is not None and hurry.is_set()):
            left = end - time.monotonic()
            if left <= 0:
                return
            self._free.clear()
            waits = [asyncio.ensure_future(self._free.wait())]
            if hurry is not None:
                waits.append(asyncio.ensure_future(hurry.wait()))
            await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def _close(self) -> None:
        await self.settler.stop()
        self.pulse.stop()
        await self.heartbeat.stop()
        self.threads.close()
        await self.processes.close()
        self._rdb.abort()
        await self._rdb.aclose()

    def _on_fetcher_end(self, fetching: asyncio.Task[None]) -> None:
        if not fetching.cancelled() and (bug := fetching.exception()) is not None:
            log.critical("the fetcher ended by a bug; no more tasks are taken", exc_info=bug)

    def _on_free(self) -> None:
        self._free.set()
        self.fetcher.wake()

    def _on_due(self, queue: str, seconds: float) -> None:
        self.scheduler.seen(queue, seconds)

    def _on_retry(self, delay: float) -> None:
        self.scheduler.due_in(delay)

    def _on_lost(self, lost: list[Running]) -> None:
        for running in lost:
            self.consumers.cancel(running, Why.LOST)

    def _cancel(self, task_id: str) -> None:
        for running in self.held.find(task_id):
            log.info("task %s of queue %s is cancelled on request", clean(task_id), running.leased.queue)
            self.consumers.cancel(running, Why.CANCELLED)
