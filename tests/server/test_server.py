"""The life of a server: its start, its loops, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import (
    RDB,
    BrokerError,
    BrokerRefusedError,
    Client,
    ServeMux,
    Server,
    ServerStateError,
    Task,
    keys,
)
from aioasynq.devserver import DevServer
from aioasynq.message import TaskMessage
from aioasynq.proto.codec import decode_task, encode_task
from aioasynq.server import heartbeat, recover_loop, server as server_module
from tests.server.stage import PATIENCE, Seen, Stage, assert_in_order, counted, eventually, once_each, places, summed
from tests.support.proxy import Proxy

MakeProxy = Callable[..., Awaitable[Proxy]]


@pytest.fixture
def stage() -> Stage:
    return Stage()


# ── start ──

WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "concurrency 0": ({"concurrency": 0}, ValueError, "concurrency must be at least 1, got 0"),
    "concurrency of text": ({"concurrency": "3"}, TypeError, "concurrency must be a whole number, got '3'"),
    "concurrency True": ({"concurrency": True}, TypeError, "concurrency must be a whole number, got True"),
    "no queue": ({"queues": {}}, ValueError, "queues must name at least one queue"),
    "queues as text": (
        {"queues": "default"},
        TypeError,
        "queues must be a mapping of names to weights .* got 'default'",
    ),
    "a blank queue": ({"queues": {" ": 1}}, ValueError, "queue .*' '"),
    "a queue with braces": ({"queues": ["a{b}"]}, ValueError, "a{b}"),
    "weight 0": ({"queues": {"a": 0}}, ValueError, r"queues\['a'\] must be at least 1, got 0"),
    "a lease that is too short": ({"lease": 0.5}, ValueError, "lease must be at least 1, got 0.5"),
    "a lease of text": ({"lease": "15"}, TypeError, "lease must be a number of seconds or a timedelta, got '15'"),
    "an endless lease": ({"lease": float("inf")}, ValueError, "lease .* got inf"),
    "a negative shutdown_timeout": (
        {"shutdown_timeout": -1},
        ValueError,
        "shutdown_timeout must be at least 0, got -1",
    ),
    "strict_priority of text": (
        {"strict_priority": "yes"},
        TypeError,
        "strict_priority must be True or False, got 'yes'",
    ),
    "a retry_delay that is none": ({"retry_delay": 5}, TypeError, "retry_delay must be callable, got 5"),
    "an is_failure that is none": ({"is_failure": None}, TypeError, "is_failure must be callable, got None"),
    "an error_handler that is none": ({"error_handler": 5}, TypeError, "error_handler must be callable or None, got 5"),
    "an unknown option": (
        {"concurency": 5},
        TypeError,
        r"no option 'concurency' \(did you mean concurrency\?\); it has archive_days",
    ),
    "arq's name of an option": ({"max_jobs": 5}, TypeError, r"'max_jobs' \(did you mean concurrency\?\)"),
    "a mux that is none": ({"mux": print}, TypeError, "mux must be a ServeMux, got "),
}


@pytest.mark.parametrize(("options", "error", "text"), WRONG.values(), ids=WRONG)
def test_wrong_options(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Server("redis://localhost:1", **options)


def test_durations_may_be_timedeltas() -> None:
    config = Server("redis://localhost:1", lease=timedelta(seconds=30), shutdown_timeout=timedelta(0)).config
    assert (config.lease, config.shutdown_timeout) == (30.0, 0.0)


@pytest.mark.rows(117)
async def test_a_server_without_a_handler(redis_url: str) -> None:
    for server in (Server(redis_url), Server(redis_url, ServeMux())):
        with pytest.raises(ServerStateError, match="no handler"):
            await server.start()


@pytest.mark.rows(117)
async def test_a_server_starts_once(redis_url: str, stage: Stage) -> None:
    server = Server(redis_url, stage.mux)
    assert server.status == "new"
    await server.start()
    with pytest.raises(ServerStateError, match="active"):
        await server.start()
    server.stop()
    assert server.status == "stopped"
    with pytest.raises(ServerStateError, match="stopped"):
        await server.start()
    await server.shutdown()
    await server.shutdown()
    with pytest.raises(ServerStateError, match="closed"):
        await server.start()


@pytest.mark.rows(117)
async def test_a_server_that_was_shut_down_before_its_start(redis_url: str, stage: Stage) -> None:
    server = Server(redis_url, stage.mux)
    await server.shutdown()
    with pytest.raises(ServerStateError, match="closed"):
        await server.start()


async def test_a_wrong_password_is_said_at_the_start(own_server: Callable[..., DevServer], stage: Stage) -> None:
    redis_server = own_server(config={"requirepass": "right"})
    for login in ("", ":wrong@", "nobody:wrong@"):
        url = redis_server.url.replace(":right@", login)
        with pytest.raises(BrokerRefusedError) as caught:
            await Server(url, stage.mux).start()
        assert "wrong" not in str(caught.value).replace("WRONGPASS", "")
    async with Server(redis_server.url, stage.mux), Client(redis_server.url) as client:
        await client.enqueue(Task("work"))
        await stage.ended.until(1)


async def test_memory_that_evicts_is_said_at_the_start(
    own_server: Callable[..., DevServer], stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server = own_server(config={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"})
    async with Server(redis_server.url, stage.mux):
        assert "allkeys-lru" in caplog.text


# ── work ──


@pytest.mark.rows(102, 103)
async def test_all_tasks_of_all_queues_are_processed(redis: Redis, redis_url: str, stage: Stage) -> None:
    names = [f"{queue} {n}" for queue in ("a", "b", "c") for n in range(100)]
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue_many([Task("work", task_id=name, queue=name[0]) for name in names[::2]])
        async with Server(redis_url, stage.mux, queues={"a": 5, "b": 2, "c": 1}, concurrency=10):
            await client.enqueue_many([Task("work", task_id=name, queue=name[0]) for name in names[1::2]])
            await stage.ended.until(len(names))
    assert stage.began.times == once_each(names)
    assert stage.most <= 10
    for queue in ("a", "b", "c"):
        assert await assert_in_order(redis, queue) == {}
        assert await counted(redis, queue) == (100, 0)


@pytest.mark.rows(120)
async def test_a_client_that_was_given_stays_open(redis: Redis, stage: Stage) -> None:
    async with asyncio.timeout(PATIENCE):
        for n in range(2):
            async with Client(redis) as client, Server(redis, stage.mux):
                await client.enqueue(Task("work"))
                await stage.ended.until(n + 1)
    assert await redis.ping()


# ── loops ──


@pytest.mark.rows(124)
async def test_due_tasks_come_and_others_stay(redis: Redis, redis_url: str, stage: Stage) -> None:
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        for name, delay in {"soon": 0.05, "later": 3600, "again": 3600}.items():
            await client.enqueue(Task("work"), task_id=name, process_in=delay)
        await redis.zrem(keys.scheduled("default"), "again")
        await redis.zadd(keys.retry("default"), {"again": int(time.time())})
        await redis.hset(keys.task("default", "again"), "state", "retry")
        async with Server(redis_url, stage.mux):
            await stage.ended.until(2)
    assert stage.began.times == once_each(["soon", "again"])
    assert await assert_in_order(redis) == {"scheduled": ["later"], "tasks": ["later"]}


@pytest.mark.rows(126)
async def test_expired_results_are_deleted_and_others_stay(redis: Redis, redis_url: str, stage: Stage) -> None:
    now = int(time.time())
    for name, score in {"old": now - 5, "new": now + 600}.items():
        msg = TaskMessage(type="work", id=name, queue="default", retention=60)
        await redis.hset(keys.task("default", name), mapping={"msg": encode_task(msg), "state": "completed"})
        await redis.zadd(keys.completed("default"), {name: score})

    async def old_is_gone() -> bool:
        return await places(redis) == {"completed": ["new"], "tasks": ["new"]}

    async with Server(redis_url, stage.mux, cleanup_interval=0.1):
        await eventually(old_is_gone)


@pytest.mark.rows(122)
async def test_what_a_server_tells_of_itself(redis: Redis, redis_url: str, stage: Stage) -> None:
    stage.gate.clear()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, RDB(redis_url) as rdb:

        async def told(status: str, workers: int) -> bool:
            found = await rdb.read_process_info()
            return bool(found) and found[0][0].status == status and len(found[0][1]) == workers

        server = Server(redis_url, stage.mux, lease=1.0, concurrency=7, queues={"default": 4, "low": 2})
        async with server:
            await eventually(lambda: told("active", 0))
            await client.enqueue(Task("work", b"x" * 2000), task_id="a", timeout=60)
            await eventually(lambda: told("active", 1))
            [(info, workers)] = await rdb.read_process_info()
            assert (info.pid, info.server_id, info.concurrency) == (os.getpid(), server.id, 7)
            assert (info.queues, info.strict_priority) == ({"default": 4, "low": 2}, False)
            assert info.active_worker_count == 1
            worker = workers["a"]
            assert (worker.task_id, worker.task_type, worker.queue) == ("a", "work", "default")
            assert worker.task_payload == b"x" * 1024
            assert worker.deadline - worker.start_time == 60 * 10**9
            [gone] = [key async for key in redis.scan_iter("asynq:workers:*")]
            await redis.delete(gone)  # as with all else, when Redis is emptied
            await eventually(lambda: told("active", 1))
            server.stop()
            await eventually(lambda: told("stopped", 1))
            stage.gate.set()
            await eventually(lambda: told("stopped", 0))
        assert await rdb.read_process_info() == []
        assert await redis.zcard(keys.servers()) == await redis.zcard(keys.workers()) == 0


@pytest.mark.rows(128)
async def test_cancelations_are_heard_though_redis_was_down_at_first(
    own_server: Callable[..., DevServer], stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioasynq.server.cancel_loop.RECONNECT", 0.05)
    stage.gate.clear()
    redis_server = own_server()
    redis_server.stop()
    async with asyncio.timeout(PATIENCE), Server(redis_server.url, stage.mux) as server:
        await asyncio.to_thread(redis_server.restart)
        async with Client(redis_server.url) as client, RDB(redis_server.url) as rdb:
            await client.enqueue(Task("work"), task_id="a")
            await stage.began.until(1)

            async def heard() -> bool:
                return await rdb.publish_cancelation("a") > 0

            await eventually(heard)
            await eventually(lambda: server.running == 0)


@pytest.mark.rows(129)
async def test_health_check(redis_url: str, proxy: MakeProxy, stage: Stage) -> None:
    between = await proxy()
    seen = Seen()

    async def asynchronous(error: BaseException | None) -> None:
        seen.add(error)

    def failing(error: BaseException | None) -> None:
        seen.add(error)
        raise RuntimeError("the check itself fails")

    async with asyncio.timeout(PATIENCE), RDB(between.url, operation_timeout=0.2) as rdb:
        for check in (seen.add, asynchronous, failing):
            seen.all.clear()
            async with Server(rdb, stage.mux, health_check=check, health_check_interval=0.1):
                await seen.until(2)
                assert seen.all[:2] == [None, None]
                await between.down()
                await seen.until(lambda errors: isinstance(errors[-1], BrokerError))
                await between.up()
                await seen.until(lambda errors: errors[-1] is None)


@pytest.mark.rows(125)
async def test_several_tasks_of_dead_owners_are_recovered(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "INTERVAL", 0.1)
    monkeypatch.setattr(server_module, "AFTER_CONTACT", 0.1)
    monkeypatch.setattr(recover_loop, "AFTER_CONTACT", 0.1)
    now = time.time()
    leases = {"dead 1": now - 10.5, "dead 2": now - 3.5, "lives": now + 60.5, "last": now - 10.5}
    for queue in ("a", "b"):
        for name, lease in leases.items():
            msg = TaskMessage(type="work", id=name, queue=queue, retry=0 if name == "last" else 5, timeout=60)
            fields = {"msg": encode_task(msg), "state": "active", "owner": "elsewhere:7:server:1"}
            await redis.hset(keys.task(queue, name), mapping=fields)  # type: ignore[arg-type]
            await redis.lpush(keys.active(queue), name)
            await redis.zadd(keys.lease(queue), {name: lease})
    stage = Stage()
    async with asyncio.timeout(PATIENCE), Server(redis_url, stage.mux, queues=["a", "b"], lease=1.0):
        await stage.ended.until(4)
    assert sorted(stage.ended.all) == ["dead 1", "dead 1", "dead 2", "dead 2"]
    for queue in ("a", "b"):
        found = await assert_in_order(redis, queue)
        assert (found["archived"], found["active"]) == (["last"], ["lives"])
        assert await counted(redis, queue) == (5, 3)
        data = await redis.hget(keys.task(queue, "last"), "msg")
        assert decode_task(data).error_msg.startswith("task lease expired: elsewhere:7:server died")  # type: ignore[arg-type]


@pytest.mark.rows(122)
async def test_a_handler_that_blocks_the_loop_costs_no_leases(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another server stands by to recover what seems dead; it finds nothing."""
    monkeypatch.setattr(server_module, "INTERVAL", 0.1)
    monkeypatch.setattr(server_module, "AFTER_CONTACT", 0.1)
    monkeypatch.setattr(recover_loop, "AFTER_CONTACT", 0.1)
    monkeypatch.setattr(recover_loop, "OUR_SLACK", 0.1)
    monkeypatch.setattr(heartbeat, "BLOCKED", 0.3)
    ran = Seen()
    stand_by = ServeMux()

    @stand_by.handler("work")
    async def again(task: Task) -> None:
        ran.add("again")

    over = threading.Event()

    async def stand_by_in_thread() -> None:
        async with Server(redis_url, stand_by, lease=1.0, queues=["default"]) as server:
            server.stop()  # it recovers only
            await asyncio.to_thread(over.wait, PATIENCE)

    server = Server(redis_url, lease=1.0)
    neighbour_may_end = asyncio.Event()

    @server.handler("work")
    async def neighbour(task: Task) -> None:
        ran.add("began")
        await neighbour_may_end.wait()
        ran.add("ended")

    @server.handler("block")
    async def block(task: Task) -> None:
        time.sleep(3.0)  # the fault under test: it stops the loop for longer than a lease and its slack
        neighbour_may_end.set()

    other = threading.Thread(target=lambda: asyncio.run(stand_by_in_thread()))
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, server:
        await client.enqueue(Task("work"), task_id="neighbour", timeout=2)
        await ran.until(1)
        other.start()
        await client.enqueue(Task("block"), task_id="block")
        await ran.until(2)
    over.set()
    await asyncio.to_thread(other.join)
    assert ran.all == ["began", "ended"]  # nor has the time that it stood still timed it out
    assert await assert_in_order(redis) == {}
    assert await counted(redis) == (2, 0)
    assert "the event loop has stood still" in caplog.text
    assert "in task block" in caplog.text


