"""A client for code without an event loop: from many threads, to its end, and what it says when it is used wrongly."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from aioasynq import (
    BrokerError,
    Client,
    DuplicateTaskError,
    NotReplicatedError,
    ServeMux,
    Server,
    Task,
    TaskInfo,
    keys,
)
from aioasynq.client.portal import Portal
from aioasynq.devserver import free_port
from aioasynq.message import TaskMessage
from aioasynq.observer import Observer
from tests.server.stage import PATIENCE, assert_in_order, places


def portals() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "aioasynq portal"]


async def test_many_threads_share_a_client(redis: Redis, redis_url: str) -> None:
    before = len(portals())
    told: list[str] = []

    def work() -> list[TaskInfo]:
        with (
            Client(redis_url, on_enqueue=lambda _, info: told.append(info.id)) as client,
            ThreadPoolExecutor(8) as pool,
        ):
            infos = list(pool.map(lambda n: client.enqueue_sync(Task("work", str(n)), task_id=f"t{n}"), range(200)))
            assert len(portals()) == before + 1
            return infos

    infos = await asyncio.to_thread(work)
    assert [info.id for info in infos] == [f"t{n}" for n in range(200)]
    assert sorted(told) == sorted(info.id for info in infos)
    assert len((await assert_in_order(redis))["pending"]) == 200
    assert len(portals()) == before


async def test_all_calls(redis_url: str) -> None:
    mux = ServeMux()

    @mux.task("double", retention=60)
    async def double(number: int) -> int:
        return 2 * number

    def work() -> None:
        with Client(redis_url) as client:
            info = client.enqueue_sync(double.task(number=4))
            assert client.result_sync(info, timeout=PATIENCE) == 8
            future = client.submit(double.task(number=5))
            assert client.result_sync(future.result(PATIENCE), timeout=PATIENCE) == 10
            first, second = client.enqueue_many_sync((Task("other", task_id=name) for name in "aa"), queue="low")
            assert isinstance(first, TaskInfo)
            assert isinstance(second, Exception)
            client.enqueue_sync(Task("once"), unique=60, queue="low")
            with pytest.raises(DuplicateTaskError):
                client.enqueue_sync(Task("once"), unique=60, queue="low")
            client.close()  # again is no error

    async with Server(redis_url, mux):
        await asyncio.to_thread(work)


async def test_one_client_for_both_worlds(redis: Redis, redis_url: str) -> None:
    async with Client(redis_url) as client:
        await client.enqueue(Task("work"), task_id="a")
        await asyncio.to_thread(client.enqueue_sync, Task("work"), task_id="b")
        await asyncio.wrap_future(client.submit(Task("work"), task_id="c"))
        with pytest.raises(RuntimeError, match="was used in an event loop: close it there, by await client"):
            client.close()
    assert portals() == []
    assert (await places(redis))["pending"] == ["a", "b", "c"]


async def test_what_is_under_way_is_stored_before_the_end(redis: Redis, redis_url: str) -> None:
    client = Client(redis_url)
    futures = [client.submit(Task("work")) for _ in range(300)]
    await asyncio.to_thread(client.close)
    assert all(isinstance(future.result(0), TaskInfo) for future in futures)
    assert await redis.llen(keys.pending("default")) == 300


async def test_closing_while_others_enqueue_loses_nobody(redis: Redis, redis_url: str) -> None:
    """Each caller has an answer: it is stored, or the client is closed."""
    client = Client(redis_url)
    stored: list[str] = []
    refused: list[str] = []

    def work() -> None:
        while not refused or len(stored) < 10:
            try:
                stored.append(client.enqueue_sync(Task("work")).id)
            except RuntimeError as exc:
                refused.append(str(exc))
                return
            if len(stored) >= 10:
                enough.set()

    enough = threading.Event()
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    assert await asyncio.to_thread(enough.wait, PATIENCE)
    await asyncio.to_thread(client.close)
    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE)
        assert not thread.is_alive()
    assert set(refused) == {"this client is closed; make a new one"}
    assert sorted((await places(redis))["pending"]) == sorted(stored)


def test_a_client_that_nobody_has_ends_its_thread(redis_url: str) -> None:
    client = Client(redis_url)
    client.enqueue_sync(Task("work"))
    [thread] = portals()
    del client
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


ALL_AT_EXIT = """
import sys, threading, time
from aioasynq import Client, Task

client = Client(sys.argv[1])
info = client.enqueue_sync(Task("nobody:does:it"), retention=60)
waits = threading.Thread(target=client.result_sync, args=(info,), daemon=True)
waits.start()
while not client._portal._waits:
    time.sleep(0.01)
