"""``aioasynq task watch``, in a process of its own, and what ``task inspect`` shows of progress."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process

import pytest

from aioasynq import Client, ServeMux, Server, SkipRetry, Task

PATIENCE = 30


async def command(url: str, *arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aioasynq", *arguments),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "AIOASYNQ_REDIS_URL": url, "PYTHONWARNINGS": "error"},
    )


#: payload, retention: the end as text, as JSON, and the exit code
ENDS: dict[str, tuple[str, int, str, dict[str, object], int]] = {
    "kept": ("", 60, "the task is completed", {"state": "completed", "last_err": ""}, 0),
    "failed": ("x", 0, "the task is archived: no such image", {"state": "archived", "last_err": "no such image"}, 1),
    "gone": ("", 0, "the task has ended and is gone", {"state": None, "last_err": ""}, 0),
}


@pytest.mark.parametrize(("payload", "retention", "text", "as_json", "code"), ENDS.values(), ids=ENDS)
async def test_watch(redis_url, payload, retention, text, as_json, code):
    mux = ServeMux()
    go_on = asyncio.Event()

    @mux.handler("resize")
    async def resize(task: Task) -> None:
        await task.progress(0.4, "resizing\x1b[2J")
        await go_on.wait()
        await task.progress(1.0, "resized")
        if task.payload:
            raise SkipRetry("no such image")

    async with Client(redis_url) as client, Server(redis_url, mux), asyncio.timeout(PATIENCE):
        info = await client.enqueue(Task("resize", payload), retention=retention)
        whose = ("-q", "default", "-i", info.id)
        watches = [await command(redis_url, "task", "watch", *whose, *more) for more in ((), ("--json",))]
        first = []
        for each in watches:
            assert each.stdout is not None
            first.append((await each.stdout.readline()).decode())
        inspect = await command(redis_url, "task", "inspect", *whose)
        shown = (await inspect.communicate())[0].decode()
        assert "Progress:" in shown.replace(" ", "")
        assert " 40% resizing\\x1b[2J" in shown
        go_on.set()
        rest = [(await each.communicate())[0].decode() for each in watches]
    assert [each.returncode for each in watches] == [code, code]
    last = [] if text.endswith("gone") else ["100%  resized"]
    lines = rest[0].splitlines()
    assert first[0] == " 40%  resizing\\x1b[2J\n"
    assert lines in ([*last, text], ["100%  resized", text])
    assert json.loads(first[1]) == {"progress": {"fraction": 0.4, "text": "resizing\x1b[2J"}}
    assert json.loads(rest[1].splitlines()[-1]) == as_json


async def test_watching_a_task_that_there_is_not(redis_url):
    async with Client(redis_url) as client, asyncio.timeout(PATIENCE):
        await client.enqueue(Task("t"))
        ran = await command(redis_url, "task", "watch", "-q", "default", "-i", "none")
        assert (await ran.communicate())[1].decode().strip().endswith("cannot find task 'none' in queue 'default'")
        assert ran.returncode == 1