# ── end ──


@pytest.fixture
async def ten(redis_url: str) -> list[str]:
    """Ten tasks that wait, each of which has failed twice before."""
    names = [str(n) for n in range(10)]
    async with RDB(redis_url) as rdb:
        await rdb.enqueue(
            [
                TaskMessage(type="work", id=name, queue="default", retry=5, retried=2, timeout=60, error_msg="before")
                for name in names
            ]
        )
    return names


async def assert_given_back(redis: Redis, names: list[str]) -> None:
    """All wait in the order in which they waited at first, as if none had been taken."""
    assert await assert_in_order(redis) == {"pending": names, "tasks": sorted(names)}
    for name in names:
        data = await redis.hget(keys.task("default", name), "msg")
        msg = decode_task(data)  # type: ignore[arg-type]
        assert (msg.retried, msg.error_msg) == (2, "before")
    assert await counted(redis) == (0, 0)


async def test_what_does_not_finish_in_time_goes_back(
    redis: Redis, redis_url: str, stage: Stage, ten: list[str]
) -> None:
    stage.gate.clear()
    async with asyncio.timeout(PATIENCE), Server(redis_url, stage.mux, shutdown_timeout=0.05, concurrency=6):
        await stage.began.until(6)
    assert stage.ended.all == []
    await assert_given_back(redis, ten)


