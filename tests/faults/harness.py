"""Runs one fault: a Redis, worker processes, a client that enqueues, the fault; then what is left is judged.

A fault is an async function that is given the :class:`System` and returns when it is over; a :class:`Fault` makes a
row of it. The load starts before it and goes on until it has returned and all tasks have been sent.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from aioasynq import Client, Task, keys
from aioasynq.devserver import DevServer
from aioasynq.errors import AioasynqError
from aioasynq.rdb import script as rdb_script
from aioasynq.rdb.script import Script
from tests.faults.ledger import Event, Ledger, Remains, Verdict, evaluate
from tests.support.proxy import ThreadedProxy

QUEUE = "default"
ROOT = Path(__file__).parents[2]

_READY = 20.0  # seconds a worker may take to start
_EXIT = 15.0  # seconds it may take to end after SIGTERM
_FAULT = 30.0  # seconds a fault may take
_REST = 60.0  # seconds, and some leases, after which what has not come to rest is stuck
_LOOK = 0.05  # seconds between two looks whether it has
_MIX = {"quick": 55, "fails": 15, "later": 15, "keep": 10, "bad": 5}
_DISOWNED = "is not ours any more"  # logged when an outcome is refused
_STOOD_STILL = "the event loop has stood still"  # logged by whoever was frozen, and rightly
_RESCUED = "task lease expired"  # logged when a task is recovered


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long and how hard."""

    tasks: int = 300
    seed: int = 1
    lease: float = 2.0  #: seconds
    concurrency: int = 20
    thorough: bool = False  #: strike more often where each strike takes seconds
    binary: Path | None = None  #: the Redis server; None for the first that is found


@dataclass(frozen=True, kw_only=True)
class Load:
    """In which shape tasks come."""

    span: float  #: seconds over which they are spread
    burst: int = 20  #: most that come at once
    slow: int = 0  #: tasks of 3 s that come first
    share: float = 1.0  #: of the tasks in the settings


