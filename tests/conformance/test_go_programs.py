"""The Go programs do what README.md says, and asynqmon sees what they leave behind."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.conformance.go_side import (
    Asynqmon,
    GoClient,
    GoError,
    GoInspector,
    GoPlayer,
    GoScheduler,
    GoServer,
)
from tests.conformance.history import EndedError

NOW = 1795437947.452597594  # 2026-11-23T12:45:47Z
DAY = "2026-11-23"


@pytest.fixture
async def go_server(go_programs, redis_url, queue) -> AsyncIterator[GoServer]:
    async with GoServer(redis_url, queues=[queue]) as server:
        yield server


# --- enqueue ---

ROUTES: dict[str, tuple[dict[str, Any], str]] = {
    "at once": ({}, "pending"),
    "at once, unique": ({"unique": 60}, "pending"),
    "in the past": ({"process_at": NOW}, "pending"),
    "in an hour": ({"process_in": 3600}, "scheduled"),
    "at a time": ({"process_at": 4102444800}, "scheduled"),
    "in an hour, unique": ({"process_in": 3600, "unique": 60}, "scheduled"),
    "in a group": ({"group": "g"}, "aggregating"),
    "in a group, unique": ({"group": "g", "unique": 60}, "aggregating"),
    "in a group in an hour": ({"group": "g", "process_in": 3600}, "scheduled"),
}


@pytest.mark.parametrize(("options", "state"), ROUTES.values(), ids=ROUTES)
async def test_enqueue_takes_every_route(go_client: GoClient, go_inspector: GoInspector, queue, options, state):
    info = await go_client.enqueue("t", b"\x00\xff", queue=queue, **options)
    assert (info["state"], info["queue"], info["payload"], info["max_retry"]) == (state, queue, b"\x00\xff", 25)
    stored = await go_inspector.task(queue, info["id"])
    assert (stored["state"], stored["group"]) == (state, options.get("group", ""))


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": (
        {},
        {"max_retry": 25, "timeout": 1800, "deadline": None, "retention": 0, "headers": {}, "payload": None},
    ),
    "all": (
        {
            "max_retry": 3,
            "timeout": 90,
            "deadline": 1893456000,
            "retention": 86400,
            "task_id": "x",
            "headers": {"a": ""},
        },
        {"max_retry": 3, "timeout": 90, "deadline": 1893456000, "retention": 86400, "id": "x", "headers": {"a": ""}},
    ),
    "only a deadline": ({"deadline": 1893456000}, {"timeout": 0, "deadline": 1893456000}),
    "an empty payload": ({"payload": b""}, {"payload": b""}),
    "of the task": ({"defaults": {"max_retry": 7, "timeout": 5}}, {"max_retry": 7, "timeout": 5}),
    "the call wins": ({"defaults": {"max_retry": 7, "timeout": 5}, "max_retry": 8}, {"max_retry": 8, "timeout": 5}),
}


@pytest.mark.parametrize(("options", "expected"), OPTIONS.values(), ids=OPTIONS)
async def test_enqueue_passes_options_on(go_client: GoClient, queue, options, expected):
    info = await go_client.enqueue("t", **{"payload": None, "queue": queue} | options)
    assert {name: info[name] for name in expected} == expected


async def test_enqueue_names_its_refusals(go_client: GoClient, queue):
    await go_client.enqueue("t", b"1", queue=queue, task_id="x", unique=60)
    refused: list[tuple[str, str, dict[str, Any]]] = [
        ("duplicate", "t", {"payload": b"1", "unique": 60}),
        ("id_conflict", "t", {"task_id": "x"}),
        ("other", " ", {}),
        ("other", "t", {"unique": 0.5}),
    ]
    for name, type_, options in refused:
        with pytest.raises(GoError) as refusal:
            await go_client.enqueue(type_, **{"payload": None, "queue": queue} | options)
        assert refusal.value.name == name


async def test_overlapping_calls_get_their_own_answers(go_client: GoClient, queue):
    ids = [str(n) for n in range(50)]
    infos = await asyncio.gather(*(go_client.enqueue("t", queue=queue, task_id=id_) for id_ in ids))
    assert [info["id"] for info in infos] == ids


# --- serve ---

OUTCOMES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "ok": ("ok", {}, "finished", "done"),
    "ok, kept": ("ok", {"retention": 60}, "finished", "completed"),
    "a result": ("result", {"payload": b"r", "retention": 60}, "finished", "completed"),
    "a failure": ("fail", {}, "failed", "retry"),
    "the last failure": ("fail", {"max_retry": 0}, "failed", "archived"),
    "fewer failures than asked for": ("fail:0", {}, "finished", "done"),
    "a failure that does not count": ("soft", {}, "failed", "retry"),
    "skip retry": ("skip", {}, "failed", "archived"),
    "revoke": ("revoke", {"retention": 60}, "failed", "done"),
    "panic": ("panic", {"max_retry": 0}, "panicked", "archived"),
    "sleep": ("sleep:10", {}, "finished", "done"),
    "a timeout": ("block", {"timeout": 1}, "cancelled", "retry"),
}


@pytest.mark.parametrize(("type_", "options", "event", "as_"), OUTCOMES.values(), ids=OUTCOMES)
async def test_a_task_ends_as_its_type_says(
    go_server: GoServer, go_client: GoClient, queue, type_, options, event, as_
):
    task = (await go_client.enqueue(type_, queue=queue, **options))["id"]
    started = await go_server.wait("started", id=task)
    assert (started["type"], started["queue"], started["retried"]) == (type_, queue, 0)
    await go_server.wait(event, id=task)
    assert (await go_server.settled(task))["as"] == as_


async def test_a_result_is_stored(go_server: GoServer, go_client: GoClient, go_inspector: GoInspector, queue):
    await go_client.enqueue("result", b"\x00r", queue=queue, task_id="x", retention=60)
    await go_server.settled("x")
    assert (await go_inspector.task(queue, "x"))["result"] == b"\x00r"


async def test_an_unknown_type_has_no_handler(
    go_server: GoServer, go_client: GoClient, go_inspector: GoInspector, queue
):
    await go_client.enqueue("email:send", queue=queue, task_id="x")
    assert (await go_server.settled("x"))["as"] == "retry"
    assert (await go_inspector.task(queue, "x"))["last_err"] == 'handler not found for task "email:send"'


@pytest.mark.parametrize(
    ("outcome", "as_"), [("ok", "done"), ("fail", "retry"), ("skip", "archived"), ("revoke", "done")]
)
async def test_a_blocked_task_ends_when_told(go_server: GoServer, go_client: GoClient, queue, outcome, as_):
    await go_client.enqueue("block", queue=queue, task_id="x")
    await go_server.wait("started", id="x")
    assert not go_server.events("settled")
    go_server.release("x", outcome)
    assert (await go_server.settled("x"))["as"] == as_


async def test_retries_come_back(go_programs, redis_url, go_client: GoClient, queue):
    async with GoServer(redis_url, queues=[queue], retry_delay=0) as server:
        await go_client.enqueue("fail:2", b"bad", queue=queue, task_id="x")
        await server.settled("x", as_="done")
        assert [event["retried"] for event in server.events("started")] == [0, 1, 2]
        assert len(server.events("forwarded")) == 2


async def test_a_running_task_is_cancelled(go_server: GoServer, go_client: GoClient, go_inspector: GoInspector, queue):
    await go_client.enqueue("block", queue=queue, task_id=(task := uuid4().hex))
    await go_server.wait("started", id=task)
    await go_inspector.call("cancel_processing", id=task)
    assert (await go_server.wait("cancelled", id=task))["cause"] == "context canceled"
    assert (await go_server.settled(task))["as"] == "retry"


async def test_sigterm_requeues_what_does_not_end(
    go_programs, redis_url, go_client: GoClient, go_inspector: GoInspector, queue
):
    async with GoServer(redis_url, queues=[queue], shutdown_timeout=0.1) as server:
        await go_client.enqueue("stubborn", queue=queue, task_id="x")
        await server.wait("started", id="x")
        assert await server.terminate() == 0
        assert [event["as"] for event in server.events("settled")] == ["pending"]
        assert server.events("stopped")
    assert (await go_inspector.task(queue, "x"))["state"] == "pending"


async def test_a_killed_server_leaves_its_tasks_active(
    go_programs, redis_url, go_client: GoClient, go_inspector: GoInspector, queue
):
    async with GoServer(redis_url, queues=[queue], hang=True) as server:
        await go_client.enqueue("ok", queue=queue, task_id="x")
        await server.wait("started", id="x")
        await server.kill()
        assert server.returncode == -signal.SIGKILL
        with pytest.raises(EndedError):
            await server.wait("settled", id="x")
    assert (await go_inspector.task(queue, "x"))["state"] == "active"


async def test_a_quiet_server_takes_nothing_more(
    go_server: GoServer, go_client: GoClient, go_inspector: GoInspector, queue
):
    await go_client.enqueue("block", queue=queue, task_id="x")
    await go_server.wait("started", id="x")
    await go_server.quiet()
    await go_client.enqueue("ok", queue=queue, task_id="y")
    go_server.release("x")
    await go_server.settled("x")
    assert (await go_inspector.task(queue, "y"))["state"] == "pending"


async def test_strict_priority(go_programs, redis_url, go_client: GoClient, queue):
    high, low = f"{queue}-high", f"{queue}-low"
    for name in (low, high):
        for n in range(3):
            await go_client.enqueue("ok", queue=name, task_id=f"{name}-{n}")
    async with GoServer(redis_url, queues={low: 1, high: 9}, strict=True, concurrency=1) as server:
        await server.wait("settled", times=6)
        assert [event["queue"] for event in server.events("started")] == [high] * 3 + [low] * 3


async def test_a_group_becomes_one_task(go_programs, redis_url, go_client: GoClient, queue):
    for payload in ("a", "b"):  # in the order of their ids: times in a group are whole seconds
        await go_client.enqueue("ok", payload, queue=queue, group="g", task_id=payload)
    async with GoServer(redis_url, queues=[queue], aggregate="ok:all", group_max_size=2) as server:
        assert (await server.wait("aggregated", group="g"))["payloads"] == ["a", "b"]
        assert (await server.wait("started", type="ok:all"))["payload"] == b"a\nb"


async def test_expired_tasks_are_deleted(go_server: GoServer, go_client: GoClient, go_inspector: GoInspector, queue):
    await go_client.enqueue("ok", queue=queue, task_id="x", retention=1)
    await go_server.wait("expired", queue=queue)
    with pytest.raises(GoError, match="task not found"):
        await go_inspector.task(queue, "x")


async def test_a_server_shows_itself(go_server: GoServer, go_inspector: GoInspector, queue):
    mine = [s for s in await go_inspector.call("servers") if s["pid"] == go_server.pid]
    assert [(s["queues"], s["status"], s["concurrency"]) for s in mine] == [({queue: 1}, "active", 10)]


# --- inspect ---


async def test_tasks_are_listed_run_archived_and_deleted(go_client: GoClient, go_inspector: GoInspector, queue):
    for n in range(5):
        await go_client.enqueue("t", str(n), queue=queue, task_id=str(n))
    assert [t["id"] for t in await go_inspector.tasks(queue, "pending", page=2, size=2)] == ["2", "3"]
    await go_inspector.call("archive_task", queue, id="3")
    await go_inspector.call("delete_task", queue, id="4")
    assert [t["id"] for t in await go_inspector.tasks(queue, "archived")] == ["3"]
    await go_inspector.call("run_task", queue, id="3")
    assert [t["id"] for t in await go_inspector.tasks(queue, "pending")] == ["0", "1", "2", "3"]
    assert await go_inspector.call("archive_all_pending_tasks", queue) == 4
    assert (await go_inspector.queue(queue))["archived"] == 4
    assert await go_inspector.call("delete_all_archived_tasks", queue) == 4


async def test_queues_are_paused_and_deleted(go_client: GoClient, go_inspector: GoInspector, queue):
    await go_client.enqueue("t", queue=queue)
    assert queue in await go_inspector.call("queues")
    await go_inspector.call("pause_queue", queue)
    assert (await go_inspector.queue(queue))["paused"]
    await go_inspector.call("unpause_queue", queue)
    with pytest.raises(GoError) as refusal:
        await go_inspector.call("delete_queue", queue)
    assert refusal.value.name == "queue_not_empty"
    await go_inspector.call("delete_queue", queue, force=True)
    with pytest.raises(GoError) as refusal:
        await go_inspector.tasks(queue, "pending")
    assert refusal.value.name == "queue_not_found"


async def test_every_listing_answers(go_client: GoClient, go_inspector: GoInspector, queue):
    await go_client.enqueue("t", queue=queue)
    for state in ("pending", "active", "scheduled", "retry", "archived", "completed", "aggregating"):
        assert len(await go_inspector.tasks(queue, state, group="g")) == (state == "pending")
    assert [day["processed"] for day in await go_inspector.call("history", queue, days=3)] == [0, 0, 0]
    assert await go_inspector.call("groups", queue) == []


# --- rdb ---


def message(queue: str, id_: str = "i", **members: object) -> dict[str, object]:
    return {"type": "email:send", "payload": b"{}", "id": id_, "queue": queue, "retry": 25, "timeout": 1800, **members}


async def test_steps_leave_what_asynq_leaves(go_player: GoPlayer, redis, queue):
    answers = await go_player.play(
        [
            {"op": "set_clock", "now": NOW},
            {"op": "enqueue", "msg": message(queue)},
            {"op": "enqueue", "msg": "i"},
            {"op": "dequeue", "queues": [queue]},
            {"op": "dequeue", "queues": [queue]},
            {"op": "retry", "msg": "i", "process_at": NOW + 60, "error": "boom", "is_failure": True},
            {"op": "done", "msg": "i"},
        ]
    )
    assert [next(iter(answer.items())) for answer in answers if "error" in answer] == [
        ("error", "id_conflict"),
        ("error", "nothing_pending"),
        ("error", "not_active"),
    ]
    assert answers[3]["ok"][0]["id"] == "i"
    assert answers[3]["ok"][1] == pytest.approx(NOW + 30)
    prefix = f"asynq:{{{queue}}}:"
    keys = sorted(key.decode().removeprefix(prefix) for key in await redis.keys(f"{prefix}*"))
    assert keys == ["failed", f"failed:{DAY}", "processed", f"processed:{DAY}", "retry", "t:i"]
    assert await redis.zrange(f"{prefix}retry", 0, -1, withscores=True) == [(b"i", 1795438007.0)]
    stored = await redis.hgetall(f"{prefix}t:i")
    assert stored.keys() == {b"msg", b"state"}
    # The fields after the queue: retry 25, retried 1, error, timeout 1800, failed at.
    assert stored[b"msg"].hex().endswith("281930013a04626f6f6d40880e58fbea90d806")


async def test_an_answer_is_kept_for_later_steps(go_player: GoPlayer, queue):
    answers = await go_player.play(
        [
            {"op": "set_clock", "now": NOW},
            {"op": "add_to_group", "msg": message(queue, group_key="g"), "group": "g"},
            {
                "op": "aggregation_check", "queue": queue, "group": "g", "at": NOW + 10,
                "grace_period": 5, "max_delay": 0, "max_size": 0, "save": "set",
            },
            {"op": "read_aggregation_set", "queue": queue, "group": "g", "set_id": "$set"},
            {"op": "delete_aggregation_set", "queue": queue, "group": "g", "set_id": "$set"},
        ]
    )  # fmt: skip
    messages, deadline = answers[3]["ok"]
    assert [msg["id"] for msg in messages] == ["i"]
    assert deadline == int(NOW) + 120
    assert answers[4] == {"ok": None}


async def test_a_step_with_a_mistake_says_so(go_player: GoPlayer, queue):
    for step, text in [
        ({"op": "bogus"}, "no operation"),
        ({"op": "pause"}, '"queue" is missing'),
        ({"op": "pause", "queue": queue, "now": 3}, 'no argument "now"'),
        ({"op": "done", "msg": "never"}, "no step before"),
        ({"op": "enqueue", "msg": {"kind": "t"}}, 'no field "kind"'),
    ]:
        with pytest.raises(GoError, match=text):
            await go_player.ask(step)


async def test_every_operation_fits_asynq(go_player: GoPlayer, queue):
    """A row for each operation that the program offers: each reaches its method and reads its arguments."""
    info = {"host": "h", "pid": 3, "server_id": queue, "started": 12.5, "queues": {queue: 3}, "status": "active"}
    worker = {"host": "h", "pid": 3, "server_id": queue, "id": "w", "queue": queue, "payload": b"p", "started": 1}
    entry = {"id": "e", "spec": "@every 30s", "type": "t", "payload": b"", "opts": ["MaxRetry(3)"], "next": 1767225630}
    page = {"size": 30, "page": 0}
    steps: list[dict[str, object]] = [
        {"op": "ping"},
        {"op": "enqueue_unique", "msg": message(queue, "u", unique_key=f"asynq:{{{queue}}}:unique:x"), "ttl": 60},
        {"op": "schedule", "msg": message(queue, "s"), "process_at": NOW},
        {"op": "schedule_unique", "msg": message(queue, "su", unique_key=f"asynq:{{{queue}}}:unique:y"),
         "process_at": NOW, "ttl": 60},
        {"op": "add_to_group_unique", "msg": message(queue, "gu", group_key="g"), "group": "g", "ttl": 60},
        {"op": "check_and_enqueue", "queues": [queue]},
        {"op": "dequeue", "queues": [queue]},
        {"op": "requeue", "msg": "u"},
        {"op": "dequeue", "queues": [queue]},
        {"op": "extend_lease", "queue": queue, "ids": ["u"]},
        {"op": "list_lease_expired", "cutoff": 4102444800, "queues": [queue]},
        {"op": "write_result", "queue": queue, "id": "u", "data": b"r"},
        {"op": "mark_as_complete", "msg": "u"},
        {"op": "delete_expired_completed_tasks", "queue": queue, "batch_size": 10},
        {"op": "dequeue", "queues": [queue]},
        {"op": "kill", "msg": "s", "error": "dead"},
        {"op": "list_groups", "queue": queue},
        {"op": "reclaim_stale_aggregation_sets", "queue": queue},
        {"op": "write_process_info", "info": info, "workers": [worker], "ttl": 10},
        {"op": "list_servers"},
        {"op": "list_workers"},
        {"op": "clear_process_info", "host": "h", "pid": 3, "server_id": queue},
        {"op": "write_scheduler_entries", "scheduler_id": queue, "entries": [entry], "ttl": 20},
        {"op": "list_scheduler_entries"},
        {"op": "record_scheduler_enqueue_event", "entry_id": queue, "event": {"task_id": "x", "enqueued_at": NOW}},
        {"op": "list_scheduler_enqueue_events", "entry_id": queue, "paging": page},
        {"op": "clear_scheduler_history", "entry_id": queue},
        {"op": "clear_scheduler_entries", "scheduler_id": queue},
        {"op": "publish_cancelation", "id": queue},
        {"op": "all_queues"},
        {"op": "current_stats", "queue": queue},
        {"op": "historical_stats", "queue": queue, "days": 2},
        {"op": "group_stats", "queue": queue},
        {"op": "get_task_info", "queue": queue, "id": "gu"},
        *({"op": f"list_{state}", "queue": queue, "paging": page}
          for state in ("pending", "active", "scheduled", "retry", "archived", "completed")),
        {"op": "list_aggregating", "queue": queue, "group": "g", "paging": page},
        {"op": "run_task", "queue": queue, "id": "s"},
        {"op": "archive_task", "queue": queue, "id": "s"},
        {"op": "delete_task", "queue": queue, "id": "s"},
        {"op": "schedule", "msg": message(queue, "p"), "process_at": 4102444800},
        {"op": "update_task_payload", "queue": queue, "id": "p", "payload": b"new"},
        *({"op": f"{verb}_all_{state}_tasks", "queue": queue}
          for verb, states in {
              "run": ("scheduled", "retry", "archived"),
              "archive": ("pending", "scheduled", "retry"),
              "delete": ("pending", "scheduled", "retry", "archived", "completed"),
          }.items() for state in states),
        *({"op": f"{verb}_all_aggregating_tasks", "queue": queue, "group": "g"}
          for verb in ("run", "archive", "delete")),
        {"op": "pause", "queue": queue},
        {"op": "unpause", "queue": queue},
        {"op": "remove_queue", "queue": queue, "force": True},
    ]  # fmt: skip
    for step in steps:
        await go_player.ask(step)


# --- schedule ---


async def test_a_scheduler_enqueues_and_shows_its_entries(go_programs, redis_url, go_inspector: GoInspector, queue):
    async with GoScheduler(redis_url) as scheduler:
        entry = await scheduler.register("@every 1s", "t", b"p", queue=queue, timeout=90, defaults={"max_retry": 7})
        event = await scheduler.wait("enqueued")
        assert (event["task"]["queue"], event["task"]["max_retry"]) == (queue, 7)
        async with asyncio.timeout(10):
            # asynq tells nobody that it has written its entries, so they are asked for until they are there.
            while not (mine := [e for e in await go_inspector.call("scheduler_entries") if e["id"] == entry]):
                pass
        assert (mine[0]["spec"], mine[0]["opts"]) == ("@every 1s", [f'Queue("{queue}")', "Timeout(1m30s)"])
        with pytest.raises(GoError, match="expected exactly 5 fields"):
            await scheduler.register("bad spec", "t")
        await scheduler.unregister(entry)


# --- asynqmon ---


async def test_asynqmon_sees_queues_tasks_and_servers(
    asynqmon: Asynqmon, go_server: GoServer, go_client: GoClient, queue
):
    await go_client.enqueue("block", b"{}", queue=queue, task_id="x", headers={"a": "b"})
    await go_client.enqueue("ok", b'{"n":1}', queue=queue, task_id="later", process_in=3600)
    await go_server.wait("started", id="x")
    async with httpx.AsyncClient(base_url=asynqmon.url) as http:
        page = await http.get("/")
        assert "<title>Asynq - Monitoring</title>" in page.text
        queues = (await http.get("/api/queues")).json()["queues"]
        [mine] = [q for q in queues if q["queue"] == queue]
        assert (mine["active"], mine["scheduled"], mine["size"]) == (1, 1, 2)
        task = (await http.get(f"/api/queues/{queue}/tasks/later")).json()
        assert (task["type"], task["payload"], task["state"]) == ("ok", '{"n":1}', "scheduled")
        servers = (await http.get("/api/servers")).json()["servers"]
        assert any(s["pid"] == go_server.pid for s in servers)
        ran = await http.post(f"/api/queues/{queue}/scheduled_tasks/later:run")
        assert ran.status_code == httpx.codes.NO_CONTENT
    await go_server.settled("later")


# --- the drivers ---


async def test_waiting_for_what_does_not_come_says_what_came(go_server: GoServer):
    with pytest.raises(TimeoutError, match=r"(?s)no event settled .*'ready'"):
        await go_server.wait("settled", timeout=0.01)


async def test_a_program_that_cannot_start_says_why(go_programs):
    async with GoClient("gopher://nowhere") as client:
        with pytest.raises(EndedError, match="invalid URL scheme: gopher"):
            await client.enqueue("t")


async def test_a_program_ends_with_its_block(go_server: GoServer):
    before = time.monotonic()
    await go_server.close()
    assert go_server.returncode == 0
    assert time.monotonic() - before < 10
