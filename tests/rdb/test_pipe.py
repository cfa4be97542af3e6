"""The connection that calls share: replies in order, and what becomes of the calls when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError, ReadOnlyError, ResponseError

from aioasynq import RDB, BrokerError, keys
from aioasynq.devserver import DevServer
from aioasynq.rdb.connection import connection_for
from aioasynq.rdb.pipe import SELDOM, Pipe, pack
from tests.support.build import QUEUE, message
from tests.support.proxy import Proxy

pytestmark = pytest.mark.usefixtures("redis")  # one server, empty; a Cluster has no such connection
MakeProxy = Callable[..., Awaitable[Proxy]]
PATIENCE = 10.0


pytestmark = pytest.mark.no_cluster("calls of a Cluster share no connection")


async def open_pipe(client: Redis, patience: float = 2.0) -> Pipe:
    connection, _ = await connection_for(client, "")
    pipe = await Pipe.over(connection, patience)
    assert pipe is not None
    return pipe


@pytest.fixture
async def pipe(redis: Redis) -> AsyncIterator[Pipe]:
    pipe = await open_pipe(redis)
    yield pipe
    pipe.close()


def ask(pipe: Pipe, *words: Any) -> asyncio.Future[Any]:
    """Send, and have the reply, whatever it is."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    pipe.send(pack(words), answer.set_result)
    return answer


async def test_replies_come_in_the_order_of_the_calls(pipe: Pipe) -> None:
    answers = [ask(pipe, "ECHO", f"{n}") for n in range(1000)]
    assert pipe.busy
    await pipe.drain()
    assert not pipe.busy
    assert [answer.result() for answer in answers] == [f"{n}".encode() for n in range(1000)]
    await pipe.drain()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_is_sent_while_another_call_is_being_sent_keeps_its_answer(pipe: Pipe, when: str) -> None:
    """As what the garbage collector ends may do, which can run at any point of that."""
    answers: list[asyncio.Future[Any]] = []

    class Transport:
        def write(self, data: bytes) -> None:
            if when == "before":
                self.interfere()
            transport.write(data)
            if when == "after":
                self.interfere()

        def interfere(self) -> None:
            if len(answers) < 3:
                answers.append(asyncio.get_running_loop().create_future())
                answers.append(ask(pipe, "ECHO", f"{len(answers)}"))

    transport, pipe._transport = pipe._transport, Transport()  # type: ignore[assignment]
    first = ask(pipe, "ECHO", "first")
    pipe._transport = transport
    assert await first == b"first"
    sent = answers[1::2]
    assert [await answer for answer in sent] == [b"%d" % number for number in range(1, 2 * len(sent), 2)]
    assert len(sent) == 2


@pytest.mark.parametrize("protocol", [2, 3])
async def test_errors_are_replies(redis_url: str, protocol: int) -> None:
    async with Redis.from_url(redis_url, protocol=protocol) as client:
        pipe = await open_pipe(client)
        wrong, none, nested, right = (
            ask(pipe, "NOSUCHCOMMAND"),
            ask(pipe, "GET", "nothing"),
            ask(pipe, "EVAL", "return {1, {2, 'x'}, 'y'}", 0),
            ask(pipe, "ECHO", "é"),
        )
        assert isinstance(await wrong, ResponseError)
        assert await none is None
        assert await nested == [1, [2, b"x"], b"y"]
        assert await right == "é".encode()
        pipe.close()


async def test_what_is_no_text_is_not_sent(pipe: Pipe) -> None:
    with pytest.raises(UnicodeEncodeError):
        ask(pipe, "ECHO", "\udcff")
    assert not pipe.busy
    assert await ask(pipe, "ECHO", b"\xff") == b"\xff"


async def test_a_push_that_nobody_asked_for(redis_url: str) -> None:
    async with Redis.from_url(redis_url, protocol=3) as client:
        pipe = await open_pipe(client)
        await ask(pipe, "CLIENT", "TRACKING", "ON")
        await ask(pipe, "GET", "watched")
        await client.set("watched", "1")  # Redis pushes that it has changed
        assert await ask(pipe, "GET", "watched") == b"1"
        assert await ask(pipe, "ECHO", "x") == b"x"
        pipe.close()


async def test_when_it_breaks_all_that_wait_are_told(redis_url: str, proxy: MakeProxy) -> None:
    between = await proxy()
    async with Redis.from_url(between.url) as client, asyncio.timeout(PATIENCE):
        pipe = await open_pipe(client)
        between.black_hole()
        answers = [ask(pipe, "ECHO", n) for n in range(3)]
        draining = asyncio.create_task(pipe.drain())
        between.cut_all()
        assert [type(answer) for answer in await asyncio.gather(*answers)] == [RedisConnectionError] * 3
        await draining
        assert not pipe.is_open
        between.resume()


async def test_when_redis_is_silent_it_ends(redis_url: str, proxy: MakeProxy) -> None:
    between = await proxy()
    async with Redis.from_url(between.url) as client, asyncio.timeout(PATIENCE):
        pipe = await open_pipe(client, 0.1)
        assert await ask(pipe, "ECHO", "x") == b"x"
        between.black_hole()
        assert isinstance(await ask(pipe, "ECHO", "x"), TimeoutError)
        assert not pipe.is_open
        between.resume()


async def test_a_reply_that_takes_its_time_is_waited_for(redis: Redis, redis_url: str, proxy: MakeProxy) -> None:
    """Patience is for silence: what arrives slowly arrives."""
    await redis.set("large", b"x" * 1_000_000)
    between = await proxy()
    async with Redis.from_url(between.url) as client, asyncio.timeout(PATIENCE):
        pipe = await open_pipe(client, 0.3)
        slow = asyncio.get_running_loop().create_task(trickle(pipe))
        assert len(await ask(pipe, "GET", "large")) == 1_000_000
        slow.cancel()
        pipe.close()


