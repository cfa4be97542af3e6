"""A Scheduler as a program: ``process.py URL SPEC QUEUE [manager]``, until SIGTERM or the end of its stdin.

It prints as JSON what it enqueued.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading

from aioasynq import PeriodicTaskConfig, PeriodicTaskManager, Scheduler, Task, TaskInfo


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def enqueued(info: TaskInfo | None, error: Exception | None) -> None:
    say(event="enqueued", id=info.id if info else "", error=str(error or ""))


async def main(url: str, spec: str, queue: str, kind: str = "scheduler") -> None:
    task = Task("ok", b"p", max_retry=3)
    if kind == "manager":

        def provide() -> list[PeriodicTaskConfig]:
            return [PeriodicTaskConfig(spec, task, queue=queue, timeout=90)]

        manager = PeriodicTaskManager(url, provide, heartbeat_interval=1, post_enqueue=enqueued)
        scheduler, running = manager.scheduler, asyncio.create_task(manager.run())
        entry = ""
    else:
        scheduler = Scheduler(url, heartbeat_interval=1, post_enqueue=enqueued)
        entry = scheduler.register(spec, task, queue=queue, timeout=90)
        running = asyncio.create_task(scheduler.run())
    while scheduler.status == "new" and not running.done():
        await asyncio.sleep(0.01)
    say(event="ready", entry=entry)
    loop = asyncio.get_running_loop()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        asyncio.run_coroutine_threadsafe(scheduler.shutdown(), loop)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    await running
    say(event="stopped", status=scheduler.status)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
