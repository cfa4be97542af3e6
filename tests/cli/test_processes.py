"""``aioasynq worker --processes``: a parent and its children."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from aioasynq import Client, Task, keys
from aioasynq.cli import limits
from aioasynq.cli.parent import Backoff
from aioasynq.proto.codec import decode_task
from tests.cli.stage import PATIENCE, TASKS, Worker

#: A parent that kills after half a second; its children are as usual.
IMPATIENT = (
    "-c",
    "import aioasynq.cli.process as process; process.KILL_AFTER = 0.5\nfrom aioasynq.cli.main import main; main()",
)


async def pid(worker: Worker, word: str) -> int:
    """The process in which a handler has printed *word* and its pid."""
    line = (await worker.line()).split()
    assert line[0] == word
    return int(line[1])


async def test_tasks_run_in_several_processes(run_worker, redis_url, redis):
    options = ("--url", redis_url, "--processes", "3")
    async with run_worker("tasks:patient", *options) as worker, Client(redis_url) as client:
        for n in range(3):
            await client.enqueue(Task("hold", task_id=f"id{n}"))
        pids = {await pid(worker, "hold") for _ in range(3)}
        assert len(pids) == 3
        assert worker.process.pid not in pids
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    assert re.search(rf"^  server       .*:{worker.process.pid}$", worker.said, re.MULTILINE)
    assert "  processes    3\n" in worker.said
    assert worker.said.count("  processes ") == 1
    assert "SIGTERM received: shutting down 3 processes" in worker.said
    assert worker.said.count("ended with exit code 0") == 3
    assert sorted(await redis.lrange(keys.pending("default"), 0, -1)) == [b"id0", b"id1", b"id2"]


async def test_what_a_killed_process_held_is_back_at_once(run_worker, redis_url, redis):
    async with (
        run_worker("tasks:patient", "--url", redis_url, "--processes", "2") as worker,
        Client(redis_url) as client,
    ):
        info = await client.enqueue(Task("hold"))
        killed = await pid(worker, "hold")
        os.kill(killed, signal.SIGKILL)
        line = (await worker.line()).split()  # waits less than the lease lasts
        assert (line[0], line[2]) == ("hold", "1")
        assert int(line[1]) != killed
        assert await redis.hget(keys.task("default", info.id), "recovered") == b"1"
        said = await worker.until("another one starts")
        assert re.search(rf"process \d \(pid {killed}\) was killed by SIGKILL after .* s; .* starts in 0\.1 s", said)
        await worker.until("will run again: task lease expired")
        assert f"task {info.id} of queue default" in worker.said
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    assert await redis.lrange(keys.pending("default"), 0, -1) == [info.id.encode()]


async def test_one_process_alone_is_followed_by_another(run_worker, redis_url):
    async with (
        run_worker("tasks:patient", "--url", redis_url, "--processes", "1") as worker,
        Client(redis_url) as client,
    ):
        await client.enqueue(Task("hold"))
        killed = await pid(worker, "hold")
        os.kill(killed, signal.SIGKILL)
        assert await pid(worker, "hold") != killed


async def test_a_task_that_kills_its_process_ends_in_the_archive(run_worker, redis_url, redis):
    async with (
        run_worker("tasks:patient", "--url", redis_url, "--processes", "2") as worker,
        Client(redis_url) as client,
    ):
        info = await client.enqueue(Task("poison", max_retry=1))
        await worker.until("was archived: task lease expired")
        await client.enqueue(Task("pid"))
        await pid(worker, "pid")
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    assert worker.said.count("was killed by SIGKILL") == 2
    assert await redis.zrange(keys.archived("default"), 0, -1) == [info.id.encode()]
    message = decode_task(await redis.hget(keys.task("default", info.id), "msg"))
    assert message.retried == 1
    assert message.error_msg.startswith("task lease expired: ")
    assert await redis.get(keys.failed_total("default")) == b"2"


async def test_a_module_named_as_one_of_ours_is_not_in_the_way(run_worker, redis_url, tmp_path):
    """The installed command imports what it needs before the working directory counts, and so do its children."""
    (tmp_path / "msgspec.py").write_text("1 / 0\n")
    command = (str(Path(sys.executable).with_name("aioasynq")),)
    async with run_worker("tasks:mux", "--url", redis_url, "--processes", "1", program=command) as worker:
        await worker.until("started")


async def test_a_process_that_somebody_ended_is_followed_too(run_worker, redis_url):
    async with run_worker("tasks:mux", "--url", redis_url, "--processes", "1") as worker, Client(redis_url) as client:
        await client.enqueue(Task("pid"))
        ended = await pid(worker, "pid")
        os.kill(ended, signal.SIGTERM)
        await worker.until(f"(pid {ended}) ended with exit code 0")
        await client.enqueue(Task("pid"))
        assert await pid(worker, "pid") != ended


# ── signals ──


async def test_a_second_signal_does_not_wait(run_worker, redis_url, redis):
    options = ("--url", redis_url, "--processes", "2", "--shutdown-timeout", "50")
    async with run_worker("tasks:patient", *options) as worker, Client(redis_url) as client:
        info = await client.enqueue(Task("hold"))
        await pid(worker, "hold")
        worker.process.send_signal(signal.SIGINT)
        await worker.until("takes no more tasks")
        worker.process.send_signal(signal.SIGINT)
        assert await worker.end() == 0
    assert "SIGINT received again: cancelling what runs" in worker.said
    assert f"go back to their queues: 1: {info.id} (hold)\n" in worker.said
    assert await redis.lrange(keys.pending("default"), 0, -1) == [info.id.encode()]


async def test_a_signal_to_each_of_the_group_is_one_signal(run_worker, redis_url, tmp_path):
    options = ("--url", redis_url, "--processes", "1", "--shutdown-timeout", "50")
    async with run_worker("tasks:mux", *options) as worker, Client(redis_url) as client:
        await client.enqueue(Task("gate"))
        os.kill(await pid(worker, "gate"), signal.SIGTERM)
        await worker.until("takes no more tasks")
        worker.process.send_signal(signal.SIGTERM)
        await worker.until("shutting down 1 processes")
        (tmp_path / "open").touch()
        assert await worker.line() == "through"
        assert await worker.end() == 0
    assert "go back" not in worker.said


async def test_sigtstp_stops_the_fetching(run_worker, redis_url, redis):
    options = ("--url", redis_url, "--processes", "2", "--shutdown-timeout", "50")
    async with run_worker("tasks:mux", *options) as worker, Client(redis_url) as client:
        await client.enqueue(Task("pid"))
        await pid(worker, "pid")
        worker.process.send_signal(signal.SIGTSTP)
        await worker.until("no process takes tasks any more")
        await worker.until("takes no more tasks", 2)
        info = await client.enqueue(Task("pid"))
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    assert await redis.lrange(keys.pending("default"), 0, -1) == [info.id.encode()]


async def test_children_of_a_killed_parent_end_gracefully(run_worker, redis_url, redis):
    async with (
        run_worker("tasks:patient", "--url", redis_url, "--processes", "2") as worker,
        Client(redis_url) as client,
    ):
        tasks = [await client.enqueue(Task("hold")) for _ in range(2)]
        assert len({await pid(worker, "hold") for _ in tasks}) == 2
        worker.process.kill()
        assert await worker.end() == -signal.SIGKILL  # both have let go of stderr by then
    assert worker.said.count("the parent process is gone: shutting down") == 2
    assert set(await redis.lrange(keys.pending("default"), 0, -1)) == {info.id.encode() for info in tasks}


#: A child of which does not wait for long when it is an orphan.
STUCK = """
import os, time
import aioasynq.cli.child as child
from aioasynq import ServeMux, Server

