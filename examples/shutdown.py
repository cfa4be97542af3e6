"""What becomes of running tasks when a server ends: they finish, or go back as if they had not been taken."""

from __future__ import annotations

import asyncio

from aioasynq import Client, ServeMux, Server, current_task
from aioasynq.devserver import redis_url

mux = ServeMux()
running = asyncio.Semaphore(0)
long_one_done = asyncio.Event()
first_server = True


@mux.task("short")
async def short() -> None:
    running.release()
    await asyncio.sleep(0.3)
    print("the short one has finished")


@mux.task("long")
async def long() -> None:
    running.release()
    try:
        if first_server:
            await asyncio.sleep(3600)
        print(f"the long one has finished, failures counted: {current_task().retried}")
        long_one_done.set()
    except asyncio.CancelledError:
        print("the long one is cancelled, and may clean up")
        raise


async def main() -> None:
    global first_server  # noqa: PLW0603 - to end the example
    with redis_url() as url:
        async with Client(url) as client:
            async with Server(url, mux, shutdown_timeout=1):
                await client.enqueue(short.task())
                await client.enqueue(long.task())
                await running.acquire()
                await running.acquire()
                print("both run; the server is told to stop")
            print("the server has ended")

            first_server = False
            async with Server(url, mux):
                await long_one_done.wait()


if __name__ == "__main__":
    asyncio.run(main())