"""


async def test_who_waits_for_a_result_keeps_nobody_from_closing(redis_url: str) -> None:
    def work() -> None:
        with ThreadPoolExecutor(1) as pool:
            with Client(redis_url) as client:
                info = client.enqueue_sync(Task("nobody:does:it"), retention=60)
                future = pool.submit(client.result_sync, info)
                portal = client._portal
                assert portal is not None
                while not portal._waits:
                    time.sleep(0.01)
            with pytest.raises(RuntimeError, match=r"^this client was closed while it waited for a result$"):
                future.result(PATIENCE)

    async with asyncio.timeout(PATIENCE):
        await asyncio.to_thread(work)


async def test_who_waits_for_a_result_keeps_no_process_from_ending(redis_url: str) -> None:
    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", ALL_AT_EXIT, redis_url], check=False, timeout=50, capture_output=True
    )
    assert ran.returncode == 0


class Told(Observer):
    def __init__(self) -> None:
        self.sent: list[str] = []

    def sending(self, messages: Sequence[TaskMessage], *, address: str, made_of: Sequence[Task] = ()) -> None:
        self.sent += [message.id for message in messages]


@pytest.mark.one_server
async def test_settings_are_those_of_the_client(redis_url: str) -> None:
    told = Told()

    def work() -> None:
        with Client(redis_url, observers=[told], wait_replicas=1, wait_timeout=0.2) as client:
            with pytest.raises(NotReplicatedError):
                client.enqueue_sync(Task("work", task_id="a"))
            assert isinstance(client.enqueue_many_sync([Task("work", task_id="b")])[0], NotReplicatedError)

    await asyncio.to_thread(work)
    assert told.sent == ["a", "b"]


@pytest.mark.parametrize("call", ["enqueue", "enqueue_many", "result"])
async def test_a_loop_is_not_blocked(redis_url: str, call: str) -> None:
    async with Client(redis_url) as client:
        with pytest.raises(RuntimeError) as caught:
            getattr(client, f"{call}_sync")(Task("work"))
    assert str(caught.value) == (
        f"{call}_sync would block the event loop of this thread: await client.{call}(...) there"
    )
    assert portals() == []


def test_wrong_arguments_come_out_of_the_call(redis_url: str) -> None:
    with Client(redis_url) as client:
        with pytest.raises(TypeError, match="task must be a Task"):
            client.enqueue_sync("work")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="tasks must be a list of tasks or another iterable, got one task"):
            client.enqueue_many_sync(Task("work"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="max_retry"):
            client.enqueue_sync(Task("work"), max_retry=-1)
    with pytest.raises(RuntimeError, match="this client is closed; make a new one"):
        client.enqueue_sync(Task("work"))


def test_there_is_no_redis() -> None:
    port = free_port()
    with (
        Client(f"redis://127.0.0.1:{port}", operation_timeout=0.3) as client,
        pytest.raises(BrokerError, match=f"127.0.0.1:{port}"),
    ):
        client.enqueue_sync(Task("work"))


FORKS = """
import os, sys
from aioasynq import Client, Task

client = Client(sys.argv[1])
client.enqueue_sync(Task("work"))
if (child := os.fork()) == 0:
    for call in (lambda: client.enqueue_sync(Task("work")), lambda: client.submit(Task("work")), client.close):
        try:
            call()
        except RuntimeError as exc:
            print(exc, flush=True)
    with Client(sys.argv[1]) as other:
        print(other.enqueue_sync(Task("work")).state, flush=True)
    sys.exit(3)  # the thread of the parent is not waited for
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(client.enqueue_sync(Task("work")).state)
"""  # and it is not closed: the end of the process does that


async def test_a_forked_process(redis: Redis, redis_url: str) -> None:
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", FORKS, redis_url],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    refused = "this client was made before a fork; make one in each process"
    assert ran.stdout.splitlines() == [*[refused] * 3, "pending", "3", "pending"]
    assert ran.stderr == ""
    assert await redis.llen(keys.pending("default")) == 3


INTERRUPTED = """
import os, signal, socket, sys, threading, time
from aioasynq import Client, Task

with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, and says nothing
    port = silent.getsockname()[1]
    with Client(f"redis://127.0.0.1:{port}", operation_timeout=2) as client:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            client.enqueue_sync(Task("work"))
        except KeyboardInterrupt:
            print("interrupted")
        began = time.monotonic()
    print("closed in time" if time.monotonic() - began < 10 else "closed late")
"""


async def test_a_caller_that_is_interrupted(redis_url: str) -> None:
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", INTERRUPTED],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert ran.stdout.splitlines() == ["interrupted", "closed in time"]
    assert ran.stderr == ""


async def test_what_cannot_be_opened_is_said_by_the_first_call() -> None:
    @asynccontextmanager
    async def opens():
        raise OSError("no room")
        yield

    with pytest.raises(OSError, match="no room"):
        await asyncio.to_thread(Portal, opens)
    assert portals() == []
