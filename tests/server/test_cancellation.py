"""Callers are cancelled wherever they wait, in all ways there are: no task is lost, stored twice or left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis

from aioasynq import RDB, AioasynqError, Client, Server, Task
from aioasynq.rdb.lifecycle import Leased
from tests.server.stage import PATIENCE, Stage, assert_in_order, eventually, load_scripts, once_each, places, summed

Call = Callable[[], Awaitable[object]]

TURNS = range(1, 45)  #: of the event loop: from before anything was sent until after the reply has come


async def _turn(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def _by_cancel(call: Call, turns: int) -> bool:
    async def caller() -> None:
        await call()

    task = asyncio.create_task(caller())
    await _turn(turns)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def _by_timeout(call: Call, turns: int) -> bool:
    scope = asyncio.timeout(None)

    async def caller() -> bool:
        try:
            async with scope:
                await call()
        except TimeoutError:
            return True
        return False

    task = asyncio.create_task(caller())
    await _turn(turns)
    with suppress(RuntimeError):  # it is through
        scope.reschedule(asyncio.get_running_loop().time())
    return await task


async def _by_wait_for(call: Call, turns: int) -> bool:
    try:
        await asyncio.wait_for(_coroutine(call), turns * 5e-5)
    except TimeoutError:
        return True
    return False


async def _by_anyio_scope(call: Call, turns: int) -> bool:
    scope = anyio.CancelScope()

    async def caller() -> None:
        with scope:
            await call()

    task = asyncio.create_task(caller())
    await _turn(turns)
    scope.cancel()
    await task
    return scope.cancelled_caught


async def _by_move_on_after(call: Call, turns: int) -> bool:
    with anyio.move_on_after(turns * 5e-5) as scope:
        await call()
    return scope.cancelled_caught


async def _coroutine(call: Call) -> object:
    return await call()


WAYS: dict[str, Callable[[Call, int], Coroutine[Any, Any, bool]]] = {
    "task.cancel": _by_cancel,
    "asyncio.timeout": _by_timeout,
    "asyncio.wait_for": _by_wait_for,
    "anyio.CancelScope": _by_anyio_scope,
    "anyio.move_on_after": _by_move_on_after,
}


@pytest.fixture(params=WAYS.values(), ids=WAYS)  # type: ignore[call-overload]
def cut(request: pytest.FixtureRequest) -> Callable[[Call, int], Coroutine[Any, Any, bool]]:
    """Call something, cancel it after so many turns, and tell whether that cut it short."""
    way: Callable[[Call, int], Coroutine[Any, Any, bool]] = request.param
    return way


Cut = Callable[[Call, int], Coroutine[Any, Any, bool]]


@pytest.fixture
async def stage(redis: Redis) -> Stage:
    await load_scripts(redis)
    return Stage()


async def run_what_is_there(redis: Redis, redis_url: str, stage: Stage) -> list[str]:
    """Run all that is pending, once each, and return the ids."""
    ids = (await assert_in_order(redis)).get("pending", [])
    async with asyncio.timeout(PATIENCE), Server(redis_url, stage.mux):
        await stage.ended.until(len(ids))
    assert stage.began.times == once_each(ids)
    assert await assert_in_order(redis) == {}
    return ids


async def test_enqueue(redis: Redis, redis_url: str, stage: Stage, cut: Cut) -> None:
    whole: list[str] = []
    torn: list[str] = []
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        for turns in TURNS:
            name = str(turns)
            is_torn = await cut(lambda name=name: client.enqueue(Task("work"), task_id=name), turns)  # type: ignore[misc]
            (torn if is_torn else whole).append(name)
    stored = await run_what_is_there(redis, redis_url, stage)
    assert set(whole) <= set(stored) <= set(whole + torn)
    assert torn


async def test_enqueue_beside_others(redis: Redis, redis_url: str, stage: Stage, cut: Cut) -> None:
    """Those who share a call with a caller that is cancelled notice nothing."""
    others: list[str] = []
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        for turns in TURNS:
            beside = [f"beside {turns} {n}" for n in range(4)]
            calls = [asyncio.ensure_future(client.enqueue(Task("work"), task_id=name)) for name in beside[:2]]
            is_torn = cut(lambda turns=turns: client.enqueue(Task("work"), task_id=f"{turns}"), turns)  # type: ignore[misc]
            calls += [asyncio.ensure_future(client.enqueue(Task("work"), task_id=name)) for name in beside[2:]]
            await is_torn
            infos = await asyncio.gather(*calls)
            assert [info.id for info in infos] == beside
            others += beside
    assert set(others) <= set(await run_what_is_there(redis, redis_url, stage))


async def test_enqueue_many(redis: Redis, redis_url: str, stage: Stage, cut: Cut) -> None:
    whole: list[str] = []
    everything: list[str] = []
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        for turns in TURNS[::4]:
            tasks = [Task("work", task_id=f"{turns} {n}", queue="default") for n in range(260)]
            names = [f"{turns} {n}" for n in range(260)]
            everything += names
            if not await cut(lambda tasks=tasks: client.enqueue_many(tasks), turns):  # type: ignore[misc]
                whole += names
    stored = await run_what_is_there(redis, redis_url, stage)
    assert len(stored) == len(set(stored))
    assert set(whole) <= set(stored) <= set(everything)


async def test_a_task_withdrawn_before_it_was_sent_is_not_in_redis(redis: Redis, redis_url: str) -> None:
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        first = asyncio.create_task(client.enqueue(Task("work"), task_id="first"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # its call is under way; what comes now waits for the next
        second = asyncio.create_task(client.enqueue(Task("work"), task_id="second"))
        third = asyncio.create_task(client.enqueue(Task("work"), task_id="third"))
        await asyncio.sleep(0)
        second.cancel()
        await first
        await third
        with pytest.raises(asyncio.CancelledError):
            await second
    assert (await assert_in_order(redis))["pending"] == ["first", "third"]


async def test_dequeue(redis: Redis, redis_url: str, stage: Stage, cut: Cut) -> None:
    """A task that was taken for a caller who has gone goes back."""
    taken: list[Leased] = []
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, RDB(redis_url) as rdb:
        for turns in TURNS:
            await client.enqueue_many([Task("work", task_id=f"{turns} {n}") for n in range(2)])

            async def dequeue(owner: str = f"owner {turns}") -> None:
                batch = await rdb.dequeue("empty", "default", count=2, owner=owner)
                taken.extend(batch.tasks)

            before = len(taken)
            is_torn = await cut(dequeue, turns)
            assert is_torn == (len(taken) == before)
            await rdb.settled()
            assert (await assert_in_order(redis)).get("active", []) == sorted(leased.id for leased in taken)
        assert await rdb.requeue(taken) == [True] * len(taken)
    assert len(await run_what_is_there(redis, redis_url, stage)) == 2 * len(TURNS)


async def test_dequeue_from_several_queues(redis: Redis, redis_url: str, cut: Cut) -> None:
    taken: list[Leased] = []
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, RDB(redis_url) as rdb:
        for turns in TURNS:
            await client.enqueue(Task("work"), queue="a", task_id=f"{turns}")
            await client.enqueue(Task("work"), queue="b", task_id=f"{turns}")

            async def dequeue(owner: str = f"owner {turns}") -> None:
                taken.extend((await rdb.dequeue("a", "b", count=2, owner=owner)).tasks)

            await cut(dequeue, turns)
            await rdb.settled()
            for queue in ("a", "b"):
                active = (await assert_in_order(redis, queue)).get("active", [])
                assert active == sorted(leased.id for leased in taken if leased.queue == queue)


async def test_done(redis: Redis, redis_url: str, cut: Cut) -> None:
    """It is carried out, whoever waits for it."""
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client, RDB(redis_url) as rdb:
        for turns in TURNS:
            await client.enqueue(Task("work"))
            batch = await rdb.dequeue("default", owner=f"owner {turns}")
            await cut(lambda batch=batch: rdb.done(batch.tasks), turns)  # type: ignore[misc]
            await rdb.settled()
            left = await assert_in_order(redis)
            if left:  # cancelled before it began
                assert await rdb.done(batch.tasks) == [True]


async def until_connections(redis: Redis, count: int) -> None:
    async def holds() -> bool:
        return await summed(redis, "clients", "connected_clients") <= count

    await eventually(holds)


async def test_start(redis: Redis, redis_url: str, stage: Stage, cut: Cut) -> None:
    """A start that was cut short leaves nothing behind, and can be made again."""
    connections = await summed(redis, "clients", "connected_clients")
    threads = threading.active_count()
    tasks = asyncio.all_tasks()
    async with asyncio.timeout(PATIENCE):
        for turns in TURNS[::4]:
            server = Server(redis_url, stage.mux)
            if await cut(server.start, turns):
                assert server.status == "new"
                await eventually(lambda: asyncio.all_tasks() == tasks)
                await until_connections(redis, connections)
                await server.start()
            assert server.status == "active"
            await server.shutdown()
            assert server.status == "closed"
    assert asyncio.all_tasks() == tasks
    assert threading.active_count() <= threads + 1  # one of asyncio's own
    await until_connections(redis, connections)


@pytest.mark.parametrize("gate", ["handlers that end", "handlers that do not"])
async def test_shutdown(redis: Redis, redis_url: str, stage: Stage, cut: Cut, gate: str) -> None:
    """It goes on when its caller has gone; whoever calls it again waits for the same end."""
    names: list[str] = []
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        for turns in (1, 2, 3, 5, 8, 13, 21, 34, 55):
            server = Server(redis_url, stage.mux, shutdown_timeout=0 if gate != "handlers that end" else 8)
            if gate != "handlers that end":
                stage.gate.clear()
            await server.start()
            names.append(str(turns))
            before = len(stage.began.all)
            await client.enqueue(Task("work"), task_id=names[-1])
            await stage.began.until(before + 1)
            await cut(server.shutdown, turns)
            assert server.status in {"active", "closed"}
            await server.shutdown()
            assert server.status == "closed"
            found = await assert_in_order(redis)
            assert "active" not in found
            assert sorted(stage.ended.all + found.get("pending", [])) == sorted(names)
    if gate == "handlers that end":
        assert await places(redis) == {}


async def test_the_block_of_a_server_is_cancelled(redis: Redis, redis_url: str, stage: Stage, cut: Cut) -> None:
    """It is left through an ordinary shutdown: what was running has ended or was given back when the block is over."""
    stage.gate.clear()
    async with asyncio.timeout(PATIENCE), Client(redis_url) as client:
        for turns in (1, 20, 100):
            name = str(turns)
            await client.enqueue(Task("work"), task_id=name)

            async def serve() -> None:
                async with Server(redis_url, stage.mux, shutdown_timeout=0.05):
                    await asyncio.Event().wait()

            assert await cut(serve, turns)

            found = await assert_in_order(redis)
            assert "active" not in found
            assert len(found["pending"]) == len(stage_names(turns))


def stage_names(turns: int) -> list[int]:
    return [n for n in (1, 20, 100) if n <= turns]


async def test_two_starts_at_once(redis_url: str, stage: Stage) -> None:
    server = Server(redis_url, stage.mux)
    async with asyncio.timeout(PATIENCE):
        answers = await asyncio.gather(server.start(), server.start(), return_exceptions=True)
        assert sorted(isinstance(answer, AioasynqError) for answer in answers) == [False, True]
        await server.shutdown()
