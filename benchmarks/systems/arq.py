"""arq on uvloop: max_jobs=100, results not kept (keep_result=0), all else by default, so it polls every 0.5 s."""

from __future__ import annotations

from datetime import UTC, datetime

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func

from benchmarks.program import AsyncSystem, main


class Arq(AsyncSystem):
    async def open(self):
        self.pool = await create_pool(RedisSettings.from_dsn(self.spec.redis))

    async def close(self):
        await self.pool.aclose()

    async def enqueue(self, number):
        await self.pool.enqueue_job("bench", number)

    async def enqueue_at(self, number, moment):
        await self.pool.enqueue_job("bench", number, _defer_until=datetime.fromtimestamp(moment, UTC))

    async def work(self):
        async def bench(_, number):
            await self.handle(number)

        worker = Worker(
            [func(bench, name="bench")],
            redis_settings=RedisSettings.from_dsn(self.spec.redis),
            max_jobs=self.spec.concurrency,
            keep_result=0,
            log_results=False,
            handle_signals=False,
        )
        await worker.async_run()


if __name__ == "__main__":
    main(Arq)
