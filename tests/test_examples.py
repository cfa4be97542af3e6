"""Each example runs as a reader would run it, on a real Redis, and prints what it should."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import httpx
import pytest

from aioasynq import keys
from aioasynq.devserver import ENV_URL, free_port

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PATIENCE = 30  # seconds until an example counts as one that does not end

PRINTED = {
    "quickstart.py": [
        "email:welcome is pending in queue default",
        "a welcome in it to user 42",
    ],
    "raw_and_typed.py": [
        "image:rotate: raw, b'left' and {'trace': 'abc'} from queue default",
        "image:resize: raw, 1000 bytes, try 1 of 26",
        'report: typed, 2026 and [\'sales\', \'tax\']; the payload is {"year":2026,"kinds":["sales","tax"]}',
        "count: 499500, counted in a thread",
        "report: archived at once, payload of task 'report' does not fit its handler: missing 'kinds'",
        (
            "report: archived at once, payload of task 'report' does not fit its handler: "
            "'kinds[1]': expected `str`, got `int`"
        ),
        "called directly, it is the plain function: 3, counted in the main thread",
    ],
    "typed.py": [
        '{"number":7,"items":[{"name":"pen","count":1}],"price":"1.50","currency":"eur","at":"2026-01-02T00:00:00Z"}',
        "order 7: 1 item for 1.50 EUR in 2026",
        "hello Ada",
        (
            "greet goes to the archive: payload of task 'greet' does not fit its handler: 'customer': "
            "name: String should have at least 2 characters"
        ),
        "not sent: task 'secret': 'password': expected `str`, got `int`",
        "a password of 7 characters",
        "called directly: hello Bob",
    ],
    "context.py": [
        "the database is opened, 0 tasks run",
        "Ada is Ada Lovelace now",
        "after rename: 1 rows",
        "show, try 1: hello",
        "it is still show",
        "after show: 1 rows",
        "the database is closed, 0 tasks run",
    ],
    "scheduled.py": [
        "after 1.2 s: scheduled",
        "after 0.4 s: scheduled",
        "at a moment: scheduled",
        "at once: pending",
        "started: at once",
        "started: after 0.4 s",
        "started: at a moment",
        "started: after 1.2 s",
    ],
    "periodic.py": [
        "spec '61 * * * *': minute must be from 0 to 59, got 61 in '61'",
        "tick",
        "tick",
        "tick",
        "each firing was enqueued once: True",
        "customer ann",
    ],
    "unique.py": [
        "user 1 is about to be synced already",
        "there is a task invoice-7 in queue default already",
        "synced user 1",
        "synced user 2",
        "wrote invoice 7",
        "user 1 can be synced again",
    ],
    "inspect_queues.py": [
        "It is pending, behind 2 other tasks of its queue.",
        "No server has the queue 'default'.",
        "report 0 is printed",
        "report 1 is printed",
        "task 'report-2' in queue 'default' failed: the printer is out of order",
        "report 2 is printed",
        "1 task has run again",
    ],
    "groups.py": ["to ann: news 1, news 2, news 3", "to ann: news 4"],
    "semaphore.py": ["[0, 1, 4, 9, 16, 25]", "at once: 2", "task x had a token"],
    "shutdown.py": [
        "both run; the server is told to stop",
        "the short one has finished",
        "the long one is cancelled, and may clean up",
        "the server has ended",
        "the long one has finished, failures counted: 0",
    ],
    "cpu.py": [
        "counted in a child process, task primes",
        "2262 primes",
        "in a thread of the process of the server",
        "endless: task timed out after 1 s",
        "crash: the child process ended with exit code 3 while it ran the handler",
        "counted in a child process, task primes",
        "25 primes",
    ],
    "progress.py": [
        "0% resizing sea.png",
        "50% resizing hill.png",
        "100% done",
        "2 photos",
        "the last step: file 5000 of 5000",
        "as many steps as files: False",
        "5000 files",
    ],
    "results.py": [
        "the sum is 6",
        "the size is {'width': 3, 'height': 2}",
        'in Redis it is {"width":3,"height":2}',
        r"the thumbnail is b'\x89PNG'",
        "the copy is b'half of it'",
        "no result: division by zero",
    ],
    "from_arq.py": [
        "job a is there already",
        "startup",
        "example.org is busy",
        "example.org is there",
        "result: 11",
        "shutdown",
    ],
    "sync_client.py": [
        "square is pending",
        "10 more from threads, which share a connection",
        "the square of 12 is 144",
        "the sum of the others is 285",
    ],
    "middleware.py": [
        "hello begins",
        "hello nobody",
        "hello ends",
        "image:resize begins",
        "!",
        "ada resizes to 640",
        "image:resize ends",
        "image:resize begins",
        "image:resize failed: who wants that?",
        "image:resize ends",
        "hook: image:resize failed with PermissionError",
    ],
}

#: By task, since the order among them is up to chance.
RETRIES = {
    "flaky": ["try 1 of 4: no answer; to be retried", "try 2 of 4: no answer; to be retried", "try 3 of 4: done"],
    "hopeless": ["try 1 of 2: never works; to be retried", "try 2 of 2: never works; archived"],
    "invalid": ["try 1 of 26: no such user; archived"],
    "outdated": ["try 1 of 26: not wanted any more"],
    "limited": ["try 1 of 1: comes back later", "try 1 of 1: done"],
    "listed": [
        *("try 1 of 4: no answer; to be retried", "try 1 of 4: again in 0.1 s after no answer"),
        *("try 2 of 4: no answer; to be retried", "try 2 of 4: again in 0.2 s after no answer"),
        *("try 3 of 4: no answer; to be retried", "try 3 of 4: again in 0.2 s after no answer"),
        "try 4 of 4: done",
    ],
    "jittered": ["try 1 of 3: no answer; to be retried", "try 2 of 3: no answer; to be retried", "try 3 of 3: done"],
    "broken": ["try 1 of 26: 'bug'; archived"],
}


async def run(name: str, url: str) -> list[str]:
    """What an example prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, ENV_URL: url, "PYTHONWARNINGS": "error", "COLUMNS": "120"},
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, out.decode() + err.decode()
    return out.decode().splitlines()


