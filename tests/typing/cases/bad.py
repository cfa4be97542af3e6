"""What type checkers refuse: each line that ends in ``# error``, and no other."""

from __future__ import annotations

from aioasynq import Client, Context, Exponential, RetryAfter, ServeMux, Server, Task, TaskType
from aioasynq.contrib import litestar, starlette
from aioasynq.mux import Run
from aioasynq.testing import Clock, InlineClient, assert_enqueued, run_until_idle

mux = ServeMux()


class State:
    name: str = "state"


@mux.task("welcome")
async def welcome(user_id: int, lang: str = "en", *, flag: bool = False) -> str:
    return f"{user_id} {lang} {flag}"


@mux.task("context")
async def with_context(context: Context[State], user_id: int) -> int:
    print(context.state.nam)  # error
    return user_id


@mux.task("task")
def with_task(task: Task, number: float) -> float:
    return number


@mux.task("nothing")
async def nothing() -> None: ...


@mux.task("others")
async def others(number: int, **more: str) -> None: ...


@TaskType.declare("email:welcome")
async def declared(user_id: int) -> None: ...


mux.handler("thread", executor="thread")  # error


async def watches(client: Client, task: Task) -> None:
    await task.progress("half")  # error
    task.progress_sync(0.5, 7)  # error
    client.watch(7)  # error


async def main(client: Client, context: Context[State], other: Context[int], task: Task) -> None:
    welcome.task()  # error
    welcome.task("42")  # error
    welcome.task(user="42")  # error
    welcome.task(42, "de", True)  # error
    welcome.task(42, lang=None)  # error
    welcome.task(42, queue="low")  # error
    await welcome.enqueue(42)  # error
    await welcome.enqueue(client, "42")  # error
    await welcome.enqueue(client, 42, flag=1)  # error
    await welcome.enqueue(client, user=42)  # error
    await welcome.enqueue(client, 42, process_in=60)  # error
    welcome.enqueue(client, 42)  # error
    client.enqueue(welcome.task(42))  # error
    await client.enqueue("welcome")  # error
    Task("welcome", {"user_id": 42})  # error
    welcome.delay(42)  # error
    await welcome.with_options(queue="low").enqueue(client, "42")  # error
    welcome.with_options(queu="low")  # error
    welcome.with_options(queue=5)  # error
    await welcome("42")  # error
    number: int = await welcome(42)  # error
    print(number)

    with_context.task(context, 42)  # error
    with_context.task("42")  # error
    await with_context.enqueue(client, context, 42)  # error
    await with_context(42)  # error
    await with_context(other, 42)  # error

    with_task.task("1")  # error
    with_task(1.5)  # error
    text: str = with_task(task, 1.5)  # error
    print(text)

    nothing.task(1)  # error
    others.task(1, a=2)  # error
    others.task("1")  # error
    declared.task(user_id="42")  # error
    await client.enqueue(welcome)  # error
    await client.enqueue(welcome.task(42), queu="low")  # error
    client.enqueue_sync(welcome)  # error
    client.enqueue_sync(welcome.task("42"))  # error
    client.enqueue_sync(welcome.task(42), queu="low")  # error
    await client.enqueue_sync(welcome.task(42))  # error
    inline = InlineClient(client)  # error
    await welcome.enqueue(inline, "42")  # error
    inline.assert_enqueued(Task("a"))  # error
    await run_until_idle(client, mux)  # error
    await assert_enqueued("welcome", client)  # error
    Clock().advance("1h")  # error


async def middleware(task: Task, call_next: Run) -> object:
    return await call_next(task)


def hook(task: Task) -> None: ...


async def of_one_argument(task: Task) -> None: ...


mux.task(nothing)  # error
mux.use(of_one_argument)  # error
RetryAfter("5")  # error
mux.task("a", retry="5s")  # error
mux.task("b", dont_retry="ValueError")  # error
mux.task("c", dont_retry=[int])  # error
mux.task("d", middleware=[hook])  # error
mux.task("e", codec="json")  # error
mux.task("f", queu="low")  # error
mux.handler("g", queue="low")  # error
mux.on_success(hook)  # error
Exponential(first="1s")  # error
Server(lifespan=5)  # error
Client(on_enqueue=hook)  # error
starlette.lifespan(mux)  # error
starlette.lifespan(mux=mux, concurency=3)  # error
litestar.lifespan(mux="tasks:mux")  # error
