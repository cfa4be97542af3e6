"""The same work only once: by a lock on type and payload, or by an id of one's own."""

from __future__ import annotations

import asyncio

from aioasynq import Client, DuplicateTaskError, ServeMux, Server, TaskIDConflictError
from aioasynq.devserver import redis_url

mux = ServeMux()
done: asyncio.Queue[str] = asyncio.Queue()


@mux.task("sync", unique=3600)  # the lock lasts an hour, or until the task has succeeded or was archived
async def sync(user_id: int) -> None:
    done.put_nowait(f"synced user {user_id}")


@mux.task("invoice")
async def invoice(number: int) -> None:
    done.put_nowait(f"wrote invoice {number}")


async def main() -> None:
    with redis_url() as url:
        async with Client(url) as client:
            await client.enqueue(sync.task(user_id=1))
            await client.enqueue(sync.task(user_id=2))
            try:
                await client.enqueue(sync.task(user_id=1))
            except DuplicateTaskError:
                print("user 1 is about to be synced already")

            await client.enqueue(invoice.task(number=7), task_id="invoice-7")
            try:
                await client.enqueue(invoice.task(number=7), task_id="invoice-7")
            except TaskIDConflictError as conflict:
                print(f"there is a task {conflict.task_id} in queue {conflict.queue} already")

            async with Server(url, mux, concurrency=1):
                for _ in range(3):
                    print(await done.get())
            await client.enqueue(sync.task(user_id=1))
            print("user 1 can be synced again")


if __name__ == "__main__":
    asyncio.run(main())
