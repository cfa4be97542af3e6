"""Handlers for child processes: these import this module by its name."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aioasynq import Context, RetryAfter, RevokeTask, ServeMux, SkipRetry, Task, current_task

log = logging.getLogger("in_processes")

mux = ServeMux()


class OddError(ValueError):
    pass


class MuteError(SkipRetry):
    reason = 7

    def __str__(self) -> str:
        raise ValueError("it has no text")


@mux.task("add", executor="process", retention=60)
def add(a: int, b: int) -> dict[str, int]:
    return {"sum": a + b, "pid": os.getpid()}


@mux.task("greet", executor="process", retention=60)
async def greet(context: Context[None], name: str) -> str:
    await asyncio.sleep(0)
    assert await context.task.write_result(b"half") == 4
    assert context.state is None
    assert current_task() is context.task
    return f"hello {name}, try {context.task.retried + 1}"


@mux.task("writes", executor="process", retention=60)
async def writes(task: Task) -> None:
    sizes = await asyncio.gather(*(task.write_result(b"x" * n) for n in range(1, 9)))
    assert sizes == list(range(1, 9))
    await task.write_result(b"written")


@mux.handler("raw", executor="process")
def raw(task: Task) -> bytes:
    return task.payload[::-1] + task.headers["x"].encode()


RAISED: dict[bytes, Callable[[], BaseException]] = {
    b"value": lambda: ValueError("a bad value"),
    b"odd": OddError,
    b"skip": lambda: SkipRetry("no use"),
    b"mute": MuteError,
    b"revoke": RevokeTask,
    b"after": lambda: RetryAfter(30, "busy"),
    b"exit": lambda: SystemExit("bye"),
}


def raises(task: Task) -> object:
    if make := RAISED.get(task.payload):
        error = make()
        raise error
    match task.payload:
        case b"cause":
            raise RuntimeError("wrapped") from SkipRetry("within")
        case b"_exit":
            os._exit(7)
        case b"kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"unfit":
            return [{"it": OddError}]
        case _:
            return None
    raise AssertionError("it is dead")


mux.add("raises", raises, executor="process", dont_retry=OddError)


@mux.task("hang", executor="process")
def hang(folder: str) -> None:
    """Hold on for ever, with a process of our own, and say who we are."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    path = Path(folder, f"pids-{os.getpid()}")
    path.with_suffix(".part").write_text(f"{os.getpid()} {started.pid}")
    path.with_suffix(".part").rename(path)
    while True:
        time.sleep(600)


def leave(task: Task) -> None:
    """Leave a process behind, and a copy of this one; say which they are, and end as we are told."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    forked = os.fork()
    if not forked:
        time.sleep(600)
    folder, how = task.payload.decode().split("|")
    path = Path(folder, f"pids-{os.getpid()}")
    path.with_suffix(".part").write_text(f"{started.pid} {forked}")
    path.with_suffix(".part").rename(path)
    if how == "dies":
        os._exit(7)


mux.add("leave", leave, executor="process")


@mux.task("signals", executor="process", retention=60)
def signals() -> str:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    return "alive"


@mux.task("speak", executor="process", retention=60)
def speak() -> None:
    log.debug("not heard")
    log.warning("attention: %s", 7)
    try:
        log.info(1 / 0)
    except ZeroDivisionError:
        log.exception("caught")


@mux.task("alarms", executor="process", retention=60, max_retry=0)
def alarms() -> int:
    """Log while a handler of signals logs, as long as it takes for the one to interrupt the other."""
    count = 0

    def on_alarm(*_: object) -> None:
        nonlocal count
        count += 1
        log.info("an alarm")
        signal.setitimer(signal.ITIMER_REAL, 0.0005)

    signal.signal(signal.SIGALRM, on_alarm)
    on_alarm()
    for _ in range(5000):
        log.info("x" * 2000)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    return count


@mux.task("fork", executor="process", retention=60, max_retry=0)
def fork() -> str:
    """Return in two processes."""
    forked = os.fork()
    if not forked:
        log.warning("said by the forked one")
        return "forked"
    return f"exit code {os.waitpid(forked, 0)[1]}"


@mux.task("deadline", executor="process", retention=60)
def deadline(task: Task) -> float:
    assert task.deadline is not None
    return task.deadline.timestamp()


@mux.task("steps", executor="process", retention=60)
def steps(task: Task, count: int) -> None:
    for n in range(count):
        task.progress_sync(n / count, f"step {n}")
    task.progress_sync(1, "all")


@mux.task("meet", executor="process", retention=60)
def meet(folder: str, others: int) -> int:
    """Return when so many run at once."""
    Path(folder, str(os.getpid())).touch()
    while len([*Path(folder).iterdir()]) < others:
        time.sleep(0.01)
    return os.getpid()


def plain(task: Task) -> None: ...


shadowed: Any = plain


def _other(task: Task) -> None: ...


_other.__qualname__ = "plain"
shadow = _other
