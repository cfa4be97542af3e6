"""Code without an event loop: a script, a thread, a framework of the old kind. It enqueues, and waits for results.

It prints the state of a task, how many tasks ten threads have stored, and what a handler has returned.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from aioasynq import Client, ServeMux, Server
from aioasynq.devserver import redis_url

mux = ServeMux()


@mux.task("square", retention=60)
async def square(number: int) -> int:
    return number * number


def worker(url: str, stop: threading.Event) -> None:
    """A worker in a thread, only so that this example is one program: else, aioasynq worker sync_client:mux."""

    async def run() -> None:
        async with Server(url, mux):
            await asyncio.to_thread(stop.wait)

    asyncio.run(run())


def main() -> None:
    stop = threading.Event()
    with redis_url() as url, Client(url) as client, ThreadPoolExecutor() as threads:
        info = client.enqueue_sync(square.task(number=12), max_retry=3)
        print(f"{info.type} is {info.state}")
        infos = list(threads.map(lambda number: client.enqueue_sync(square.task(number)), range(10)))
        print(f"{len(infos)} more from threads, which share a connection")
        working = threads.submit(worker, url, stop)
        print(f"the square of 12 is {client.result_sync(info, timeout=10)}")
        print(f"the sum of the others is {sum(client.result_sync(each, timeout=10) for each in infos)}")
        stop.set()
        working.result()


if __name__ == "__main__":
    main()
