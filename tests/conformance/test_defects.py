"""Where asynq is known to be wrong ours is right, and Go goes on working on the same queue."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from aioasynq import RDB, Inspector, Scheduler, ServeMux, Server, Task, keys
from aioasynq.message import TaskMessage
from aioasynq.proto.codec import encode_task
from aioasynq.server import recover_loop, server as server_module
from tests.conformance.go_side import Asynqmon, GoClient, GoError, GoInspector, GoServer
from tests.conformance.history import PATIENCE
from tests.conformance.python_side import PythonClient, PythonServer, refusal


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our recovery looks often, and does not wait after it has come to Redis."""
    monkeypatch.setattr(server_module, "INTERVAL", 0.1)
    monkeypatch.setattr(server_module, "AFTER_CONTACT", 0.1)
    monkeypatch.setattr(recover_loop, "AFTER_CONTACT", 0.1)


async def go_works(go_client: GoClient, redis_url: str, queue: str, *, due: str | None = None) -> None:
    """Go enqueues a task and works on it, and on the one that is *due*."""
    async with GoServer(redis_url, queues=[queue]) as server:
        info = await go_client.enqueue("ok", b"afterwards", queue=queue)
        for id_ in [info["id"], *([due] if due else [])]:
            assert (await server.settled(id_))["as"] in {"done", "completed"}


async def test_2_an_archived_task_that_is_let_go_leaves_nothing_that_holds_its_id(
    go_programs, go_client: GoClient, go_inspector: GoInspector, redis_url, queue
):
    """Go archives one less than it says. Ours keeps as many as it says; the id of the oldest is free again."""
    async with PythonServer(redis_url, queues=[queue], max_archive=3) as ours:
        for id_ in "abcd":
            await go_client.enqueue("skip", queue=queue, task_id=id_)
            await ours.settled(id_, as_="archived")
    assert {task["id"] for task in await go_inspector.tasks(queue, "archived")} == set("bcd")
    with pytest.raises(GoError, match="task not found"):
        await go_inspector.task(queue, "a")
    async with GoServer(redis_url, queues=[queue]) as theirs:
        await go_client.enqueue("ok", queue=queue, task_id="a")
        assert (await theirs.settled("a"))["as"] == "done"


async def test_2_archiving_by_hand_lets_go_of_the_oldest_and_its_id(
    go_programs, go_client: GoClient, go_inspector: GoInspector, redis: Redis, redis_url, queue
):
    """Go's inspector lets go of the id and leaves its hash, which blocks the id for ever."""
    now = int(time.time())
    ids = [f"{n:05}" for n in range(10_000)]
    async with redis.pipeline(transaction=False) as pipe:
        for id_ in ids:
            msg = encode_task(TaskMessage(type="ok", id=id_, queue=queue, retry=25, timeout=60))
            pipe.hset(keys.task(queue, id_), mapping={"msg": msg, "state": "archived"})
        pipe.zadd(keys.archived(queue), {id_: now - 20_000 + n for n, id_ in enumerate(ids)})
        await pipe.execute()
    await go_client.enqueue("ok", queue=queue, task_id="by hand")
    async with Inspector(redis_url) as inspector:
        await inspector.archive_task(queue, "by hand")
    assert await redis.zcard(keys.archived(queue)) == 10_000
    assert (await go_inspector.task(queue, "by hand"))["state"] == "archived"
    assert (await go_inspector.task(queue, ids[1]))["state"] == "archived"
    async with GoServer(redis_url, queues=[queue]) as theirs:
        await go_client.enqueue("ok", queue=queue, task_id=ids[0])
        assert (await theirs.settled(ids[0]))["as"] == "done"


async def test_3_a_group_that_was_set_apart_and_comes_back_is_seen(
    go_programs, go_client: GoClient, go_inspector: GoInspector, redis: Redis, redis_url, queue
):
    for id_ in "ab":
        await go_client.enqueue("part", id_.encode(), queue=queue, task_id=id_, group="g")
    async with RDB(redis_url) as rdb:
        assert await rdb.aggregation_check(queue, "g", "s", grace=1, max_delay=0, max_size=2)
        assert await go_inspector.call("groups", queue) == []
        await redis.zadd(keys.aggregation_sets(queue), {keys.aggregation_set(queue, "g", "s"): 1})  # long over
        assert await rdb.reclaim_stale_aggregation_sets(queue)
    assert await go_inspector.call("groups", queue) == [{"group": "g", "size": 2}]
    async with GoServer(redis_url, queues=[queue], aggregate="ok:all") as server:
        assert (await server.wait("aggregated", group="g"))["payloads"] == ["a", "b"]
        await server.settled((await server.wait("started", type="ok:all"))["id"])