async def test_what_finishes_in_time_is_done(redis: Redis, redis_url: str, stage: Stage, ten: list[str]) -> None:
    stage.gate.clear()
    async with asyncio.timeout(PATIENCE):
        server = Server(redis_url, stage.mux, concurrency=6)
        await server.start()
        await stage.began.until(6)
        shutdown = asyncio.create_task(server.shutdown())
        await eventually(lambda: server.status == "closed")
        stage.gate.set()
        await shutdown
    assert stage.ended.all == ten[:6]
    assert (await assert_in_order(redis))["pending"] == ten[6:]
    assert await counted(redis) == (6, 0)


async def test_a_shutdown_can_be_hurried(redis: Redis, redis_url: str, stage: Stage, ten: list[str]) -> None:
    stage.gate.clear()
    async with asyncio.timeout(PATIENCE):
        server = Server(redis_url, stage.mux, concurrency=6, shutdown_timeout=3600)
        await server.start()
        await stage.began.until(6)
        shutdown = asyncio.create_task(server.shutdown())
        await eventually(lambda: server.status == "closed")
        server.hurry()
        await shutdown
    await assert_given_back(redis, ten)


@pytest.mark.parametrize("does", ["raises", "goes on"])
async def test_handlers_that_do_not_end_well_at_a_shutdown(
    redis: Redis, redis_url: str, ten: list[str], does: str
) -> None:
    began, go_on = Seen(), asyncio.Event()
    server = Server(redis_url, shutdown_timeout=0, concurrency=6)

    @server.handler("work")
    async def work(task: Task) -> None:
        began.add(task.id)
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            if does == "raises":
                raise ValueError("bad") from None
            await go_on.wait()

    async with asyncio.timeout(PATIENCE), server:
        await began.until(6)
    await assert_given_back(redis, ten)
    go_on.set()
    await eventually(lambda: not [task for task in asyncio.all_tasks() if "_run" in repr(task.get_coro())])


