"""What ``make demo`` runs: the web app beside this file, real HTTP requests, and what became of the tasks.

It finds or starts a Redis, ends by itself, and leaves nothing behind. When the tasks are slower than they should be
anywhere it says so: the machine is busy with something else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import httpx
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from aioasynq import keys
from aioasynq.devserver import DevServerError, free_port, redis_url

HERE = Path(__file__).parent
LONE = 100  # tasks that are sent one by one into the idle server
BURST = 10_000
LEAST_RATE = 3_000  # tasks a second
MOST_MEDIAN = 50  # milliseconds from enqueue to the start of the handler
LIMIT = 45  # seconds for all of it

console = Console()


async def main() -> int:
    try:
        with redis_url() as url:
            async with asyncio.timeout(LIMIT):
                slow = await show(url)
    except TimeoutError:
        return failed(f"it took more than {LIMIT} s")
    except (DevServerError, RedisError) as exc:
        return failed(str(exc))
    for text in slow:
        console.print(text, style="yellow")
    how_to_go_on()
    return 0


def failed(why: str) -> int:
    console.print(f"the demo failed: {why}", style="red", highlight=False)
    return 1


async def show(url: str) -> list[str]:
    queue = f"demo-{uuid4().hex[:8]}"  # the Redis may be one that is in use
    async with Redis.from_url(url) as redis:
        version = (await redis.info("server"))["redis_version"]
        try:
            async with running_app(url, queue) as http:
                console.print(
                    f"Redis {version}, and a web app with a worker in it on {http.base_url}\n", highlight=False
                )
                outcomes = await single_tasks(http, redis, queue)
                latencies = await lone_tasks(http)
                seconds = await burst(http)
        finally:
            await forget(redis, queue)
    return report(outcomes, latencies, seconds)


# ── what is tried ──


async def single_tasks(http: httpx.AsyncClient, redis: Redis, queue: str) -> list[tuple[str, str, str]]:
    """Four requests, and what became of their tasks: (request, what happened, when)."""
    requests: list[tuple[str, dict[str, Any], int]] = [  # path, body, how often its handler is called
        ("/welcome", {"user_id": 42}, 1),
        ("/reminders", {"text": "tea", "seconds": 1}, 1),
        ("/payments", {"amount": 100}, 3),
        ("/imports", {"path": "notes.txt"}, 2),
    ]
    sent: dict[str, tuple[str, float]] = {}
    for path, body, _ in requests:
        began = time.time()
        task = await post(http, path, body)
        sent[task["id"]] = (path, began)
        console.print(f"POST {path:<11} {task['state']:<10} task {task['id']}", highlight=False)
    tries = sum(times for _, _, times in requests)

    async def all_tried() -> bool:
        return len((await get(http, "/journal"))["journal"]) >= tries

    with console.status("waiting until they have run"):
        await until(all_tried)
    outcomes: list[tuple[str, str, str]] = []
    journal: list[dict[str, Any]] = (await get(http, "/journal"))["journal"]
    for task_id, (path, began) in sent.items():
        entries = [entry for entry in journal if entry["id"] == task_id]
        outcomes += [(path, entry["what"], f"after {(entry['at'] - began) * 1000:,.0f} ms") for entry in entries]
        if entries[-1]["what"].startswith("failed"):

            async def archived(task_id: str = task_id) -> bool:
                return await redis.zscore(keys.archived(queue), task_id) is not None

            await until(archived)
            outcomes.append((path, "is in the archive", "no retries left"))
    return outcomes


async def lone_tasks(http: httpx.AsyncClient) -> list[float]:
    """Milliseconds from enqueue to the start of the handler, sorted."""
    latencies: list[float] = []
    with progress() as bar:
        row = bar.add_task(f"{LONE} tasks, one by one into the idle server", total=LONE)
        for _ in range(LONE):
            latencies.append((await post(http, "/ping", {}))["ms"])
            bar.advance(row)
            await asyncio.sleep(0.005)  # let it become idle
    return sorted(latencies)


async def burst(http: httpx.AsyncClient) -> float:
    """Seconds from the request until the last of the tasks has run."""
    with progress() as bar:
        row = bar.add_task(f"{BURST:,} tasks at once", total=BURST)
        began = time.perf_counter()

        async def all_done() -> bool:
            ticks = (await get(http, "/journal"))["ticks"]
            bar.update(row, completed=ticks)
            return bool(ticks >= BURST)

        async with asyncio.TaskGroup() as group:
            group.create_task(post(http, "/ticks", {"count": BURST}))
            group.create_task(until(all_done))
        return time.perf_counter() - began


def report(outcomes: list[tuple[str, str, str]], latencies: list[float], seconds: float) -> list[str]:
    """Show what happened, and return what was slower than it should be."""
    table = Table("request", "what happened to its task", "when", title="What happened", title_justify="left")
    last = ""
    for path, what, when in outcomes:
        table.add_row("" if path == last else path, what, when, style="" if what.startswith("done") else "yellow")
        last = path
    table.add_section()
    median, p99 = latencies[len(latencies) // 2], latencies[round(len(latencies) * 0.99) - 1]
    rate = BURST / seconds
    table.add_row(
        "/ping", f"{LONE} tasks, from enqueue to the start of the handler", f"p50 {median:.1f}, p99 {p99:.1f} ms"
    )
    table.add_row("/ticks", f"{BURST:,} tasks, enqueued and run by one process", f"{seconds:.2f} s, {rate:,.0f}/s")
    console.print()
    console.print(table)
    slow: list[str] = []
    if rate < LEAST_RATE:
        slow.append(f"only {rate:,.0f} tasks a second: is the machine busy? {LEAST_RATE:,} should be possible anywhere")
    if median > MOST_MEDIAN:
        slow.append(f"{median:.0f} ms until a task starts: is the machine busy? {MOST_MEDIAN} are possible anywhere")
    return slow


def how_to_go_on() -> None:
    programs, examples = from_here(Path(sys.executable).parent), from_here(HERE)
    console.print("\nGo on by hand: a Redis and the app, each in a terminal of its own, and requests in a third.")
    for command in (
        f"{programs}/python -m aioasynq.devserver",
        f"{programs}/uvicorn --app-dir {examples} webapp:app",
        "curl -X POST localhost:8000/welcome -d '{\"user_id\": 42}'",
        "curl localhost:8000/journal",
    ):
        console.print(f"  {command}", highlight=False, soft_wrap=True)


def from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


# ── around it ──


@contextlib.asynccontextmanager
async def running_app(url: str, queue: str) -> AsyncGenerator[httpx.AsyncClient]:
    """The web app in a process of its own, until the block is left."""
    with tempfile.TemporaryFile() as log:
        process, port = start_app(url, queue, log)
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT, trust_env=False) as http:

                async def answers() -> bool:
                    if process.poll() is not None:
                        raise DevServerError(f"the web app ended at once:\n{read(log)}")
                    try:
                        await get(http, "/journal")
                    except httpx.TransportError:
                        return False
                    return True

                await until(answers)
                yield http
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(process.wait, 10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def start_app(url: str, queue: str, log: IO[bytes]) -> tuple[subprocess.Popen[bytes], int]:
    port = free_port()
    options = ("--app-dir", str(HERE), "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning")
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", *options, "webapp:app"],
        stdout=log,
        stderr=log,
        env={**os.environ, "AIOASYNQ_REDIS_URL": url, "WEBAPP_QUEUE": queue},
    )
    return process, port


def read(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")


async def forget(redis: Redis, queue: str) -> None:
    """Remove all that the demo put into Redis."""
    async for key in redis.scan_iter(f"{keys.prefix(queue)}*", count=1000):
        await redis.delete(key)
    await redis.srem(keys.queues(), queue)


async def post(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = (await http.post(path, json=body)).raise_for_status()
    answer: dict[str, Any] = response.json()
    return answer


async def get(http: httpx.AsyncClient, path: str) -> dict[str, Any]:
    answer: dict[str, Any] = (await http.get(path)).raise_for_status().json()
    return answer


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():  # noqa: ASYNC110 - it is in another process
        await asyncio.sleep(0.02)


def progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
