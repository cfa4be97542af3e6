"""repid on uvloop with its Redis server (streams): tasks_limit=100, 100 messages a read (batch_size)."""

from __future__ import annotations

from repid import Repid, Router
from repid.connections.redis import RedisServer

from benchmarks.program import AsyncSystem, main


class RepidSystem(AsyncSystem):
    def app(self):
        app = Repid()
        self.server = RedisServer(self.spec.redis, batch_size=100)
        app.servers.register_server("default", self.server, is_default=True)
        return app

    async def open(self):
        self.repid = self.app()
        self.connection = self.server.connection()
        await self.connection.__aenter__()

    async def close(self):
        await self.connection.__aexit__(None, None, None)

    async def enqueue(self, number):
        payload = b'{"number":%d}' % number
        await self.repid.send_message(channel="default", payload=payload, headers={"topic": "bench"})

    async def work(self):
        router = Router()

        @router.actor
        async def bench(number: int) -> None:
            await self.handle(number)

        app = self.app()
        app.include_router(router)
        async with self.server.connection():
            await app.run_worker(tasks_limit=self.spec.concurrency, register_signals=[])


if __name__ == "__main__":
    main(RepidSystem)
