"""Many tasks become one: what happens to each user is told in one message."""

from __future__ import annotations

import asyncio

from aioasynq import Client, ServeMux, Server, Task
from aioasynq.devserver import redis_url

mux = ServeMux()
sent: asyncio.Queue[str] = asyncio.Queue()


@mux.aggregator
async def join(group: str, tasks: list[Task]) -> Task:
    texts = sorted(task.payload.decode() for task in tasks)
    return Task("digest", f"to {group}: {', '.join(texts)}")


@mux.handler("digest")
async def digest(task: Task) -> None:
    sent.put_nowait(task.payload.decode())


async def main() -> None:
    with redis_url() as url:
        # a group is ripe with three tasks, or a second after its last one
        async with Client(url) as client, Server(url, mux, group_max_size=3, group_grace_period=1):
            for number in range(1, 5):
                await client.enqueue(Task("news", f"news {number}"), group="ann", task_id=f"news-{number}")
            for text in sorted([await sent.get(), await sent.get()]):
                print(text)


if __name__ == "__main__":
    asyncio.run(main())