child.KILL_AFTER = 0.1
mux = ServeMux()
server = Server(mux=mux, shutdown_timeout=0)

@mux.handler("block")
async def block(task):
    print("block", os.getpid(), flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("option", [("--processes", "1"), ("--reload",)], ids=["processes", "reload"])
@pytest.mark.parametrize("where", ["import", "handler"])
async def test_nobody_is_left_behind_by_a_killed_parent(run_worker, redis_url, tmp_path, option, where):
    """Not even who is stuck where no signal and no line is heard."""
    (tmp_path / "stuck.py").write_text(STUCK)
    (tmp_path / "hangs.py").write_text("import time\nprint('import', flush=True)\ntime.sleep(1000)\n")
    target = "hangs:mux" if where == "import" else "stuck:server"
    async with run_worker(target, "--url", redis_url, *option) as worker, Client(redis_url) as client:
        await client.enqueue(Task("block"))
        assert (await worker.line()).split()[0] == ("import" if where == "import" else "block")
        worker.process.kill()
        assert await worker.end() == -signal.SIGKILL  # the child has let go of stderr by then
    assert "the parent process is gone; process " in worker.said


async def test_a_process_that_does_not_end_is_killed(run_worker, redis_url, redis):
    options = ("--url", redis_url, "--processes", "1", "--shutdown-timeout", "0")
    async with run_worker("tasks:patient", *options, program=IMPATIENT) as worker, Client(redis_url) as client:
        info = await client.enqueue(Task("block"))
        stuck = await pid(worker, "block")
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    assert f"(pid {stuck}) did not end in 0 s and is killed" in worker.said
    assert f"(pid {stuck}) was killed by SIGKILL" in worker.said
    assert await redis.zrange(keys.retry("default"), 0, -1) == [info.id.encode()]


# ── what is wrong ──


async def test_redis_refuses_once(run_worker, own_server):
    server = own_server(config={"requirepass": "s3cret"})
    url = server.url.replace("s3cret", "wr0ng")
    async with run_worker("tasks:mux", "--url", url, "--processes", "3") as worker:
        assert await worker.end() == 1
    assert worker.said.count("aioasynq: the first look failed") == 1
    assert "another one" not in worker.said


async def test_a_module_that_is_broken_later_does_not_end_those_that_work(run_worker, redis_url, tmp_path):
    good = (tmp_path / "tasks.py").read_text()
    options = ("--url", redis_url, "--max-tasks", "1")
    async with run_worker("tasks:mux", *options) as worker, Client(redis_url) as client:
        await worker.until("started")
        (tmp_path / "tasks.py").write_text("1 / 0\n")
        await client.enqueue(Task("pid"))
        old = await pid(worker, "pid")
        await worker.until(f"before it was ready; process 1 (pid {old}) goes on")
        assert "ZeroDivisionError" in worker.said
        await client.enqueue(Task("pid"))
        assert await pid(worker, "pid") == old
        (tmp_path / "tasks.py").write_text(good)
        await worker.until(f"(pid {old}) ended with exit code 0")
        await client.enqueue(Task("pid"))
        assert await pid(worker, "pid") != old


async def test_a_module_that_is_broken_later_ends_the_parent_when_none_works(run_worker, redis_url, tmp_path):
    async with run_worker("tasks:mux", "--url", redis_url, "--processes", "1") as worker, Client(redis_url) as client:
        await client.enqueue(Task("pid"))
        killed = await pid(worker, "pid")
        (tmp_path / "tasks.py").write_text("1 / 0\n")
        os.kill(killed, signal.SIGKILL)
        assert await worker.end() == 2
    assert worker.said.count("ZeroDivisionError") == 1


async def test_a_client_that_only_the_program_knows(run_worker, redis_url, tmp_path):
    (tmp_path / "own.py").write_text(
        "import redis.asyncio\nfrom aioasynq import Server\nfrom tasks import mux\n"
        f"server = Server(redis.asyncio.Redis.from_url({redis_url!r}), mux)\n"
    )
    async with run_worker("own:server", "--processes", "1") as worker, Client(redis_url) as client:
        await client.enqueue(Task("pid"))
        os.kill(await pid(worker, "pid"), signal.SIGKILL)
        await worker.until("runs again when its leases end: its Redis is known to the program only")


# ── limits ──


async def test_after_so_many_tasks_a_process_is_replaced(run_worker, redis_url):
    async with run_worker("tasks:mux", "--url", redis_url, "--max-tasks", "3") as worker, Client(redis_url) as client:
        await client.enqueue(Task("pid"))
        old = await pid(worker, "pid")
        for _ in range(2):
            await client.enqueue(Task("pid"))
            assert await pid(worker, "pid") == old
        said = await worker.until(f"(pid {old}) ended with exit code 0")
        await client.enqueue(Task("pid"))
        assert await pid(worker, "pid") != old
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    assert "  processes    1, replaced after 3 tasks\n" in said
    assert f"process 1 (pid {old}) has had 3 tasks; another one starts in 0.1 s and takes its place" in said
    starts = [said.index(line) for line in re.findall(r".* started: .*", said)]
    assert len(starts) == 2
    assert starts[1] < said.index("takes no more tasks")


async def test_with_too_much_memory_a_process_is_replaced(run_worker, redis_url):
    options = ("--url", redis_url, "--max-memory", "250MB", "--processes", "1")
    async with run_worker("tasks:mux", *options) as worker, Client(redis_url) as client:
        await client.enqueue(Task("eat"))
        old = await pid(worker, "eat")
        await worker.until(f"(pid {old}) ended with exit code 0")
        await client.enqueue(Task("pid"))
        assert await pid(worker, "pid") != old
    assert "  processes    1, replaced at 250 MB\n" in worker.said
    assert re.search(rf"process 1 \(pid {old}\) has had \d+ MB of memory; another one starts", worker.said)


async def test_a_task_that_runs_when_its_process_is_replaced_may_finish(run_worker, redis_url, tmp_path):
    options = ("--url", redis_url, "--max-tasks", "1", "--shutdown-timeout", "50")
    async with run_worker("tasks:mux", *options) as worker, Client(redis_url) as client:
        await client.enqueue(Task("gate"))
        old = await pid(worker, "gate")
        await client.enqueue(Task("pid"))
        assert await pid(worker, "pid") == old
        await worker.until("takes no more tasks")
        (tmp_path / "open").touch()
        assert await worker.line() == "through"
        await worker.until(f"(pid {old}) ended with exit code 0")
    assert "go back" not in worker.said


def test_memory_where_there_is_no_proc(monkeypatch, tmp_path):
    here = limits.resident()
    monkeypatch.setattr(limits, "_STATM", tmp_path / "nothing")
    assert limits.resident() >= here / 2  # the most there ever was, in pages of another kind
    assert limits.shown(512_400_000) == "512 MB"


def test_the_pause_before_another_process():
    backoff = Backoff()
    pauses = [backoff.after(1.0) for _ in range(11)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert backoff.after(60.0) == 0.1
    assert backoff.after(1.0) == 0.2


def test_what_comes_back_has_not_waited_for_the_end_of_its_lease():
    assert PATIENCE < 60
    assert "lease=60" in TASKS


@pytest.mark.parametrize("number", [1, 3])
async def test_a_signal_at_the_very_beginning(run_worker, redis_url, tmp_path, number):
    """The parent heeds it, whatever its children are at."""
    (tmp_path / "slow_to_import.py").write_text("import time\nprint('import', flush=True)\ntime.sleep(60)\n")
    options = ("--url", redis_url, "--processes", str(number))
    async with run_worker("slow_to_import:mux", *options) as worker:
        assert await worker.line() == "import"
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.end() == 0
    assert "was killed by SIGTERM" in worker.said
