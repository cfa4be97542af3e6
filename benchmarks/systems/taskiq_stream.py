"""taskiq on uvloop with its Redis stream broker: 100 tasks at once and 100 prefetched, 100 a read, orjson, arguments
not parsed (--no-parse), no result backend, up to 200 connections."""

from __future__ import annotations

from taskiq.api import run_receiver_task
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisStreamBroker

from benchmarks.program import AsyncSystem, main


class Taskiq(AsyncSystem):
    def make(self):
        return RedisStreamBroker(self.spec.redis, xread_count=100, max_connection_pool_size=200)

    def prepare(self):
        self.broker = self.make().with_serializer(ORJSONSerializer())

        async def bench(number: int) -> None:
            await self.handle(number)

        self.task = self.broker.register_task(bench, task_name="bench")

    async def open(self):
        self.prepare()
        await self.broker.startup()

    async def close(self):
        await self.broker.shutdown()

    async def enqueue(self, number):
        await self.task.kiq(number)

    async def work(self):
        self.prepare()
        await run_receiver_task(
            self.broker,
            validate_params=False,
            max_async_tasks=self.spec.concurrency,
            max_prefetch=self.spec.concurrency,
            run_startup=True,
        )


if __name__ == "__main__":
    main(Taskiq)
