"""Go's Inspector and ours on one Redis: what one reads the other reads, and what one changes the other would leave."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec import Struct
from redis.asyncio.cluster import RedisCluster

from aioasynq import AioasynqError, Inspector, QueueNotEmptyError, QueueNotFoundError, TaskNotFoundError, keys
from aioasynq.message import ServerInfo, WorkerInfo
from aioasynq.rdb.rdb import RDB
from tests.conformance.go_side import GoError, GoInspector, GoScheduler
from tests.conformance.history import PATIENCE
from tests.support.build import message, unique
from tests.support.cluster import Cluster
from tests.support.state import State

Q = "q"
NOW = int(time.time())
SOON, LATER, AGO = float(NOW + 3600), float(NOW + 7200), float(NOW - 3600)
TODAY = keys.day(time.time())
LOCK = keys.unique(Q, "t", b"p")


def full() -> State:
    """A queue with tasks in every state, of all kinds."""
    return State(
        pending=["p1", "p2", "p3", "p4", "p5"],
        active=["a1", "a2"],
        lease={"a1": LATER, "a2": AGO},
        scheduled={"s1": SOON, "s2": LATER, "s3": LATER + 1},
        retry={"r1": SOON, "r2": LATER},
        archived={"x1": AGO, "x2": AGO + 1, "x3": float(NOW)},
        completed={"c1": SOON, "c2": LATER},
        groups={"g": {"m1": AGO, "m2": AGO + 1}, "h": {"n1": AGO}},
        tasks={
            "p1": {"pending_since": f"{NOW - 60}000000000"},
            "p2": {"msg": message("p2", payload=None, headers={"k": "v", "": ""}, timeout=90)},
            "s1": {"msg": unique("s1"), "unique_key": LOCK},
            "r1": {"msg": message("r1", retried=3, error_msg="größer", last_failed_at=NOW - 5)},
            "x1": {"msg": message("x1", retried=25, error_msg="dead", last_failed_at=NOW - 5, deadline=NOW + 99)},
            "c1": {"msg": message("c1", retention=7200, completed_at=NOW - 7), "result": "done"},
        },
        locks={LOCK: "s1"},
        counters={"processed": 9, "failed": 4, f"processed:{TODAY}": 7, f"failed:{TODAY}": 3},
    )


async def _write(redis: Any, queue: str, state: State) -> None:
    await state.write(redis, queue)
    await redis.sadd(keys.queues(), queue)


@pytest.fixture
async def inspector(redis_url: str) -> Any:
    async with Inspector(redis_url) as ours:
        yield ours


# ── what reads ──


def plain(value: Any) -> Any:
    """Ours in the form in which Go's program answers."""
    if isinstance(value, Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, str):
        return str(value)
    return value


#: What has no value is written in two ways.
NOTHING: tuple[Any, ...] = (None, "", b"", {}, [], 0)
#: These are of the moment of asking.
OF_NOW = {"timestamp", "latency", "memory_usage"}


