"""What an Inspector changes: one, all, whole queues; and why a task does not run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from aioasynq import (
    BrokerError,
    Client,
    DuplicateTaskError,
    Inspector,
    QueueNotFoundError,
    QueueStateError,
    ServeMux,
    Server,
    Task,
    TaskNotFoundError,
    TaskStateError,
    keys,
)
from aioasynq.message import SchedulerEnqueueEvent, SchedulerEntry, ServerInfo, WorkerInfo
from aioasynq.proto.codec import encode_scheduler_entry, encode_scheduler_event
from aioasynq.rdb.rdb import RDB
from tests.support.build import DAY, LEASE, LOCK, NOW, NOW_S, QUEUE, message, unique
from tests.support.state import State, assert_states

SOON = float(NOW_S + 60)


async def _write(target: Any, state: State, queue: str = QUEUE) -> None:
    await state.write(target, queue)
    await target.sadd(keys.queues(), queue)


async def _assert(target: Any, **states: State) -> None:
    await target.delete(keys.queues())
    await assert_states(target, states)


def _in(place: str, scores: Any) -> State:
    """A queue with these tasks in one place."""
    return State(**{place: scores})


MANY = 600
ALL: dict[str, tuple[str, str]] = {
    **{f"run_all_{state}_tasks": (state, "pending") for state in ("scheduled", "retry", "archived", "aggregating")},
    **{f"archive_all_{state}_tasks": (state, "archived") for state in ("pending", "scheduled", "retry", "aggregating")},
    **{
        f"delete_all_{state}_tasks": (state, "")
        for state in ("pending", "scheduled", "retry", "archived", "completed", "aggregating")
    },
}


@pytest.mark.rows(71, 74, 79)
@pytest.mark.parametrize(("name", "way"), ALL.items(), ids=ALL)
async def test_all_in_slices(redis_target: Any, inspector: Inspector, name: str, way: tuple[str, str]) -> None:
    before, after = way
    ids = [f"t{n:03}" for n in range(MANY)]
    scores = {task_id: float(NOW_S + 9 + n) for n, task_id in enumerate(ids)}
    if before == "pending":
        state = State(pending=ids)
    else:
        state = State(groups={"g": scores}) if before == "aggregating" else _in(before, scores)
    await _write(redis_target, state)
    await State(pending=["t000"], scheduled={"t001": SOON}).write(redis_target, "other")
    told: list[tuple[int, int]] = []
    group = ("g",) if before == "aggregating" else ()
    call = getattr(inspector, name)
    assert await call(QUEUE, *group, progress=lambda done, total: told.append((done, total))) == MANY
    assert told == [(256, MANY), (512, MANY), (MANY, MANY)]
    assert await call(QUEUE, *group) == 0
    info = await inspector.get_queue_info(QUEUE)
    assert info.size == (MANY if after else 0)
    assert not after or getattr(info, after) == MANY
    assert info.groups == 0
    left = await State.read(redis_target, "other")
    assert (left.pending, set(left.scheduled)) == (["t000"], {"t001"})


@pytest.mark.rows(80)
async def test_deleting_all_frees_locks(redis_target: Any, inspector: Inspector) -> None:
    for place in ("archived", "pending", "completed"):
        state = State(pending=["a"]) if place == "pending" else _in(place, {"a": SOON})
        state.tasks = {"a": {"msg": unique("a"), "unique_key": LOCK}}
        state.locks = {LOCK: "a"}
        await _write(redis_target, state)
        assert await inspector.delete_tasks(QUEUE, place) == 1
        await _assert(redis_target)


async def test_deleting_all_takes_ids_without_a_task_along(redis_target: Any, inspector: Inspector) -> None:
    await _write(redis_target, State(archived={"gone": 1.0, "a": 2.0}, tasks={"gone": None}))
    assert await inspector.delete_all_archived_tasks(QUEUE) == 1
    await _assert(redis_target)


@pytest.mark.parametrize(
    ("verb", "state"), [("run", "pending"), ("run", "active"), ("archive", "archived"), ("delete", "active")]
)
async def test_a_state_that_a_verb_is_not_for(inspector: Inspector, verb: str, state: str) -> None:
    with pytest.raises(ValueError, match=f"state must be one of .* got '{state}'"):
        await getattr(inspector, f"{verb}_tasks")(QUEUE, state)


async def test_what_cannot_run_is_left_alone(redis_target: Any, inspector: Inspector) -> None:
    state = State(
        archived={"a": 1.0, "b": 2.0}, pending=["x"], locks={LOCK: "x"},
        tasks={"a": {"msg": unique("a"), "unique_key": LOCK}},
    )  # fmt: skip
    await _write(redis_target, state)
    with pytest.raises(DuplicateTaskError):
        await inspector.run_task(QUEUE, "a")
    assert await inspector.run_all_archived_tasks(QUEUE) == 1
    assert (await inspector.get_task_info(QUEUE, "a")).state == "archived"


ONE: dict[str, Callable[[Inspector, str, str], Awaitable[object]]] = {
    "run_task": lambda i, q, t: i.run_task(q, t),
    "archive_task": lambda i, q, t: i.archive_task(q, t),
    "delete_task": lambda i, q, t: i.delete_task(q, t),
    "update_task_payload": lambda i, q, t: i.update_task_payload(q, t, b"x"),
    "reschedule_task": lambda i, q, t: i.reschedule_task(q, t, process_in=9),
    "move_task": lambda i, q, t: i.move_task(q, t, to="to"),
    "get_task_info": lambda i, q, t: i.get_task_info(q, t),
    "explain": lambda i, q, t: i.explain(q, t),
}


@pytest.mark.rows(65, 70, 73, 78, 131)
@pytest.mark.parametrize("name", ONE)
async def test_one_task_that_there_is_not(redis_target: Any, inspector: Inspector, name: str) -> None:
    if name == "move_task" and isinstance(redis_target, RedisCluster):
        return  # its two queues are in different slots, which is said first
    call = ONE[name]
    with pytest.raises(QueueNotFoundError, match="'nope'"):
        await call(inspector, "nope", "a")
    await redis_target.delete(keys.queues())
    await redis_target.sadd(keys.queues(), QUEUE)
    with pytest.raises(TaskNotFoundError, match="'none'"):
        await call(inspector, QUEUE, "none")
    for queue, task_id in (("", "a"), ("a{b", "a"), (QUEUE, ""), (QUEUE, " ")):
        with pytest.raises(ValueError, match=r"queue|task_id"):
            await call(inspector, queue, task_id)
    with pytest.raises(TypeError, match="task_id"):
        await call(inspector, QUEUE, 7)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in ONE if name not in {"get_task_info", "explain"}])
async def test_one_task_that_runs(redis_target: Any, inspector: Inspector, name: str) -> None:
    if name == "move_task" and isinstance(redis_target, RedisCluster):
        return  # its two queues are in different slots, which is said first
    state = State(active=["a"], lease={"a": LEASE})
    await _write(redis_target, state)
    with pytest.raises(TaskStateError, match=r"active|running") as refused:
        await ONE[name](inspector, QUEUE, "a")
    assert refused.value.state == "active"
    assert await redis_target.smembers(keys.queues()) == {QUEUE.encode()}
    await _assert(redis_target, q=state)


RESCHEDULED: dict[str, tuple[dict[str, Any], float]] = {
    "in a while": ({"process_in": 90}, NOW_S + 91.0),
    "at a moment": ({"process_at": datetime.fromtimestamp(NOW_S + 500, UTC)}, NOW_S + 500.0),
    "at a unix second": ({"process_at": NOW_S + 500}, NOW_S + 500.0),
    "now": ({"process_in": 0}, NOW),
}


@pytest.mark.parametrize(("when", "score"), RESCHEDULED.values(), ids=RESCHEDULED)
async def test_reschedule(redis_target: Any, inspector: Inspector, when: dict[str, Any], score: float) -> None:
    await _write(redis_target, State(scheduled={"a": SOON}))
    await inspector.reschedule_task(QUEUE, "a", **when)
    await _assert(redis_target, q=State(scheduled={"a": score}))


@pytest.mark.parametrize(
    "when",
    [{}, {"process_in": 1, "process_at": 2}, {"process_in": -1}, {"process_at": datetime(2030, 1, 1)}],  # noqa: DTZ001
)
async def test_reschedule_to_no_time(inspector: Inspector, when: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match="process_"):
        await inspector.reschedule_task(QUEUE, "a", **when)


# ── queues ──


@pytest.mark.rows(59, 60, 137)
async def test_the_numbers_of_a_queue(redis_target: Any, inspector: Inspector) -> None:
    state = State(
        pending=["p", "q"], active=["a"], lease={"a": LEASE}, scheduled={"s": SOON}, retry={"r": SOON},
        archived={"x": 1.0}, completed={"c": SOON},
        groups={"g": {"m": 1.0, "n": 2.0}, "h": {"o": 1.0}, "g:s": {"y": 1.0}},
        group_names={"g", "h"}, aggregation_sets={"g:s": SOON}, paused=True,
        tasks={"p": {"pending_since": f"{NOW_S - 60}000000000"}, "q": {"pending_since": f"{NOW_S - 1}000000000"}},
        counters={"processed": 9, "failed": 4, f"processed:{DAY}": 7, f"failed:{DAY}": 3},
    )  # fmt: skip
    await _write(redis_target, state)
    info = await inspector.get_queue_info(QUEUE)
    assert info.memory_usage is not None
    assert info.memory_usage > 1000
    assert (info.pending, info.active, info.scheduled, info.retry, info.archived, info.completed) == (2, 1, 1, 1, 1, 1)
    assert (info.groups, info.aggregating, info.size) == (2, 4, 11)
    assert (info.processed, info.failed, info.processed_total, info.failed_total) == (7, 3, 9, 4)
    assert info.paused
    assert info.latency == pytest.approx(60.25)
    assert info.timestamp == datetime.fromtimestamp(NOW, UTC)
    assert (await inspector.get_queue_info(QUEUE, memory=False)).memory_usage is None
    assert [(group.group, group.size) for group in await inspector.groups(QUEUE)] == [("g", 2), ("h", 1)]
    assert await inspector.groups("nope") == []


async def test_latency_of_a_task_that_was_given_back(redis_target: Any, inspector: Inspector) -> None:
    """Go notes nowhere since when; the one behind it tells at least how long that one has waited."""
    since = {"pending_since": f"{NOW_S - 30}000000000"}
    await _write(redis_target, State(pending=["back", "next"], tasks={"next": since}))
    assert (await inspector.get_queue_info(QUEUE)).latency == pytest.approx(30.25)


async def test_a_queue_of_ids_without_tasks_has_numbers(redis_target: Any, inspector: Inspector) -> None:
    state = State(
        pending=["a"], archived={"b": 1.0}, groups={"g": {"c": 1.0}}, group_names={"g", "empty"},
        tasks={"a": None, "b": None, "c": None},
    )  # fmt: skip
    await _write(redis_target, state)
    info = await inspector.get_queue_info(QUEUE)
    assert (info.size, info.latency) == (3, 0.0)
    assert info.memory_usage is not None


@pytest.mark.rows(61)
@pytest.mark.parametrize("days", [1, 7, 90])
async def test_history(redis_target: Any, inspector: Inspector, days: int) -> None:
    await _write(redis_target, State(counters={f"processed:{DAY}": 7, f"failed:{DAY}": 3, "processed:2096-09-30": 2}))
    history = await inspector.history(QUEUE, days)
    assert len(history) == days
    assert (str(history[0].date), history[0].processed, history[0].failed) == (DAY, 7, 3)
    assert sum(day.processed for day in history) == (9 if days > 2 else 7)
    assert [day.date for day in history] == sorted((day.date for day in history), reverse=True)


@pytest.mark.parametrize("days", [0, 91, 1.5, True])
async def test_history_of_wrong_days(inspector: Inspector, days: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="days must be"):
        await inspector.history(QUEUE, days)


@pytest.mark.rows(88, 89)
async def test_pause_and_go_on(redis_target: Any, inspector: Inspector) -> None:
    with pytest.raises(QueueNotFoundError):
        await inspector.pause_queue(QUEUE)
    await _write(redis_target, State())
    await inspector.pause_queue(QUEUE)
    with pytest.raises(QueueStateError, match="'q': it is already paused"):
        await inspector.pause_queue(QUEUE)
    await inspector.unpause_queue(QUEUE)
    with pytest.raises(QueueStateError, match="'q': it is not paused"):
        await inspector.unpause_queue(QUEUE)


@pytest.mark.rows(58)
async def test_queues_are_listed(redis_target: Any, inspector: Inspector) -> None:
    assert await inspector.queues() == []
    for queue in ("b", "a", "ü"):
        await _write(redis_target, State(), queue)
    assert await inspector.queues() == ["a", "b", "ü"]


async def test_slots_and_nodes(redis_target: Any, inspector: Inspector) -> None:
    if isinstance(redis_target, RedisCluster):
        assert await inspector.cluster_key_slot(QUEUE) == redis_target.keyslot(keys.pending(QUEUE))
        nodes = await inspector.cluster_nodes(QUEUE)
        ports = [int(node.addr.rpartition(":")[2]) for node in nodes]
        node: Any = redis_target.get_node_from_key(keys.pending(QUEUE))
        assert node.port == ports[0]
        assert len({node.id for node in nodes}) == len(nodes) >= 1
        return
    with pytest.raises(BrokerError, match="is no Cluster"):
        await inspector.cluster_key_slot(QUEUE)
    with pytest.raises(BrokerError, match="is no Cluster"):
        await inspector.cluster_nodes(QUEUE)


# ── servers and schedulers ──


@pytest.mark.rows(84, 132)
async def test_servers(redis_target: Any, inspector: Inspector) -> None:
    assert await inspector.servers() == []
    async with RDB(redis_target) as rdb:
        for host, pid in (("b", 1), ("a", 2), ("a", 1)):
            info = ServerInfo(
                host=host, pid=pid, server_id=f"{host}{pid}", concurrency=3, queues={"q": 2}, status="active",
                start_time=10**18,
            )  # fmt: skip
            worker = WorkerInfo(task_id="t", task_type="mail", task_payload=b"p", queue="q", start_time=10**18)
            await rdb.write_process_info(info, {"t": worker}, ttl=3_000_000_000 - 60)
    # records are of the real clock, and that of the test stands far ahead of it
    async with Inspector(redis_target) as now:
        servers = await now.servers()
    assert [server.id for server in servers] == ["a1", "a2", "b1"]
    assert (servers[0].concurrency, servers[0].queues, servers[0].status) == (3, {"q": 2}, "active")
    assert servers[0].started == datetime.fromtimestamp(10**9, UTC)
    [worker_of] = servers[0].active_workers
    assert (worker_of.task_id, worker_of.task_type, worker_of.task_payload, worker_of.deadline) == (
        "t",
        "mail",
        b"p",
        None,
    )


@pytest.mark.rows(135)
async def test_scheduler_entries_and_events(redis_target: Any, inspector: Inspector) -> None:
    assert await inspector.scheduler_entries() == []
    for n, spec in enumerate(("@every 30s", "* * * * *")):
        entry = SchedulerEntry(
            id=f"e{n}", spec=spec, task_type="t", task_payload=b"p", enqueue_options=['Queue("low")'],
            next_enqueue_time=(NOW_S + 1) * 10**9,
        )  # fmt: skip
        key = keys.scheduler_entries(f"h:1:{n}")
        await redis_target.rpush(key, encode_scheduler_entry(entry), b"\xff\xff")
        await redis_target.zadd(keys.schedulers(), {key: NOW + 20})
    await redis_target.zadd(keys.schedulers(), {"asynq:schedulers:{gone}": NOW - 1})
    first, second = await inspector.scheduler_entries()
    assert (first.id, first.spec, first.options, first.prev) == ("e1", "* * * * *", ['Queue("low")'], None)
    assert first.enqueue_options == {"queue": "low"}
    assert second.next == datetime.fromtimestamp(NOW_S + 1, UTC)

    events = {
        encode_scheduler_event(SchedulerEnqueueEvent(task_id=f"t{n}", enqueue_time=(NOW_S + n) * 10**9)): NOW_S + n
        for n in range(5)
    }
    await redis_target.zadd(keys.scheduler_history("e1"), events)
    page = await inspector.list_scheduler_enqueue_events("e1", page=2, page_size=2)
    assert [(event.task_id, event.enqueued_at) for event in page] == [
        ("t2", datetime.fromtimestamp(NOW_S + 2, UTC)), ("t1", datetime.fromtimestamp(NOW_S + 1, UTC)),
    ]  # fmt: skip
    assert await inspector.list_scheduler_enqueue_events("none") == []
    with pytest.raises(ValueError, match="entry_id"):
        await inspector.list_scheduler_enqueue_events("")


# ── why ──

WHY: dict[str, tuple[State, list[str]]] = {
    "next in line": (State(pending=["a", "b"]), ["It is pending, and the next of its queue to run."]),
    "behind one": (State(pending=["x", "a"]), ["It is pending, behind 1 other task of its queue."]),
    "behind many": (State(pending=["x", "y", "a"]), ["It is pending, behind 2 other tasks of its queue."]),
    "paused": (
        State(pending=["a"], paused=True),
        ["It is pending, and the next of its queue to run.", "The queue 'q' is paused."],
    ),
    "not in line": (
        State(tasks={"a": {"msg": message("a"), "state": "pending"}}),
        ["Its hash says that it is pending, but it is not in line: delete it, or run it again."],
    ),
    "scheduled nowhere": (
        State(tasks={"a": {"msg": message("a"), "state": "scheduled"}}),
        ["Its hash says that it is scheduled, but it stands nowhere: delete it, or run it again."],
    ),
    "active nowhere": (
        State(tasks={"a": {"msg": message("a"), "state": "active"}}),
        ["Its hash says that it is active, but it stands nowhere: delete it, or run it again."],
    ),
    "in no group": (
        State(tasks={"a": {"msg": message("a"), "state": "aggregating", "group": "g"}}),
        ["Its hash says that it is aggregating, but it stands nowhere: delete it, or run it again."],
    ),
    "without a lease": (
        State(active=["a"]),
        ["It was running, and nobody is heard of who runs it.", "No server has the queue 'q'."],
    ),
    "runs": (State(active=["a"], lease={"a": LEASE}), ["It is running."]),
    "orphaned": (
        State(active=["a"], lease={"a": NOW - 9}),
        ["It was running, and nobody is heard of who runs it.", "No server has the queue 'q'."],
    ),
    "scheduled": (State(scheduled={"a": SOON}), ["It is scheduled for 2096-10-02 07:07:40 UTC (in 60 s)."]),
    "retry": (
        State(retry={"a": SOON}, tasks={"a": {"msg": message("a", retried=2, error_msg="boom")}}),
        [
            "It failed 2 of 26 times that it may, and is tried again at 2096-10-02 07:07:40 UTC (in 60 s).",
            "Its last error: boom",
        ],
    ),
    "archived": (
        State(archived={"a": NOW_S - 60.0}),
        ["It was archived at 2096-10-02 07:05:40 UTC (60 s ago), and does not run unless it is told to."],
    ),
    "completed": (
        State(completed={"a": SOON}),
        ["It has succeeded, and is kept until 2096-10-02 07:07:40 UTC (in 60 s)."],
    ),
    "in a group": (State(groups={"g": {"a": 1.0}}), ["It is in the group 'g', which waits to be made one task."]),
    "in a group, and cannot be read": (
        State(groups={"g": {"a": 1.0}}, tasks={"a": {"msg": b"\xff"}}),
        ["It is in the group 'g', which waits to be made one task."],
    ),
    "set apart": (
        State(groups={"g:s": {"a": 1.0}}, aggregation_sets={"g:s": SOON}, group_names=set()),
        ["It is in the group 'g', which is being made one task."],
    ),
    "its lock is another's": (
        State(archived={"a": NOW_S - 60.0}, pending=["b"], locks={LOCK: "b"}, tasks={"a": {"msg": unique("a")}}),
        [
            "It was archived at 2096-10-02 07:05:40 UTC (60 s ago), and does not run unless it is told to.",
            "It is unique, and its lock is held by the task 'b'.",
        ],
    ),
    "cannot be read": (
        State(pending=["a"], tasks={"a": {"msg": b"\xff"}}),
        ["It is pending, and the next of its queue to run."],
    ),
}


@pytest.mark.parametrize(("state", "reasons"), WHY.values(), ids=WHY)
async def test_why(redis_target: Any, inspector: Inspector, state: State, reasons: list[str]) -> None:
    await _write(redis_target, state)
    why = await inspector.explain(QUEUE, "a")
    assert why.reasons[: len(reasons)] == reasons
    assert str(why).startswith(reasons[0])
    assert not why.can_run
    ended = why.info.state == "completed" or (why.info.state == "active" and not why.info.is_orphaned)
    unserved = not ended and not state.paused
    assert ("No server has the queue 'q'." in why.reasons) == unserved


SERVED: dict[str, tuple[dict[str, Any], int, bool, str]] = {
    "a server that has a handler": ({"patterns": ["x", "t"]}, 0, True, ""),
    "a server that has a handler for such types": ({"patterns": ["mail:", "t"]}, 0, True, ""),
    "servers without a handler": (
        {"patterns": ["mail:"]},
        0,
        False,
        "No server of its queue has a handler for the type 't'.",
    ),
    "a free server": ({}, 0, True, ""),
    "servers with no free place": ({"concurrency": 1}, 1, True, "All places of the servers of its queue are taken."),
    "servers that end": ({"status": "stopped"}, 0, False, "take no more tasks"),
    "servers of other queues": ({"queues": {"low": 1}}, 0, False, "No server has the queue"),
}


@pytest.mark.parametrize(("server", "busy", "can_run", "text"), SERVED.values(), ids=SERVED)
async def test_who_would_run_it(redis_target: Any, server: dict[str, Any], busy: int, can_run: bool, text: str) -> None:
    await _write(redis_target, State(pending=["a"]))
    about: dict[str, Any] = {"concurrency": 2, "queues": {QUEUE: 1}, "status": "active"} | server
    async with RDB(redis_target) as rdb, Inspector(rdb) as inspector:
        workers = {str(n): WorkerInfo(task_id=str(n), queue=QUEUE) for n in range(busy)}
        patterns = about.pop("patterns", None)
        info = ServerInfo(host="h", pid=1, server_id="s", **about)
        await rdb.write_process_info(info, workers, patterns=patterns)
        assert [each.patterns for each in await inspector.servers()] == [patterns]
        why = await inspector.explain(QUEUE, "a")
    assert why.can_run == can_run
    assert (text in str(why)) if text else len(why.reasons) == 1


WAITING: dict[str, tuple[State, str]] = {
    "in a group": (State(groups={"g": {"a": 1.0}}), "It is in the group 'g', which waits to be made one task."),
    "orphaned": (
        State(active=["a"], lease={"a": 1.5}),
        "It was running, and nobody is heard of who runs it.\nA server of its queue will soon take it back.",
    ),
}


@pytest.mark.parametrize(("state", "text"), WAITING.values(), ids=WAITING)
async def test_what_needs_a_server_but_no_handler(redis_target: Any, state: State, text: str) -> None:
    """It said that no server had a handler for the type, which the tasks of a group need not have."""
    await _write(redis_target, state)
    async with RDB(redis_target) as rdb, Inspector(rdb) as inspector:
        info = ServerInfo(host="h", pid=1, server_id="s", concurrency=2, queues={QUEUE: 1}, status="active")
        await rdb.write_process_info(info, {}, patterns=["mail:"])
        assert str(await inspector.explain(QUEUE, "a")) == text


# ── connections ──


@pytest.mark.rows(132)
async def test_a_client_that_was_handed_in_stays_open(redis_target: Any) -> None:
    async with Inspector(redis_target) as inspector:
        assert await inspector.queues() == []
    assert await redis_target.ping()


async def test_no_redis() -> None:
    async with Inspector("redis://127.0.0.1:1/0", operation_timeout=0.2) as inspector:
        with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1"):
            await inspector.queues()
    with pytest.raises(ValueError, match="operation_timeout"):
        Inspector("redis://127.0.0.1:1/0", operation_timeout=0)


async def test_a_server_at_work_tells_its_types(redis: Redis, redis_url: str) -> None:
    mux = ServeMux()

    @mux.handler("mail:")
    async def mail(task: Task) -> None: ...

    async with Inspector(redis) as inspector, Client(redis) as client:
        await client.enqueue(Task("image:resize"), task_id="a")
        async with asyncio.timeout(20), Server(redis_url, mux, queues=["default", "other"]):
            await inspector.pause_queue("default")
            while not (servers := await inspector.servers()):
                await asyncio.sleep(0.01)
            assert servers[0].patterns == ["mail:"]
        assert await redis.keys("asynq:servers*") == []
