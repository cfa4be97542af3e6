"""Results: what a handler returns is kept for as long as its task's retention, and can be waited for from anywhere.

It prints a sum, a result that is no JSON, one that was written on the way, and what became of a task that failed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aioasynq import Client, ServeMux, Server, Task, TaskFailedError
from aioasynq.devserver import redis_url

mux = ServeMux()


@dataclass
class Size:
    width: int
    height: int


@mux.task("sum", retention=600)
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@mux.task("measure", retention=600)
async def measure(text: str) -> Size:  # stored as JSON, as are datetimes, enums, models of pydantic …
    return Size(max(map(len, text.splitlines())), len(text.splitlines()))


@mux.handler("thumbnail")
async def thumbnail(task: Task) -> bytes:  # bytes are stored as they are
    return task.payload[:4]


@mux.handler("copy")
async def copy(task: Task) -> None:
    await task.write_result("half of it")  # the last one that was written counts


@mux.task("divide", retention=600, max_retry=0)
async def divide(a: int, b: int) -> float:
    return a / b


async def main() -> None:
    with redis_url() as url:
        async with Client(url) as client, Server(url, mux):
            info = await total.enqueue(client, [1, 2, 3])
            print(f"the sum is {await client.result(info, timeout=10)}")

            info = await measure.enqueue(client, "ab\nabc")
            print(f"the size is {await client.result(info.id, timeout=10)}")  # an id will do, also in another process
            print(f"in Redis it is {(await client.result(info, raw=True)).decode()}")

            info = await client.enqueue(Task("thumbnail", b"\x89PNG and more"), retention=600)
            print(f"the thumbnail is {await client.result(info, timeout=10)}")

            info = await client.enqueue(Task("copy"), retention=600)
            print(f"the copy is {(await client.result(info, timeout=10))!r}")

            try:
                await client.result(await divide.enqueue(client, 1, 0), timeout=10)
            except TaskFailedError as exc:
                print(f"no result: {exc.error}")


if __name__ == "__main__":
    asyncio.run(main())
