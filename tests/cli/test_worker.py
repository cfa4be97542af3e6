"""``aioasynq worker`` as a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aioasynq import Client, Task, __version__, keys
from aioasynq.devserver import ENV_URL

PATIENCE = 20  # seconds until something that has to happen counts as not happening

TASKS = """
import asyncio, time
from aioasynq import ServeMux, Server

mux = ServeMux()
empty = ServeMux()
server = Server(mux=mux, concurrency=7, queues={"low": 1, "high": 2})
number = 3

class nested:
    mux = mux

@mux.task("greet")
async def greet(name: str):
    print("hello", name, flush=True)

@mux.handler("slow:")
async def slow(task):
    print("slow", flush=True)
    await asyncio.sleep(60)

@mux.handler("thread")
def thread(task):
    print("thread", flush=True)
    time.sleep(60)

@mux.handler("to-thread")
async def to_thread(task):
    print("to-thread", flush=True)
    await asyncio.to_thread(time.sleep, 60)

@mux.handler("stubborn")
async def stubborn(task):
    print("stubborn", flush=True)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
"""


class Worker:
    """A worker that runs, and what it has said so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.said = ""

    async def line(self) -> str:
        """The next line a handler printed."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stdout.readline()).decode().strip()

    async def until(self, text: str) -> str:
        """All it has said on stderr, once *text* is in it."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while text not in self.said:
                line = await self.process.stderr.readline()
                assert line, f"it ended without saying {text!r}:\n{self.said}"
                self.said += line.decode()
        return self.said

    async def end(self) -> int:
        """Its exit code, once it has ended."""
        async with asyncio.timeout(PATIENCE):
            _, rest = await self.process.communicate()
        self.said += rest.decode()
        assert self.process.returncode is not None
        return self.process.returncode


@pytest.fixture
def run_worker(tmp_path: Path) -> Callable[..., object]:
    """``async with run_worker("tasks:mux", "--strict") as worker:``, in a folder that has a module ``tasks``."""
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "broken.py").write_text("import surely_not_there\n")

    @asynccontextmanager
    async def start(*arguments: str, env: dict[str, str] | None = None) -> AsyncGenerator[Worker]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "aioasynq", "worker", *arguments),
            cwd=tmp_path,
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, "COLUMNS": "200", **(env or {})},
        )
        worker = Worker(process)
        try:
            yield worker
        finally:
            if process.returncode is None:
                process.kill()
                await worker.end()

    return start


