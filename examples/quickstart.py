"""The whole of it: a task, a server that runs it, a client that enqueues it."""

from __future__ import annotations

import asyncio

from aioasynq import Client, ServeMux, Server
from aioasynq.devserver import redis_url

mux = ServeMux()
done = asyncio.Event()


@mux.task("email:welcome", max_retry=5, timeout=30)
async def welcome(user_id: int, lang: str = "en") -> None:
    print(f"a welcome in {lang} to user {user_id}")
    done.set()


async def main() -> None:
    with redis_url() as url:  # AIOASYNQ_REDIS_URL, or a server of its own
        async with Client(url) as client, Server(url, mux):
            info = await client.enqueue(welcome.task(user_id=42, lang="it"))
            print(f"{info.type} is {info.state} in queue {info.queue}")
            await done.wait()


if __name__ == "__main__":
    asyncio.run(main())
