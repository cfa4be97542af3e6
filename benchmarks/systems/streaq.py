"""streaq on uvloop: concurrency=100 and as many prefetched, its default; results not kept (ttl=0)."""

from __future__ import annotations

from datetime import UTC, datetime

from streaq import Worker

from benchmarks.program import AsyncSystem, main


class Streaq(AsyncSystem):
    def prepare(self):
        self.worker = Worker(
            redis_url=self.spec.redis, queue_name="bench", concurrency=self.spec.concurrency, handle_signals=False
        )

        async def bench(number: int) -> None:
            await self.handle(number)

        self.task = self.worker.task(name="bench", ttl=0)(bench)

    async def open(self):
        self.prepare()
        await self.worker.__aenter__()

    async def close(self):
        await self.worker.__aexit__(None, None, None)

    async def enqueue(self, number):
        await self.task.enqueue(number)

    async def enqueue_many(self, numbers):
        await self.worker.enqueue_many([self.task.enqueue(number) for number in numbers])

    async def enqueue_at(self, number, moment):
        await self.task.enqueue(number).start(schedule=datetime.fromtimestamp(moment, UTC))

    async def work(self):
        self.prepare()
        await self.worker.run_async()


if __name__ == "__main__":
    main(Streaq)
