"""A type that a worker has no handler for is said, once."""

from __future__ import annotations

import logging

import pytest

from aioasynq import Client, ServeMux, Task
from aioasynq.cli.unknown import MOST, Unknown
from aioasynq.errors import HandlerNotFoundError

FATE = "each try fails, and at last they go to the archive"


async def test_at_the_start_and_at_the_first_task(run_worker, redis_url):
    async with Client(redis_url) as client:
        await client.enqueue(Task("greeet"), process_in=1000)
        async with run_worker("tasks:mux", "--url", redis_url) as worker:
            await worker.until(f"no handler for tasks of type 'greeet', as in queue default: {FATE}; is 'greet' meant?")
            await client.enqueue_many([Task("mail\x1b[2J", max_retry=0) for _ in range(2)])
            await worker.until("goes to the archive: handler not found", 2)
    shown = "there are handlers for greet, slow:, thread, to-thread, stubborn and 6 more\n"
    assert f"no handler for tasks of type 'mail\\x1b[2J', as in queue default: {FATE}; {shown}" in worker.said
    assert worker.said.count("no handler for") == 2


async def test_others_are_told_too_and_types_without_end_are_not(caplog):
    told: list[BaseException] = []

    async def error_handler(task: Task, error: BaseException) -> None:
        told.append(error)

    mux = ServeMux()
    mux.add("known", print)
    hear = Unknown(mux).before(error_handler)
    assert hear is not None
    errors = [ValueError("x"), *(HandlerNotFoundError(f"{n}") for n in range(MOST + 5))]
    for error in errors:
        await hear(Task(str(error)), error)
    assert told == errors
    assert len(caplog.records) == MOST


@pytest.mark.parametrize("error", [ValueError("x"), HandlerNotFoundError("t")])
async def test_without_a_handler_of_errors(error, caplog):
    hear = Unknown(ServeMux()).before(None)
    assert hear is not None
    with caplog.at_level(logging.WARNING):
        await hear(Task("t"), error)
    assert len(caplog.records) == isinstance(error, HandlerNotFoundError)
