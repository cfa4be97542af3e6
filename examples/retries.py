"""What becomes of a task that fails: what its handler says, what its type says, and what the server says."""

from __future__ import annotations

import asyncio

from aioasynq import Client, Exponential, RetryAfter, RevokeTask, ServeMux, Server, SkipRetry, Task, current_task
from aioasynq.devserver import redis_url

mux = ServeMux()
open_tasks = {"flaky", "hopeless", "invalid", "outdated", "limited", "listed", "jittered", "broken"}
all_over = asyncio.Event()
asked = 0


def tell(text: str, *, over: bool = False) -> None:
    task = current_task()
    print(f"{task.type}, try {task.retried + 1} of {task.max_retry + 1}: {text}")
    if over:
        open_tasks.discard(task.type)
    if not open_tasks:
        all_over.set()


@mux.task("flaky", max_retry=3)
async def flaky() -> None:
    if current_task().retried < 2:
        raise ConnectionError("no answer")
    tell("done", over=True)


@mux.task("hopeless", max_retry=1)
async def hopeless() -> None:
    raise ValueError("never works")  # after its retries it is archived, for people to look at


@mux.task("invalid")
async def invalid() -> None:
    raise SkipRetry("no such user")  # archived at once


@mux.task("outdated")
async def outdated() -> None:
    tell("not wanted any more", over=True)
    raise RevokeTask  # neither retried nor archived


@mux.task("limited", max_retry=0)
async def limited() -> None:
    global asked  # noqa: PLW0603 - a counter
    asked += 1
    if asked == 1:
        raise RetryAfter(0.3)  # not now: comes back, and that is no failure
    tell("done", over=True)


# What a type says about all of its tasks:


@mux.task("listed", retry=[0.1, 0.2], max_retry=3)  # the last delay is that of all further tries
async def listed() -> None:
    if current_task().retried < 3:
        raise ConnectionError("no answer")
    tell("done", over=True)


@mux.task("jittered", retry=Exponential(first=0.1, factor=2, longest=1), max_retry=2)  # 0 to 0.1 s, 0 to 0.2 s, …
async def jittered() -> None:
    if current_task().retried < 2:
        raise ConnectionError("no answer")
    tell("done", over=True)


@mux.task("broken", dont_retry=(ValueError, KeyError))  # no retry helps against these
async def broken() -> None:
    raise KeyError("bug")


@mux.on_retry
def on_retry(task: Task, error: BaseException, delay: float) -> None:
    if task.type == "listed":
        tell(f"again in {delay} s after {error}")


async def on_error(task: Task, error: BaseException) -> None:
    last = task.retried >= task.max_retry or isinstance(error, SkipRetry | KeyError)
    if isinstance(error, RetryAfter):
        tell("comes back later")
    elif not isinstance(error, RevokeTask):
        tell(f"{error}; {'archived' if last else 'to be retried'}", over=last)


async def main() -> None:
    with redis_url() as url:
        # Without retry_delay it is asynq's: seconds at first, longer with each failure, three weeks over 25 retries.
        server = Server(url, mux, retry_delay=lambda _retried, _error, _task: 0.1, error_handler=on_error)
        async with Client(url) as client, server:
            for task_type in (flaky, hopeless, invalid, outdated, limited, listed, jittered, broken):
                await client.enqueue(task_type.task())
            await all_over.wait()


if __name__ == "__main__":
    asyncio.run(main())
