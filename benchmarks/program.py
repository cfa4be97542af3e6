"""What the program of every system has in common: its one argument, the loops that enqueue, how a worker starts.

A system's file says only how that system enqueues and works. It runs in an environment of its own, so this file needs
the standard library only (and uvloop where a system's environment has it).
"""

from __future__ import annotations

import asyncio
import json
import math
import resource
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass

from benchmarks.shared import Shared

BULK = 1_000  #: tasks of one bulk call
SLEEP = 0.005  #: seconds that a handler of the kind "sleep" sleeps


@dataclass(frozen=True)
class Spec:
    """What a process has to do, as the runner wrote it."""

    role: str  #: "enqueue" or "work"
    redis: str
    shared: str
    tasks: int  #: room in the shared memory
    gate: int = 0  #: where to wait until the runner says begin
    # to enqueue:
    how: str = "callers"  #: "one" at a time, by many "callers", in "bulk", "at" one moment, or "paced" with pauses
    first: int = 0  #: number of the first task
    count: int = 0
    warm: int = 0  #: tasks enqueued before the clock starts; their numbers follow those of the others
    callers: int = 100
    limit: float = 1e9  #: seconds after which no further task is begun
    lead: float = 0.0  #: how "at": seconds from the begin to the moment at which all are due
    pause: float = 0.0  #: how "paced": mean pause between two, in seconds
    queues: int = 1  #: over how many queues tasks are spread, in turn
    named: bool = False  #: each task names its queue, also where there is but one; only aioasynq knows it
    # to work:
    concurrency: int = 100
    handler: str = "noop"  #: or "sleep"
    served: int = 1  #: how many queues are served
    everything: bool = False  #: all options on that the system has; only aioasynq knows it


class System:
    """How one system is used; a subclass in each file of ``systems``."""

    def __init__(self, spec: Spec, shared: Shared) -> None:
        self.spec = spec
        self.shared = shared


class AsyncSystem(System):
    """A system whose calls are awaited."""

    async def open(self) -> None:
        """Connect what enqueues."""

    async def close(self) -> None:
        """Close what :meth:`open` opened."""

    async def enqueue(self, number: int) -> object:
        raise NotImplementedError

    async def enqueue_many(self, numbers: list[int]) -> object:
        raise NotImplementedError

    async def enqueue_at(self, number: int, moment: float) -> object:
        raise NotImplementedError

    async def work(self) -> None:
        """Work for ever; the runner ends the process."""
        raise NotImplementedError

    async def handle(self, number: int) -> None:
        """What every handler does."""
        self.shared.hit(number)
        if self.spec.handler == "sleep":
            await asyncio.sleep(SLEEP)


class SyncSystem(System):
    """A system whose calls block; callers and handlers are threads."""

    def __init__(self, spec: Spec, shared: Shared) -> None:
        super().__init__(spec, shared)
        self._lock = threading.Lock()

    def open(self) -> None: ...

    def enqueue(self, number: int) -> object:
        raise NotImplementedError

    def enqueue_many(self, numbers: list[int]) -> object:
        raise NotImplementedError

    def enqueue_at(self, number: int, moment: float) -> object:
        raise NotImplementedError

    def work(self) -> None:
        raise NotImplementedError

    def handle(self, number: int) -> None:
        with self._lock:  # threads must not lose a count
            self.shared.hit(number)
        if self.spec.handler == "sleep":
            time.sleep(SLEEP)


def main(system: type[AsyncSystem | SyncSystem]) -> None:
    """Do what the one argument of this process says."""
    spec = Spec(**json.loads(sys.argv[1]))
    shared = Shared(spec.shared, spec.tasks)
    if issubclass(system, SyncSystem):
        _run_sync(system(spec, shared), spec, shared)
        return
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(system(spec, shared), spec, shared))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not in every environment
    except ImportError:
        return None
    return uvloop.new_event_loop


# --- asyncio ---