def same(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """How the answers differ, as sentences."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            line
            for name in sorted({*ours, *theirs})
            for line in same(ours.get(name), theirs.get(name), f"{where}.{name}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            return [f"{where}: {len(ours)} and {len(theirs)}"]
        return [line for n, pair in enumerate(zip(ours, theirs, strict=True)) for line in same(*pair, f"{where}[{n}]")]
    name = where.rpartition(".")[2]
    if isinstance(ours, date):
        day = datetime.fromtimestamp(float(theirs), UTC).date()
        return [] if ours == day else [f"{where}: {ours} and {day}"]
    if ours in NOTHING and theirs in NOTHING:
        return []
    if isinstance(ours, float | int) and isinstance(theirs, float | int):
        near = 5.0 if name in {"next_process_at", "timestamp", "latency"} else 0.001
        if name == "memory_usage":
            return [] if 0.5 < ours / theirs < 2 else [f"{where}: {ours} and {theirs}"]
        return [] if abs(ours - theirs) <= near else [f"{where}: {ours} and {theirs}"]
    return [] if ours == theirs else [f"{where}: {ours!r} and {theirs!r}"]


PAGES: list[dict[str, int]] = [{}, {"page": 1, "size": 2}, {"page": 2, "size": 2}, {"page": 3, "size": 2}, {"size": 99}]
LISTS = ["pending", "active", "scheduled", "retry", "archived", "completed"]
IDS = ["p1", "p2", "a1", "a2", "s1", "r1", "x1", "c1", "m1"]


@pytest.mark.rows(58, 59, 61, 63, 64, 66, 67, 131, 133, 137)
async def test_what_go_reads_we_read(redis: Any, go_inspector: GoInspector, inspector: Inspector) -> None:
    await _write(redis, Q, full())
    await _write(redis, "empty", State())
    await _write(redis, "paused", State(paused=True, scheduled={"s": SOON}))
    assert await inspector.queues() == sorted(await go_inspector.call("queues")) == ["empty", "paused", Q]
    wrong: list[str] = []
    for queue in (Q, "empty", "paused"):
        theirs = sorted(await go_inspector.call("groups", queue), key=lambda group: group["group"])
        wrong += same(plain(await inspector.groups(queue)), theirs, "groups")
        theirs = await go_inspector.call("get_queue_info", queue)
        wrong += same(plain(await inspector.get_queue_info(queue)), theirs, f"info of {queue}")
        for days in (1, 7, 90):
            theirs = await go_inspector.call("history", queue, days=days)
            wrong += same(plain(await inspector.history(queue, days)), theirs, f"history of {days} days")
        for state in LISTS:
            for page in PAGES:
                theirs = await go_inspector.call(f"list_{state}_tasks", queue, **page)
                paging = {"page": page.get("page", 1), "page_size": page.get("size", 30)}
                ours = await getattr(inspector, f"list_{state}_tasks")(queue, **paging)
                wrong += same(plain(ours), theirs, f"{state} of {queue}, {page}")
        for group in ("g", "h", "none"):
            for page in PAGES:
                theirs = await go_inspector.call("list_aggregating_tasks", queue, group=group, **page)
                paging = {"page": page.get("page", 1), "page_size": page.get("size", 30)}
                ours = await inspector.list_aggregating_tasks(queue, group, **paging)
                wrong += same(plain(ours), theirs, f"{group} of {queue}, {page}")
    for task_id in IDS:
        theirs = await go_inspector.call("get_task_info", Q, id=task_id)
        ours = plain(await inspector.get_task_info(Q, task_id))
        del theirs["is_orphaned"], ours["is_orphaned"]  # Go tells it in lists alone
        wrong += same(ours, theirs, task_id)
    assert wrong == []


@pytest.mark.rows(84, 131)
async def test_the_servers_go_reads_we_read(redis: Any, go_inspector: GoInspector, inspector: Inspector) -> None:
    async with RDB(redis) as rdb:
        for n in range(3):
            info = ServerInfo(
                host=f"h{n}", pid=n + 1, server_id=f"s{n}", concurrency=7, queues={"q": 3, "low": 1},
                strict_priority=n == 1, status="active", start_time=NOW * 10**9, active_worker_count=n,
            )  # fmt: skip
            workers = {
                f"t{m}": WorkerInfo(
                    host=f"h{n}", pid=n + 1, server_id=f"s{n}", task_id=f"t{m}", task_type="t", task_payload=b"p",
                    queue=Q, start_time=NOW * 10**9, deadline=(NOW + 60) * 10**9,
                )
                for m in range(n)
            }  # fmt: skip
            await rdb.write_process_info(info, workers)
    theirs = sorted(await go_inspector.call("servers"), key=lambda server: server["pid"])
    for server in theirs:
        server["active_workers"].sort(key=lambda worker: worker["task_id"])
    assert same(plain(await inspector.servers()), theirs) == []
    assert len(theirs) == 3


async def test_what_go_reads_of_schedulers_we_read(
    go_programs: Path, redis_url: str, go_inspector: GoInspector, inspector: Inspector
) -> None:
    """Of a scheduler of Go's that is at work."""
    async with asyncio.timeout(PATIENCE), GoScheduler(redis_url) as scheduler:
        often = await scheduler.register("@every 1s", "t", b"p", queue=Q, timeout=90, max_retry=3)
        await scheduler.register("CRON_TZ=Europe/Berlin 0 0 1 1 *", "yearly", queue="low", unique=60, retention=3600)
        for _ in range(3):
            await scheduler.wait("enqueued")
        while len(await go_inspector.call("scheduler_entries")) < 2:
            await asyncio.sleep(0.05)
        ours, theirs = await inspector.scheduler_entries(), await go_inspector.call("scheduler_entries")
        wrong: list[str] = []
        for entry in sorted(theirs, key=lambda each: each["spec"]):
            [mine] = [each for each in ours if each.id == entry["id"]]
            named = plain(mine)
            named["opts"] = named.pop("options")
            named["task"] = {name: named.pop(f"task_{name}") for name in ("type", "payload")}
            assert {"queue"} < named.pop("enqueue_options").keys()
            for moment in ("next", "prev"):  # they change each second
                assert (named[moment] is None) == (entry[moment] is None)
                assert abs((named.pop(moment) or 0) - (entry.pop(moment) or 0)) <= 2
            wrong += same(named, entry, entry["spec"])
        assert wrong == []
    # When it ends it forgets its entries and their history; that of one that died stays.
    assert await inspector.scheduler_entries() == await go_inspector.call("scheduler_entries") == []
    assert await inspector.list_scheduler_enqueue_events(often) == []
    async with asyncio.timeout(PATIENCE), GoScheduler(redis_url) as scheduler:
        often = await scheduler.register("@every 1s", "t", queue=Q)
        for _ in range(3):
            await scheduler.wait("enqueued")
        while len(await go_inspector.call("list_scheduler_enqueue_events", entry=often)) < 3:
            await asyncio.sleep(0.05)
        await scheduler.kill()
    for page in PAGES:
        arguments: dict[str, Any] = {"entry": often, **page}
        events = await go_inspector.call("list_scheduler_enqueue_events", **arguments)
        seen = await inspector.list_scheduler_enqueue_events(
            often, page=page.get("page", 1), page_size=page.get("size", 30)
        )
        assert same(plain(seen), events) == []


async def test_where_go_finds_a_queue_on_a_cluster_we_find_it(
    go_programs: Path, cluster: Cluster, cluster_client: RedisCluster
) -> None:
    async with GoInspector(cluster.url) as theirs, Inspector(cluster_client) as ours:
        for queue in ("q", "default", "mail", "ü"):
            assert await ours.cluster_key_slot(queue) == await theirs.call("cluster_key_slot", queue)
            assert plain(await ours.cluster_nodes(queue)) == await theirs.call("cluster_nodes", queue)


# ── what is refused ──


def _call(name: str, *arguments: object) -> Callable[[Inspector], Awaitable[object]]:
    """That call, with these arguments."""
    return lambda inspector: getattr(inspector, name)(*arguments)


class Refused(NamedTuple):
    call: str
    ours: Callable[[Inspector], Awaitable[object]]
    arguments: dict[str, Any]
    error: type[AioasynqError | ValueError]


def _lists() -> dict[str, Refused]:
    rows: dict[str, Refused] = {}
    for state in LISTS:
        name = f"list_{state}_tasks"
        rows[f"{name}, unknown queue"] = Refused(name, _call(name, "nope"), {"queue": "nope"}, QueueNotFoundError)
        rows[f"{name}, blank queue"] = Refused(name, _call(name, " "), {"queue": " "}, ValueError)
    return rows


def _ones() -> dict[str, Refused]:
    rows: dict[str, Refused] = {}
    for verb in ("run", "archive", "delete"):
        name = f"{verb}_task"
        for queue, error in (("nope", QueueNotFoundError), (Q, TaskNotFoundError)):
            rows[f"{name}, {error.__name__}"] = Refused(
                name,
                _call(name, queue, "none"),
                {"queue": queue, "id": "none"},
                error,
            )
        rows[f"{name}, active"] = Refused(name, _call(name, Q, "a1"), {"queue": Q, "id": "a1"}, AioasynqError)
    return rows


def _alls() -> dict[str, Refused]:
    rows: dict[str, Refused] = {}
    for name in ALL:
        rows[f"{name}, unknown queue"] = Refused(
            name,
            _call(name, "nope", *(["g"] if "aggregating" in name else [])),
            {"queue": "nope", "group": "g"},
            QueueNotFoundError,
        )
    return rows


ALL = [
    *(f"run_all_{state}_tasks" for state in ("scheduled", "retry", "archived", "aggregating")),
    *(f"archive_all_{state}_tasks" for state in ("pending", "scheduled", "retry", "aggregating")),
    *(
        f"delete_all_{state}_tasks"
        for state in ("pending", "scheduled", "retry", "archived", "completed", "aggregating")
    ),
]
REFUSED: dict[str, Refused] = {
    **_lists(),
    **_ones(),
    **_alls(),
    "info of an unknown queue": Refused(
        "get_queue_info", lambda i: i.get_queue_info("nope"), {"queue": "nope"}, QueueNotFoundError
    ),
    "history of an unknown queue": Refused(
        "history", lambda i: i.history("nope", 1), {"queue": "nope", "days": 1}, QueueNotFoundError
    ),
    "history of no days": Refused("history", lambda i: i.history(Q, 0), {"queue": Q, "days": 0}, ValueError),
    "an unknown task": Refused(
        "get_task_info", lambda i: i.get_task_info(Q, "none"), {"queue": Q, "id": "none"}, TaskNotFoundError
    ),
    "a task of an unknown queue": Refused(
        "get_task_info", lambda i: i.get_task_info("nope", "p1"), {"queue": "nope", "id": "p1"}, QueueNotFoundError
    ),
    "run what is pending": Refused("run_task", lambda i: i.run_task(Q, "p1"), {"queue": Q, "id": "p1"}, AioasynqError),
    "archive what is archived": Refused(
        "archive_task", lambda i: i.archive_task(Q, "x1"), {"queue": Q, "id": "x1"}, AioasynqError
    ),
    "delete an unknown queue": Refused(
        "delete_queue", lambda i: i.delete_queue("nope"), {"queue": "nope"}, QueueNotFoundError
    ),
    "delete a queue with tasks": Refused(
        "delete_queue", lambda i: i.delete_queue(Q + "2"), {"queue": Q + "2"}, QueueNotEmptyError
    ),
    "delete a queue whose tasks run": Refused(
        "delete_queue", lambda i: i.delete_queue(Q, force=True), {"queue": Q, "force": True}, AioasynqError
    ),
    "unpause what is not paused": Refused("unpause_queue", lambda i: i.unpause_queue(Q), {"queue": Q}, AioasynqError),
    "pause what is paused": Refused(
        "pause_queue", lambda i: i.pause_queue("paused"), {"queue": "paused"}, AioasynqError
    ),
    "a payload for an active task": Refused(
        "update_task_payload", lambda i: i.update_task_payload(Q, "a1", b"x"), {"queue": Q, "id": "a1"}, AioasynqError
    ),
    "a payload for no task": Refused(
        "update_task_payload",
        lambda i: i.update_task_payload(Q, "none", b"x"),
        {"queue": Q, "id": "none"},
        TaskNotFoundError,
    ),
}
_NAMES = {
    "queue_not_found": QueueNotFoundError,
    "queue_not_empty": QueueNotEmptyError,
    "task_not_found": TaskNotFoundError,
}


@pytest.mark.rows(60, 65, 68, 70, 73, 75, 78, 81, 83, 88, 89, 131)
@pytest.mark.parametrize("row", REFUSED.values(), ids=REFUSED)
async def test_what_go_refuses_we_refuse_and_nothing_changes(
    redis: Any, go_inspector: GoInspector, inspector: Inspector, row: Refused
) -> None:
    await _write(redis, Q, full())
    await _write(redis, Q + "2", State(pending=["p"]))
    await _write(redis, "paused", State(paused=True))
    before = await State.read_all_named(redis)
    with pytest.raises(GoError) as theirs:
        await go_inspector.call(row.call, **row.arguments)
    with pytest.raises(row.error) as ours:
        await row.ours(inspector)
    if theirs.value.name in _NAMES:
        assert type(ours.value) is _NAMES[theirs.value.name]
    assert await State.read_all_named(redis) == before


# ── what changes ──


class Change(NamedTuple):
    call: str
    arguments: dict[str, Any]
    ours: Callable[[Inspector], Awaitable[object]]
    #: What Go leaves otherwise, made equal in what it left.
    but: Callable[[State], None] = lambda _: None


def _no_lock(state: State) -> None:
    """Go forgets the locks of what it archives, and of pending tasks that it deletes."""
    state.locks.clear()


def _bulk(name: str) -> Change:
    group = {"group": "g"} if "aggregating" in name else {}
    locked = name == "archive_all_scheduled_tasks"
    return Change(name, group, lambda i: getattr(i, name)(Q, *group.values()), _no_lock if locked else lambda _: None)


CHANGES: dict[str, Change] = {
    **{name: _bulk(name) for name in ALL},
    **{
        f"run {task_id}": Change("run_task", {"id": task_id}, _call("run_task", Q, task_id))
        for task_id in ("s1", "s2", "r1", "x1", "c1", "m1", "n1")
    },
    **{
        f"archive {task_id}": Change(
            "archive_task",
            {"id": task_id},
            _call("archive_task", Q, task_id),
            _no_lock if task_id == "s1" else lambda _: None,
        )
        for task_id in ("p2", "s1", "r1", "m1", "n1", "c1")
    },
    **{
        f"delete {task_id}": Change("delete_task", {"id": task_id}, _call("delete_task", Q, task_id))
        for task_id in ("p2", "s1", "r1", "x1", "c1", "m1", "n1")
    },
    "pause": Change("pause_queue", {}, lambda i: i.pause_queue(Q)),
    "unpause": Change("unpause_queue", {"queue": "paused"}, lambda i: i.unpause_queue("paused")),
    "cancel": Change("cancel_processing", {"id": "a1"}, _call("cancel_processing", "a1")),
    "cancel what is unknown": Change("cancel_processing", {"id": "none"}, _call("cancel_processing", "none")),
    "edit": Change(
        "update_task_payload", {"id": "s1", "payload": b"new"}, lambda i: i.update_task_payload(Q, "s1", b"new")
    ),
}


@pytest.mark.rows(69, 71, 72, 74, 76, 77, 79, 80, 88, 131, 134)
@pytest.mark.parametrize("row", CHANGES.values(), ids=CHANGES)
async def test_what_go_leaves_we_leave(
    redis: Any, go_inspector: GoInspector, inspector: Inspector, row: Change
) -> None:
    before, other = full(), State(pending=["p1"], scheduled={"s1": SOON}, archived={"x1": AGO})
    await _write(redis, Q, before)
    await _write(redis, "other", other)
    arguments = {name: _sent(value) for name, value in row.arguments.items()}
    await State(paused=True).write(redis, "paused")
    answered = await go_inspector.call(row.call, **({"queue": Q} | arguments))
    theirs = await State.read_all_named(redis)
    await redis.flushall()
    await _write(redis, Q, full())
    await _write(redis, "other", other)
    await State(paused=True).write(redis, "paused")
    assert await row.ours(inspector) == (0 if row.call == "cancel_processing" else answered)  # ours: who heard it
    ours = await State.read_all_named(redis)
    row.but(theirs[Q])
    _without_moments(theirs[Q])
    _without_moments(ours[Q])
    assert ours == theirs


def _sent(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _without_moments(state: State) -> None:
    """When it was: of the moment of the change. Go does not note since when a task is pending that was run by hand."""
    state.archived = {task_id: AGO if score >= NOW else score for task_id, score in state.archived.items()}
    state.archived = dict(sorted(state.archived.items()))
    for fields in state.tasks.values():
        assert fields is not None
        fields.pop("pending_since", None)


@pytest.mark.rows(82)
@pytest.mark.parametrize("force", [False, True])
async def test_a_queue_that_go_deletes_has_no_tasks_as_ours_has_none(
    redis: Any, go_inspector: GoInspector, inspector: Inspector, *, force: bool
) -> None:
    def state() -> State:
        return State(pending=["p"], retry={"r": SOON}) if force else State()

    for queue in ("go", "py"):
        await _write(redis, queue, state())
    await go_inspector.call("delete_queue", "go", force=force)
    await inspector.delete_queue("py", force=force)
    assert await go_inspector.call("queues") == await inspector.queues() == []
    assert [key for key in await redis.keys("*") if b":receipt:" not in key] == []


async def test_go_goes_on_with_what_we_changed(redis: Any, go_inspector: GoInspector, inspector: Inspector) -> None:
    """Moved, rescheduled, edited: things that asynq has no calls for."""
    await _write(redis, Q, full())
    await inspector.move_task(Q, "p2", "low")
    await inspector.reschedule_task(Q, "x1", process_in=60)
    await inspector.update_task_payload(Q, "r1", b"new")
    moved = await go_inspector.call("get_task_info", "low", id="p2")
    assert (moved["queue"], moved["state"], moved["headers"]) == ("low", "pending", {"k": "v", "": ""})
    assert (await go_inspector.call("get_task_info", Q, id="x1"))["state"] == "scheduled"
    edited = await go_inspector.call("get_task_info", Q, id="r1")
    assert (edited["payload"], edited["retried"], edited["last_err"]) == (b"new", 3, "größer")
    await go_inspector.call("run_task", Q, id="x1")
    assert [info.id for info in await inspector.list_pending_tasks(Q)][-1] == "x1"