async def test_3_a_task_of_a_group_that_was_run_alone_and_failed_is_seen_there_again(
    go_programs, go_client: GoClient, go_inspector: GoInspector, redis: Redis, redis_url, queue
):
    await go_client.enqueue("fail:1", b"a", queue=queue, task_id="a", group="g")
    await go_inspector.call("run_task", queue, id="a")
    async with GoServer(redis_url, queues=[queue], retry_delay=60) as server:
        assert (await server.settled("a"))["as"] == "retry"
    assert await go_inspector.call("groups", queue) == []
    await redis.zadd(keys.retry(queue), {"a": 1})  # due
    async with RDB(redis_url) as rdb:
        assert (await rdb.check_and_enqueue(queue)).moved == 1
    assert await go_inspector.call("groups", queue) == [{"group": "g", "size": 1}]
    async with GoServer(redis_url, queues=[queue], aggregate="ok:all") as server:
        assert (await server.wait("aggregated", group="g"))["payloads"] == ["a"]


async def test_4_ids_without_a_task_are_taken_off(
    go_programs, go_client: GoClient, go_inspector: GoInspector, redis: Redis, redis_url, queue, soon
):
    """While one is there, Go can say nothing of the queue."""
    await go_client.enqueue("ok", queue=queue, task_id="a")
    await redis.rpush(keys.pending(queue), "ghost")
    await redis.zadd(keys.scheduled(queue), {"ghost of the past": 1})
    with pytest.raises(GoError):
        await go_inspector.queue(queue)
    async with PythonServer(redis_url, queues=[queue]) as ours:
        await ours.settled("a")
        await go_client.enqueue("ok", queue=queue, task_id="b", process_in=1)  # due after the ghost
        await ours.settled("b")
    assert (await go_inspector.queue(queue))["size"] == 0
    await go_works(go_client, redis_url, queue)


async def test_5_an_active_task_without_a_lease_comes_back(
    go_programs, go_client: GoClient, redis: Redis, redis_url, queue, soon
):
    """As a hand leaves it that only knows the list."""
    await go_client.enqueue("ok", queue=queue, task_id="a")
    await redis.lmove(keys.pending(queue), keys.active(queue), "RIGHT", "LEFT")
    await redis.hset(keys.task(queue, "a"), "state", "active")
    async with PythonServer(redis_url, queues=[queue], lease=1, retry_delay=60) as ours:
        assert (await ours.settled("a"))["as"] == "retry"
    await redis.zadd(keys.retry(queue), {"a": 1})  # due
    await go_works(go_client, redis_url, queue, due="a")


@pytest.mark.parametrize("options", [{}, {"process_in": 60}, {"group": "g"}], ids=["at once", "later", "in a group"])
async def test_6_an_enqueue_whose_id_is_taken_takes_no_lock(
    go_programs, go_client: GoClient, python_client: PythonClient, redis: Redis, redis_url, queue, options
):
    await go_client.enqueue("block", b"holds the id", queue=queue, task_id="a", process_in=3600)
    with pytest.raises(Exception, match="a") as refused:
        await python_client.enqueue("ok", b"p", queue=queue, task_id="a", unique=60, **options)
    assert refusal(refused.value) == "id_conflict"
    assert await redis.exists(keys.unique(queue, "ok", b"p")) == 0
    await go_client.enqueue("ok", b"p", queue=queue, task_id="b", unique=60)
    await go_works(go_client, redis_url, queue, due="b")


async def test_7_an_archived_task_gives_its_lock_back(
    go_programs, go_client: GoClient, python_client: PythonClient, redis_url, queue
):
    async with PythonServer(redis_url, queues=[queue]) as ours:
        await go_client.enqueue("skip", b"p", queue=queue, task_id="a", unique=60)
        await ours.settled("a", as_="archived")
    info = await go_client.enqueue("skip", b"p", queue=queue, task_id="b", unique=60)
    assert info["state"] == "pending"
    async with GoServer(redis_url, queues=[queue]) as theirs:
        assert (await theirs.settled("b"))["as"] == "archived"
    await go_works(go_client, redis_url, queue)


