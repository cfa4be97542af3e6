"""saq on uvloop: concurrency=100, as many operations at once (max_concurrent_ops), finished jobs not kept (ttl=-1)."""

from __future__ import annotations

from saq import Queue, Worker

from benchmarks.program import AsyncSystem, main


class Saq(AsyncSystem):
    def queue(self):
        return Queue.from_url(self.spec.redis, name="bench", max_concurrent_ops=self.spec.concurrency)

    async def open(self):
        self.jobs = self.queue()
        await self.jobs.connect()

    async def close(self):
        await self.jobs.disconnect()

    async def enqueue(self, number):
        await self.jobs.enqueue("bench", number=number, ttl=-1)

    async def enqueue_at(self, number, moment):
        await self.jobs.enqueue("bench", number=number, ttl=-1, scheduled=int(moment))

    async def work(self):
        async def bench(_, *, number):
            await self.handle(number)

        queue = self.queue()
        await queue.connect()
        await Worker(queue, [("bench", bench)], concurrency=self.spec.concurrency).start()


if __name__ == "__main__":
    main(Saq)
