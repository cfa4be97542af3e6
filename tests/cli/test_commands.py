"""The commands that look after queues and tasks: what each shows and does, as text and as JSON."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from typer.main import get_command
from typer.testing import CliRunner

from aioasynq import Client, Task, keys
from aioasynq.cli.connect import Where, url_of
from aioasynq.cli.main import app
from aioasynq.message import SchedulerEnqueueEvent, SchedulerEntry, ServerInfo, WorkerInfo
from aioasynq.proto.codec import encode_scheduler_entry, encode_scheduler_event
from aioasynq.rdb.rdb import RDB
from tests.support.build import message
from tests.support.cluster import Cluster
from tests.support.state import State

Q = "q"
NOW = int(time.time())
SOON, AGO = NOW + 3600.0, NOW - 3600.0
PATIENCE = 20


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Awaitable[Ran]]


@pytest.fixture
def cli(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """``await cli("queue", "ls")``, in a thread, since a command has an event loop of its own."""
    for name in ("URI", "DB", "PASSWORD", "USERNAME", "CLUSTER", "CLUSTER_ADDRS", "TLS", "TLS_SERVER", "INSECURE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIOASYNQ_REDIS_URL", redis_url)
    monkeypatch.setenv("HOME", str(tmp_path))

    async def run(*arguments: str) -> Ran:
        async with asyncio.timeout(PATIENCE):
            result = await asyncio.to_thread(CliRunner().invoke, app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


async def _write(redis: Redis, state: State, queue: str = Q) -> None:
    await state.write(redis, queue)
    await redis.sadd(keys.queues(), queue)


def full() -> State:
    return State(
        pending=["p1", "p2"],
        active=["a1"],
        lease={"a1": SOON},
        scheduled={"s1": SOON},
        retry={"r1": SOON},
        archived={"x1": AGO, "x2": AGO + 1},
        completed={"c1": SOON},
        groups={"g": {"m1": AGO}},
        tasks={
            "p1": {"msg": message("p1", type="mail:send", payload=b'{"to": 1}')},
            "p2": {"msg": message("p2", payload=b"\xff\x00")},
            "r1": {"msg": message("r1", retried=3, error_msg="boom\nbang", last_failed_at=NOW - 65)},
            "x1": {"msg": message("x1", type="mail:send", retried=25, error_msg="dead", last_failed_at=NOW - 65)},
            "c1": {"msg": message("c1", retention=7200, completed_at=NOW - 7), "result": "done"},
        },
        counters={"processed": 8, "failed": 2, f"processed:{keys.day(time.time())}": 8},
    )


async def _others(redis: Redis) -> None:
    """A server and a scheduler."""
    async with RDB(redis) as rdb:
        info = ServerInfo(
            host="box", pid=7, server_id="s", concurrency=10, queues={Q: 6, "low": 1}, status="active",
            start_time=(NOW - 65) * 10**9, active_worker_count=1,
        )  # fmt: skip
        worker = WorkerInfo(task_id="a1", task_type="t", task_payload=b"p", queue=Q, start_time=(NOW - 5) * 10**9)
        await rdb.write_process_info(info, {"a1": worker})
    entry = SchedulerEntry(
        id="e1", spec="@every 30s", task_type="t", task_payload=b"p", enqueue_options=['Queue("low")'],
        next_enqueue_time=(NOW + 18_000) * 10**9,
    )  # fmt: skip
    await redis.rpush(keys.scheduler_entries("h:1:u"), encode_scheduler_entry(entry))
    await redis.zadd(keys.schedulers(), {keys.scheduler_entries("h:1:u"): SOON})
    event = encode_scheduler_event(SchedulerEnqueueEvent(task_id="t9", enqueue_time=NOW * 10**9))
    await redis.zadd(keys.scheduler_history("e1"), {event: NOW})


class Shown(NamedTuple):
    arguments: list[str]
    texts: list[str]  #: patterns that the text has, in order
    json: Callable[[Any], object]  #: picked out of the JSON
    expected: object


SHOWN: dict[str, Shown] = {
    "queue list": Shown(["queue", "list"], ["^low$", "^q$"], lambda j: j, ["low", Q]),
    "queue ls": Shown(["queue", "ls"], ["^q$"], lambda j: j, ["low", Q]),
    "queue inspect": Shown(
        ["queue", "inspect", Q],
        ["Queue Info", r"Name: +q", r"Size: +9", r"Groups: +1", r"Paused: +false", "active +pending", r"1 +2 +1 +1"],
        lambda j: [(info["queue"], info["size"], info["pending"], info["processed"]) for info in j],
        [(Q, 9, 2, 8)],
    ),
    "queue inspect of two": Shown(["queue", "inspect", Q, "low"], ["={49}"], len, 2),
    "queue history": Shown(
        ["queue", "history", Q, "--days", "3"],
        ["Queue: q", "date.*processed +failed +error rate", r"8 +0 +0\.00%", "N/A"],
        lambda j: [(day["processed"], day["failed"]) for day in j],
        [(8, 0), (0, 0), (0, 0)],
    ),
    "stats": Shown(
        ["stats"],
        ["Task Count by State", r"active +pending", "by Queue", r"low \(paused\) +0", r"q +9", "Daily Stats"],
        lambda j: (j["aggregate"]["pending"], j["queues"][1]["Queue"], sorted(j)),
        (2, Q, ["aggregate", "queues", "redis"]),
    ),
    "task list, pending": Shown(
        ["task", "list", "-q", Q, "-s", "pending"],
        ["ID +Type +Payload", r'p1 +mail:send +\{"to": 1\}', "p2 +t +non-printable bytes"],
        lambda j: [(task["id"], task["payload"]) for task in j],
        [("p1", '{"to": 1}'), ("p2", {"base64": "/wA="})],
    ),
    "task list, active": Shown(
        ["task", "ls", "--queue", Q, "--state", "active"], ["a1 +t +p"], lambda j: j[0]["is_orphaned"], False
    ),
    "task list, scheduled": Shown(
        ["task", "list", "-q", Q, "-s", "scheduled"], ["Process In", r"s1 .*in 5\dm\d+s"], len, 1
    ),
    "task list, retry": Shown(
        ["task", "list", "-q", Q, "-s", "retry"],
        ["Next Retry +Last Error +Last Failed +Retried +Max Retry", r"boom bang +\d+m\d+s ago +3 +25"],
        lambda j: j[0]["last_err"],
        "boom\nbang",
    ),
    "task list, archived": Shown(
        ["task", "list", "-q", Q, "-s", "archived"], ["Last Failed +Last Error", r"x1 .*\d+m\d+s ago +dead"], len, 2
    ),
    "task list, completed": Shown(
        ["task", "list", "-q", Q, "-s", "completed"],
        ["CompletedAt +Result", "c1 .*done"], lambda j: j[0]["result"], "done",
    ),
    "task list, aggregating": Shown(
        ["task", "list", "-q", Q, "-s", "aggregating", "-g", "g"], ["Group", "m1 .*g"], lambda j: j[0]["group"], "g"
    ),
    "task list, a page": Shown(
        ["task", "list", "-q", Q, "-s", "archived", "--page", "2", "--size", "1"],
        ["^x2"], lambda j: [task["id"] for task in j], ["x2"],
    ),
    "task list, filtered": Shown(
        ["task", "list", "-q", Q, "-s", "archived", "--type", "mail:*", "--error", "dead", "--older-than", "9"],
        ["^x1"], lambda j: [task["id"] for task in j], ["x1"],
    ),
    "task list, nothing": Shown(
        ["task", "list", "-q", "low", "-s", "retry"], ['No retry tasks in "low" queue'], lambda j: j, []
    ),
    "task list, an empty group": Shown(
        ["task", "list", "-q", Q, "-s", "aggregating", "-g", "none"],
        ['No aggregating tasks in group "none"'], lambda j: j, [],
    ),
    "task inspect": Shown(
        ["task", "inspect", "-q", Q, "-i", "x1"],
        ["Task Info", "Queue: +q", "ID: +x1", "State: +archived", "Retried: +25/25", "Payload: +p", "Last Failure"],
        lambda j: (j["id"], j["state"], j["retried"]),
        ("x1", "archived", 25),
    ),
    "task watch": Shown(
        ["task", "watch", "-q", Q, "-i", "c1"], ["^the task is completed$"], lambda j: j["state"], "completed"
    ),
    "task find": Shown(
        ["task", "find", "p1"], ["Queue +State", "q +pending"], lambda j: [task["queue"] for task in j], [Q]
    ),
    "task explain": Shown(
        ["task", "explain", "-q", Q, "-i", "p2"],
        ["It is pending, behind 1 other task of its queue."],
        lambda j: j["can_run"],
        True,
    ),
    "group list": Shown(["group", "list", "-q", Q], ["Group +Size", "g +1"], lambda j: j, [{"group": "g", "size": 1}]),
    "group list, none": Shown(["group", "ls", "-q", "low"], ['No groups found in queue "low"'], lambda j: j, []),
    "server list": Shown(
        ["server", "list"],
        ["Host +PID +State +Active Workers +Queues +Started", r"box +7 +active +1/10 +q:6 low:1 +\d+m\d+s ago"],
        lambda j: (j[0]["host"], j[0]["active_workers"][0]["task_id"]),
        ("box", "a1"),
    ),
    "cron list": Shown(
        ["cron", "list"],
        ["EntryID +Spec +Type +Payload +Options +Next +Prev", r'e1 +@every 30s +t +p +Queue\("low"\) +in 4h\S+ +N/A'],
        lambda j: j[0]["spec"],
        "@every 30s",
    ),
    "cron history": Shown(
        ["cron", "history", "e1", "none"],
        ["Entry: e1", "TaskID +EnqueuedAt", "t9 ", "Entry: none", "No scheduler enqueue events"],
        lambda j: j["e1"][0]["task_id"],
        "t9",
    ),
    "top": Shown(
        ["top", "--once"],
        ["1 server, 1 task running", r"queue +pending +active +sched", r"low", r"q +2 +1", "host +pid", "box", "a1"],
        lambda j: [info["queue"] for info in j["queues"]],
        ["low", Q],
    ),
    "dash": Shown(["dash", "--once"], ["queue"], lambda j: len(j["servers"]), 1),
}  # fmt: skip


@pytest.mark.rows(150)
@pytest.mark.parametrize("row", SHOWN.values(), ids=SHOWN)
async def test_what_commands_show(cli: Cli, redis: Redis, row: Shown) -> None:
    await _write(redis, full())
    await _write(redis, State(paused=True), "low")
    await _others(redis)
    ran = await cli(*row.arguments)
    assert (ran.code, ran.err) == (0, "")
    at = 0
    for text in row.texts:
        found = re.compile(text, re.MULTILINE).search(ran.out, at)
        assert found, f"{text!r} is not in what follows:\n{ran.out[at:]}"
        at = found.end()
    as_json = await cli(*row.arguments, "--json")
    assert (as_json.code, as_json.err) == (0, "")
    assert row.json(as_json.json) == row.expected


async def test_an_empty_redis(cli: Cli) -> None:
    texts = {
        ("queue", "ls"): "", ("server", "ls"): "No running servers", ("cron", "ls"): "No scheduler entries",
        ("stats",): "no queues", ("top", "--once"): "no running servers",
    }  # fmt: skip
    for arguments, text in texts.items():
        ran = await cli(*arguments)
        assert (ran.code, ran.err) == (0, "")
        assert text in ran.out
        assert (await cli(*arguments, "--json")).code == 0


class Done(NamedTuple):
    arguments: list[str]
    text: str
    json: object  #: None: whatever it is
    state: Callable[[State], object]
    expected: object


def _is(**more: object) -> dict[str, object]:
    return {"queue": Q} | more


DONE: dict[str, Done] = {
    "queue pause": Done(
        ["queue", "pause", Q], 'Successfully paused queue "q"', {"paused": [Q], "errors": []}, lambda s: s.paused, True
    ),
    "task run": Done(
        ["task", "run", "-q", Q, "-i", "x1"], "task is now pending", _is(id="x1", done="task is now pending"),
        lambda s: s.pending[-1], "x1",
    ),
    "task archive": Done(
        ["task", "archive", "-q", Q, "-i", "p1"], "task archived", _is(id="p1", done="task archived"),
        lambda s: "p1" in s.archived, True,
    ),
    "task delete": Done(
        ["task", "delete", "-q", Q, "-i", "p1", "--yes"], "task deleted", _is(id="p1", done="task deleted"),
        lambda s: s.pending, ["p2"],
    ),
    "task rm": Done(
        ["task", "rm", "-q", Q, "-i", "c1", "-y"], "task deleted", _is(id="c1", done="task deleted"),
        lambda s: s.completed, {},
    ),
    "task reschedule": Done(
        ["task", "reschedule", "-q", Q, "-i", "x1", "--process_at", "2100-01-01T00:00:00Z"], "task is rescheduled",
        _is(id="x1", done="task is rescheduled"), lambda s: s.scheduled["x1"], 4102444800.0,
    ),
    "task update-payload": Done(
        ["task", "update-payload", "-q", Q, "-i", "s1", "--payload", "new"], "task has another payload",
        _is(id="s1", done="task has another payload"), lambda s: (s.tasks["s1"] or {})["msg"].payload, b"new",
    ),
    "task move": Done(
        ["task", "move", "-q", Q, "-i", "s1", "--to", "low"], 'task moved to queue "low"',
        _is(id="s1", done='task moved to queue "low"'), lambda s: s.scheduled, {},
    ),
    "task runall": Done(
        ["task", "runall", "-q", Q, "-s", "archived"], "2 tasks are now pending", _is(state="archived", count=2),
        lambda s: s.archived, {},
    ),
    "task runall, filtered": Done(
        ["task", "runall", "-q", Q, "-s", "archived", "--type", "mail:send"], "1 tasks are now pending",
        _is(state="archived", count=1), lambda s: list(s.archived), ["x2"],
    ),
    "task runall, a group": Done(
        ["task", "runall", "-q", Q, "-s", "aggregating", "-g", "g"], "1 tasks are now pending",
        _is(state="aggregating", count=1), lambda s: s.groups, {},
    ),
    "task archiveall": Done(
        ["task", "archiveall", "-q", Q, "-s", "pending"], "2 tasks archived", _is(state="pending", count=2),
        lambda s: s.pending, [],
    ),
    "task deleteall": Done(
        ["task", "deleteall", "-q", Q, "-s", "completed", "--yes"], "1 tasks deleted", _is(state="completed", count=1),
        lambda s: s.completed, {},
    ),
    "queue resume": Done(
        ["queue", "resume", "still"], 'Successfully unpaused queue "still"', {"unpaused": ["still"], "errors": []},
        lambda s: s.paused, False,
    ),
    "queue remove": Done(
        ["queue", "remove", "still", "--yes"], 'Successfully removed queue "still"',
        {"removed": ["still"], "errors": []}, lambda s: s.paused, False,
    ),
    "task enqueue": Done(
        ["task", "enqueue", "-t", "t", "-l", "p", "--queue", Q, "--id", "new", "--group", "g"],
        "Enqueued task new to queue q", None, lambda s: "new" in s.groups["g"], True,
    ),
    "doctor": Done(["doctor"], "ok    connection: ", None, lambda s: s.pending, ["p1", "p2"]),
    "task cancel": Done(
        ["task", "cancel", "a1"], "Sent cancelation signal for task a1", [{"id": "a1", "servers": 0}],
        lambda s: s.active, ["a1"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "JSON"])
@pytest.mark.parametrize("row", DONE.values(), ids=DONE)
async def test_what_commands_do(cli: Cli, redis: Redis, row: Done, *, as_json: bool) -> None:
    await _write(redis, full())
    await _write(redis, State(paused=True), "still")
    ran = await cli(*row.arguments, *(["--json"] if as_json else []))
    assert (ran.code, ran.err) == (0, "")
    if as_json:
        assert ran.json if row.json is None else ran.json == row.json
    else:
        assert row.text in ran.out
    assert row.state(await State.read(redis, Q)) == row.expected


def _commands(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*before, name))
        elif not command.hidden:
            yield (*before, name)


def test_each_command_is_shown_as_json() -> None:
    """What there is and what the tables try out, each of them with ``--json``."""
    written = [row.arguments for row in SHOWN.values()] + [row.arguments for row in DONE.values()]
    tried = {tuple(words[: 1 if words[0] in {"stats", "top", "doctor"} else 2]) for words in written}
    elsewhere = {("worker",), ("dev",), ("scheduler",), ("migrate",)}  # of which test_migrate.py tries the last one
    assert set(_commands(get_command(app))) - tried == elsewhere


async def test_pause_and_resume(cli: Cli, redis: Redis) -> None:
    await _write(redis, State())
    await _write(redis, State(), "low")
    assert "Successfully paused" in (await cli("queue", "pause", Q, "low")).out
    again = await cli("queue", "pause", "nope", Q)
    assert (again.code, again.out) == (1, "")
    assert again.err.splitlines() == [
        "aioasynq: queue 'nope' does not exist", "aioasynq: queue 'q': it is already paused",
    ]  # fmt: skip
    assert (await cli("queue", "resume", Q)).out == 'Successfully unpaused queue "q"\n'
    assert (await cli("queue", "unpause", "low", "--json")).json == {"unpaused": ["low"], "errors": []}


async def test_remove_a_queue(cli: Cli, redis: Redis) -> None:
    await _write(redis, State(pending=["a"]))
    await _write(redis, State(), "low")
    refused = await cli("queue", "remove", Q, "--yes")
    assert (refused.code, refused.err) == (1, "aioasynq: queue 'q' is not empty; --force deletes its tasks too\n")
    assert (await cli("queue", "rm", Q, "low", "--force", "--yes")).code == 0
    assert await redis.smembers(keys.queues()) == set()


async def test_enqueue(cli: Cli, redis: Redis) -> None:
    ran = await cli(
        "task", "enqueue", "-t", "mail:send", "-l", "{}", "--queue", Q, "--id", "x", "--retry", "3",
        "--timeout", "1m30s",
        "--deadline", "2100-01-01T00:00:00Z", "--retention", "60", "--process_in", "1h", "--unique", "60",
        "--header", "trace=a=b", "--header", "empty=",
    )  # fmt: skip
    assert (ran.code, ran.out) == (0, "Enqueued task x to queue q\n")
    found = (await cli("task", "inspect", "-q", Q, "-i", "x", "--json")).json
    assert (found["type"], found["payload"], found["max_retry"], found["timeout"], found["retention"]) == (
        "mail:send", "{}", 3, 90, 60,
    )  # fmt: skip
    assert found["deadline"] == "2100-01-01T00:00:00+00:00"
    assert found["headers"] == {"trace": "a=b", "empty": ""}
    assert found["state"] == "scheduled"
    grouped = await cli("task", "enqueue", "-t", "t", "-l", "", "--group", "g", "--json")
    assert (grouped.json["queue"], grouped.json["group"], grouped.json["state"]) == ("default", "g", "aggregating")
    assert (await cli("task", "enqueue", "-t", "t", "-l", "", "--queue", Q, "--id", "x")).code == 1


DESTRUCTIVE = [
    ["queue", "remove", Q, "--force"], ["task", "delete", "-q", Q, "-i", "p1"],
    ["task", "deleteall", "-q", Q, "-s", "pending"], ["doctor", "--fix"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", DESTRUCTIVE, ids=" ".join)
async def test_nothing_is_destroyed_where_nobody_can_be_asked(cli: Cli, redis: Redis, arguments: list[str]) -> None:
    await _write(redis, full())
    ran = await cli(*arguments)
    assert ran.code == 2
    assert "nobody can be asked here, add --yes to " in ran.err
    assert await State.read(redis, Q) == full().full(Q)


REFUSED: dict[str, tuple[list[str], int, str]] = {
    "an unknown queue": (["queue", "inspect", "nope"], 1, "queue 'nope' does not exist"),
    "history of an unknown queue": (["queue", "history", "nope"], 1, "queue 'nope' does not exist"),
    "no days": (["queue", "history", Q, "-x", "0"], 2, "--days must be a whole number from 1 to 90"),
    "tasks of an unknown queue": (["task", "list", "-q", "nope", "-s", "pending"], 1, "queue 'nope' does not exist"),
    "an unknown state": (["task", "list", "-q", Q, "-s", "runing"], 2, "state must be one of active, pending"),
    "no group": (["task", "list", "-q", Q, "-s", "aggregating"], 2, "flag --group is required"),
    "a group too many": (["task", "list", "-q", Q, "-s", "retry", "-g", "g"], 2, "group is for the state"),
    "page 0": (["task", "list", "-q", Q, "-s", "retry", "--page", "0"], 2, "--page must be a whole number from 1"),
    "a page that is no number": (["task", "list", "-q", Q, "-s", "retry", "--page", "x"], 2, "--page 20; got 'x'"),
    "a page of history": (["cron", "history", "e", "--page", "0"], 2, "--page must be a whole number from 1"),
    "history in pages of none": (["cron", "history", "e", "--size", "0"], 2, "--size must be a whole number from 1"),
    "a blank entry": (["cron", "history", " "], 2, "must contain one or more characters"),
    "a page of none": (["task", "list", "-q", Q, "-s", "retry", "--size", "0"], 2, "from 1 to 10,000"),
    "no queue given": (["task", "list", "-s", "retry"], 2, "--queue"),
    "no age": (["task", "list", "-q", Q, "-s", "retry", "--older-than", "old"], 2, "--older-than must be"),
    "an unknown task": (["task", "inspect", "-q", Q, "-i", "none"], 1, "cannot find task 'none' in queue 'q'"),
    "find nothing": (["task", "find", "none"], 1, "no queue has a task 'none'"),
    "run what runs": (["task", "run", "-q", Q, "-i", "a1"], 1, "task is already running"),
    "run what is pending": (["task", "run", "-q", Q, "-i", "p1"], 1, "task is already in pending state"),
    "archive what is archived": (["task", "archive", "-q", Q, "-i", "x1"], 1, "task is already archived"),
    "delete what runs": (["task", "delete", "-q", Q, "-i", "a1", "-y"], 1, "cannot delete a task in active state"),
    "run all that are pending": (["task", "runall", "-q", Q, "-s", "pending"], 2, "state must be one of scheduled"),
    "archive all that are archived": (["task", "archiveall", "-q", Q, "-s", "archived"], 2, "state must be one of"),
    "no time": (["task", "reschedule", "-q", Q, "-i", "x1"], 2, "give one of --process_in and --process_at"),
    "a time without a zone": (
        ["task", "reschedule", "-q", Q, "-i", "x1", "--process_at", "2030-01-01"], 2, "--process_at must be a moment",
    ),
    "move to itself": (["task", "move", "-q", Q, "-i", "x1", "--to", Q], 2, "to must be another queue"),
    "a blank type": (["task", "enqueue", "-t", " ", "-l", ""], 2, "task type must contain"),
    "groups of an unknown queue": (["group", "list", "-q", "nope"], 1, "queue 'nope' does not exist"),
    "resume what runs": (["queue", "resume", Q], 1, "queue 'q': it is not paused"),
    "remove an unknown queue": (["queue", "remove", "nope", "-y"], 1, "queue 'nope' does not exist"),
    "remove a queue whose tasks run": (["queue", "remove", Q, "-f", "-y"], 1, "it has active tasks"),
    "a quick top": (["top", "--interval", "0"], 2, "--interval must be 0.2 seconds or more"),
    "a top of another time": (["top", "--interval", "x"], 2, "--interval must be seconds or a duration"),
    "pause an unknown queue": (["queue", "pause", "nope"], 1, "queue 'nope' does not exist"),
    "resume an unknown queue": (["queue", "resume", "nope"], 1, "queue 'nope'"),
    "a queue with a blank name": (["queue", "inspect", " "], 2, "got ' '"),
    "a task of an unknown queue": (["task", "inspect", "-q", "nope", "-i", "x"], 1, "queue 'nope' does not exist"),
    "explain an unknown task": (["task", "explain", "-q", Q, "-i", "none"], 1, "cannot find task 'none'"),
    "explain in an unknown queue": (["task", "explain", "-q", "nope", "-i", "x"], 1, "queue 'nope' does not exist"),
    "a blank id": (["task", "inspect", "-q", Q, "-i", " "], 2, "got ' '"),
    "run an unknown task": (["task", "run", "-q", Q, "-i", "none"], 1, "cannot find task 'none'"),
    "run in an unknown queue": (["task", "run", "-q", "nope", "-i", "x"], 1, "queue 'nope' does not exist"),
    "archive an unknown task": (["task", "archive", "-q", Q, "-i", "none"], 1, "cannot find task 'none'"),
    "archive in an unknown queue": (["task", "archive", "-q", "nope", "-i", "x"], 1, "queue 'nope' does not exist"),
    "archive what runs": (["task", "archive", "-q", Q, "-i", "a1"], 1, "cannot archive a task in active state"),
    "delete an unknown task": (["task", "delete", "-q", Q, "-i", "none", "-y"], 1, "cannot find task 'none'"),
    "delete in an unknown queue": (["task", "delete", "-q", "nope", "-i", "x", "-y"], 1, "queue 'nope' does not"),
    "reschedule an unknown task": (
        ["task", "reschedule", "-q", Q, "-i", "none", "--process_in", "1"], 1, "cannot find task 'none'",
    ),
    "reschedule what runs": (["task", "reschedule", "-q", Q, "-i", "a1", "--process_in", "1"], 1, "active"),
    "reschedule to no time": (
        ["task", "reschedule", "-q", Q, "-i", "x1", "--process_in", "1x"], 2, "--process_in must be seconds or a",
    ),
    "a payload of an unknown task": (
        ["task", "update-payload", "-q", Q, "-i", "none", "-l", "x"], 1, "cannot find task 'none'",
    ),
    "a payload of what runs": (["task", "update-payload", "-q", Q, "-i", "a1", "-l", "x"], 1, "active"),
    "move an unknown task": (["task", "move", "-q", Q, "-i", "none", "--to", "low"], 1, "cannot find task 'none'"),
    "move out of an unknown queue": (
        ["task", "move", "-q", "nope", "-i", "x", "--to", "low"], 1, "queue 'nope' does not exist",
    ),
    "move what runs": (["task", "move", "-q", Q, "-i", "a1", "--to", "low"], 1, "active"),
    "a blank id to cancel": (["task", "cancel", " "], 2, "got ' '"),
    "run all of an unknown queue": (["task", "runall", "-q", "nope", "-s", "retry"], 1, "queue 'nope' does not exist"),
    "archive all of an unknown queue": (
        ["task", "archiveall", "-q", "nope", "-s", "retry"], 1, "queue 'nope' does not exist",
    ),
    "delete all of an unknown queue": (
        ["task", "deleteall", "-q", "nope", "-s", "retry", "-y"], 1, "queue 'nope' does not exist",
    ),
    "delete all of an unknown state": (["task", "deleteall", "-q", Q, "-s", "x", "-y"], 2, "state must be one of"),
    "delete all that run": (["task", "deleteall", "-q", Q, "-s", "active", "-y"], 2, "state must be one of"),
    "delete all without a group": (["task", "deleteall", "-q", Q, "-s", "aggregating", "-y"], 2, "flag --group"),
    "archive all with a group too many": (
        ["task", "archiveall", "-q", Q, "-s", "retry", "-g", "g"], 2, "group is for the state",
    ),
    "enqueue with too few retries": (["task", "enqueue", "-t", "t", "-l", "", "--retry", "-1"], 2, "--retry must be"),
    "enqueue for no time": (["task", "enqueue", "-t", "t", "-l", "", "--timeout", "soon"], 2, "--timeout must be sec"),
    "enqueue for two times": (
        ["task", "enqueue", "-t", "t", "-l", "", "--process_in", "1", "--process_at", "2030-01-01T00:00:00Z"], 2,
        "process_at and process_in exclude each other",
    ),
    "enqueue for a moment": (["task", "enqueue", "-t", "t", "-l", "", "--deadline", "x"], 2, "--deadline must be a"),
    "enqueue with half a header": (["task", "enqueue", "-t", "t", "-l", "", "--header", "x"], 2, "NAME=VALUE"),
    "enqueue an id that is taken": (
        ["task", "enqueue", "-t", "t", "-l", "", "--queue", Q, "--id", "p1"], 1, "task id 'p1' conflicts",
    ),
    "no such command": (["task", "nope"], 2, "nope"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "text"), REFUSED.values(), ids=REFUSED)
async def test_what_is_refused(cli: Cli, redis: Redis, arguments: list[str], code: int, text: str) -> None:
    await _write(redis, full())
    ran = await cli(*arguments)
    assert ran.code == code
    assert text in ran.err
    assert ran.out == ""
    if code == 1:
        assert len(ran.err.splitlines()) == 1
    assert await State.read(redis, Q) == full().full(Q)


# ── doctor ──


async def test_a_healthy_redis(cli: Cli, redis: Redis) -> None:
    await _write(redis, State(pending=["a"]))
    await _others(redis)
    ran = await cli("doctor", "--json")
    assert ran.code == 0
    found = {each["check"]: each["verdict"] for each in ran.json}
    assert found["connection"] == found["version"] == found["eviction"] == found["clock"] == "ok"
    assert found["queue 'q'"] == "ok"


async def test_what_is_wrong_is_found_and_repaired(cli: Cli, redis: Redis) -> None:
    state = State(
        pending=["gone", "a"], archived={"gone too": AGO}, active=["alone"],
        groups={"g": {"m": AGO}, "lost": {"n": AGO}}, group_names={"g"}, paused=True,
        locks={keys.unique(Q, "t", b"?"): "nobody"},
        tasks={"gone": None, "gone too": None, "homeless": {"msg": message("homeless"), "state": "archived"}},
    )  # fmt: skip
    await _write(redis, state)
    ran = await cli("doctor")
    assert ran.code == 1
    for text in (
        "fail  queue 'q': 2 ids without a task in pending, archived",
        "warn  queue 'q': is paused with 2 tasks",
        "has 5 tasks and no server",
        "warn  queue 'q': 1 task whose worker is not heard of",
        "fail  queue 'q': 2 tasks or locks that stand nowhere, and block their ids",
        "fail  queue 'q': groups that nobody looks at: lost",
    ):
        assert text in ran.out
    before = await State.read(redis, Q)
    assert before.tasks.keys() == {"a", "alone", "m", "n", "homeless"}  # nothing was changed

    assert (await cli("doctor", "--fix", "--yes")).code == 0
    after = await State.read(redis, Q)
    assert (after.pending, after.archived, after.group_names, after.locks) == (["a"], {}, {"g", "lost"}, {})
    assert after.lease.keys() == {"alone"}
    assert after.tasks.keys() == {"a", "alone", "m", "n"}
    assert (await cli("doctor", "--json")).code == 0


# ── which Redis ──


async def test_which_redis(
    cli: Cli, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await _write(redis, State())
    matched = re.fullmatch(r"redis://(?:.*@)?([^/]+)/(\d+).*", redis_url)
    assert matched
    address, db = matched.groups()
    assert (await cli("queue", "ls")).out == "q\n"  # AIOASYNQ_REDIS_URL
    monkeypatch.delenv("AIOASYNQ_REDIS_URL")
    assert (await cli("--uri", redis_url, "queue", "ls")).out == "q\n"
    assert (await cli("-u", address, "-n", db, "queue", "ls")).out == "q\n"
    config = tmp_path / "asynq.yaml"
    config.write_text(f"# where\nuri: {address}\ndb: '{db}'\n")
    ran = await cli("--config", str(config), "queue", "ls")
    assert (ran.out, ran.err) == ("q\n", f"Using config file: {config}\n")
    (tmp_path / ".asynq.yaml").write_text(f'uri: "{address}"  # quoted\ndb: {db}\n')
    assert (await cli("queue", "ls")).out == "q\n"
    (tmp_path / ".asynq.yaml").unlink()
    monkeypatch.setenv("URI", address)
    monkeypatch.setenv("DB", db)
    monkeypatch.setenv("USERNAME", "somebody")  # of this machine
    assert (await cli("queue", "ls")).out == "q\n"
    ran = await cli("-u", "127.0.0.1:1", "queue", "ls")
    assert ran.code == 1
    assert "127.0.0.1:1" in ran.err


WRONG_REDIS: dict[str, tuple[list[str], str]] = {
    "no port": (["-u", "localhost"], "--uri must be HOST:PORT or a URL"),
    "no number": (["-u", "localhost:6379", "-n", "x"], "--db must be the number of a database"),
    "beside a URL": (["-u", "redis://localhost:6379/0", "-n", "1"], "--db is part of a URL"),
    "a Cluster beside a URL": (
        ["-u", "redis://localhost:6379/0", "--cluster"],
        "--cluster is part of a URL: write it there, as in redis-cl",
    ),
    "a scheme": (["-u", "http://localhost"], "redis must be a URL that begins with one of redis://"),
    "a database of a Cluster": (["--cluster", "-n", "1"], "--db must be 0 with --cluster"),
    "a database of the variable's Redis": (["-n", "1"], "AIOASYNQ_REDIS_URL is set and says all"),
    "a name without TLS": (["-u", "localhost:1", "--tls_server", "other"], "--tls_server goes with --tls"),
    "a service that is missing": (["-u", "redis-sentinel://localhost"], "must name the service that its Sentinels"),
    "no file": (["--config", "/nowhere/x.yaml"], "--config '/nowhere/x.yaml' cannot be read"),
}


URLS: dict[str, tuple[Where, str]] = {
    "TLS": (Where(tls="true"), "rediss://127.0.0.1:6379/0"),
    "TLS with another name": (
        Where(uri="h:1", tls="true", tls_server="other"), "rediss://h:1/0?ssl_server_name=other"
    ),
    "any certificate": (Where(uri="h:1", insecure="1"), "rediss://h:1/0?ssl_cert_reqs=none"),
    "a Cluster": (Where(cluster_addrs="a:1,b:2", password="p/"), "redis-cluster://:p%2F@a:1,b:2"),
    "a Cluster with TLS": (Where(cluster_addrs="a:1,b:2", tls="1"), "rediss-cluster://a:1,b:2"),
    "Sentinels": (Where(uri="redis-sentinel://h:1/s"), "redis-sentinel://h:1/s"),
}  # fmt: skip


@pytest.mark.parametrize(("where", "url"), URLS.values(), ids=URLS)
def test_what_is_said_of_redis_becomes_a_url(where: Where, url: str) -> None:
    assert url_of(where, where) == url


@pytest.mark.parametrize(("arguments", "text"), WRONG_REDIS.values(), ids=WRONG_REDIS)
async def test_no_redis_at_all(cli: Cli, arguments: list[str], text: str) -> None:
    ran = await cli(*arguments, "queue", "ls")
    assert ran.code == 2
    assert text in ran.err


async def test_a_url_says_all(
    cli: Cli, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await _write(redis, State())
    monkeypatch.delenv("AIOASYNQ_REDIS_URL")
    (tmp_path / ".asynq.yaml").write_text("uri: 127.0.0.1:1\ndb: 9\n")
    monkeypatch.setenv("DB", "postgres")  # many a machine has one
    assert (await cli("--uri", redis_url, "queue", "ls")).out == "q\n"
    monkeypatch.setenv("URI", redis_url)
    monkeypatch.delenv("DB")
    assert (await cli("queue", "ls")).out == "q\n"


WRONG_VARIABLES = {
    "DB": ("x", "DB (a variable, or db: in a file) must be the number of a database"),
    "TLS": ("maybe", "TLS (a variable, or tls: in a file) must be true or false, got 'maybe'"),
    "URI": ("localhost", "URI (a variable, or uri: in a file) must be HOST:PORT or a URL"),
}


@pytest.mark.parametrize("name", WRONG_VARIABLES)
async def test_a_wrong_variable_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("AIOASYNQ_REDIS_URL")
    value, text = WRONG_VARIABLES[name]
    monkeypatch.setenv(name, value)
    ran = await cli("queue", "ls")
    assert (ran.code, ran.out) == (2, "")
    assert text in ran.err


async def test_a_cluster(
    cli: Cli, cluster: Cluster, cluster_client: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIOASYNQ_REDIS_URL")
    async with Client(cluster_client) as client:
        await client.enqueue(Task("t"), queue=Q)
    nodes = f"{cluster.host}:{cluster.port}"
    for where in (["--uri", cluster.url], ["--cluster_addrs", nodes], ["--cluster", "--cluster_addrs", nodes]):
        ran = await cli(*where, "queue", "ls")
        assert re.search(rf"Queue +Cluster KeySlot +Cluster Nodes\n.*\nq +\d+ +{cluster.host}:\d+\n", ran.out)
    assert (await cli(*where, "queue", "ls", "--json")).json == [Q]
    ran = await cli(*where, "stats")
    assert re.search(r"Redis Cluster Info\nState +Known Nodes +Cluster Size\n.*\nok +3 +3\n", ran.out)
    assert (await cli(*where, "stats", "--json")).json["redis"]["cluster_state"] == "ok"
    assert (await cli(*where, "doctor")).code == 0
    assert (await cli(*where, "task", "list", "-q", Q, "-s", "pending")).code == 0


async def test_a_wrong_line_of_the_file_is_named(cli: Cli, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("uri: localhost:6379\nredis:\n  db: 3\n")
    ran = await cli("--config", str(config), "queue", "ls")
    assert ran.code == 2
    assert "line 3" in ran.err


async def test_a_password_is_not_shown(cli: Cli) -> None:
    ran = await cli("-u", "127.0.0.1:1", "-U", "me", "-p", "s3cret/", "queue", "ls")
    assert ran.code == 1
    assert "s3cret" not in ran.err


async def test_versions(cli: Cli) -> None:
    assert (await cli("--version")).out == (await cli("version")).out


EVIL = "a\x1b[2Jb\x07"


async def test_what_others_wrote_does_not_steer_the_terminal(cli: Cli, redis: Redis) -> None:
    """Ids, types, errors, groups and headers may be anything; ids need not even be text."""
    evil = message(EVIL, type=EVIL, error_msg=EVIL, headers={EVIL: EVIL}, last_failed_at=NOW)
    state = State(archived={EVIL: AGO}, groups={EVIL: {"m": AGO}}, tasks={EVIL: {"msg": evil}})
    await _write(redis, state, "q")
    await redis.zadd(keys.archived("q"), {b"\xff": AGO})
    await redis.hset(keys.task_prefix("q").encode() + b"\xff", mapping={"msg": b"\xff", "state": "archived"})
    for arguments in (
        ["task", "list", "-q", "q", "-s", "archived"], ["task", "inspect", "-q", "q", "-i", EVIL],
        ["task", "explain", "-q", "q", "-i", EVIL], ["group", "list", "-q", "q"], ["task", "find", EVIL], ["doctor"],
        ["task", "inspect", "-q", "q", "-i", "\udcff"], ["top", "--once"], ["stats"],
    ):  # fmt: skip
        for more in ([], ["--json"]):
            ran = await cli(*arguments, *more)
            assert ran.code in {0, 1}, arguments
            assert not {"\x1b", "\x07"} & {*ran.out}, arguments
            if more:
                assert ran.json is not None
    assert r"a\x1b[2Jb\x07" in (await cli("task", "list", "-q", "q", "-s", "archived")).out
    assert (await cli("task", "run", "-q", "q", "-i", "\udcff")).code == 0
    assert await redis.lrange(keys.pending("q"), 0, -1) == [b"\xff"]
