"""Middleware: code around all handlers of a mux, the first added is outermost, or around one. Muxes nest.

Hooks are told what happened; they change nothing.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from aioasynq import Client, ServeMux, Server, Task
from aioasynq.devserver import redis_url
from aioasynq.mux import Run

mux = ServeMux()
images = ServeMux()
mux.add("image:", images)  # with middleware of its own

user: ContextVar[str] = ContextVar("user", default="nobody")
done = asyncio.Semaphore(0)
told = asyncio.Event()


@mux.use
async def log(task: Task, call_next: Run) -> object:
    print(f"{task.type} begins")
    try:
        return await call_next(task)
    except Exception as exc:
        print(f"{task.type} failed: {exc}")
        raise  # or the server would take it for a success
    finally:
        print(f"{task.type} ends")
        done.release()


@mux.use
async def set_user(task: Task, call_next: Run) -> object:
    user.set(task.headers.get("user", "nobody"))  # each task has a context of its own
    return await call_next(task)


@images.use
async def only_known_users(task: Task, call_next: Run) -> object:
    if user.get() == "nobody":
        raise PermissionError("who wants that?")
    return await call_next(task)


@mux.task("hello")
async def hello() -> None:
    print(f"hello {user.get()}")


async def shout(task: Task, call_next: Run) -> object:
    print("!")
    return await call_next(task)


@images.task("image:resize", middleware=[shout])  # around this handler only, inside all others
async def resize(width: int) -> None:
    print(f"{user.get()} resizes to {width}")


@mux.on_failure
def tell(task: Task, error: BaseException) -> None:
    print(f"hook: {task.type} failed with {type(error).__name__}")
    told.set()


async def main() -> None:
    with redis_url() as url:
        async with Client(url) as client, Server(url, mux, concurrency=1):
            await client.enqueue(hello.task())
            await client.enqueue(resize.task(640), headers={"user": "ada"})
            await client.enqueue(resize.task(640))
            for _ in range(3):
                await done.acquire()
            await told.wait()


if __name__ == "__main__":
    asyncio.run(main())
