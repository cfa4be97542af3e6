"""Litestar: a client as a dependency, and a worker in the process of the app; one line for both.

uvicorn --app-dir examples litestar_app:app
curl -X POST localhost:8000/welcome/42      # prints, in the app: a welcome to user 42
curl localhost:8000/square/12               # answers 144, which the worker has found out
"""

from __future__ import annotations

from litestar import Litestar, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from aioasynq import Client, ServeMux
from aioasynq.contrib.litestar import lifespan, provide_client

mux = ServeMux()
Tasks = NamedDependency[Client]


@mux.task("email:welcome")
async def welcome(user_id: int) -> None:
    print(f"a welcome to user {user_id}", flush=True)


@mux.task("square", retention=60)
async def square(number: int) -> int:
    return number * number


@post("/welcome/{user_id:int}", status_code=202)
async def post_welcome(user_id: FromPath[int], tasks: Tasks) -> dict[str, str]:
    info = await welcome.enqueue(tasks, user_id)
    return {"id": info.id, "state": info.state}


@get("/square/{number:int}")
async def get_square(number: FromPath[int], tasks: Tasks) -> int:
    info = await square.enqueue(tasks, number)
    answer: int = await tasks.result(info, timeout=10)
    return answer


app = Litestar(
    [post_welcome, get_square],
    lifespan=[lifespan(mux=mux, concurrency=20)],
    dependencies={"tasks": provide_client},
)
