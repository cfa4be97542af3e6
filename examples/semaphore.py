"""A semaphore: at most so many tasks at once, over all workers, Go's among them."""

from __future__ import annotations

import asyncio

from aioasynq import Client, ServeMux, Server, current_task
from aioasynq.devserver import redis_url
from aioasynq.rate import Semaphore

mux = ServeMux()


async def main() -> None:
    with redis_url() as url:
        inside = most = 0
        # A task without a token comes back after 0.05 s and a bit; it holds up nobody meanwhile, and has not failed.
        api = Semaphore(url, "api", 2, retry_after=0.05)

        @mux.task("call", retention=60)
        async def call(number: int) -> int:
            nonlocal inside, most
            async with api:
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.05)
                inside -= 1
            return number * number

        @mux.task("by-hand", retention=60)
        async def by_hand() -> str:
            if not await api.acquire():
                return "no token, so something else was done"
            try:
                return f"task {current_task().id} had a token"
            finally:
                await api.release()

        async with Client(url) as client, Server(url, mux, concurrency=10):
            infos = [await client.enqueue(call.task(n)) for n in range(6)]
            print([await client.result(info, timeout=20) for info in infos])
            print(f"at once: {most}")
            print(await client.result(await client.enqueue(by_hand.task(), task_id="x"), timeout=20))
        await api.aclose()


if __name__ == "__main__":
    asyncio.run(main())