async def test_a_stopped_server_takes_no_more(redis: Redis, redis_url: str, stage: Stage, ten: list[str]) -> None:
    stage.gate.clear()
    async with asyncio.timeout(PATIENCE):
        async with Server(redis_url, stage.mux, concurrency=3) as server:
            await stage.began.until(3)
            server.stop()
            assert server.status == "stopped"
            stage.gate.set()
            await stage.ended.until(3)
            await eventually(lambda: server.running == 0)
            async with Client(redis_url) as client:
                await client.enqueue(Task("work"), task_id="new")
        assert stage.began.all == ten[:3]
        assert (await assert_in_order(redis))["pending"] == [*ten[3:], "new"]


async def test_an_error_handler_that_takes_its_time_at_a_shutdown(redis: Redis, redis_url: str) -> None:
    """Its task is settled all the same."""
    told, go_on = asyncio.Event(), asyncio.Event()

    async def error_handler(task: Task, error: BaseException) -> None:
        told.set()
        await go_on.wait()

    server = Server(redis_url, error_handler=error_handler, shutdown_timeout=3600, retry_delay=lambda *_: 3600.0)

    @server.handler("work")
    async def work(task: Task) -> None:
        raise ValueError("bad")

    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        await client.enqueue(Task("work"), task_id="a")
        await server.start()
        await told.wait()
        shutdown = asyncio.create_task(server.shutdown())
        await eventually(lambda: server.status == "closed")
        server.hurry()
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        await shutdown
    assert await assert_in_order(redis) == {"retry": ["a"], "tasks": ["a"]}


