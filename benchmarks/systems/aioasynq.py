"""aioasynq of this working tree, on uvloop; raw handlers, default options, concurrency 100.

With ``everything`` on: a typed handler, a unique lock, retention with a stored result, headers and one middleware.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aioasynq import Client, ServeMux, Server, Task
from aioasynq.options import OptionsDict
from benchmarks.program import AsyncSystem, main

EVERYTHING: OptionsDict = {"unique": 3600, "retention": 3600, "headers": {"trace": "0af7651916cd43dd"}}


class Aioasynq(AsyncSystem):
    async def open(self) -> None:
        self.client = Client(self.spec.redis)
        self.names = _names(self.spec.queues)

    async def close(self) -> None:
        await self.client.aclose()

    def task(self, number: int) -> Task:
        if self.spec.everything:
            return Task("bench", b'{"number":%d}' % number, **EVERYTHING)
        if self.spec.named:
            return Task("bench", b"%d" % number, queue=self.names[number % len(self.names)])
        return Task("bench", b"%d" % number)

    async def enqueue(self, number: int) -> None:
        await self.client.enqueue(self.task(number))

    async def enqueue_many(self, numbers: list[int]) -> None:
        for answer in await self.client.enqueue_many([self.task(number) for number in numbers]):
            if isinstance(answer, Exception):
                raise answer

    async def enqueue_at(self, number: int, moment: float) -> None:
        await self.client.enqueue(self.task(number), process_at=moment)

    async def work(self) -> None:
        mux = self.everything() if self.spec.everything else self.plain()
        queues = dict.fromkeys(_names(self.spec.served), 1)
        await Server(self.spec.redis, mux, concurrency=self.spec.concurrency, queues=queues).run()

    def plain(self) -> ServeMux:
        mux = ServeMux()
        if self.spec.handler == "noop":
            hit = self.shared.hit

            @mux.handler("bench")
            async def noop(task: Task) -> None:
                hit(int(task.payload))
        else:

            @mux.handler("bench")
            async def sleep(task: Task) -> None:
                await self.handle(int(task.payload))

        return mux

    def everything(self) -> ServeMux:
        mux = ServeMux()

        @mux.use
        async def through(task: Task, call_next: Callable[[Task], Awaitable[object]]) -> object:
            return await call_next(task)

        @mux.task("bench")
        async def bench(number: int) -> int:
            await self.handle(number)
            return number

        return mux


def _names(queues: int) -> list[str]:
    return [f"q{number}" for number in range(queues)] if queues > 1 else ["default"]


if __name__ == "__main__":
    main(Aioasynq)
