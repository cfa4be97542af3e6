"""Work that keeps a CPU busy: in child processes, which end when they are told to, and whose death is no disaster."""

from __future__ import annotations

import asyncio
import os
import re

from aioasynq import Client, ServeMux, Server, Task, TaskFailedError, current_task
from aioasynq.devserver import redis_url

mux = ServeMux()


# A plain def in a child process: the event loop and the other handlers go on meanwhile.
@mux.task("primes", executor="process", retention=60)
def primes(below: int) -> int:
    found = sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, below))
    print(f"counted in {place()}, task {current_task().type}", flush=True)
    return found


# Nothing in a thread could end this. The child is killed, and the next task gets another one.
@mux.task("endless", executor="process", timeout=1, max_retry=0)
def endless() -> None:
    while True:
        pass


# As a bug in C code would do it, or the kernel when memory runs out.
@mux.handler("crash", executor="process")
def crash(task: Task) -> None:
    os._exit(len(task.payload))


# A plain def without an executor runs in a thread: right for code that waits, and not for code that computes.
@mux.task("waits", retention=60)
def waits() -> str:
    return place()


def place() -> str:
    return "a child process" if __name__ != "__main__" else "the process of the server"


async def main() -> None:
    with redis_url() as url:
        async with Client(url) as client, Server(url, mux, max_processes=1, max_threads=10):
            print(await client.result(await primes.enqueue(client, below=20_000)), "primes")
            print("in a thread of", await client.result(await waits.enqueue(client)))
            await fails(client, endless.task())
            await fails(client, Task("crash", b"bug", max_retry=0))
            print(await client.result(await primes.enqueue(client, below=100)), "primes")


async def fails(client: Client, task: Task) -> None:
    info = await client.enqueue(task)
    try:
        await client.result(info.id)
    except TaskFailedError as error:
        print(f"{task.type}:", re.sub(r"process \d+", "process", error.error))


# Children import this program, under another name: what starts it stands behind this line.
if __name__ == "__main__":
    asyncio.run(main())
