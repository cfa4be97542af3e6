"""Runs one fault: a Redis, worker processes, a client that enqueues, the fault; then what is left is judged.

A fault is an async function that is given the :class:`System` and returns when it is over; a :class:`Fault` makes a
row of it. The load starts before it and goes on until it has returned and all tasks have been sent.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from redis.asyncio import Redis

from aioasynq import Client, keys
from aioasynq.devserver import DevServer
from aioasynq.rdb import script as rdb_script
from aioasynq.rdb.connection import open_link
from aioasynq.rdb.script import Script
from tests.faults.ledger import Event, Ledger, Remains, evaluate, missed
from tests.faults.load import Load, send
from tests.faults.processes import CommandLine, GoWorker, Worker, python_worker
from tests.faults.report import Report
from tests.support.cluster import Cluster
from tests.support.proxy import ThreadedProxy
from tests.support.sentinel import Sentinels

QUEUE = "default"

_REST = 60.0  # seconds, and some leases, after which what has not come to rest is stuck
_LOOK = 0.05  # seconds between two looks whether it has
_DISOWNED = "is not ours any more"  # logged when an outcome is refused
_STOOD_STILL = "the event loop has stood still"  # logged by whoever was frozen, and rightly
#: A master that is silent for two seconds is replaced, however long it had been silent to its replica.
_CLUSTER = {"cluster-node-timeout": "2000", "cluster-replica-validity-factor": "0"}
_RESCUED = "task lease expired"  # logged when a task is recovered

Kind = Literal["python", "command", "go"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long and how hard."""

    tasks: int = 300
    seed: int = 1
    lease: float = 2.0  #: seconds
    concurrency: int = 20
    thorough: bool = False  #: strike more often where each strike takes seconds
    binary: Path | None = None  #: the Redis server; None for the first that is found


