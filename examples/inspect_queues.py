"""Look into queues, see why a task does not run, and run again what failed."""

from __future__ import annotations

import asyncio

from aioasynq import Client, Inspector, ServeMux, Server, Task, TaskFailedError, TaskInfo
from aioasynq.devserver import redis_url

mux = ServeMux()
out_of_order = {"the printer"}


@mux.handler("report")
async def report(task: Task) -> None:
    if out_of_order and task.payload == b"2":
        raise RuntimeError(f"{', '.join(out_of_order)} is out of order")
    print(f"report {task.payload.decode()} is printed")


async def main() -> None:
    with redis_url() as url:
        async with Client(url) as client, Inspector(url) as inspector:
            tasks = [Task("report", str(number), task_id=f"report-{number}") for number in range(3)]
            infos = [
                info
                for info in await client.enqueue_many(tasks, max_retry=0, retention=60)
                if isinstance(info, TaskInfo)
            ]
            print(await inspector.explain("default", "report-2"))

            async with Server(url, mux, concurrency=1):
                for info in infos:
                    try:
                        await client.result(info)
                    except TaskFailedError as error:
                        print(error)

                out_of_order.clear()
                count = await inspector.run_tasks("default", "archived", error="out of order")
                await client.result(infos[2])
                print(f"{count} task has run again")


if __name__ == "__main__":
    asyncio.run(main())