@pytest.mark.parametrize("name", PRINTED)
async def test_an_example_prints_what_it_should(redis_url, name):
    assert await run(name, redis_url) == PRINTED[name]


async def test_retries(redis_url, redis):
    printed: dict[str, list[str]] = {}
    for line in await run("retries.py", redis_url):
        task_type, _, text = line.partition(", ")
        printed.setdefault(task_type, []).append(text)
    assert printed == RETRIES
    assert await redis.zcard(keys.archived("default")) == 3


async def test_the_web_app_does_not_wait_for_ever(redis_url, redis):
    await redis.set(keys.paused("default"), "1")  # so that the task does not start, as when another worker takes it
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", str(port), "webapp:app"),
        stdout=PIPE,
        stderr=STDOUT,
        env={**os.environ, ENV_URL: redis_url, "WEBAPP_PATIENCE": "0.2"},
    )
    try:
        assert process.stdout is not None
        said = b""
        async with asyncio.timeout(PATIENCE):
            while b"running on" not in said:
                said += await process.stdout.readline()
                assert process.returncode is None, said.decode()
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
                late = await http.post("/ping")
                wrong = [await http.post("/welcome", content=content) for content in ("", "{}", "[]")]
            process.send_signal(signal.SIGTERM)
            said += (await process.communicate())[0]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert late.status_code == 504
    assert "the task did not start in this process within 0.2 s" in late.json()["error"]
    assert [(each.status_code, list(each.json())) for each in wrong] == [(400, ["error"])] * 3
    assert "Traceback" not in said.decode()


async def test_the_web_app(redis_url):
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", str(port), "webapp:app"),
        stdout=PIPE,
        stderr=STDOUT,
        env={**os.environ, ENV_URL: redis_url},
    )
    try:
        assert process.stdout is not None
        said = b""
        async with asyncio.timeout(PATIENCE):
            while b"running on" not in said:
                said += await process.stdout.readline()
                assert process.returncode is None, said.decode()
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
                sent = await http.post("/welcome", json={"user_id": 42})
                assert (sent.status_code, sent.json()["state"]) == (202, "pending")
                later = await http.post("/reminders", json={"text": "tea", "seconds": 3600})
                assert later.json()["state"] == "scheduled"
                assert (await http.post("/ping")).json()["ms"] < 10_000  # one queue, in order: the first has run by now
                journal = (await http.get("/journal")).json()["journal"]
            process.send_signal(signal.SIGTERM)
            said += (await process.communicate())[0]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert [(entry["id"], entry["what"]) for entry in journal] == [(sent.json()["id"], "done: wrote to user 42")]
    assert "Application shutdown complete" in said.decode()
    assert "INFO:aioasynq.server.server:server" in said.decode()  # uvicorn alone would not show it


async def test_the_demo_leaves_nothing_behind(redis_url, redis):
    printed = "\n".join(await run("demo.py", redis_url))
    for text in (
        "done: paid 100",
        "is in the archive",
        "10,000 tasks, enqueued and run by one process",
        "Go on by hand",
    ):
        assert text in printed
    assert await redis.keys() == []


async def test_the_tests_of_an_example(redis_url, monkeypatch):
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(EXAMPLES), "-p", "no:cacheprovider", "-q"),
        *("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function", "-W", "error"),
        str(EXAMPLES / "testing.py"),
        stdout=PIPE,
        stderr=STDOUT,
    )
    async with asyncio.timeout(PATIENCE):
        out, _ = await process.communicate()
    assert "6 passed" in out.decode(), out.decode()


def test_all_examples_are_run():
    others = {"retries.py", "webapp.py", "demo.py", "testing.py"}
    others |= {"fastapi_app.py", "litestar_app.py", "django_app.py"}  # tests/contrib/test_apps.py
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PRINTED) | others