async def trickle(pipe: Pipe) -> None:
    transport: Any = pipe._transport
    while True:
        transport.pause_reading()
        await asyncio.sleep(0.1)
        transport.resume_reading()
        await asyncio.sleep(0.01)


async def test_a_pipe_used_now_and_then_sets_no_timer_that_wakes(pipe: Pipe) -> None:
    async with asyncio.timeout(PATIENCE):
        await ask(pipe, "PING")
        pipe._heard -= 2 * SELDOM  # as if that had been long ago
        await ask(pipe, "PING")
        assert pipe._timer is None
        await ask(pipe, "PING")
        assert pipe._timer is not None, "one that is used much keeps its timer"
        waits = ask(pipe, "BLPOP", "nothing", 0)
    pipe.close()
    assert isinstance(await waits, RedisConnectionError)


async def test_two_are_written_together(pipe: Pipe) -> None:
    replies: list[Any] = []
    pipe.send_two(pack(("ECHO", "a")) + pack(("ECHO", "b")), replies.append, replies.append)
    assert await ask(pipe, "ECHO", "c") == b"c"
    assert replies == [b"a", b"b"]


async def test_a_master_no_more_is_left(own_server: Callable[..., DevServer]) -> None:
    server = own_server()
    async with Redis.from_url(server.url) as client, asyncio.timeout(PATIENCE):
        pipe = await open_pipe(client)
        await client.replicaof("127.0.0.1", "1")
        assert isinstance(await ask(pipe, "SET", "a", "b"), ReadOnlyError)
        assert not pipe.is_open


async def test_a_connect_that_is_cancelled_leaves_nothing(redis_url: str, proxy: MakeProxy) -> None:
    between = await proxy()
    async with Redis.from_url(between.url) as client, asyncio.timeout(PATIENCE):
        between.black_hole()
        opening = asyncio.create_task(open_pipe(client))
        await between.until(lambda: between.connections == 1)
        opening.cancel()
        await asyncio.wait({opening})
        between.resume()
        await between.until(lambda: between.connections == 0)


async def test_callers_share_one_connection(redis: Redis, redis_url: str) -> None:
    before = {row["id"] for row in await redis.client_list()}
    async with RDB(redis_url) as rdb:
        await asyncio.gather(*(rdb.enqueue([message(f"{n}")]) for n in range(200)))
        assert len({row["id"] for row in await redis.client_list()} - before) == 1
    assert await redis.llen(keys.pending(QUEUE)) == 200


@pytest.mark.parametrize("waits", [True, False], ids=["it waits", "it was cancelled"])
async def test_a_call_whose_connection_breaks_is_repeated(
    redis: Redis, redis_url: str, proxy: MakeProxy, waits: bool
) -> None:
    """Whether its caller still waits or not, and it is done once."""
    between = await proxy()
    async with asyncio.timeout(PATIENCE), RDB(between.url) as rdb:
        await rdb.enqueue([message("first")])  # it is connected, and Redis knows the script
        fault = between.lose_reply("EVALSHA")
        calling = asyncio.create_task(rdb.enqueue([message("a")]))
        await between.until(lambda: between.connections == 1)
        await asyncio.sleep(0)
        if not waits:
            calling.cancel()
        await asyncio.wait({calling})
        await rdb.settled()
        assert waits == (not calling.cancelled())
        if waits:
            assert calling.result() == [None]
            assert fault.fired == 1
    assert await redis.llen(keys.pending(QUEUE)) == 2


async def test_what_is_closed_takes_no_call(pipe: Pipe) -> None:
    pipe.close()
    with pytest.raises(RedisConnectionError):
        ask(pipe, "ECHO", "x")
    assert not pipe.busy


async def test_a_large_call_keeps_no_other_waiting(redis: Redis, redis_url: str) -> None:
    """It has a connection of its own."""
    before = {row["id"] for row in await redis.client_list()}
    async with asyncio.timeout(PATIENCE), RDB(redis_url) as rdb:
        await rdb.enqueue([message("small")])
        assert len({row["id"] for row in await redis.client_list()} - before) == 1
        await rdb.enqueue([message("large", payload=b"x" * 2_000_000)])
        assert len({row["id"] for row in await redis.client_list()} - before) == 2
    assert await redis.llen(keys.pending(QUEUE)) == 2


async def test_it_is_of_one_event_loop(pipe: Pipe) -> None:
    async def is_usable() -> bool:
        return pipe.is_usable

    assert await is_usable()
    assert not await asyncio.to_thread(lambda: asyncio.run(is_usable()))


async def test_after_the_end_nothing_is_sent(redis_url: str) -> None:
    rdb = RDB(redis_url)
    await rdb.enqueue([message("a")])
    await rdb.aclose()
    with pytest.raises(BrokerError, match="closed"):
        await rdb.enqueue([message("b")])


async def test_what_is_given_up_is_cancelled(redis_url: str, proxy: MakeProxy) -> None:
    between = await proxy()
    async with asyncio.timeout(PATIENCE):
        rdb = RDB(between.url)
        await rdb.enqueue([message("first")])
        between.black_hole()
        calling = asyncio.create_task(rdb.enqueue([message("a")]))
        await asyncio.sleep(0)
        rdb.abort()
        await asyncio.wait({calling})
        assert calling.cancelled()
        between.resume()
        await rdb.aclose()