STEADY = Load(span=5.0)
FLOOD = Load(span=1.0)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A row: one fault, under one load."""

    name: str
    text: str
    strike: Callable[[System], Awaitable[None]]
    load: Load = STEADY
    workers: int = 2
    proxied: bool = True  #: workers and client reach Redis through ``system.proxy``
    durable: bool = False  #: Redis writes all to disk before it answers, for faults that kill it
    lease: float | None = None  #: seconds; None for that of the settings
    refusals: bool = False  #: a client may be told that its task was not taken


class Worker:
    """A worker process."""

    def __init__(self, url: str, ledger: Path, log: Path, lease: float, concurrency: int) -> None:
        self.log = log
        self.disturbed = False  #: it was killed or frozen
        self._ready = False
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.worker", url, str(ledger), str(lease), str(concurrency)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def ready(self) -> None:
        """Wait until it works, or has ended."""
        assert self.process.stdout is not None
        if not self._ready:
            async with asyncio.timeout(_READY):
                self._ready = bool(await asyncio.to_thread(self.process.stdout.readline))

    async def end(self) -> int:
        """End it in order, and return its exit code; a negative one is a signal's number."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.to_thread(self.process.wait, _EXIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return await asyncio.to_thread(self.process.wait)

    def close(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class System:
    """What a fault can lay hands on."""

    def __init__(self, row: Fault, settings: Settings, folder: Path) -> None:
        self.row = row
        self.settings = settings
        self.random = random.Random(f"{settings.seed} {row.name}")
        self.workers: list[Worker] = []  #: those that should be alive
        self.struck = 0  #: how often the fault really happened; faults count it
        self.problems: list[str] = []  #: whatever else is wrong
        self.exits = 0  #: workers that ended though nobody killed them, or did not end as they should
        self.ledger_path = folder / "ledger"
        self.ledger = Ledger(self.ledger_path)
        self.server = DevServer(settings.binary, appendonly=row.durable)
        self.tasks = max(1, round(settings.tasks * row.load.share))
        self._sent = asyncio.Event()
        self._all: list[Worker] = []
        self._folder = folder
        self._proxy: ThreadedProxy | None = None
        self._closing = ExitStack()

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
        return self._proxy.url if self._proxy is not None else self.server.url

    async def start(self) -> None:
        """Start all but the load."""
        self._closing.callback(self.ledger.close)
        self._closing.enter_context(self.server)
        async with Redis.from_url(self.server.url) as redis:
            # A script that is not known is refused and sent again: a lost refusal would prove nothing.
            for path in sorted(Path(rdb_script.__file__).parent.glob("lua/[!_]*.lua")):
                await redis.script_load(Script(path.stem).text)
        if self.row.proxied:
            self._proxy = self._closing.enter_context(ThreadedProxy(self.server.url))
        for _ in range(self.row.workers):
            self.start_worker()
        await asyncio.gather(*(worker.ready() for worker in self.workers))

    def start_worker(self) -> Worker:
        """Start one more worker."""
        log = self._folder / f"worker-{len(self._all)}.log"
        worker = Worker(self.url, self.ledger_path, log, self.lease, self.settings.concurrency)
        self._closing.callback(worker.close)
        self._all.append(worker)
        self.workers.append(worker)
        return worker

    def kill_worker(self, worker: Worker) -> None:
        """End a worker by SIGKILL; the ledger says so."""
        self.workers.remove(worker)
        worker.disturbed = True
        self.ledger.write("-", "kill", worker.pid)
        worker.process.kill()
        worker.process.wait()

    def freeze_worker(self, worker: Worker) -> None:
        """Stop a worker by SIGSTOP, as if its machine were suspended; the ledger says so."""
        worker.disturbed = True
        worker.process.send_signal(signal.SIGSTOP)
        self.ledger.write("-", "freeze", worker.pid)

    async def until(self, condition: Callable[[Sequence[Event]], bool]) -> None:
        """Wait until *condition* holds for the ledger."""
        while not condition(self.ledger.read()):
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
        for code in await asyncio.gather(*(worker.end() for worker in alive)):
            if code:
                self.problems.append(f"a worker ended with {code} after SIGTERM")
                self.exits += 1

    def complaints(self) -> list[str]:
        """What workers logged that they should not have had to.

        That is errors, outcomes that were refused, and tasks that only the end of their lease brought back.
        """
        anybody_disturbed = any(worker.disturbed for worker in self._all)
        found: list[str] = []
        for worker in self._all:
            for line in worker.log.read_text("utf-8", "replace").splitlines():
                disowned = _DISOWNED in line and not worker.disturbed
                rescued = _RESCUED in line and not anybody_disturbed
                if worker.disturbed and _STOOD_STILL in line:
                    continue
                if disowned or rescued or " ERROR " in line or " CRITICAL " in line or line.startswith("Traceback"):
                    found.append(f"{worker.log.stem}: {line}")
        return found

    def close(self) -> None:
        """End everything."""
        self._closing.close()


async def _send(system: System, client: Client, over: asyncio.Event) -> None:
    """The load: bursts of tasks, until all are sent and the fault is over."""
    load, chance, sent = system.row.load, system.random, 0
    pace = load.span / system.tasks
    batch: list[Task] = [_task("slow", f"slow-{n}", chance) for n in range(load.slow)]
    while True:
        while len(batch) < chance.randint(1, load.burst):
            kind = chance.choices(list(_MIX), list(_MIX.values()))[0]
            batch.append(_task(kind, f"{kind}-{sent + len(batch)}", chance))
        started = time.monotonic()
        if chance.random() < 0.3:
            await _enqueue_many(system, client, batch)
        else:
            await asyncio.gather(*(_enqueue(system, client, task) for task in batch))
        system.note_burst()
        sent += len(batch)
        wait = len(batch) * pace - (time.monotonic() - started)
        batch = []
        if sent >= system.tasks and over.is_set():
            return
        await asyncio.sleep(max(0.0, wait))


def _task(kind: str, task_id: str, chance: random.Random) -> Task:
    runs_for = str(3000 if kind == "slow" else chance.randint(0, 20))  # ms
    if kind == "later":
        return Task(kind, runs_for, task_id=task_id, process_in=chance.uniform(0.05, 1.0))
    if kind == "keep":
        return Task(kind, runs_for, task_id=task_id, retention=3600)
    return Task(kind, runs_for, task_id=task_id)


async def _enqueue(system: System, client: Client, task: Task) -> None:
    try:
        await client.enqueue(task)
    except AioasynqError as exc:
        _note(system, task, exc)
    else:
        _note(system, task, None)


async def _enqueue_many(system: System, client: Client, tasks: Sequence[Task]) -> None:
    for task, answer in zip(tasks, await client.enqueue_many(tasks), strict=True):
        _note(system, task, answer if isinstance(answer, AioasynqError) else None)


def _note(system: System, task: Task, refusal: AioasynqError | None) -> None:
    system.ledger.write(task.id, "ack" if refusal is None else "refused")
    if refusal is not None and not system.row.refusals:
        system.problems.append(f"{task.id} refused: {refusal!r}")


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


async def inspect(redis: Redis) -> Remains:
    """What is left in the queue."""

    async def ids(key: str) -> set[str]:
        is_list = await redis.type(key) == b"list"
        found: Any = await (redis.lrange(key, 0, -1) if is_list else redis.zrange(key, 0, -1))
        return {task_id.decode() for task_id in found}

    prefix = keys.task_prefix(QUEUE)
    return Remains(
        waiting={place: await ids(key) for place, key in _WAITING.items()},
        archived=await ids(keys.archived(QUEUE)),
        completed=await ids(keys.completed(QUEUE)),
        hashes={key.decode().removeprefix(prefix) async for key in redis.scan_iter(f"{prefix}*", count=1000)},
    )


@dataclass
class Report:
    """How a run ended."""

    fault: str
    seed: int
    verdict: Verdict
    struck: int
    recovery: float  #: seconds; until tasks of a killed worker ran again, else until all had come to rest
    exits: int
    problems: list[str] = field(default_factory=list[str])
    allow_refusals: bool = False

    @property
    def passed(self) -> bool:
        """Whether all that was promised was kept."""
        refused = self.verdict.refused and not self.allow_refusals
        return self.verdict.faultless and not (refused or self.exits or self.problems) and self.struck > 0

    def details(self) -> str:
        """Everything that is wrong, for people."""
        verdict = self.verdict
        lines = [] if self.struck else ["the fault never struck"]
        for what in ("lost", "dup", "stuck", "archived"):
            ids: dict[str, str] = getattr(verdict, what)
            lines += [f"{what.upper()} {task_id}: {why}" for task_id, why in list(ids.items())[:10]]
            if len(ids) > 10:
                lines.append(f"{what.upper()} … {len(ids)} in all")
        return "\n".join(f"  {line}" for line in (*lines, *self.problems[:20]))


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
    async with Redis.from_url(system.server.url) as redis, Client(system.url) as client:
        load = asyncio.create_task(_send(system, client, over))
        try:
            async with asyncio.timeout(_FAULT):
                await row.strike(system)
        except TimeoutError:
            system.problems.append(f"the fault was not over after {_FAULT:.0f} s")
        finally:
            over.set()
        await load
        ended = time.monotonic()
        await _come_to_rest(redis, _REST + 3 * system.lease)
        recovery = time.monotonic() - ended
        await system.end_workers()
        verdict = evaluate(system.ledger.read(), await inspect(redis), concurrency=2 * system.settings.concurrency)
    return Report(
        fault=row.name,
        seed=system.settings.seed,
        verdict=verdict,
        struck=system.struck,
        recovery=verdict.rerun_after or recovery,
        exits=system.exits,
        problems=system.problems + system.complaints(),
        allow_refusals=row.refusals,
    )


def table(reports: Iterable[Report]) -> str:
    """The reports in lines and columns."""
    head = (
        "fault",
        "seed",
        "acked",
        "refused",
        "LOST",
        "DUP",
        "STUCK",
        "reruns",
        "struck",
        "wait",
        "recovery",
        "exits",
        "",
    )
    rows: list[tuple[str, ...]] = [head]
    for report in reports:
        verdict = report.verdict
        numbers = (verdict.acknowledged, verdict.refused, len(verdict.lost), len(verdict.dup), len(verdict.stuck))
        rows.append(
            (
                report.fault,
                str(report.seed),
                *map(str, numbers),
                str(verdict.reruns),
                str(report.struck),
                f"{verdict.longest_wait:.1f} s",
                f"{report.recovery:.1f} s",
                str(report.exits),
                "ok" if report.passed else "FAILED",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if n in {0, len(head) - 1} else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def version_line(settings: Settings) -> str:
    """What this ran on, for the head of a table."""
    with DevServer(settings.binary) as server:
        python = sys.version.split()[0]
        return f"Redis {server.version}, Python {python}, {os.cpu_count()} cores, lease {settings.lease:g} s"
