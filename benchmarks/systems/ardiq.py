"""ardiq (a core in Rust) with concurrency=100 and twice as many prefetched, its default; the Python side on uvloop."""

from __future__ import annotations

from ardiq import Ardiq

from benchmarks.program import AsyncSystem, main


class ArdiqSystem(AsyncSystem):
    def prepare(self):
        self.app = Ardiq(redis_url=self.spec.redis, queue_name="bench", concurrency=self.spec.concurrency)
        self.task = self.app.task(name="bench")(self.handle)

    async def open(self):
        self.prepare()

    async def enqueue(self, number):
        await self.task.enqueue(number)

    async def enqueue_many(self, numbers):
        await self.app.enqueue_many([self.task.prepare(number) for number in numbers])

    async def enqueue_at(self, number, moment):
        await self.task.options(schedule_ms=round(moment * 1000)).enqueue(number)

    async def work(self):
        self.prepare()
        await self.app.run()


if __name__ == "__main__":
    main(ArdiqSystem)
