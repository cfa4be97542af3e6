"""The works: what is done in one cell, and which figures come out of it.

Figures have the same names everywhere: ``rate`` (tasks a second), ``cpu_us`` and ``redis_us`` (microseconds of CPU a
task, of the client or worker and of Redis), ``p50_ms`` and ``p99_ms``, ``memory`` (bytes), and what a work says.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks import processes
from benchmarks.cell import Cell, CellError, percentile
from benchmarks.monitor import Monitor
from benchmarks.program import SLEEP

Figures = dict[str, float]

WARM = 100  #: tasks enqueued before the clock starts
LIMIT = 10.0  #: seconds of enqueuing after which the rate is taken of what was done
DRAIN_LIMIT = 20.0  #: seconds of draining after which the rate is taken of what was done
CONCURRENCY = 100
IDEAL = CONCURRENCY / SLEEP  #: tasks a second that 100 handlers of 5 ms can do


@dataclass(frozen=True)
class Work:
    name: str
    title: str
    #: The figure that stands in the table, its unit there, and whether more of it is better.
    figure: str
    unit: str
    run: Callable[[Cell], Figures]
    tasks: int
    more_is_better: bool = True
    #: What a system has to be able to do, see registry.py.
    needs: frozenset[str] = frozenset()
    #: Run by aioasynq alone: it is compared with itself.
    ours_only: bool = False
    #: Counts that do not vary are taken in this many rounds only.
    rounds: int = 1_000
    #: So many times as many rounds, behind those of all works: for what is short and varies much.
    times: int = 1
    quick: bool = False
    also: tuple[tuple[str, str, str], ...] = field(default=())  #: further figures in the table: figure, title, unit

    def rounds_of(self, rounds: int) -> int:
        """In how many rounds it is run, when all works are run in *rounds*."""
        return min(rounds * self.times, self.rounds)


# --- W1, W2, W2b: enqueue ---


def _enqueue(how: str, count: int) -> Callable[[Cell], Figures]:
    def run(cell: Cell) -> Figures:
        done = cell.enqueue(how, count, warm=WARM, limit=LIMIT)
        return {
            "rate": done.rate,
            "cpu_us": done.cpu / done.count * 1e6,
            "redis_us": done.redis_cpu / done.count * 1e6,
            "count": done.count,
        }

    return run


# --- W3, W3m, W4, W10: drain ---


def _drain(count: int, *, handler: str = "noop", workers: int = 1) -> Callable[[Cell], Figures]:
    def run(cell: Cell) -> Figures:
        cell.preload(count)
        return drain(cell, count, handler=handler, workers=workers)

    return run


def drain(
    cell: Cell, count: int, *, handler: str = "noop", workers: int = 1, everything: bool = False, served: int = 1
) -> Figures:
    """Let workers handle *count* tasks that are pending; the clock runs from the first handler to the last."""
    shared = cell.shared
    children = cell.work(workers, concurrency=CONCURRENCY, handler=handler, everything=everything, served=served)
    if not cell.wait_for("waiting for the first task", lambda: shared.handled() > 0, 30.0):
        raise CellError("the worker handled nothing for 30 s")
    commands = cell.commands()
    first, cpu, redis_cpu = shared.handled(), cell.workers_cpu(children), cell.redis_cpu()
    whole = cell.wait_for("draining", lambda: shared.handled() >= count, DRAIN_LIMIT)
    last, cpu_end, redis_cpu_end = shared.handled(), cell.workers_cpu(children), cell.redis_cpu()
    commands_end = cell.commands()
    time.sleep(0.2)  # what runs twice would show by now
    for child in children:  # else the rest of the queue goes on while the moments are read
        child.kill()
    moments = [moment for moment in shared.began if moment]
    measured = max(last - first, 1)
    rate = (len(moments) - 1) / (max(moments) - min(moments)) * 1e9
    return {
        "rate": rate,
        "cpu_us": (cpu_end - cpu) / measured * 1e6,
        "redis_us": (redis_cpu_end - redis_cpu) / measured * 1e6,
        "count": len(moments),
        "whole": float(whole),
        # A worker that is killed while it has others to do may have noted a moment and not counted it yet.
        "twice": max(0, shared.handled() - len(moments)),
        **({"ideal": rate / IDEAL} if handler == "sleep" else {}),
        **_a_task(commands, commands_end, measured),
    }


def _a_task(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], tasks: int) -> Figures:
    """Calls and microseconds a task of each command, as ``calls:lpush`` and ``usec:lpush``."""
    figures: Figures = {}
    for name, (calls, usec) in after.items():
        calls_before, usec_before = before.get(name, (0, 0))
        if name not in {"info", "ping"} and calls > calls_before:
            figures[f"calls:{name}"] = (calls - calls_before) / tasks
            figures[f"usec:{name}"] = (usec - usec_before) / tasks
    return figures


def _everything(count: int) -> Callable[[Cell], Figures]:
    def run(cell: Cell) -> Figures:
        done = cell.enqueue("callers", count, everything=True, limit=LIMIT)
        figures = drain(cell, done.count, everything=True)
        return {**figures, "enqueue_rate": done.rate, "enqueue_cpu_us": done.cpu / done.count * 1e6}

    return run


# --- W5, W5h: latency ---


def _latency(count: int, *, workers: int = 1, pause: float = 0.025) -> Callable[[Cell], Figures]:
    def run(cell: Cell) -> Figures:
        shared = cell.shared
        cell.work(workers, concurrency=CONCURRENCY)
        cell.settle_down(first=count, pause=2.0 if workers == 1 else 6.0)
        before = shared.handled()
        figures: Figures = {}
        if workers == 1:
            done = cell.enqueue("paced", count, pause=pause)
            _all_handled(cell, before + count)
        else:  # so few commands that MONITOR costs nothing
            with Monitor(cell.server.port) as idle:
                time.sleep(5.0)
            with Monitor(cell.server.port) as busy:
                done = cell.enqueue("paced", count, pause=pause)
                _all_handled(cell, before + count)
            resting = idle.count / 5.0
            figures["idle_commands_s"] = resting
            figures["commands"] = (busy.count - resting * done.seconds) / count
        late = [(shared.began[number] - shared.sent[number]) / 1e6 for number in range(count)]
        return {**figures, "p50_ms": percentile(late, 0.5), "p99_ms": percentile(late, 0.99), "max_ms": max(late)}

    return run


def _all_handled(cell: Cell, count: int) -> None:
    if not cell.wait_for("waiting for the last task", lambda: cell.shared.handled() >= count, 30.0):
        raise CellError(f"{count - cell.shared.handled()} tasks were not handled within 30 s")


# --- W6: idle ---


def _idle(seconds: float) -> Callable[[Cell], Figures]:
    def run(cell: Cell) -> Figures:
        (worker,) = cell.work(concurrency=CONCURRENCY)
        cell.settle_down(first=0, pause=6.0)
        redis_cpu = cell.redis_cpu()
        with Monitor(cell.server.port) as monitor:
            cpu = processes.fine_cpu_of_session(worker.pid)
            time.sleep(seconds)
            used = processes.fine_cpu_of_session(worker.pid) - cpu
        return {
            "commands_s": monitor.count / seconds,
            "cpu_percent": used / seconds * 100,
            "redis_percent": (cell.redis_cpu() - redis_cpu) / seconds * 100,
        }

    return run


# --- W7: memory ---

_BARE = "import redis.asyncio, uvloop, time; print('ready', flush=True); time.sleep(600)"


def _memory(count: int) -> Callable[[Cell], Figures]:
    def run(cell: Cell) -> Figures:
        cell.preload(100, first=count)  # what is stored once, scripts for instance, is not the tasks'
        before = cell.used_memory()
        cell.preload(count)
        stored = cell.used_memory() - before
        (worker,) = cell.work(concurrency=CONCURRENCY)
        if not cell.wait_for("draining", lambda: cell.shared.handled() >= count + 100, 60.0):
            raise CellError("the queue was not drained within 60 s")
        time.sleep(1.0)
        memory = processes.memory_of_session(worker.pid)
        figures = {"bytes": stored / count, "stored": float(stored), "memory": memory, "memory_mib": memory / 2**20}
        if cell.system.ours:
            bare = cell.program(_BARE)
            cell.wait_for("importing", lambda: bare.said().startswith("ready"), 20.0)
            figures["bare"] = processes.memory_of_session(bare.pid)
            figures["over_bare_mib"] = (memory - figures["bare"]) / 2**20
        return figures

    return run


# --- W8: many due at one moment ---


def _due(count: int) -> Callable[[Cell], Figures]:
    def run(cell: Cell) -> Figures:
        shared = cell.shared
        cell.work(concurrency=CONCURRENCY)
        cell.settle_down(first=count)
        before = shared.handled()
        done = cell.enqueue("at", count, lead=cell.system.lead)
        if done.seconds > cell.system.lead - 0.5:
            raise CellError(f"{count} delayed tasks took {done.seconds:.1f} s to enqueue; they were due before that")
        limit = max(0.0, done.due - time.time()) + 60.0
        if not cell.wait_for("waiting for what is due", lambda: shared.handled() >= before + count, limit):
            raise CellError(f"{before + count - shared.handled()} of {count} tasks had not run after 60 s")
        late = [shared.began[number] / 1e6 - done.due * 1e3 for number in range(count)]
        return {
            "p50_ms": percentile(late, 0.5),
            "p99_ms": percentile(late, 0.99),
            "first_ms": min(late),
            "early": float(sum(moment < 0 for moment in late)),
            "twice": shared.handled() - before - count,
        }

    return run


# --- W9: growth ---


PLAIN = "plain_"  #: before the name of a figure: the same with one queue and nothing else pending


def _growth(count: int, *, pending: int = 0, queues: int = 1, used: int = 1) -> Callable[[Cell], Figures]:
    """Enqueue and drain *count* tasks beside *pending* others, over *used* queues of the *queues* that are served.

    Right after it, and right before, the same is done with one queue and nothing else pending, on a Redis of its own:
    machines change their speed by the minute, and what is to be told are a few percent. Each task names its queue here
    and there, so that they differ in what there is and not in what is said.
    """

    def run(cell: Cell) -> Figures:
        if pending:
            cell.preload(pending, first=count + WARM)
        with cell.another(count + WARM) as plain:
            enqueued = cell.enqueue("callers", count, warm=WARM, limit=30.0, queues=used, named=True)
            plain_enqueued = plain.enqueue("callers", count, warm=WARM, limit=30.0, named=True)
            plain_figures = drain(plain, count)
            figures = drain(cell, count, served=queues)
        return {
            **figures,
            "enqueue_rate": enqueued.rate,
            f"{PLAIN}rate": plain_figures["rate"],
            f"{PLAIN}enqueue_rate": plain_enqueued.rate,
        }

    return run


GROWTH = (
    ("10 queues", 0, 10, 10),
    ("100 queues, 10 used", 0, 100, 10),
    ("10,000 pending", 10_000, 1, 1),
    ("100,000 pending", 100_000, 1, 1),
    ("1,000,000 pending", 1_000_000, 1, 1),
)

_MORE = (("cpu_us", "CPU a task", "µs"), ("redis_us", "Redis CPU a task", "µs"))
_P99 = (("p99_ms", "p99", "ms"),)


def works() -> tuple[Work, ...]:
    """All works in the order in which they run."""
    bulk, at, queues = frozenset({"bulk"}), frozenset({"at"}), frozenset({"queues"})
    rate = ("rate", "tasks/s")
    return (
        Work(
            "W1",
            "enqueue, one awaited at a time",
            *rate,
            _enqueue("one", 10_000),
            10_200,
            quick=True,
            times=3,
            also=_MORE,
        ),
        Work("W2", "enqueue, 100 callers at once", *rate, _enqueue("callers", 20_000), 20_200, quick=True, also=_MORE),
        Work(
            "W2b",
            "enqueue in bulk, 1,000 a call",
            *rate,
            _enqueue("bulk", 50_000),
            50_200,
            needs=bulk,
            quick=True,
            also=_MORE,
        ),
        Work("W3", "drain no-ops, one process, 100 at a time", *rate, _drain(20_000), 20_000, quick=True, also=_MORE),
        *(
            Work(
                f"W3m {workers}",
                f"drain no-ops, {workers} processes" if workers > 1 else "drain no-ops, 1 process",
                *rate,
                _drain(40_000, workers=workers),
                40_000,
                also=_MORE,
            )
            for workers in (1, 2, 4)
        ),
        Work(
            "W4",
            "drain sleeps of 5 ms, 100 at a time (ideal: 20,000/s)",
            *rate,
            _drain(20_000, handler="sleep"),
            20_000,
            quick=True,
            also=_MORE,
        ),
        Work(
            "W5",
            "enqueue to handler start, idle worker, p50",
            "p50_ms",
            "ms",
            _latency(200),
            300,
            more_is_better=False,
            quick=True,
            also=_P99,
        ),
        Work(
            "W5h",
            "as W5 with 20 idle workers, p50",
            "p50_ms",
            "ms",
            _latency(200, workers=20, pause=0.05),
            300,
            more_is_better=False,
            rounds=3,
            also=(*_P99, ("commands", "commands an enqueue", "")),
        ),
        Work(
            "W6",
            "idle worker: commands a second",
            "commands_s",
            "/s",
            _idle(10.0),
            100,
            more_is_better=False,
            quick=True,
            also=(("cpu_percent", "CPU", "%"),),
        ),
        Work(
            "W7",
            "a pending task in Redis",
            "bytes",
            "bytes",
            _memory(10_000),
            10_300,
            more_is_better=False,
            rounds=2,
            also=(("memory_mib", "worker after a drain", "MiB"),),
        ),
        Work(
            "W8",
            "10,000 tasks due at one moment: late, p50",
            "p50_ms",
            "ms",
            _due(10_000),
            10_200,
            more_is_better=False,
            needs=at,
            quick=True,
            also=_P99,
        ),
        *(
            Work(
                f"W9 {title}",
                f"drain no-ops with {title}",
                *rate,
                _growth(40_000, pending=pending, queues=served, used=used),
                40_000 + 2 * WARM + pending,
                needs=queues,
                ours_only=True,
                times=5 if pending < 1_000_000 else 3,  # a million takes its time
                also=(
                    ("enqueue_rate", "enqueue, 100 callers", "tasks/s"),
                    (f"{PLAIN}rate", "drain beside it, one queue and 0 pending", "tasks/s"),
                    (f"{PLAIN}enqueue_rate", "enqueue beside it", "tasks/s"),
                ),
            )
            for title, pending, served, used in GROWTH
        ),
        Work(
            "W10",
            "drain with everything on",
            *rate,
            _everything(20_000),
            20_200,
            needs=frozenset({"everything"}),
            ours_only=True,
            also=(*_MORE, ("enqueue_rate", "enqueue, 100 callers", "tasks/s")),
        ),
    )
