"""Handlers in child processes: what comes back, and what ends when it is told to."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
import threading
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from aioasynq import (
    ChildDiedError,
    ChildTaskError,
    Client,
    Config,
    Context,
    Inspector,
    Progress,
    QueueNotFoundError,
    ServeMux,
    Server,
    ServerStateError,
    SkipRetry,
    Task,
    TaskInfo,
    TaskState,
)
from aioasynq.server.processes import pool
from aioasynq.server.processes.child import Notes
from aioasynq.server.processes.frames import FromChild, Note
from aioasynq.server.processes.process import ChildProcess
from tests.server import in_processes as handlers
from tests.server.in_processes import mux
from tests.server.stage import Seen, eventually

PATIENCE = 30.0  #: seconds; a child starts within half a second on an idle machine


async def ended(url: str, info: TaskInfo) -> TaskInfo:
    """A task once it waits no more and runs no more."""
    found = info

    async def over() -> bool:
        nonlocal found
        found = await inspector.get_task_info("default", info.id)
        return found.state not in {TaskState.PENDING, TaskState.ACTIVE}

    async with Inspector(url) as inspector:
        await eventually(over)
    return found


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def pids(folder: Path, count: int = 1) -> list[int]:
    """Those that handlers ``hang`` have written: their own, and those of what they started."""
    await eventually(lambda: len([*folder.glob("pids-*[0-9]")]) >= count)
    return [int(pid) for path in folder.glob("pids-*[0-9]") for pid in path.read_text().split()]


async def test_what_a_handler_returns_comes_back(redis_url):
    async with Client(redis_url) as client, Server(redis_url, mux, max_processes=1), asyncio.timeout(PATIENCE):
        sums = [await client.result(await handlers.add.enqueue(client, n, 1)) for n in range(3)]
        assert [each["sum"] for each in sums] == [1, 2, 3]
        assert {each["pid"] for each in sums} - {os.getpid()} == {sums[0]["pid"]}  # one child, kept
        assert await client.result(await handlers.greet.enqueue(client, "Ann")) == "hello Ann, try 1"
        assert await client.result(await handlers.writes.enqueue(client)) == b"written"
        info = await client.enqueue(Task("raw", b"abc", headers={"x": "y"}), retention=60)
        assert await client.result(info, raw=True) == b"cbay"
        assert await client.result(await handlers.signals.enqueue(client)) == "alive"
        begun = time.time()
        ends = await client.result(await handlers.deadline.with_options(timeout=600).enqueue(client))
        assert begun + 600 <= ends <= time.time() + 600


#: payload of ``raises``: state after it, text of the error, class of the error that hooks get
ENDS: dict[str, tuple[TaskState, str, type[BaseException] | None]] = {
    "value": (TaskState.RETRY, "a bad value", ChildTaskError),
    "odd": (TaskState.ARCHIVED, "OddError", ChildTaskError),
    "skip": (TaskState.ARCHIVED, "no use", None),
    "after": (TaskState.RETRY, "busy", None),
    "cause": (TaskState.ARCHIVED, "wrapped", ChildTaskError),
    "exit": (TaskState.RETRY, "SystemExit: bye", ChildTaskError),
    "_exit": (TaskState.RETRY, "the child process # ended with exit code 7 while it ran the handler", ChildDiedError),
    "kill": (TaskState.RETRY, "the child process # was killed by SIGKILL while it ran the handler", ChildDiedError),
    "segfault": (TaskState.RETRY, "the child process # was killed by SIGSEGV while it ran the handler", ChildDiedError),
    "mute": (TaskState.ARCHIVED, "MuteError", SkipRetry),
    "unfit": (
        TaskState.ARCHIVED,
        "the result of the handler, of class list, cannot be stored as JSON: Encoding objects of type type is",
        None,
    ),
    "none": (TaskState.COMPLETED, "", None),
}


async def test_how_a_handler_ends_is_how_its_task_ends(redis_url, caplog, capfd):
    errors: dict[str, BaseException] = {}

    async def note(task: Task, error: BaseException) -> None:
        errors[task.payload.decode()] = error

    server = Server(redis_url, mux, max_processes=2, error_handler=note, retry_delay=lambda *_: 3600.0)
    async with Client(redis_url) as client, server, asyncio.timeout(PATIENCE):
        infos = {name: await client.enqueue(Task("raises", name.encode()), max_retry=1, retention=60) for name in ENDS}
        await client.enqueue(Task("raises", b"revoke"), task_id="revoked", retention=60)
        for name, (state, text, kind) in ENDS.items():
            found = await ended(redis_url, infos[name])
            assert found.state is state, name
            assert _without_pid(found.last_err).startswith(text), name
            if kind is not None:
                assert type(errors[name]) is kind
        async with Inspector(redis_url) as inspector:
            await eventually(lambda: _is_gone(inspector, "revoked"))
        assert (await client.result(await handlers.add.enqueue(client, 1, 1)))["sum"] == 2
    value = errors["value"]
    assert isinstance(value, ChildTaskError)
    assert (value.kind, value.is_a((ValueError,)), value.is_a((KeyError,))) == ("ValueError", True, False)
    assert value.traceback.splitlines()[1].endswith(", in raises")
    assert "in_processes.py" in value.traceback
    assert value.traceback.endswith("ValueError: a bad value")
    assert "ValueError: a bad value\nTraceback (most recent call last):" in caplog.text
    assert "Segmentation fault" in capfd.readouterr().err  # where it was


def _without_pid(text: str) -> str:
    words = text.split()
    return text.replace(f"process {words[3]}", "process #") if text.startswith("the child process") else text


async def _is_gone(inspector: Inspector, task_id: str) -> bool:
    return not await inspector.find_task(task_id)


@pytest.mark.parametrize("how", ["timeout", "cancel", "shutdown"])
async def test_the_work_ends_with_its_task(redis_url, tmp_path, how):
    server = Server(redis_url, mux, max_processes=1, shutdown_timeout=0.0, retry_delay=lambda *_: 3600.0)
    async with Client(redis_url) as client, asyncio.timeout(PATIENCE):
        async with server:
            await client.result(await handlers.add.enqueue(client, 1, 1))  # there is a child now, which costs no time
            hanging = handlers.hang.with_options(timeout=3 if how == "timeout" else 60)
            info = await hanging.enqueue(client, str(tmp_path))
            child, started = await pids(tmp_path)
            assert is_alive(child)
            assert is_alive(started)
            if how == "cancel":
                async with Inspector(redis_url) as inspector:
                    await inspector.cancel_processing(info.id)
            if how != "shutdown":
                found = await ended(redis_url, info)
                text = "task cancelled" if how == "cancel" else "task timed out after 3 s"
                assert (found.state, found.last_err, found.retried) == (TaskState.RETRY, text, 1)
                await eventually(lambda: not is_alive(child) and not is_alive(started))
                assert (await client.result(await handlers.add.enqueue(client, 1, 1)))["sum"] == 2
        await eventually(lambda: not is_alive(child) and not is_alive(started))
        if how == "shutdown":
            async with Inspector(redis_url) as inspector:
                found = await inspector.get_task_info("default", info.id)
            assert (found.state, found.retried) == (TaskState.PENDING, 0)


@pytest.mark.parametrize("how", ["dies", "returns"])
async def test_what_a_handler_left_ends_with_its_child(redis_url, tmp_path, how):
    async with Client(redis_url) as client, asyncio.timeout(PATIENCE):
        async with Server(redis_url, mux, max_processes=1):
            await client.enqueue(Task("leave", f"{tmp_path}|{how}"), max_retry=0)
            left = await pids(tmp_path)
            assert len(left) == 2
            if how == "dies":
                await eventually(lambda: not any(map(is_alive, left)))
            else:
                assert all(map(is_alive, left))
        await eventually(lambda: not any(map(is_alive, left)))


async def test_as_many_run_at_once_as_may(redis_url, tmp_path):
    async with Client(redis_url) as client, Server(redis_url, mux, max_processes=2), asyncio.timeout(PATIENCE):
        infos = [await handlers.meet.enqueue(client, str(tmp_path), 2) for _ in range(6)]
        assert len({await client.result(info) for info in infos}) == 2


async def test_a_task_that_waits_for_a_child_can_be_cancelled(redis_url, tmp_path):
    server = Server(redis_url, mux, max_processes=1, shutdown_timeout=0.0)
    async with Client(redis_url) as client, server, asyncio.timeout(PATIENCE):
        await handlers.hang.enqueue(client, str(tmp_path))
        await pids(tmp_path)
        waiting = await handlers.hang.enqueue(client, str(tmp_path))
        async with Inspector(redis_url) as inspector:
            await eventually(lambda: _is_active(inspector, waiting))
            await inspector.cancel_processing(waiting.id)
        assert (await ended(redis_url, waiting)).last_err == "task cancelled"
        assert len(await pids(tmp_path)) == 2


async def _is_active(inspector: Inspector, info: TaskInfo) -> bool:
    return (await inspector.get_task_info("default", info.id)).state is TaskState.ACTIVE


async def test_a_server_that_ends_while_a_child_starts(redis_url, monkeypatch):
    starts: list[ChildProcess] = []
    begun, go_on = asyncio.Event(), asyncio.Event()
    start = ChildProcess.start

    async def slow(*arguments: Any) -> ChildProcess:
        begun.set()
        await go_on.wait()
        starts.append(await start(*arguments))
        return starts[0]

    monkeypatch.setattr(ChildProcess, "start", slow)
    async with Client(redis_url) as client, asyncio.timeout(PATIENCE):
        async with Server(redis_url, mux, max_processes=1, shutdown_timeout=0.0):
            info = await handlers.add.enqueue(client, 1, 1)
            await begun.wait()
            asyncio.get_running_loop().call_later(0.5, go_on.set)  # when the task was given back
        assert not is_alive(starts[0].pid)
        async with Inspector(redis_url) as inspector:
            found = await inspector.get_task_info("default", info.id)
        assert (found.state, found.retried) == (TaskState.PENDING, 0)


async def test_an_idle_child_that_died_costs_no_task(redis_url):
    server = Server(redis_url, mux, max_processes=1)
    async with Client(redis_url) as client, server, asyncio.timeout(PATIENCE):
        first = await client.result(await handlers.add.enqueue(client, 1, 1))
        os.kill(first["pid"], signal.SIGKILL)
        second = await client.result(await handlers.add.enqueue(client, 1, 1))
        assert second["pid"] != first["pid"]
        assert server.counts.failed == 0


async def test_what_children_log_is_logged_here(redis_url, caplog):
    caplog.set_level(logging.INFO)
    async with Client(redis_url) as client, Server(redis_url, mux, max_processes=1), asyncio.timeout(PATIENCE):
        await client.result(await handlers.speak.enqueue(client))
    records = [record for record in caplog.records if record.name == "in_processes"]
    assert [(record.levelname, record.getMessage()) for record in records] == [
        ("WARNING", "attention: 7"),
        ("ERROR", "caught"),
    ]
    assert records[0].process != os.getpid()
    assert "ZeroDivisionError" in (records[1].exc_text or "")


async def test_signals_in_a_child_may_interrupt_what_it_says(redis_url, caplog):
    caplog.set_level(logging.INFO)
    async with Client(redis_url) as client, Server(redis_url, mux, max_processes=1), asyncio.timeout(PATIENCE):
        count = await client.result(await handlers.alarms.enqueue(client))
    said = [record.getMessage() for record in caplog.records if record.name == "in_processes"]
    assert (said.count("an alarm"), len(said)) == (count, count + 5000)


async def test_what_a_handler_forks_does_not_answer_for_it(redis_url, capfd):
    async with Client(redis_url) as client, Server(redis_url, mux, max_processes=1), asyncio.timeout(PATIENCE):
        for _ in range(3):
            assert await client.result(await handlers.fork.enqueue(client)) == "exit code 0"
    assert capfd.readouterr().err.count("WARNING in_processes: said by the forked one\n") == 3


async def test_a_log_that_fails_here_ends_no_child(redis_url, capfd):
    def refuse(record: logging.LogRecord) -> bool:
        raise ValueError(f"no room for {record.getMessage()}")

    handlers.log.addFilter(refuse)
    try:
        async with Client(redis_url) as client, Server(redis_url, mux, max_processes=1) as server:
            async with asyncio.timeout(PATIENCE):
                await client.result(await handlers.speak.enqueue(client))
            assert server.counts.failed == 0
    finally:
        handlers.log.removeFilter(refuse)
    assert "ValueError: no room for attention: 7" in capfd.readouterr().err


async def test_a_result_that_cannot_be_written_is_told_the_handler(redis_url):
    """Middleware may hand on a task of its own making."""

    async def write(_: bytes) -> int:
        raise ValueError("not here")

    outer = ServeMux()
    outer.add("greet", mux)

    @outer.use
    async def other(task: Task, call_next):
        task._write_result = write
        return await call_next(task)

    async with Client(redis_url) as client, Server(redis_url, outer, max_processes=1), asyncio.timeout(PATIENCE):
        info = await handlers.greet.with_options(max_retry=0).enqueue(client, "Ann")
        assert (await ended(redis_url, info)).last_err == "not here"


async def test_progress_comes_back(redis_url):
    seen: list[Progress] = []
    async with Client(redis_url) as client, Server(redis_url, mux, max_processes=1), asyncio.timeout(PATIENCE):
        info = await handlers.steps.enqueue(client, 20_000)
        seen = [step async for step in client.watch(info)]
    assert seen[-1] == Progress(1.0, "all")
    assert len(seen) < 100


def test_nothing_overtakes_the_last_step():
    said: list[FromChild | str] = []
    saying, go_on = threading.Event(), threading.Event()

    def say(frame: FromChild) -> None:
        saying.set()
        assert go_on.wait(PATIENCE)
        said.append(frame)

    def end() -> None:
        notes.finish()
        said.append("the end")

    notes = Notes(say)
    notes.note(1, Progress(1.0, "all"))
    assert saying.wait(PATIENCE)  # its thread has taken the step, and has not said it yet
    ends = threading.Thread(target=end)
    ends.start()
    ends.join(0.1)  # long enough for one that does not wait
    go_on.set()
    ends.join(PATIENCE)
    assert said == [Note(1, 1.0, "all"), "the end"]


def local() -> Any:
    def within(task: Task) -> None: ...

    return within


class Caller:
    def __call__(self, task: Task) -> None: ...


REFUSED: dict[str, tuple[Any, str]] = {
    "a lambda": (lambda task: None, r"got a lambda, which no other process can import: <function <lambda> "),
    "a local function": (local(), r"got a function within another, which no other process can import: <function local"),
    "an object": (Caller(), r"got <tests\.server\.test_processes\.Caller object"),
}


@pytest.mark.parametrize(("handler", "text"), REFUSED.values(), ids=REFUSED)
def test_what_no_child_could_import_is_refused(handler, text):
    start = """^handler of 'x' with executor="process" must be a function that a module has under its own name, """
    with pytest.raises(TypeError, match=start + text):
        ServeMux().add("x", handler, executor="process")


def test_wrong_options():
    with pytest.raises(ValueError, match=r'^executor must be "process" or None, got "?\'thread\'"?$'):
        ServeMux().add("x", handlers.plain, executor="thread")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^max_processes must be at least 1, got 0$"):
        Config(max_processes=0)
    with pytest.raises(TypeError, match=r"^max_processes must be a whole number, got '4'$"):
        Config(max_processes="4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"must not take a state, .* got a parameter Context\[int\]$"):
        ServeMux().task("x", executor="process")(takes_state)


def takes_state(context: Context[int]) -> None: ...


async def test_a_handler_that_is_not_where_it_says_is_refused_at_start(redis_url):
    server = Server(redis_url)
    server.mux.add("x", handlers.shadow, executor="process")
    with pytest.raises(ServerStateError, match=r"^handler of 'x' with .* tests.server.in_processes:plain is <function"):
        await server.start()
    nowhere: Any = type("Nowhere", (), {"__call__": lambda self, task: None, "__qualname__": "gone"})()
    nowhere.__module__ = "tests.server.in_processes"
    nowhere.__qualname__ = "gone"
    server = Server(redis_url)
    server.mux.add("x", nowhere, executor="process")
    with pytest.raises(
        ServerStateError, match=r"cannot be imported by a child process as tests.server.in_processes:go"
    ):
        await server.start()


async def test_without_a_server_a_handler_runs_here():
    assert await mux(Task("add", b'{"a":1,"b":2}')) == {"sum": 3, "pid": os.getpid()}


async def test_middleware_stays_in_the_parent(redis_url):
    around = Seen()
    outer = ServeMux()
    outer.add("a", mux)

    @outer.use
    async def middleware(task: Task, call_next: Any) -> object:
        result = await call_next(task)
        around.add(result)
        return result

    async with Client(redis_url) as client, Server(redis_url, outer, max_processes=1), asyncio.timeout(PATIENCE):
        await client.result(await handlers.add.enqueue(client, 1, 2))
    assert around.all[0]["sum"] == 3


async def test_deaths_in_a_row_are_followed_by_longer_pauses(monkeypatch):
    processes = pool.Processes(1, lambda: ())
    now = 100.0
    monkeypatch.setattr("aioasynq.server.processes.pool.time.monotonic", lambda: now)
    pauses = []
    for _ in range(9):
        processes._on_death()
        pauses.append(round(max(0.0, processes._not_before - now), 3))
    assert pauses == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


@pytest.mark.parametrize(
    ("executable", "text"),
    [
        ("/nowhere/python3", "no child process could be started: "),
        (shutil.which("false"), "the child process # ended with exit code 1 before it began the handler"),
    ],
    ids=["missing", "broken"],
)
async def test_a_python_that_does_not_start_is_said(redis_url, monkeypatch, executable, text):
    monkeypatch.setattr(sys, "executable", executable)
    server = Server(redis_url, mux, max_processes=1, retry_delay=lambda *_: 3600.0)
    async with Client(redis_url) as client, server, asyncio.timeout(PATIENCE):
        found = await ended(redis_url, await handlers.add.enqueue(client, 1, 1))
    assert _without_pid(found.last_err).startswith(text)


PROGRAM = """
import asyncio, os, sys, time
from aioasynq import Client, ServeMux, Server

