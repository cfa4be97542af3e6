"""Context and lifespan: what a server opens at its start and closes at its end, and how handlers get at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aioasynq import Client, Context, ServeMux, Server, Task, current_context, current_task
from aioasynq.devserver import redis_url
from aioasynq.mux import Run

mux = ServeMux()
done = asyncio.Semaphore(0)


@dataclass
class Database:
    """Stands for a pool of connections."""

    rows: dict[int, str] = field(default_factory=dict)


@asynccontextmanager
async def lifespan(server: Server) -> AsyncGenerator[Database]:
    print(f"the database is opened, {server.running} tasks run")
    yield Database({42: "Ada"})
    print(f"the database is closed, {server.running} tasks run")


@mux.use
async def count(task: Task, call_next: Run) -> object:
    database: Database = current_context().state  # where no parameter is filled in
    try:
        return await call_next(task)
    finally:
        print(f"after {task.type}: {len(database.rows)} rows")
        done.release()


# The first parameter is no part of the payload: it is filled in. A server that yields no Database does not start.
@mux.task("rename")
async def rename(context: Context[Database], user_id: int, name: str) -> None:
    print(f"{context.state.rows[user_id]} is {name} now")
    context.state.rows[user_id] = name


@mux.task("show")
async def show(task: Task, text: str) -> None:
    print(f"{task.type}, try {task.retried + 1}: {text}")
    deep_within()


def deep_within() -> None:
    print(f"it is still {current_task().type}")


async def main() -> None:
    with redis_url() as url:
        async with Client(url) as client, Server(url, mux, lifespan=lifespan, concurrency=1):
            await rename.enqueue(client, user_id=42, name="Ada Lovelace")
            await show.enqueue(client, text="hello")
            for _ in range(2):
                await done.acquire()


if __name__ == "__main__":
    asyncio.run(main())
