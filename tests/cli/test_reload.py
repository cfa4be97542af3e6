"""``aioasynq worker --reload``: another worker when a file has changed."""

from __future__ import annotations

import os
import re
import signal

import httpx
import pytest

from aioasynq import Client, Task
from tests.cli.stage import PATIENCE, Worker, run_main
from tests.server.stage import eventually

#: What its handler prints differs in length: Python tells a file from its compiled form by its second and its size.
MODULE = """
import asyncio, os
from aioasynq import ServeMux, Server

mux = ServeMux()
server = Server(mux=mux, lease=60)

@mux.handler("say")
async def say(task):
    print("{word}", os.getpid(), flush=True)

@mux.handler("hold")
async def hold(task):
    print("hold", os.getpid(), task.retried, flush=True)
    while not os.path.exists("open"):
        await asyncio.sleep(0.02)
    print("through", flush=True)
"""


async def said(worker: Worker, word: str) -> int:
    """The process that has printed *word*."""
    line = (await worker.line()).split()
    assert line[0] == word
    return int(line[1])


async def test_another_worker_when_a_file_has_changed(run_worker, redis_url, tmp_path):
    for folder in ("src", "lib", "other"):
        (tmp_path / folder).mkdir()
    module = tmp_path / "src" / "jobs.py"
    module.write_text(MODULE.format(word="one"))
    options = (
        "--reload",
        "--reload-dir",
        "src",
        "--reload-dir",
        "lib",
        "--shutdown-timeout",
        "50",
        "--metrics-port",
        "0",
    )
    async with run_worker("src.jobs:server", "--url", redis_url, *options) as worker, Client(redis_url) as client:
        await worker.until(" started")
        assert "  reload       when a Python file changes in src, lib\n" in worker.said
        assert "  processes " not in worker.said
        await client.enqueue(Task("say"))
        first = await said(worker, "one")
        await client.enqueue(Task("hold"))
        assert await said(worker, "hold") == first

        # What is not watched, or no Python, is passed over; what runs may finish.
        (tmp_path / "other" / "x.py").write_text("")
        (tmp_path / "src" / "x.txt").write_text("")
        module.write_text(MODULE.format(word="second"))
        await worker.until("waiting 50 s more at most for running tasks: 1: ")
        assert "src/jobs.py: reloading\n" in worker.said
        assert worker.said.count("reloading") == 1
        (tmp_path / "open").touch()
        assert await worker.line() == "through"
        await client.enqueue(Task("say"))
        second = await said(worker, "second")
        assert second != first
        assert worker.said.count("  handlers ") == 1

        # What is broken is shown, and the next change tries again.
        module.write_text("1 / 0\n")
        await worker.until("the worker cannot start; the next change of a file tries again")
        assert "ZeroDivisionError: division by zero\n" in worker.said
        module.write_text(MODULE.format(word="the third"))
        (tmp_path / "open").unlink()
        await client.enqueue(Task("hold", task_id="h"))
        third = await said(worker, "hold")

        # What a dead one held is taken back at once, not when its lease ends.
        os.kill(third, signal.SIGKILL)
        await worker.until("the worker was killed by SIGKILL; the next change of a file tries again")
        await worker.until("task h of queue default will run again")
        (tmp_path / "lib" / "helper.py").write_text("")
        await worker.until("lib/helper.py: reloading")
        line = (await worker.line()).split()
        assert (line[0], line[2]) == ("hold", "1")
        assert int(line[1]) != third
        (tmp_path / "open").touch()
        assert await worker.line() == "through"
        found = re.search(r"metrics at (http://\S+)/metrics", worker.said)
        assert found
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
            await eventually(lambda: _has_one_process(http, found[1]))
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    assert "SIGTERM received: shutting down" in worker.said
    assert "watchfiles" not in worker.said


async def _has_one_process(http: httpx.AsyncClient, url: str) -> bool:
    """That tells of itself; those before are no more."""
    return "\naioasynq_worker_processes 1.0\n" in (await http.get(f"{url}/metrics")).text


async def test_a_folder_that_is_made_anew_is_watched(run_worker, redis_url, tmp_path):
    """As by another branch of version control: the one that was watched is gone."""
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "jobs.py").write_text(MODULE.format(word="one"))
    options = ("--url", redis_url, "--reload", "--reload-dir", "src")
    async with run_worker("src.jobs:server", *options) as worker, Client(redis_url) as client:
        await worker.until(" started")
        folder.rename(tmp_path / "before")
        folder.mkdir()
        (folder / "jobs.py").write_text(MODULE.format(word="second"))
        await worker.until(": reloading\n")
        await worker.until(" started", times=2)
        (folder / "jobs.py").write_text(MODULE.format(word="the third"))
        await worker.until("src/jobs.py: reloading\n")
        await worker.until(" started", times=3)
        await client.enqueue(Task("say"))
        assert (await worker.line()).startswith("the third ")
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0


async def test_what_is_wrong_at_the_start_ends_it(run_worker, redis_url):
    async with run_worker("broken:mux", "--url", redis_url, "--reload") as worker:
        assert await worker.end() == 2
    assert "ModuleNotFoundError: No module named 'surely_not_there'" in worker.said
    assert "tries again" not in worker.said


ONE = (
    "aioasynq: --reload and {} exclude each other: it runs one process for development, and goes on until it is told "
    "to stop; leave one of them out"
)
WRONG = {
    "several processes": (["--reload", "--processes", "2"], ONE.format("--processes")),
    "a limit of memory": (["--reload", "--max-memory", "1GB"], ONE.format("--max-memory")),
    "a limit of tasks": (["--reload", "--max-tasks", "9"], ONE.format("--max-tasks")),
    "a burst": (["--reload", "--burst"], ONE.format("--burst")),
    "no reload": (
        ["--reload-dir", "src"],
        "aioasynq: --reload-dir is about --reload, as in --reload --reload-dir src; there is none",
    ),
    "no folder": (["--reload", "--reload-dir", "nope"], "aioasynq: --reload-dir 'nope' is not there, in {cwd}"),
    "a file": (["--reload", "--reload-dir", "f"], "aioasynq: --reload-dir 'f' is a file; give the folder it is in"),
    "nothing": (["--reload", "--reload-dir", ""], "aioasynq: --reload-dir '' is empty; give a folder, as in src"),
    "no target": (["--reload"], "aioasynq: 'tasks' is no MODULE:NAME, as in tasks:mux"),
}


@pytest.mark.parametrize(("arguments", "text"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_a_line(monkeypatch, capsys, tmp_path, arguments, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").touch()
    assert run_main(monkeypatch, "worker", "tasks", *arguments) == 2
    assert capsys.readouterr().err == text.replace("{cwd}", str(tmp_path)) + "\n"
