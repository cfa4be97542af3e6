"""Coming from arq: a worker with a context, a delay, a retry, a job id and a result, as arq has them.

What arq calls it stands beside each part. It prints what the handlers do, and the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aioasynq import Client, Context, RetryAfter, ServeMux, Server, TaskIDConflictError
from aioasynq.devserver import redis_url

mux = ServeMux()


# arq: WorkerSettings.on_startup and on_shutdown, which fill ctx, a dict
class State:
    def __init__(self) -> None:
        self.visits: dict[str, int] = {}


@asynccontextmanager
async def lifespan() -> AsyncGenerator[State]:
    print("startup")
    yield State()
    print("shutdown")


# arq: async def download(ctx, url), listed in WorkerSettings.functions by func(download, keep_result=60, max_tries=5)
@mux.task("download", retention=60, max_retry=4)
async def download(context: Context[State], url: str) -> int:
    visits = context.state.visits
    visits[url] = visits.get(url, 0) + 1
    if visits[url] == 1:
        print(f"{url} is busy")
        raise RetryAfter(0.1)  # arq: raise Retry(defer=0.1)
    print(f"{url} is there")
    return len(url)


async def main() -> None:
    with redis_url() as url:
        async with Client(url) as client:  # arq: await create_pool(RedisSettings())
            # arq: the name of the function, its arguments, and then _job_id="a", _defer_by=0.1, _queue_name="web"
            job = await download.with_options(task_id="a", process_in=0.1, queue="web").enqueue(client, "example.org")
            try:
                await download.with_options(task_id="a", queue="web").enqueue(client, "example.org")
            except TaskIDConflictError:  # arq: None is returned
                print("job a is there already")
            async with Server(url, mux, lifespan=lifespan, queues=["web"], concurrency=10):  # arq: max_jobs=10
                print(f"result: {await client.result(job, timeout=10)}")  # arq: await job.result(timeout=10)


if __name__ == "__main__":
    asyncio.run(main())
