"""The proxy does what it says to a real Redis, and reports it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import redis as redis_py
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.retry import Retry as SyncRetry

from tests.support.proxy import Proxy, ThreadedProxy, script
from tests.support.resp import ReplyScanner, read_command

pytestmark = pytest.mark.timeout(30)

UPSTREAM_IS_NEVER_ASKED = "redis://127.0.0.1:1/0"


@asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncGenerator[Redis]:
    """A client that neither repeats nor waits for long."""
    options = {"retry": Retry(NoBackoff(), 0), "socket_timeout": 5, **options}
    async with Redis.from_url(url, **options) as client:
        yield client


async def some_time(redis: Redis) -> None:
    """A tenth of a second by Redis's clock."""
    await redis.execute_command("BLMOVE", "nowhere", "nowhere", "LEFT", "LEFT", 0.1)


class Wire:
    """A connection to the proxy on which a test writes and reads bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, request: str, reply: str) -> None:
        """Write inline commands and expect exactly this answer."""
        self.writer.write(request.replace("\n", "\r\n").encode())
        expected = reply.replace("\n", "\r\n").encode()
        async with asyncio.timeout(5):
            assert await self.reader.readexactly(len(expected)) == expected

    async def is_closed(self) -> bool:
        async with asyncio.timeout(5):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


@asynccontextmanager
async def wire_to(proxy: Proxy) -> AsyncGenerator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


# --- where requests and replies end ---

REPLIES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":12\r\n",
    b"_\r\n",
    b"#t\r\n",
    b",1.5\r\n",
    b"(123456789012345678901234567890\r\n",
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b"$5\r\na\r\nbc\r\n",
    b"=8\r\ntxt:abcd\r\n",
    b"!5\r\nERR x\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n:1\r\n*2\r\n$1\r\na\r\n*0\r\n",
    b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n_\r\n",
    b"~1\r\n%1\r\n+a\r\n~0\r\n",
    b">2\r\n+message\r\n+x\r\n",
    b"|1\r\n+ttl\r\n:10\r\n$3\r\nabc\r\n",
]

REQUESTS = [
    (b"*1\r\n$4\r\nping\r\n", [b"PING"]),
    (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n\r\n\r\n\r\n", [b"SET", b"k", b"\r\n\r\n"]),
    (b"get a\r\n", [b"GET", b"a"]),
    (b"\r\n", []),
    (b"*2\r\n$3\r\nget\r\n$0\r\n\r\n", [b"GET", b""]),
]


@pytest.mark.parametrize("reply", REPLIES, ids=repr)
def test_a_reply_that_comes_byte_by_byte(reply):
    scanner = ReplyScanner()
    for _ in range(2):  # nothing is left over for the next one
        for end in range(len(reply)):
            assert scanner.end_of_reply(b"x" + reply[:end], 1) == -1
        assert scanner.end_of_reply(b"x" + reply + b"+y", 1) == len(reply) + 1


def test_replies_one_after_the_other():
    scanner, data, ends = ReplyScanner(), b"".join(REPLIES), [0]
    while ends[-1] < len(data):
        ends.append(scanner.end_of_reply(data, ends[-1]))
    assert [data[begin:end] for begin, end in itertools.pairwise(ends)] == REPLIES


@pytest.mark.parametrize(("data", "command"), REQUESTS)
def test_a_request_that_comes_byte_by_byte(data, command):
    for end in range(len(data)):
        assert read_command(b"x" + data[:end], 1) is None
    assert read_command(b"x" + data + b"*1\r\n", 1) == (command, len(data) + 1)


# --- nothing goes wrong ---


@pytest.mark.parametrize("protocol", [2, 3])
async def test_all_kinds_of_traffic_pass(proxy, protocol):
    front = await proxy()
    big = bytes(range(256)) * 8_000  # 2 MB
    async with client_of(front.url, protocol=protocol) as client:
        await client.set("big", big)
        assert await client.get("big") == big
        async with client.pipeline(transaction=True) as pipe:
            for i in range(1_000):
                pipe.rpush("list", i)
            assert await pipe.execute() == list(range(1, 1_001))
        assert len(await client.lrange("list", 0, -1)) == 1_000
        await client.hset("hash", mapping={"a": "1", "b": "2"})
        assert await client.hgetall("hash") == {b"a": b"1", b"b": b"2"}
        assert await client.zadd("zset", {"a": 1.5}) == 1
        assert await client.zscore("zset", "a") == 1.5
        assert await client.get("nothing") is None
        with pytest.raises(redis_py.ResponseError):
            await client.incr("list")
        await asyncio.gather(*(client.incr("n") for _ in range(50)))
        assert await client.eval("return {1, {2, {}}, 'x'}", 0) == [1, [2, []], b"x"]
    assert front.commands["RPUSH"] == 1_000
    assert (front.commands["MULTI"], front.commands["EXEC"], front.commands["INCRBY"]) == (1, 1, 51)
    assert front.bytes_sent > len(big)
    assert front.bytes_received > len(big)
    assert not front.fired
    async with asyncio.timeout(5):
        await front.until(lambda: front.connections == 0)


async def test_a_unix_socket_and_a_password(own_server):
    server = own_server(unix_socket=True, config={"requirepass": "p@ss/word"})
    async with Proxy(server.url) as front, client_of(front.url) as client:
        assert await client.ping()


async def test_the_database_is_that_of_the_url(redis_url, redis):
    async with Proxy(redis_url.removesuffix("/0") + "/3") as front, client_of(front.url) as client:
        await client.set("k", "v")
    assert await redis.dbsize() == 0


# --- one call goes wrong ---


async def test_lose_reply(proxy, redis):
    front = await proxy()
    fault = front.lose_reply("incrby", nth=2)
    async with client_of(front.url, socket_timeout=0.1) as client:
        assert await client.incr("n") == 1
        with pytest.raises(redis_py.TimeoutError):
            await client.incr("n")
        assert await redis.get("n") == b"2"
        assert await client.incr("n") == 3
    assert (fault.seen, fault.fired, front.fired) == (3, 1, {"lose_reply incrby": 1})


async def test_after_a_lost_reply_its_connection_is_silent_but_open(proxy, redis):
    front = await proxy()
    fault = front.lose_reply("SET")
    async with wire_to(front) as wire, asyncio.timeout(5):
        await wire.ask("PING\nSET k 1\nINCR k\nPING\n", "+PONG\n")
        await front.until(lambda: fault.fired == 1)
        wire.writer.write(b"INCR k\r\n")
        await front.until(lambda: front.commands["INCR"] == 2)
        while await redis.get("k") != b"3":
            pass  # the server has run all of it
        assert front.connections == 1
        front.cut_all()
        assert await wire.is_closed()


async def test_cut_after(proxy, redis):
    front = await proxy()
    fault = front.cut_after("INCRBY", nth=2, times=2, label="second and third")
    async with client_of(front.url) as client:
        assert await client.incr("n") == 1
        for value in (b"2", b"3"):
            with pytest.raises(redis_py.ConnectionError):
                await client.incr("n")
            assert await redis.get("n") == value
        assert await client.incr("n") == 4
    assert (fault.fired, front.fired) == (2, {"second and third": 2})


async def test_cut_before(proxy, redis):
    front = await proxy()
    front.cut_before("INCRBY", nth=2)
    async with client_of(front.url) as client:
        assert await client.incr("n") == 1
        with pytest.raises(redis_py.ConnectionError):
            await client.incr("n")
        assert await redis.get("n") == b"1"
        assert await client.incr("n") == 2
    assert front.fired == {"cut_before INCRBY": 1}


async def test_one_script_among_others(proxy, redis):
    front = await proxy()
    wanted = await redis.script_load("return redis.call('INCR', KEYS[1])")
    other = await redis.script_load("return redis.call('DECR', KEYS[1])")
    fault = front.cut_after(script(wanted), nth=2)
    async with client_of(front.url) as client:
        assert await client.evalsha(wanted, 1, "n") == 1
        assert await client.evalsha(other, 1, "n") == 0
        with pytest.raises(redis_py.ConnectionError):
            await client.evalsha(wanted, 1, "n")
        assert await redis.get("n") == b"1"
    assert (fault.seen, fault.fired) == (2, 1)


async def test_every_call_until_it_is_removed(proxy):
    front = await proxy()
    fault = front.cut_after("GET", times=None)
    async with client_of(front.url) as client:
        for _ in range(3):
            with pytest.raises(redis_py.ConnectionError):
                await client.get("k")
        front.remove(fault)
        await client.get("k")
    assert fault.fired == 3


@pytest.mark.parametrize("kind", ["cut_after", "cut_before", "lose_reply"])
async def test_in_a_pipeline_all_before_the_call_is_answered(proxy, kind, redis):
    front = await proxy()
    fault = getattr(front, kind)("SET")
    async with wire_to(front) as wire:
        if kind == "cut_before":
            wire.writer.write(b"RPUSH k 1\r\nRPUSH k 2\r\nSET k x\r\nRPUSH k 3\r\n")
            assert await wire.is_closed()
            async with asyncio.timeout(5):
                while await redis.llen("k") != 2:
                    pass  # what came before reaches the server, though perhaps only now
        else:
            await wire.ask("RPUSH k 1\nRPUSH k 2\nSET k x\nRPUSH k 3\n", ":1\n:2\n")
        if kind == "cut_after":
            assert await wire.is_closed()
        async with asyncio.timeout(5):
            await front.until(lambda: fault.fired == 1)


async def test_pushes_are_no_replies(proxy, redis):
    front = await proxy()
    fault = front.cut_after("INCR", nth=3)
    async with wire_to(front) as wire, asyncio.timeout(5):
        wire.writer.write(b"HELLO 3\r\nPING\r\n")
        assert (await wire.reader.readuntil(b"+PONG\r\n")).startswith(b"%7\r\n")
        await wire.ask("CLIENT TRACKING ON\nGET watched\n", "+OK\n_\n")
        for number in (1, 2):
            await redis.incr("watched")
            await wire.ask("", ">2\n$10\ninvalidate\n*1\n$7\nwatched\n")
            await wire.ask("INCR n\nGET watched\n", f":{number}\n$1\n{number}\n")
        assert fault.fired == 0
        wire.writer.write(b"INCR n\r\n")
        assert await wire.is_closed()
        assert fault.fired == 1


@pytest.mark.parametrize("protocol", [2, 3])
async def test_subscribers_are_passed_through(proxy, redis, protocol):
    front = await proxy()
    fault = front.cut_after("PING")
    async with client_of(front.url, protocol=protocol) as client, client.pubsub() as subscriber:

        async def hear() -> dict[str, Any]:
            message: dict[str, Any] | None = await subscriber.get_message(timeout=5)
            assert message is not None
            return message

        await subscriber.subscribe("news")
        assert (await hear())["type"] == "subscribe"
        for text in (b"one", b"two"):
            assert await redis.publish("news", text) == 1
            assert (await hear())["data"] == text
        await subscriber.ping()
        assert await redis.publish("news", b"three") == 1
        heard = [await hear(), await hear()]
        assert {message["type"]: message["data"] for message in heard} == {"pong": b"", "message": b"three"}
    assert (front.commands["SUBSCRIBE"], front.commands["PING"], fault.fired) == (1, 1, 0)


async def test_what_was_asked_before_a_subscription_can_still_be_struck(proxy):
    front = await proxy()
    front.cut_after("SET")
    async with wire_to(front) as wire:
        await wire.ask("GET a\nSET a 1\nSUBSCRIBE news\n", "$-1\n")
        assert await wire.is_closed()
    assert front.fired == {"cut_after SET": 1}


# --- connections go wrong ---


async def test_cut_all_reaches_those_that_wait(proxy, redis):
    front = await proxy()
    async with client_of(front.url) as client, asyncio.timeout(10):
        waits = [asyncio.ensure_future(client.blmove("from", "to", 5, "RIGHT", "RIGHT")) for _ in range(3)]
        await front.until(lambda: front.commands["BLMOVE"] == 3)
        assert front.connections == 3
        assert front.cut_all() == 3
        assert front.connections == 0
        for error in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(error, redis_py.ConnectionError)
        assert await client.ping()
        while (await redis.info("clients"))["blocked_clients"]:
            pass  # Redis, too, has noticed
    assert front.fired == {"cut_all": 3}


async def test_cut_every(proxy):
    front = await proxy()
    async with client_of(front.url) as client, asyncio.timeout(10):
        front.cut_every(0.02)
        while front.fired["cut_every"] < 3:
            with suppress(redis_py.ConnectionError):
                await client.ping()
        front.cut_every(None)
        fired = front.fired["cut_every"]
        with suppress(redis_py.ConnectionError):
            await client.ping()
        await some_time(client)
        assert front.fired["cut_every"] == fired


@pytest.mark.parametrize(("request_delay", "reply_delay"), [(0.1, 0.0), (0.0, 0.1), (0.1, 0.1)])
async def test_delay(proxy, request_delay, reply_delay):
    front = await proxy()
    async with client_of(front.url) as client:
        await client.ping()
        front.delay(request=request_delay, reply=reply_delay)
        begin = time.monotonic()
        await client.ping()
        assert time.monotonic() - begin >= request_delay + reply_delay
        assert front.fired["delay"] == (request_delay > 0) + (reply_delay > 0)
        front.delay()
        await client.ping()
        assert front.fired["delay"] == (request_delay > 0) + (reply_delay > 0)


async def test_order_is_kept_when_a_delay_ends(proxy):
    front = await proxy()
    async with wire_to(front) as wire:
        await wire.ask("PING\n", "+PONG\n")
        front.delay(request=0.1)
        wire.writer.write(b"RPUSH k 1\r\n")
        async with asyncio.timeout(5):
            await front.until(lambda: front.commands["RPUSH"] == 1)
        front.delay()
        await wire.ask("LLEN k\n", ":1\n:1\n")


async def test_what_is_delayed_arrives_although_the_client_has_closed(proxy, redis):
    front = await proxy()
    front.delay(request=0.05)
    async with wire_to(front) as wire:
        wire.writer.write(b"RPUSH k 1\r\n")
    async with asyncio.timeout(5):
        await front.until(lambda: front.accepted == 1 and front.connections == 0)
        while not await redis.llen("k"):
            pass


async def test_black_hole(proxy, redis):
    front = await proxy()
    async with client_of(front.url) as client, client_of(front.url) as newcomer, asyncio.timeout(10):
        await client.ping()
        front.black_hole()
        sent = asyncio.ensure_future(client.set("k", "v"))
        connecting = asyncio.ensure_future(newcomer.get("k"))
        await front.until(lambda: front.accepted == 2)
        await some_time(redis)
        assert (front.commands["SET"], await redis.exists("k")) == (0, 0)
        assert not sent.done()
        assert not connecting.done()
        front.resume()
        assert await sent
        assert await connecting in {None, b"v"}
    assert front.fired == {"black_hole": 2}


async def test_a_black_hole_swallows_replies_until_its_time_is_over(proxy, redis):
    front = await proxy()
    async with client_of(front.url) as client, asyncio.timeout(10):
        waiting = asyncio.ensure_future(client.blmove("from", "to", 5, "LEFT", "LEFT"))
        await front.until(lambda: front.commands["BLMOVE"] == 1)
        while not (await redis.info("clients"))["blocked_clients"]:
            pass
        begin = time.monotonic()
        front.black_hole(0.2)
        await redis.rpush("from", "x")
        assert await redis.lrange("to", 0, -1) == [b"x"]
        assert await waiting == b"x"
        assert time.monotonic() - begin >= 0.2


async def test_in_a_black_hole_the_server_does_not_hear_that_a_client_has_gone(proxy, redis):
    front = await proxy()
    async with asyncio.timeout(10):
        async with client_of(front.url) as client:
            waiting = asyncio.ensure_future(client.blmove("from", "to", 5, "LEFT", "LEFT"))
            await front.until(lambda: front.commands["BLMOVE"] == 1)
            while not (await redis.info("clients"))["blocked_clients"]:
                pass
            front.black_hole()
            waiting.cancel()
        await redis.rpush("from", "lost")
        assert await redis.lrange("to", 0, -1) == [b"lost"]
        front.resume()
        await front.until(lambda: front.connections == 0)


async def test_refuse(proxy):
    front = await proxy()
    async with client_of(front.url) as client:
        front.refuse()
        for _ in range(2):
            with pytest.raises(redis_py.ConnectionError):
                await client.ping()
        front.refuse(refuse=False)
        assert await client.ping()
    assert front.fired == {"refuse": 2}


async def test_connections_that_exist_are_not_refused(proxy):
    front = await proxy()
    async with client_of(front.url) as client:
        await client.ping()
        front.refuse()
        assert await client.ping()
    assert not front.fired["refuse"]


async def test_down_and_up(proxy):
    front = await proxy()
    async with client_of(front.url) as client:
        await client.ping()
        await front.down()
        for _ in range(2):
            with pytest.raises(redis_py.ConnectionError):
                await client.ping()
        assert front.accepted == 1
        await front.up()
        assert await client.ping()
    assert front.fired == {"down": 1}


async def test_a_server_that_is_gone_looks_gone(own_server):
    server = own_server()
    async with Proxy(server.url) as front, client_of(front.url) as client:
        assert await client.ping()
        server.kill()
        for _ in range(3):
            with pytest.raises(redis_py.ConnectionError):
                await client.ping()
        server.start()
        assert await client.ping()


async def test_closing_with_connections_and_waits_open(redis_url):
    front = Proxy(redis_url)
    await front.start()
    async with client_of(front.url) as client:
        await client.ping()
        front.black_hole(60)
        waiting = asyncio.create_task(front.until(lambda: front.accepted == 100))
        for _ in range(3):
            await asyncio.to_thread(int)  # let it begin to wait
        await front.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(redis_py.ConnectionError):
            await client.ping()


async def test_a_server_that_never_was_there():
    async with Proxy(UPSTREAM_IS_NEVER_ASKED) as front, client_of(front.url) as client:
        with pytest.raises(redis_py.ConnectionError):
            await client.ping()


# --- in a thread ---


async def test_threaded(threaded_proxy, redis):
    front = await threaded_proxy()
    fault = front.cut_after("INCRBY", nth=2)
    with redis_py.Redis.from_url(front.url, retry=SyncRetry(NoBackoff(), 0)) as client:
        assert client.incr("n") == 1  # blocks this loop, not the proxy's
        with pytest.raises(redis_py.ConnectionError):
            client.incr("n")
        assert client.incr("n") == 3
        blocked = asyncio.create_task(asyncio.to_thread(client.blmove, "from", "to", 5, "LEFT", "LEFT"))
        async with asyncio.timeout(10):
            await front.until(lambda: front.commands["BLMOVE"] == 1)
            assert front.cut_all() >= 1
            with pytest.raises(redis_py.ConnectionError):
                await blocked
            await front.down()
            with pytest.raises(redis_py.ConnectionError):
                client.ping()
            await front.up()
            assert client.ping()
            await front.until(lambda: fault.fired == 1)


def test_threaded_without_a_loop(redis_url):
    with ThreadedProxy(redis_url) as front, redis_py.Redis.from_url(front.url) as client:
        front.delay(reply=0.05)
        assert client.ping()
        assert front.fired["delay"] >= 1
