"""Progress: a handler says how far it is, and whoever waits can see it."""

from __future__ import annotations

import asyncio

from aioasynq import Client, ServeMux, Server, Task, current_task
from aioasynq.devserver import redis_url

mux = ServeMux()
seen = asyncio.Event()


@mux.task("album", retention=60)
async def album(task: Task, photos: list[str]) -> str:
    for n, photo in enumerate(photos):
        await task.progress(n / len(photos), f"resizing {photo}")
        await wait_for_the_watcher()
    await task.progress(1, "done")
    return f"{len(photos)} photos"


# Anywhere below a handler, in a thread or in a child process: the form without await.
@mux.task("archive", executor="process", retention=60)
def archive(files: int) -> str:
    for n in range(files):
        compress(n, files)
    return f"{files} files"


def compress(n: int, files: int) -> None:
    # At most four steps a second are written, so most of these are passed over; the last one is not.
    current_task().progress_sync((n + 1) / files, f"file {n + 1} of {files}")


async def wait_for_the_watcher() -> None:
    await seen.wait()
    seen.clear()


async def main() -> None:
    with redis_url() as url:
        async with Client(url) as client, Server(url, mux):
            info = await album.enqueue(client, ["sea.png", "hill.png"])
            async for fraction, text in client.watch(info):
                print(f"{fraction:.0%} {text}")
                seen.set()
            print(await client.result(info))

            info = await archive.enqueue(client, files=5000)
            steps = [step async for step in client.watch(info)]
            print("the last step:", steps[-1].text)
            print("as many steps as files:", len(steps) == 5000)
            print(await client.result(info))


if __name__ == "__main__":
    asyncio.run(main())
