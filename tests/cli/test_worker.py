"""``aioasynq worker`` as a process of its own."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from aioasynq import Client, Task, __version__, keys
from aioasynq.devserver import ENV_URL
from tests.cli.stage import PATIENCE


@pytest.mark.parametrize("target", ["tasks:make", "tasks:make()", "tasks:make_server"])
async def test_a_factory(run_worker, redis_url, target):
    async with run_worker(target, "--url", redis_url) as worker:
        await worker.until("started")
        assert "  handlers     made\n" in worker.said


async def test_an_empty_variable_counts_as_none(run_worker):
    async with run_worker("tasks:mux", env={ENV_URL: ""}) as worker:
        assert "  redis        redis://localhost:6379/0\n" in await worker.until("  redis ")


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
        assert said.splitlines()[5].startswith("  handlers     greet, slow:, thread, to-thread, stubborn, ")
        async with Client(redis_url) as client:
            await client.enqueue(Task("greet", '{"name": "you"}', queue="low"))
        assert await worker.line() == "hello you"
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    assert "SIGTERM received: shutting down" in worker.said


@pytest.mark.rows(12)
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
    assert f"go back to their queues: 1: {info.id} (slow:one)\n" in worker.said
    assert await redis.lrange(keys.pending("default"), 0, -1) == [info.id.encode()]


async def test_of_many_that_are_given_back_a_few_are_named(run_worker, redis_url, redis):
    async with (
        run_worker("tasks:mux", "--url", redis_url, "--shutdown-timeout", "0") as worker,
        Client(redis_url) as client,
    ):
        for n in range(7):
            await client.enqueue(Task(f"slow:{n}", task_id=f"id{n}"))
            assert await worker.line() == "slow"
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    names = ", ".join(f"id{n} (slow:{n})" for n in range(5))
    assert f"go back to their queues: 7: {names} and 2 more\n" in worker.said
    assert await redis.lrange(keys.pending("default"), 0, -1) == [f"id{n}".encode() for n in reversed(range(7))]


async def test_a_second_signal_does_not_wait(run_worker, redis_url, redis):
    async with (
        run_worker("tasks:mux", "--url", redis_url, "--shutdown-timeout", "50") as worker,
        Client(redis_url) as client,
    ):
        info = await client.enqueue(Task("slow:one"))
        assert await worker.line() == "slow"
        worker.process.send_signal(signal.SIGTERM)
        await worker.until(f"waiting 50 s more at most for running tasks: 1: {info.id} (slow:one)\n")
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    assert "SIGTERM received again" in worker.said
    assert await redis.lrange(keys.pending("default"), 0, -1) == [info.id.encode()]


STUCK = {
    "a plain function": ("thread", r"thread aioasynq-handler_\d+ at .*tasks\.py:\d+ in thread\n"),
    "asyncio.to_thread": ("to-thread", r"thread aioasynq-to-thread_\d+ at "),
    "a coroutine that swallows its cancellation": ("stubborn", r"task [\w-]+ \(stubborn\) of queue default\n"),
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