STEADY = Load(span=5.0)
FLOOD = Load(span=1.0)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A row: one fault, under one load."""

    name: str
    text: str
    strike: Callable[[System], Awaitable[None]]
    finish: Callable[[System, Redis], Awaitable[None]] | None = None  #: looks at what is left
    load: Load = STEADY
    workers: Sequence[Kind] = ("python", "python")
    clocks: Sequence[float] = ()  #: seconds by which the workers' clocks are wrong
    processes: int = 0  #: children of each ``command``
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])  #: of the servers
    proxied: bool = True  #: workers and client reach Redis through ``system.proxy``
    durable: bool = False  #: Redis writes all to disk before it answers, for faults that kill it
    lease: float | None = None  #: seconds; None for that of the settings
    refusals: str | None = None  #: a client may be told that its task was not taken, in words that this matches
    expected: Sequence[str] = ()  #: parts of log lines that are errors, and belong to the fault
    rescues: bool = False  #: leases may end although no worker was disturbed
    limit: float = 30.0  #: seconds the fault may take
    site: Literal["server", "sentinel", "cluster"] = "server"  #: what the tasks are on
    client: Mapping[str, Any] = field(default_factory=dict[str, Any])  #: options of the client that sends
    may_miss: bool = False  #: what a master acknowledged just before its death may be missing; how much is noted
    exit: float = 15.0  #: seconds a worker may take to end after SIGTERM
    beyond_lease: float | None = None  #: seconds beyond a lease until what a killed worker held runs again, at most
    slow: str = ""  #: why it is left out of `make test`
    needs_go: bool = False  #: it has workers of Go's
    only_long: bool = False  #: takes so long that only the long form has it


class System:
    """What a fault can lay hands on."""

    def __init__(self, row: Fault, settings: Settings, folder: Path) -> None:
        self.row = row
        self.settings = settings
        self.random = random.Random(f"{settings.seed} {row.name}")
        self.workers: list[Worker] = []  #: those that should be alive
        self.struck = 0  #: how often the fault really happened; faults count it
        self.problems: list[str] = []  #: whatever else is wrong
        self.notes: list[str] = []  #: what was measured
        self.exits = 0  #: workers that ended though nobody killed them, or did not end as they should
        self.ledger_path = folder / "ledger"
        self.ledger = Ledger(self.ledger_path)
        config = {"appendfsync": "always"} if row.durable else {}
        self.server = DevServer(settings.binary, appendonly=row.durable, config=config)
        self.sentinels = Sentinels(settings.binary, down_after=2.0)
        self.cluster = Cluster(settings.binary, replicas=1, config=_CLUSTER)
        self.doubtful: list[tuple[float, float]] = []  #: when a master acknowledged what its replica may not have
        self.tasks = max(1, round(settings.tasks * row.load.share))
        self.client: Client  #: the one that sends the load
        self.closing = ExitStack()
        self._sent = asyncio.Event()
        self._all: list[Worker] = []
        self._folder = folder
        self._proxy: ThreadedProxy | None = None

    @property
    def lease(self) -> float:
        """Seconds a lease lasts."""
        return self.row.lease or self.settings.lease

    @property
    def proxy(self) -> ThreadedProxy:
        """What stands between Redis and everybody else."""
        assert self._proxy is not None, "the row is not proxied"
        return self._proxy

    @property
    def url(self) -> str:
        """Where workers and clients find Redis."""
        return self._proxy.url if self._proxy is not None else self.site.url

    @property
    def site(self) -> DevServer | Sentinels | Cluster:
        """What the tasks are on."""
        if self.row.site == "server":
            return self.server
        return self.sentinels if self.row.site == "sentinel" else self.cluster

    def redis(self) -> Any:
        """A client of it, to look at what is there."""
        return open_link(self.site.url).client

    async def start(self) -> None:
        """Start all but the load."""
        self.closing.callback(self.ledger.close)
        await asyncio.to_thread(self.closing.enter_context, self.site)
        if self.row.site == "server":
            async with Redis.from_url(self.server.url) as redis:
                # A script that is not known is refused and sent again: a lost refusal would prove nothing.
                for path in sorted(Path(rdb_script.__file__).parent.glob("lua/[!_]*.lua")):
                    await redis.script_load(Script(path.stem).text)
        if self.row.proxied:
            self._proxy = self.closing.enter_context(ThreadedProxy(self.server.url))
        for n, kind in enumerate(self.row.workers):
            self.start_worker(kind, clock=self.row.clocks[n] if self.row.clocks else 0.0)
        await self.ready()

    def start_worker(self, kind: Kind = "python", *, url: str = "", **options: Any) -> Worker:
        """Start one more worker, with *options* of a server where they are not the row's."""
        spec: dict[str, Any] = {
            "url": url or self.url,
            "ledger": str(self.ledger_path),
            "lease": self.lease,
            "concurrency": self.settings.concurrency,
            **self.row.options,
            **options,
        }
        log = self._folder / f"worker-{len(self._all)}.log"
        worker: Worker
        if kind == "go":
            worker = GoWorker(spec, log, self.ledger)
        elif kind == "command":
            worker = CommandLine(spec, log, self.row.processes)
        else:
            worker = python_worker(spec, log)
        self.closing.callback(worker.close)
        self._all.append(worker)
        self.workers.append(worker)
        return worker

    async def ready(self) -> None:
        """Wait until all workers work."""
        await asyncio.gather(*(worker.ready() for worker in self.workers))

    def kill_worker(self, worker: Worker) -> None:
        """End a worker by SIGKILL; the ledger says so."""
        self.workers.remove(worker)
        worker.disturbed = True
        if not worker.heard_late:  # what it does before its death is near the kill, however long that takes to come
            self.ledger.write("-", "kill", worker.pid)
        worker.kill()
        if worker.heard_late:
            self.ledger.write("-", "kill", worker.pid)

    def kill_child(self, parent: Worker, pid: int) -> None:
        """End a child of *parent* by SIGKILL; the ledger says so."""
        parent.disturbed = True
        self.ledger.write("-", "kill", pid)
        os.kill(pid, signal.SIGKILL)

    def freeze_worker(self, worker: Worker) -> None:
        """Stop a worker by SIGSTOP, as if its machine were suspended; the ledger says so."""
        worker.disturbed = True
        worker.process.send_signal(signal.SIGSTOP)
        self.ledger.write("-", "freeze", worker.pid)

    async def stop_worker(self, worker: Worker, *, within: float, again: float | None = None) -> None:
        """End a worker by SIGTERM, and once more after *again* seconds; it has to end with 0, and hold nothing.

        Args:
            within: seconds it may take.
        """
        self.workers.remove(worker)
        self.ledger.write("-", "stop", worker.pid)
        began = time.monotonic()
        worker.process.send_signal(signal.SIGTERM)
        if again is not None:
            await asyncio.sleep(again)
            worker.process.send_signal(signal.SIGTERM)
        code = await worker.wait(self.row.exit)
        took = time.monotonic() - began
        self.notes.append(f"exit after {took:.1f} s")
        if code:
            self.exits += 1
            self.problems.append(f"a worker ended with {code} after SIGTERM")
        if took > within:
            self.problems.append(f"a worker took {took:.1f} s to end; {within:g} s are allowed")
        async with self.redis() as redis:
            for task_id in await _ids(redis, keys.active(QUEUE)):
                owner: Any = await redis.hget(keys.task(QUEUE, task_id), "owner")
                if owner and f":{worker.pid}:".encode() in owner:
                    self.problems.append(f"{task_id} is still held by a worker that has ended")
        self.struck += 1

    async def until(self, condition: Callable[[Sequence[Event]], bool]) -> None:
        """Wait until *condition* holds for the ledger."""
        while not condition(self.ledger.read()):
            await asyncio.sleep(_LOOK)

    async def until_event(self, name: str, task_id: str) -> Event:
        """Wait for an event of one task."""
        while True:
            for event in self.ledger.read():
                if event.task_id == task_id and event.name == name:
                    return event
            await asyncio.sleep(_LOOK)

    async def until_running(self, pid: int, kind: str, often: int = 1) -> None:
        """Wait until so many tasks of a kind run in process *pid*."""
        await self.until(lambda events: len(running_in(events, pid, kind)) >= often)

    async def busy_worker(self, kind: str) -> Worker:
        """One of those that run tasks of a kind, once there is one."""
        while True:
            events = self.ledger.read()
            if busy := [worker for worker in self.workers if running_in(events, worker.pid, kind)]:
                return self.random.choice(busy)
            await asyncio.sleep(_LOOK)

    async def next_burst(self) -> None:
        """Wait until a burst of tasks has just been sent."""
        await self._sent.wait()

    def note_burst(self) -> None:
        """One has been sent."""
        self._sent.set()
        self._sent = asyncio.Event()

    async def end_workers(self) -> None:
        """End all workers in order, and count those that did not live or end as they should."""
        for worker in self.workers:
            if worker.process.poll() is not None:
                self.problems.append(f"worker {worker.pid} ended by itself: {worker.process.returncode}")
                self.exits += 1
        alive = [worker for worker in self.workers if worker.process.poll() is None]
        for code in await asyncio.gather(*(worker.end(self.row.exit) for worker in alive)):
            if code:
                self.problems.append(f"a worker ended with {code} after SIGTERM")
                self.exits += 1

    def complaints(self) -> list[str]:
        """What workers logged that they should not have had to.

        That is errors, outcomes that were refused, and tasks that only the end of their lease brought back.
        """
        anybody_disturbed = self.row.rescues or any(worker.disturbed for worker in self._all)
        found: list[str] = []
        for worker in self._all:
            for line in worker.log.read_text("utf-8", "replace").splitlines():
                disowned = _DISOWNED in line and not worker.disturbed
                rescued = _RESCUED in line and not anybody_disturbed
                if worker.disturbed and _STOOD_STILL in line:
                    continue
                if any(text in line for text in self.row.expected):
                    continue
                if disowned or rescued or " ERROR " in line or " CRITICAL " in line or line.startswith("Traceback"):
                    found.append(f"{worker.log.stem}: {line}")
        return found

    def close(self) -> None:
        """End everything."""
        self.closing.close()


