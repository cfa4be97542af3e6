"""A server, a scheduler and a manager of periodic tasks as programs of their own, told to end while they start."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE

import pytest

from aioasynq.devserver import HOST

PATIENCE = 30

PROGRAM = """
import asyncio, logging, sys
from aioasynq import PeriodicTaskManager, Scheduler, ServeMux, Server

logging.basicConfig(level=logging.INFO)
mux = ServeMux()
mux.add("any", print)
url, kind = sys.argv[1:]
made = {
    "server": lambda: Server(url, mux),
    "scheduler": lambda: Scheduler(url),
    "manager of periodic tasks": lambda: PeriodicTaskManager(url, list),
}[kind]()
asyncio.run(made.run())
print(made.status)
"""


@pytest.mark.parametrize("kind", ["server", "scheduler", "manager of periodic tasks"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_during_the_start_ends_it_in_order(kind: str, number: signal.Signals):
    knocked = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        knocked.set()

    silent = await asyncio.start_server(say_nothing, HOST, 0)
    url = f"redis://{HOST}:{silent.sockets[0].getsockname()[1]}"
    program = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, url, kind, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(PATIENCE):
            await knocked.wait()  # it looks at Redis, which is given a second to answer
            program.send_signal(number)
            out, err = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
        silent.close()
        for writer in writers:
            writer.close()
    assert program.returncode == 0, err.decode()
    assert out.split() in ([b"new"], [b"closed"])
    assert f"{number.name} received" in err.decode()
