"""FastAPI: a client in each request, and a worker in the process of the app; one line for both.

uvicorn --app-dir examples fastapi_app:app
curl -X POST localhost:8000/welcome/42      # prints, in the app: a welcome to user 42
curl localhost:8000/square/12               # answers 144, which the worker has found out
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel

from aioasynq import Client, ServeMux
from aioasynq.contrib.starlette import get_client, lifespan

mux = ServeMux()
Tasks = Annotated[Client, Depends(get_client)]


class Answer(BaseModel):
    id: str
    state: str


@mux.task("email:welcome")
async def welcome(user_id: int) -> None:
    print(f"a welcome to user {user_id}", flush=True)


@mux.task("square", retention=60)
async def square(number: int) -> int:
    return number * number


@asynccontextmanager
async def database(_: FastAPI) -> AsyncGenerator[dict[str, str]]:
    print("the database is opened", flush=True)
    yield {"database": "a database"}
    print("the database is closed", flush=True)


# The app's own lifespan is entered first and left last, so that handlers find what it opens.
app = FastAPI(lifespan=lifespan(mux=mux, inner=database, concurrency=20))


@app.post("/welcome/{user_id}", status_code=202)
async def post_welcome(user_id: int, tasks: Tasks) -> Answer:
    info = await welcome.enqueue(tasks, user_id)
    return Answer(id=info.id, state=info.state)


@app.get("/square/{number}")
async def get_square(number: int, tasks: Tasks) -> int:
    info = await square.enqueue(tasks, number)
    answer: int = await tasks.result(info, timeout=10)
    return answer