WRONG = {
    "no colon": (["tasks"], "aioasynq: 'tasks' is no MODULE:ATTRIBUTE, as in myapp.tasks:mux"),
    "no attribute": (["tasks:"], "aioasynq: 'tasks:' is no MODULE:ATTRIBUTE, as in myapp.tasks:mux"),
    "two colons": (["tasks:mux:x"], "aioasynq: 'tasks:mux:x' is no MODULE:ATTRIBUTE, as in myapp.tasks:mux"),
    "module missing": (
        ["nope:mux"],
        "aioasynq: there is no module 'nope' for 'nope:mux'; it was looked for in {cwd} first",
    ),
    "package missing": (
        ["nope.tasks:mux"],
        "aioasynq: there is no module 'nope' for 'nope.tasks:mux'; it was looked for in {cwd} first",
    ),
    "attribute missing": (["tasks:nope"], "aioasynq: module 'tasks' has no attribute 'nope'"),
    "dotted attribute missing": (["tasks:nested.nope"], "aioasynq: module 'tasks' has no attribute 'nested.nope'"),
    "wrong type": (["tasks:number"], "aioasynq: 'tasks:number' is of type int; a ServeMux or a Server is needed"),
    "no handler": (["tasks:empty"], "aioasynq: tasks:empty has no handler"),
    "weight that is no number": (
        ["tasks:mux", "--queues", "a:6,b:x"],
        "aioasynq: --queues 'a:6,b:x': 'b:x' is no NAME or NAME:WEIGHT; write it as in critical:6,default:3",
    ),
    "queue without a name": (
        ["tasks:mux", "--queues", "a,"],
        "aioasynq: --queues 'a,': '' is no NAME or NAME:WEIGHT; write it as in critical:6,default:3",
    ),
    "queue named twice": (
        ["tasks:mux", "--queues", "a,a:2"],
        "aioasynq: --queues 'a,a:2': 'a:2' is there twice; write it as in critical:6,default:3",
    ),
    "weight of nothing": (["tasks:mux", "--queues", "a:0"], "aioasynq: queues['a'] must be at least 1, got 0"),
    "queue with braces": (["tasks:mux", "--queues", "{a}"], "aioasynq: queue must not contain braces, got '{a}'"),
    "concurrency": (["tasks:mux", "--concurrency", "0"], "aioasynq: concurrency must be at least 1, got 0"),
    "shutdown timeout": (
        ["tasks:mux", "--shutdown-timeout", "-1"],
        "aioasynq: shutdown_timeout must be at least 0, got -1.0",
    ),
    "scheme": (
        ["tasks:mux", "--url", "http://:secret@localhost"],
        (
            "aioasynq: redis must be a URL that begins with one of "
            "redis://, rediss://, unix://, redis-cluster://; got 'http://:***@localhost'"
        ),
    ),
    "password with a slash": (
        ["tasks:mux", "--url", "redis://:sec/ret@localhost"],
        (
            "aioasynq: redis must be a URL like redis://localhost:6379/0, got 'redis://:***@localhost': "
            "its port is no number; in a password a slash is written %2F and a # %23"
        ),
    ),
}


@pytest.mark.parametrize(("arguments", "text"), WRONG.values(), ids=WRONG)
async def test_what_is_wrong_is_said_in_one_line(run_worker, tmp_path, arguments, text):
    async with run_worker(*arguments) as worker:
        assert await worker.end() == 2
    assert worker.said.splitlines() == [text.replace("{cwd}", str(tmp_path))]


async def test_a_module_that_fails_is_shown_with_the_place(run_worker):
    async with run_worker("broken:mux") as worker:
        assert await worker.end() == 1
    assert 'broken.py", line 1' in worker.said
    assert "No module named 'surely_not_there'" in worker.said


async def test_the_banner_and_a_task(run_worker, redis_url):
    options = ("--queues", "critical:6, default:3,low", "--concurrency", "20", "--url", redis_url)
    async with run_worker("tasks:mux", *options) as worker:
        said = await worker.until("started")
        port = redis_url.rpartition(":")[2]
        assert said.splitlines()[:4] == [
            f"aioasynq {__version__}",
            f"  server       {socket.gethostname()}:{worker.process.pid}",
            f"  redis        redis://127.0.0.1:{port}",
            "  queues       critical 6, default 3, low 1 (weighted)",
        ]
        assert re.match(r"  concurrency  20, on (uvloop|asyncio)$", said.splitlines()[4])
        assert said.splitlines()[5] == "  handlers     greet, slow:, thread, to-thread, stubborn"
        async with Client(redis_url) as client:
            await client.enqueue(Task("greet", '{"name": "you"}', queue="low"))
        assert await worker.line() == "hello you"
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    assert "SIGTERM received: shutting down" in worker.said


async def test_a_server_brings_its_options_and_those_given_win(run_worker, redis_url):
    options = ("--strict", "--concurrency", "9", "--log-level", "WARNING")
    async with run_worker("tasks:server", *options, env={ENV_URL: redis_url}) as worker:
        said = await worker.until("handlers")
        assert "  queues       low 1, high 2 (strict)\n" in said
        assert "  concurrency  9, on " in said
        async with Client(redis_url) as client:
            await client.enqueue(Task("greet", '{"name": "you"}', queue="high"))
        assert await worker.line() == "hello you"
        worker.process.send_signal(signal.SIGINT)
        assert await worker.end() == 0
    assert "INFO" not in worker.said