async def test_7_tasks_of_a_group_give_their_locks_back(
    go_programs, go_client: GoClient, redis: Redis, redis_url, queue
):
    mux = ServeMux()

    @mux.aggregator
    async def join(group: str, tasks: list[Task]) -> Task:
        return Task("ok:all", task_id="all", process_in=3600)

    @mux.handler("nothing")
    async def nothing(_: Task) -> None: ...

    for n in "ab":
        await go_client.enqueue("part", n.encode(), queue=queue, task_id=n, unique=600, group="g")
    locks = [keys.unique(queue, "part", n.encode()) for n in "ab"]
    assert await redis.exists(*locks) == 2
    async with Server(redis_url, mux, queues=[queue], group_max_size=2):
        await _until(lambda: redis.zscore(keys.scheduled(queue), "all"))
    assert await redis.exists(*locks) == 0
    await go_client.enqueue("ok", b"a", queue=queue, unique=60)
    await go_client.enqueue("part", b"a", queue=queue, task_id="a", unique=60, group="g")
    await redis.zadd(keys.scheduled(queue), {"all": 1})  # due
    await go_works(go_client, redis_url, queue, due="all")


async def test_7_deleting_all_that_wait_gives_their_locks_back(go_programs, go_client: GoClient, redis_url, queue):
    for n in "ab":
        await go_client.enqueue("ok", n.encode(), queue=queue, unique=60)
    async with Inspector(redis_url) as inspector:
        assert await inspector.delete_all_pending_tasks(queue) == 2
    info = await go_client.enqueue("ok", b"a", queue=queue, unique=60)
    await go_works(go_client, redis_url, queue, due=info["id"])


async def test_8_a_task_that_was_run_by_hand_has_waited_since_then(
    go_programs, go_client: GoClient, go_inspector: GoInspector, redis_url, queue
):
    await go_client.enqueue("ok", queue=queue, task_id="a", process_in=3600)
    async with Inspector(redis_url) as inspector:
        await inspector.run_task(queue, "a")
        assert (await inspector.get_queue_info(queue)).latency > 0
    assert (await go_inspector.queue(queue))["latency"] > 0
    await go_works(go_client, redis_url, queue, due="a")


async def test_8_behind_a_task_that_was_given_back_others_wait(
    go_programs, go_client: GoClient, go_inspector: GoInspector, redis_url, queue
):
    async with GoServer(redis_url, queues=[queue], concurrency=1, shutdown_timeout=0.1) as theirs:
        await go_client.enqueue("stubborn", queue=queue, task_id="a")
        await theirs.wait("started", id="a")
        await go_client.enqueue("ok", queue=queue, task_id="b")
        await theirs.terminate()
    assert (await go_inspector.queue(queue))["latency"] == 0
    async with Inspector(redis_url) as inspector:
        assert (await inspector.get_queue_info(queue)).latency > 0
        await inspector.delete_task(queue, "a")  # which would never end
    await go_works(go_client, redis_url, queue, due="b")


@pytest.mark.parametrize(("max_retry", "as_"), [(3, "retry"), (0, "archived")])
async def test_10_an_error_that_is_no_valid_text_keeps_no_task_active(
    go_programs, go_client: GoClient, go_inspector: GoInspector, redis: Redis, redis_url, queue, max_retry, as_, caplog
):
    caplog.set_level(logging.CRITICAL, "aioasynq")  # what is logged goes from one test process to another, as text
    mux = ServeMux()

    @mux.handler("ok")
    async def fails(_: Task) -> None:
        raise ValueError(b"caf\xe9 \xff".decode(errors="surrogateescape"))

    await go_client.enqueue("ok", queue=queue, task_id="a", max_retry=max_retry)
    async with Server(redis_url, mux, queues=[queue], retry_delay=lambda *_: 60):
        place = keys.retry(queue) if as_ == "retry" else keys.archived(queue)
        await _until(lambda: redis.zscore(place, "a"))
    info = await go_inspector.task(queue, "a")
    assert (info["state"], info["last_err"]) == (as_, "caf? ?")
    await go_inspector.call("run_task", queue, id="a")
    await go_works(go_client, redis_url, queue, due="a")


async def test_9_what_redis_refuses_is_not_asked_for_again_and_again(
    go_programs, go_client: GoClient, redis: Redis, redis_url, queue
):
    """Go's processor asks again at once, as long as Redis answers with errors; other queues get their share here."""
    other, seconds = f"{queue}-other", 2.0
    await redis.set(keys.pending(queue), "no list")
    async with PythonServer(redis_url, queues=[queue, other]) as ours:
        await go_client.enqueue("ok", queue=other, task_id="first")
        await ours.settled("first")
        before = await _calls(redis)
        await asyncio.sleep(seconds)  # in which it may ask
        asked = await _calls(redis) - before
        assert asked < 40 * seconds
        await go_client.enqueue("ok", queue=other, task_id="second")
        await ours.settled("second")
        await redis.delete(keys.pending(queue))
        await go_client.enqueue("ok", queue=queue, task_id="at last")
        await ours.settled("at last")
    await go_works(go_client, redis_url, queue)


