"""pydocket on uvloop: concurrency=100, records of finished tasks not kept (execution_ttl=0).

minimum_check_interval is 10 ms and not 250: it is how long the worker sleeps whenever its slots are full, so that 250
would hold it at 400 tasks a second. It is also how long an idle worker blocks, so that W6 shows what it costs.
The pool may grow past the 100 connections that redis-py 8 allows unless told otherwise: 100 tasks at once need more,
and the worker would reconnect after five seconds each time one is refused.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from docket import Docket, Worker

from benchmarks.program import AsyncSystem, main


class Pydocket(AsyncSystem):
    def prepare(self):
        self.docket = Docket(name="bench", url=f"{self.spec.redis}?max_connections=1000", execution_ttl=timedelta(0))

        async def bench(number: int) -> None:
            await self.handle(number)

        self.bench = bench
        self.docket.register(bench)

    async def open(self):
        self.prepare()
        await self.docket.__aenter__()

    async def close(self):
        await self.docket.__aexit__(None, None, None)

    async def enqueue(self, number):
        await self.docket.add(self.bench)(number)

    async def enqueue_many(self, numbers):
        await self.docket.add_many([self.docket.call(self.bench)(number) for number in numbers])

    async def enqueue_at(self, number, moment):
        await self.docket.add(self.bench, when=datetime.fromtimestamp(moment, UTC))(number)

    def worker(self):
        interval = timedelta(milliseconds=10)
        return Worker(self.docket, concurrency=self.spec.concurrency, minimum_check_interval=interval)

    async def work(self):
        self.prepare()
        async with self.docket, self.worker() as worker:
            await worker.run_forever()


if __name__ == "__main__":
    main(Pydocket)