def running_in(events: Sequence[Event], pid: int, kind: str) -> set[str]:
    """Ids of a kind that have started in process *pid* and not ended."""
    running: set[str] = set()
    for event in events:
        if event.pid == pid and event.task_id.startswith(f"{kind}-"):
            (running.add if event.name == "start" else running.discard)(event.task_id)
    return running


_WAITING = {
    "pending": keys.pending(QUEUE),
    "active": keys.active(QUEUE),
    "lease": keys.lease(QUEUE),
    "scheduled": keys.scheduled(QUEUE),
    "retry": keys.retry(QUEUE),
}


async def _come_to_rest(redis: Redis, limit: float) -> None:
    """Wait until no task waits or runs, at most *limit* seconds."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        async with redis.pipeline(transaction=False) as pipe:
            for key in _WAITING.values():
                pipe.exists(key)
            if not any(await pipe.execute()):
                return
        await asyncio.sleep(_LOOK)


async def _ids(redis: Redis, key: str) -> set[str]:
    """The members of a list, a set or a sorted set."""
    match await redis.type(key):
        case b"list":
            found: Any = await redis.lrange(key, 0, -1)
        case b"set":
            found = await redis.smembers(key)
        case _:
            found = await redis.zrange(key, 0, -1)
    return {member.decode() for member in found}


async def inspect(redis: Redis) -> Remains:
    """What is left in the queue."""
    groups: dict[str, list[str]] = {}
    for name in await _ids(redis, keys.groups(QUEUE)):
        for task_id in await _ids(redis, keys.group(QUEUE, name)):
            groups.setdefault(task_id, []).append(name)
    prefix = keys.task_prefix(QUEUE)
    return Remains(
        waiting={place: await _ids(redis, key) for place, key in _WAITING.items()},
        archived=await _ids(redis, keys.archived(QUEUE)),
        completed=await _ids(redis, keys.completed(QUEUE)),
        hashes={key.decode().removeprefix(prefix) async for key in redis.scan_iter(f"{prefix}*", count=1000)},
        groups=groups,
    )


async def run(row: Fault, settings: Settings) -> Report:
    """Run one fault, and judge what became of the tasks."""
    with tempfile.TemporaryDirectory(prefix="aioasynq-faults-") as folder:
        system = System(row, settings, Path(folder))
        try:
            return await _run(system)
        finally:
            system.close()


async def _run(system: System) -> Report:
    row = system.row
    await system.start()
    over = asyncio.Event()
    async with system.redis() as redis, Client(system.url, **row.client) as client:
        system.client = client
        load = asyncio.create_task(send(system, client, over))
        try:
            async with asyncio.timeout(row.limit):
                await row.strike(system)
        except TimeoutError:
            system.problems.append(f"the fault was not over after {row.limit:.0f} s")
        finally:
            over.set()
        await load
        ended = time.monotonic()
        await _come_to_rest(redis, _REST + 3 * system.lease)
        recovery = time.monotonic() - ended
        if row.finish is not None:
            await row.finish(system, redis)
        await system.end_workers()
        events = system.ledger.read()
        verdict = evaluate(events, await inspect(redis), concurrency=2 * system.settings.concurrency)
    if system.doubtful:
        missing = missed(verdict, events, system.doubtful)
        system.notes.append(f"{len(missing)} acknowledged and missing")
        if row.may_miss:
            for task_id in missing:
                del verdict.lost[task_id]
    if row.beyond_lease is not None and verdict.rerun_after > (limit := system.lease + row.beyond_lease):
        system.problems.append(f"tasks ran again after {verdict.rerun_after:.1f} s; {limit:g} s are allowed")
    return Report(
        fault=row.name,
        seed=system.settings.seed,
        verdict=verdict,
        struck=system.struck,
        recovery=verdict.rerun_after or recovery,
        exits=system.exits,
        problems=system.problems + system.complaints(),
        notes=system.notes,
        allow_refusals=row.refusals is not None,
    )