async def test_a_dotted_attribute(run_worker, redis_url):
    async with run_worker("tasks:nested.mux", "--url", redis_url) as worker:
        await worker.until("started")


async def test_the_password_is_not_shown_and_a_wrong_one_ends_it(run_worker, own_server):
    server = own_server(config={"requirepass": "s3cret"})
    async with run_worker("tasks:mux", "--url", server.url) as worker:
        await worker.until("started")
        assert "s3cret" not in worker.said
    async with run_worker("tasks:mux", "--url", server.url.replace("s3cret", "wr0ng")) as worker:
        assert await worker.end() == 1
    last = worker.said.splitlines()[-1]
    assert last.startswith(f"aioasynq: the first look failed on redis://127.0.0.1:{server.port}/0: ")
    assert "wr0ng" not in worker.said
    assert "Traceback" not in worker.said


async def test_redis_may_come_later(run_worker, own_server):
    server = own_server()
    server.stop()
    async with run_worker("tasks:mux", "--url", server.url) as worker:
        await worker.until("no contact with Redis")
        server.start()
        await worker.until("again after")
        async with Client(server.url) as client:
            await client.enqueue(Task("greet", '{"name": "again"}'))
        assert await worker.line() == "hello again"


async def test_a_running_task_is_given_back_when_time_is_up(run_worker, redis_url, redis):
    async with (
        run_worker("tasks:mux", "--url", redis_url, "--shutdown-timeout", "0.2") as worker,
        Client(redis_url) as client,
    ):
        info = await client.enqueue(Task("slow:one"))
        assert await worker.line() == "slow"
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    assert await redis.lrange(keys.pending("default"), 0, -1) == [info.id.encode()]


async def test_a_second_signal_does_not_wait(run_worker, redis_url, redis):
    async with (
        run_worker("tasks:mux", "--url", redis_url, "--shutdown-timeout", "50") as worker,
        Client(redis_url) as client,
    ):
        info = await client.enqueue(Task("slow:one"))
        assert await worker.line() == "slow"
        worker.process.send_signal(signal.SIGTERM)
        await worker.until("takes no more tasks")
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    assert "SIGTERM received again" in worker.said
    assert await redis.lrange(keys.pending("default"), 0, -1) == [info.id.encode()]


STUCK = {
    "a plain function": ("thread", r"thread aioasynq-handler_\d+ at .*tasks\.py:\d+ in thread\n"),
    "asyncio.to_thread": ("to-thread", r"thread aioasynq-to-thread_\d+ at "),
    "a coroutine that swallows its cancellation": ("stubborn", r"task Task-\d+\n"),
}


@pytest.mark.parametrize(("task_type", "text"), STUCK.values(), ids=STUCK)
async def test_the_process_ends_whatever_is_stuck_in_it(run_worker, redis_url, redis, task_type, text):
    async with (
        run_worker("tasks:mux", "--url", redis_url, "--shutdown-timeout", "0.1") as worker,
        Client(redis_url) as client,
    ):
        info = await client.enqueue(Task(task_type))
        assert await worker.line() == task_type
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    assert re.search(f"the process ends although something in it does not: {text}", worker.said)
    assert await redis.lrange(keys.pending("default"), 0, -1) == [info.id.encode()]


@pytest.mark.parametrize(
    "program", [[sys.executable, "-m", "aioasynq"], [str(Path(sys.executable).with_name("aioasynq"))]]
)
async def test_the_version(program):
    process = await asyncio.create_subprocess_exec(*program, "--version", stdout=PIPE)
    async with asyncio.timeout(PATIENCE):
        out, _ = await process.communicate()
    assert (process.returncode, out.decode()) == (0, f"aioasynq {__version__}\n")