mux = ServeMux()

class Odd(Exception): ...

@mux.task("t", executor="process", retention=60, dont_retry=Odd)
def t(fail: bool = False) -> str:
    if fail:
        raise Odd("odd")
    return __name__

@mux.task("hang", executor="process")
def hang(folder: str) -> None:
    with open(f"{folder}/pids-{os.getpid()}", "w") as file:
        file.write(f"{os.getpid()} {os.getppid()}")
    while True:
        pass

async def main():
    async with Client() as client, Server(mux=mux, max_processes=1) as server:
        print(await client.result(await t.enqueue(client)))
        try:
            await client.result(await t.enqueue(client, fail=True))
        except Exception as error:
            print(error.error)
        if len(sys.argv) > 1:
            await hang.enqueue(client, sys.argv[1])
            await asyncio.sleep(600)
"""


async def run_program(url: str, text: str, *arguments: str, folder: Path) -> asyncio.subprocess.Process:
    path = folder / "program.py"
    path.write_text(text)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(path), *arguments),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "AIOASYNQ_REDIS_URL": url, "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"},
    )


async def test_handlers_of_a_program_itself(redis_url, tmp_path):
    guarded = PROGRAM + '\nif __name__ == "__main__":\n    asyncio.run(main())\n'
    program = await run_program(redis_url, guarded, folder=tmp_path)
    async with asyncio.timeout(PATIENCE):
        out, err = await program.communicate()
    assert out.decode().split() == ["__mp_main__", "odd"], err.decode()
    assert program.returncode == 0


async def test_a_program_without_a_guard_is_told_so(redis_url, tmp_path):
    program = await run_program(redis_url, PROGRAM + "\nasyncio.run(main())\n", folder=tmp_path)
    async with Client(redis_url), asyncio.timeout(PATIENCE):
        async with Inspector(redis_url) as inspector:

            async def is_said() -> bool:
                try:
                    infos = await inspector.list_retry_tasks("default")
                except QueueNotFoundError:
                    return False
                return any("started a server while it imported" in info.last_err for info in infos)

            await eventually(is_said)
        program.kill()
        await program.communicate()


async def test_a_program_without_a_file_is_refused(redis_url):
    code = PROGRAM + "\nasyncio.run(main())\n"
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stderr=PIPE, env={**os.environ, "AIOASYNQ_REDIS_URL": redis_url}
    )
    async with asyncio.timeout(PATIENCE):
        _, err = await program.communicate()
    assert "must be in a file that a child process can import, but this program has none" in err.decode()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_children_die_with_their_parent(redis_url, tmp_path, number):
    guarded = PROGRAM + '\nif __name__ == "__main__":\n    asyncio.run(main())\n'
    program = await run_program(redis_url, guarded, str(tmp_path), folder=tmp_path)
    async with asyncio.timeout(PATIENCE):
        child, parent = await pids(tmp_path)
        assert parent == program.pid
        program.send_signal(number)
        await program.communicate()
        await eventually(lambda: not is_alive(child))