@pytest.mark.rows(116)
async def test_nothing_is_left_of_a_server(redis: Redis, redis_url: str, stage: Stage) -> None:
    """No asyncio task, no thread, no connection, no key."""

    @stage.mux.handler("def")
    def in_thread(task: Task) -> None: ...

    async def connections() -> int:
        return await summed(redis, "clients", "connected_clients")

    tasks, threads, before = asyncio.all_tasks(), set(threading.enumerate()), await connections()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:  # noqa: SIM117 - the server ends first
        async with Server(redis_url, stage.mux, health_check=lambda _: None, queues=["default", "a", "b"]):
            await client.enqueue_many([Task("work"), Task("def"), Task("work", process_in=0.01), Task("none")])
            await stage.ended.until(2)
    await eventually(lambda: asyncio.all_tasks() == tasks)
    left = {thread.name for thread in set(threading.enumerate()) - threads}
    assert {name for name in left if not name.startswith("asyncio_")} <= {
        name for name in left if name.startswith("aioasynq-handler")
    }
    await eventually(lambda: not [t for t in {*threading.enumerate()} - threads if t.name.startswith("aioasynq")])

    async def closed() -> bool:
        return await connections() == before

    await eventually(closed)
    remaining = {key.decode() async for key in redis.scan_iter(match="*") if b":receipt:" not in key}
    queues = {f"asynq:{{{queue}}}" for queue in ("default", "a", "b")}
    assert not {key for key in remaining if key.startswith(("asynq:servers", "asynq:workers"))}
    assert not {key for key in remaining if key.endswith((":active", ":lease", ":waiting"))}
    assert {key.rsplit("}", 1)[0] + "}" for key in remaining if "{" in key} <= queues


# ── signals ──

