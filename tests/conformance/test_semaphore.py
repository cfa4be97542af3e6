"""One semaphore that handlers of Go, with asynq's x/rate, and handlers of Python share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from aioasynq import Client, ServeMux, Server, Task, TokenNotFoundError, keys
from aioasynq.rate import Semaphore
from tests.conformance.go_side import GoServer
from tests.server.stage import Seen, patience

KEY = keys.semaphore("s")


class Python:
    """Handlers that take a token, wait, and give it back."""

    def __init__(self, redis_url: str, tokens: int) -> None:
        self.semaphore = Semaphore(redis_url, "s", tokens)
        self.got = Seen()
        self.gave = Seen()
        self.gates: dict[str, asyncio.Event] = {}
        self.mux = ServeMux()
        self.mux.add("token", self._handle)

    def gate(self, task_id: str) -> asyncio.Event:
        return self.gates.setdefault(task_id, asyncio.Event())

    async def _handle(self, task: Task) -> None:
        got = await self.semaphore.acquire(task)
        self.got.add((task.id, got))
        if got:
            await self.gate(task.id).wait()
            await self.semaphore.release(task)
            self.gave.add(task.id)


@pytest.fixture
async def python(redis_url: str) -> AsyncIterator[Python]:
    python = Python(redis_url, 2)
    async with Server(redis_url, python.mux, queues=["python"]):
        yield python
        for gate in python.gates.values():
            gate.set()
    await python.semaphore.aclose()


@pytest.mark.rows(149)
async def test_go_and_python_share_the_tokens(go_programs, redis_url, redis: Redis, python: Python):
    async with (
        patience(40),
        GoServer(redis_url, queues=["go"], retry_delay=600) as go,
        Client(redis_url) as client,
    ):
        await client.enqueue(Task("token:s", b"2"), queue="go", task_id="g1")
        assert (await go.wait("token", id="g1"))["got"] is True
        await client.enqueue(Task("token"), queue="python", task_id="p1")
        await python.got.until(lambda seen: ("p1", True) in seen)
        assert sorted(await redis.zrange(KEY, 0, -1)) == [b"g1", b"p1"]

        # none is left, on either side
        await client.enqueue(Task("token:s", b"2"), queue="go", task_id="g2")
        assert (await go.wait("token", id="g2"))["got"] is False
        await client.enqueue(Task("token"), queue="python", task_id="p2")
        await python.got.until(lambda seen: ("p2", False) in seen)

        # what Go gives back Python gets, and the other way round
        go.release("g1")
        assert (await go.wait("given_back", id="g1"))["error"] == ""
        await client.enqueue(Task("token"), queue="python", task_id="p3")
        await python.got.until(lambda seen: ("p3", True) in seen)
        python.gate("p1").set()
        await python.gave.until(1)
        await client.enqueue(Task("token:s", b"2"), queue="go", task_id="g3")
        assert (await go.wait("token", id="g3"))["got"] is True
        assert sorted(await redis.zrange(KEY, 0, -1)) == [b"g3", b"p3"]
        go.release("g3")
        await go.wait("given_back", id="g3")
    assert await redis.zrange(KEY, 0, -1) == [b"p3"]


@pytest.mark.rows(149)
async def test_the_end_of_a_token_is_that_of_the_attempt_on_both_sides(
    go_programs, redis_url, redis: Redis, python: Python
):
    async with patience(40), GoServer(redis_url, queues=["go"]) as go, Client(redis_url) as client:
        before = time.time()
        await client.enqueue(Task("token:s", b"2"), queue="go", task_id="g", timeout=100)
        await go.wait("token", id="g")
        await client.enqueue(Task("token"), queue="python", task_id="p", timeout=100)
        await python.got.until(1)
        assert sorted(await redis.zrange(KEY, 0, -1)) == [b"g", b"p"]
        for task_id in ("g", "p"):
            end = await redis.zscore(KEY, task_id)
            assert end is not None
            assert before + 98 < end < time.time() + 102
        go.release("g")
        await go.wait("given_back", id="g")


@pytest.mark.rows(149)
async def test_each_takes_back_the_tokens_of_the_dead_of_the_other(
    go_programs, redis_url, redis: Redis, python: Python
):
    """A token past its end is nobody's, whoever took it, and with whatever score."""
    async with patience(40), GoServer(redis_url, queues=["go"]) as go, Client(redis_url) as client:
        await redis.zadd(KEY, {"dead-1": int(time.time()) - 60, "dead-2": time.time() - 60.123})
        await client.enqueue(Task("token:s", b"2"), queue="go", task_id="g")
        assert (await go.wait("token", id="g"))["got"] is True
        assert await redis.zrange(KEY, 0, -1) == [b"g"]
        await redis.zadd(KEY, {"dead-3": int(time.time()) - 60})
        await client.enqueue(Task("token"), queue="python", task_id="p")
        await python.got.until(lambda seen: ("p", True) in seen)
        assert sorted(await redis.zrange(KEY, 0, -1)) == [b"g", b"p"]
        go.release("g")
        await go.wait("given_back", id="g")


@pytest.mark.rows(149)
async def test_without_a_token_neither_can_give_one_back(go_programs, redis_url, redis: Redis):
    async with patience(40), GoServer(redis_url, queues=["go"]) as go, Client(redis_url) as client:
        await client.enqueue(Task("token:s", b"2"), queue="go", task_id="g", max_retry=0)
        await go.wait("token", id="g")
        await redis.delete(KEY)
        go.release("g")
        theirs = (await go.wait("given_back", id="g"))["error"]
    semaphore = Semaphore(redis_url, "s", 2)
    task = Task.received(
        "t", b"", {}, id="g", queue="q", retried=0, max_retry=0, write_result=None, ends=time.time() + 60
    )
    with pytest.raises(TokenNotFoundError) as caught:
        await semaphore.release(task)
    await semaphore.aclose()
    assert theirs == 'no token found for task "g"'
    assert str(caught.value) == "no token of semaphore 's' found for task 'g'"


@pytest.mark.rows(149)
@pytest.mark.parametrize(("scope", "tokens"), [("s", 0), ("s", -1), (" ", 1), ("", 1)])
async def test_what_go_panics_at_is_refused(go_programs, redis_url, scope, tokens):
    async with patience(40), GoServer(redis_url, queues=["go"]) as go, Client(redis_url) as client:
        await client.enqueue(Task(f"refuse:{scope}", str(tokens)), queue="go", task_id="x", max_retry=0)
        assert (await go.wait("refused", id="x"))["error"].startswith("rate.NewSemaphore: ")
    with pytest.raises(ValueError, match="must"):
        Semaphore(redis_url, scope, tokens)
