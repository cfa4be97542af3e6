"""Periodic tasks: two schedulers with the same entry, a worker, and each firing once."""

from __future__ import annotations

import asyncio

from aioasynq import PeriodicTaskConfig, PeriodicTaskManager, Scheduler, ServeMux, Server, Task, TaskInfo
from aioasynq.devserver import redis_url

mux = ServeMux()
ran: asyncio.Queue[str] = asyncio.Queue()
enqueued: list[str] = []


@mux.task("tick", max_retry=0)
async def tick() -> None:
    ran.put_nowait("tick")


@mux.handler("customer")
async def customer(task: Task) -> None:
    ran.put_nowait(f"customer {task.payload.decode()}")


def note(info: TaskInfo | None, error: Exception | None) -> None:
    enqueued.append(info.id if info else f"failed: {error}")


async def provide() -> list[PeriodicTaskConfig]:
    # This might come from a database; whoever is no more in it is not served any more.
    return [PeriodicTaskConfig("@every 1s", Task("customer", b"ann"))]


async def main() -> None:
    with redis_url() as url:
        one, two = Scheduler(url, post_enqueue=note), Scheduler(url, post_enqueue=note)
        for scheduler in (one, two):
            scheduler.register("@every 1s", tick.task())
        nightly = one.register("CRON_TZ=Europe/Berlin 0 2 * * *", Task("nightly"), catch_up="once")
        try:
            one.register("61 * * * *", Task("never"))
        except ValueError as error:
            print(error)

        async with Server(url, mux), one, two:
            for _ in range(3):
                print(await ran.get())
            one.unregister(nightly)
        print("each firing was enqueued once:", len(enqueued) == len(set(enqueued)) >= 3)

        while not ran.empty():
            ran.get_nowait()
        async with Server(url, mux), PeriodicTaskManager(url, provide, sync_interval=60):
            while (what := await ran.get()) == "tick":
                pass
            print(what)


if __name__ == "__main__":
    asyncio.run(main())
