"""Two kinds of handlers: raw ones get the bytes of all types with a prefix, typed ones get arguments.

A typed handler is given the members of a JSON object by name. A name that is missing or not known, or a value that does
not fit its annotation, is a PayloadError, and the task is archived. typed.py has more of them.
"""

from __future__ import annotations

import asyncio
import threading

from aioasynq import Client, PayloadError, ServeMux, Server, Task, current_task
from aioasynq.devserver import redis_url
from aioasynq.mux import Run

mux = ServeMux()
ended: asyncio.Queue[str] = asyncio.Queue()


@mux.use
async def tell(task: Task, call_next: Run) -> object:
    result = await call_next(task)
    ended.put_nowait(f"{task.type}: {result}")
    return result


@mux.handler("image:")  # all types that begin with it, unless a longer pattern fits
async def image(task: Task) -> str:
    return f"raw, {task.payload!r} and {task.headers} from queue {task.queue}"


@mux.handler("image:resize")
async def resize(task: Task) -> str:
    return f"raw, {len(task.payload)} bytes, try {task.retried + 1} of {task.max_retry + 1}"


# The payload is a JSON object: its members have to be the parameters, by name, of the types that are annotated.
@mux.task("report", queue="low", max_retry=3)
async def report(year: int, kinds: list[str]) -> str:
    return f"typed, {year} and {kinds}; the payload is {current_task().payload.decode()}"


@mux.task("count")
def count(up_to: int) -> str:  # a plain function runs in a thread
    where = "the main thread" if threading.current_thread() is threading.main_thread() else "a thread"
    return f"{sum(range(up_to))}, counted in {where}"


async def failed(task: Task, error: BaseException) -> None:
    what = "archived at once" if isinstance(error, PayloadError) else "to be retried"
    ended.put_nowait(f"{task.type}: {what}, {error}")


async def main() -> None:
    with redis_url() as url:
        server = Server(url, mux, queues={"default": 3, "low": 1}, error_handler=failed)
        async with Client(url) as client, server:
            for task in (
                Task("image:rotate", "left", headers={"trace": "abc"}),
                Task("image:resize", b"\x00" * 1000),
                report.task(2026, kinds=["sales", "tax"]),
                count.task(up_to=1000),
                Task("report", '{"year": 2026}', queue="low"),
                Task("report", '{"year": 2026, "kinds": ["sales", 7]}', queue="low"),
            ):
                await client.enqueue(task)
                print(await ended.get())
    print(f"called directly, it is the plain function: {count(3)}")


if __name__ == "__main__":
    asyncio.run(main())