async def _run(system: AsyncSystem, spec: Spec, shared: Shared) -> None:
    if spec.role == "work":
        shared.wait_at_gate(spec.gate)
        await system.work()
        return
    await system.open()
    await _by_callers(system.enqueue, range(spec.first + spec.count, spec.first + spec.count + spec.warm), 10)
    shared.wait_at_gate(spec.gate)
    clock = Clock(spec)
    numbers = clock.numbers()
    match spec.how:
        case "one":
            for number in numbers:
                await system.enqueue(number)
        case "callers":
            await _by_callers(system.enqueue, numbers, spec.callers)
        case "bulk":
            for chunk in _chunks(numbers, BULK):
                await system.enqueue_many(chunk)
        case "at":
            due = clock.due
            await _by_callers(lambda number: system.enqueue_at(number, due), numbers, spec.callers)
        case "paced":
            for number in numbers:
                await asyncio.sleep(_pause(spec, number))
                shared.sent[number] = time.time_ns()
                await system.enqueue(number)
        case _:
            raise ValueError(f"nobody enqueues in the way {spec.how!r}")
    clock.report()
    await system.close()


async def _by_callers(enqueue: Callable[[int], Awaitable[object]], numbers: Iterable[int], callers: int) -> None:
    left = iter(numbers)

    async def caller() -> None:
        for number in left:
            await enqueue(number)

    await asyncio.gather(*(caller() for _ in range(callers)))


# --- threads ---


def _run_sync(system: SyncSystem, spec: Spec, shared: Shared) -> None:
    if spec.role == "work":
        shared.wait_at_gate(spec.gate)
        system.work()
        return
    system.open()
    for number in range(spec.first + spec.count, spec.first + spec.count + spec.warm):
        system.enqueue(number)
    shared.wait_at_gate(spec.gate)
    clock = Clock(spec)
    numbers = clock.numbers()
    match spec.how:
        case "one":
            for number in numbers:
                system.enqueue(number)
        case "callers":
            _by_threads(system.enqueue, numbers, spec.callers)
        case "bulk":
            for chunk in _chunks(numbers, BULK):
                system.enqueue_many(chunk)
        case "at":
            due = clock.due
            _by_threads(lambda number: system.enqueue_at(number, due), numbers, spec.callers)
        case "paced":
            for number in numbers:
                time.sleep(_pause(spec, number))
                shared.sent[number] = time.time_ns()
                system.enqueue(number)
        case _:
            raise ValueError(f"nobody enqueues in the way {spec.how!r}")
    clock.report()


def _by_threads(enqueue: Callable[[int], object], numbers: Iterable[int], callers: int) -> None:
    left = iter(numbers)
    lock = threading.Lock()  # a generator cannot be asked by two threads at once
    failures: list[BaseException] = []

    def caller() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            try:
                enqueue(number)
            except BaseException as exc:  # noqa: BLE001 - handed on below
                failures.append(exc)
                return

    threads = [threading.Thread(target=caller) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# --- both ---


class Clock:
    """Counts and times what is enqueued, and says so on stdout."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._done = 0
        self._cpu = _cpu()
        self._begin = time.perf_counter()
        self.due = math.ceil(time.time() + spec.lead)  # a whole second: asynq knows no parts of one

    def numbers(self) -> Iterator[int]:
        """The numbers of the tasks, as long as there is time."""
        spec, perf_counter = self._spec, time.perf_counter
        end = self._begin + spec.limit
        for number in range(spec.first, spec.first + spec.count):
            if perf_counter() > end:
                return
            self._done += 1
            yield number

    def report(self) -> None:
        seconds = time.perf_counter() - self._begin
        print(json.dumps({"count": self._done, "seconds": seconds, "cpu": _cpu() - self._cpu, "due": self.due}))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _chunks(numbers: Iterable[int], length: int) -> Iterator[list[int]]:
    chunk: list[int] = []
    for number in numbers:
        chunk.append(number)
        if len(chunk) == length:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _pause(spec: Spec, number: int) -> float:
    """Between half and one and a half of the mean, the same for every system, and in step with nobody's polling."""
    return spec.pause * (0.5 + (number * 0.618_033_988_75) % 1)