PROGRAM = """
import asyncio, logging, sys
from aioasynq import Server, Task

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
server = Server(sys.argv[1], shutdown_timeout=float(sys.argv[2]), concurrency=2)

@server.handler("work")
async def work(task: Task) -> None:
    print("began", task.id, flush=True)
    await asyncio.sleep(float(task.payload))
    print("ended", task.id, flush=True)

asyncio.run(server.run())
print("left", flush=True)
"""


class Program:
    """A server in a process of its own, read line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []

    async def until(self, text: str) -> None:
        assert self._process.stdout is not None
        while not any(text in line for line in self.lines):
            line = await self._process.stdout.readline()
            assert line, self.lines
            self.lines.append(line.decode().rstrip())

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self) -> int:
        output, _ = await self._process.communicate()
        self.lines += output.decode().splitlines()
        return await self._process.wait()


@asynccontextmanager
async def a_program(redis_url: str, shutdown_timeout: float = 8.0) -> AsyncGenerator[Program]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(PROGRAM),
        redis_url,
        str(shutdown_timeout),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.rows(116)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_running_tasks_finish(redis: Redis, redis_url: str, number: signal.Signals) -> None:
    async with Client(redis_url) as client:
        await client.enqueue(Task("work", b"0.3"), task_id="a")
    async with a_program(redis_url) as program:
        await program.until("began a")
        program.send(number)
        assert await program.end() == 0
    assert program.lines[-1] == "left"
    assert "ended a" in program.lines
    assert await assert_in_order(redis) == {}


async def test_a_second_signal_hurries(redis: Redis, redis_url: str) -> None:
    async with Client(redis_url) as client:
        await client.enqueue(Task("work", b"3600"), task_id="a")
    async with a_program(redis_url, shutdown_timeout=3600) as program:
        await program.until("began a")
        program.send(signal.SIGTERM)
        await program.until("SIGTERM received: shutting down")
        program.send(signal.SIGTERM)
        assert await program.end() == 0
    assert await assert_in_order(redis) == {"pending": ["a"], "tasks": ["a"]}


async def test_sigtstp_only_stops_fetching(redis: Redis, redis_url: str) -> None:
    async with Client(redis_url) as client:
        await client.enqueue(Task("work", b"0"), task_id="a")
        async with a_program(redis_url) as program:
            await program.until("ended a")
            program.send(signal.SIGTSTP)
            await program.until("takes no more tasks")
            await client.enqueue(Task("work", b"0"), task_id="b")
            program.send(signal.SIGTERM)
            assert await program.end() == 0
    assert "began b" not in program.lines
    assert await assert_in_order(redis) == {"pending": ["b"], "tasks": ["b"]}


async def test_a_killed_server_loses_nothing(
    redis: Redis, redis_url: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL: what ran is recovered by another server once its lease is over."""
    monkeypatch.setattr(server_module, "INTERVAL", 0.1)
    monkeypatch.setattr(server_module, "AFTER_CONTACT", 0.1)
    monkeypatch.setattr(recover_loop, "AFTER_CONTACT", 0.1)
    async with Client(redis_url) as client:
        await client.enqueue_many([Task("work", b"3600", task_id=name) for name in ("a", "b", "c")])
    async with a_program(redis_url) as program:
        await program.until("began a")
        await program.until("began b")
        program.send(signal.SIGKILL)
        assert await program.end() == -signal.SIGKILL
    for name in ("a", "b"):  # time passes
        await redis.zadd(keys.lease("default"), {name: time.time() - 3.5})
    async with asyncio.timeout(PATIENCE), Server(redis_url, stage.mux, lease=1.0):
        await stage.ended.until(3)
    assert stage.began.times == once_each(["a", "b", "c"])
    assert await assert_in_order(redis) == {}
    assert await counted(redis) == (5, 2)


async def test_a_fault_in_a_loop_is_logged_and_ends_nothing(
    redis_url: str, stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = Seen()

    async def broken(*_: object) -> None:
        tries.add("a try")
        raise RuntimeError("a bug")

    monkeypatch.setattr(server_module, "INTERVAL", 0.05)
    monkeypatch.setattr(server_module, "AFTER_CONTACT", 0.0)
    monkeypatch.setattr(recover_loop.Recovery, "step", broken)
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, Server(redis_url, stage.mux, lease=1.0):
        await tries.until(2)
        await client.enqueue(Task("work"))
        await stage.ended.until(1)
    assert "a step failed by a bug" in caplog.text