async def _calls(redis: Redis) -> int:
    return sum(stats["calls"] for stats in (await redis.info("commandstats")).values())


async def test_12_a_removed_queue_leaves_nothing(
    go_programs,
    go_client: GoClient,
    python_client: PythonClient,
    go_inspector: GoInspector,
    redis: Redis,
    redis_url,
    queue,
):
    async with GoServer(redis_url, queues=[queue], retry_delay=60) as theirs:
        for type_, retention in {"ok": 60, "fail": 0, "skip": 0}.items():
            await go_client.enqueue(type_, b"p", queue=queue, task_id=type_, unique=600, retention=retention)
            await theirs.settled(type_)
    await go_inspector.call("pause_queue", queue)
    await go_client.enqueue("part", queue=queue, group="g", unique=60)
    await go_client.enqueue("ok", b"later", queue=queue, process_in=60, unique=60)
    async with Inspector(redis_url) as inspector:
        await inspector.delete_queue(queue, force=True)
    left = [str(key) for key in await redis.keys(f"{keys.prefix(queue)}*")]
    assert [key for key in left if ":receipt:" not in key] == []  # those are gone in a minute
    assert queue not in await go_inspector.call("queues")
    # A Go client that knew the queue does not name it again; ours does, and both work.
    await python_client.enqueue("ok", queue=queue, task_id="anew")
    assert queue in await go_inspector.call("queues")
    await go_works(go_client, redis_url, queue, due="anew")


@pytest.mark.parametrize("wrong", [-3600, 3600], ids=["an hour behind", "an hour ahead"])
async def test_14_a_clock_that_is_wrong_moves_no_lease_and_starts_nothing_early(
    go_programs, go_client: GoClient, go_inspector: GoInspector, redis: Redis, redis_url, queue, monkeypatch, wrong
):
    """Go goes by its own clock: one that is a minute off takes the tasks of others, and starts what is not due."""
    real = time.time
    async with PythonServer(redis_url, queues=[queue]) as ours:
        monkeypatch.setattr(time, "time", lambda: real() + wrong)
        await go_client.enqueue("block", queue=queue, task_id="held")
        await ours.wait("started", id="held")
        now = (await redis.time())[0]
        lease: Any = await redis.zscore(keys.lease(queue), "held")
        assert 0 < lease - now <= 16
        assert not (await go_inspector.task(queue, "held"))["is_orphaned"]
        began = real()
        await go_client.enqueue("ok", queue=queue, task_id="due", process_in=2)
        await ours.settled("due")
        assert 1 <= real() - began < 10  # Go counts in whole seconds
        await go_client.enqueue("fail:1", queue=queue, task_id="tried")
        await ours.settled("tried", as_="retry")
        retry: Any = await redis.zscore(keys.retry(queue), "tried")
        assert 0 < retry - (await redis.time())[0] < 600
        ours.release("held")
        await ours.settled("held")
        monkeypatch.undo()
    await redis.zadd(keys.retry(queue), {"tried": 1})  # due
    await go_works(go_client, redis_url, queue, due="tried")


async def test_15_no_text_of_an_option_ends_go_s_inspector(
    go_inspector: GoInspector, asynqmon: Asynqmon, redis_url, queue
):
    """One without a parenthesis does: with a panic, in whatever program it is."""
    odd = Task("odd", b"\xff", task_id='"\\\n\x00\u200b)(', group="\U0001f642", headers={"(": ")"}, timeout=0.5)
    async with Scheduler(redis_url) as scheduler:
        scheduler.register("@yearly", odd, queue=f"{queue})")
        scheduler.register("@yearly", Task("plain"), queue=queue)
        scheduler.register("@yearly", Task("none"))
        while len(shown := await go_inspector.call("scheduler_entries")) < 3:
            pass
        options = {entry["task"]["type"]: entry["opts"] for entry in shown}
        assert options["plain"] == [f'Queue("{queue}")']
        assert options["none"] == []
        assert "Timeout(500ms)" in options["odd"]
        async with httpx.AsyncClient(base_url=f"{asynqmon.url}/api/") as http:
            assert len((await http.get("scheduler_entries")).json()["entries"]) == 3


async def _until(there: Any) -> None:
    """Wait until what *there* asks Redis for is there."""
    end = time.monotonic() + PATIENCE
    while await there() is None:
        assert time.monotonic() < end
