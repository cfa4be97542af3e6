"""Commands as somebody at a terminal of 80 columns sees them: tables, questions, a picture that changes."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import RDB, keys
from aioasynq.message import SchedulerEntry, ServerInfo, WorkerInfo
from aioasynq.proto.codec import encode_scheduler_entry
from tests.cli.stage import COLUMNS, Start
from tests.support.build import message
from tests.support.state import State

IDS = [f"{number:08}-cbf9-4a98-98ef-4000ce1602b0" for number in range(8)]


@pytest.fixture
async def filled(redis: Redis) -> Redis:
    now = int(time.time())
    long: dict[str, Any] = {
        "type": "image:resize",
        "payload": f'{{"picture": "{"x" * 200}"}}'.encode(),
        "error_msg": "no room " * 20,
    }
    more: dict[str, Any] = {"retried": 12, "last_failed_at": now - 65, "completed_at": now - 65, "group_key": "user:1"}
    state = State(
        pending=[*IDS[:2], "p"], scheduled={IDS[2]: now + 3599}, retry={IDS[3]: now + 3599}, archived={IDS[4]: now},
        completed={IDS[5]: now + 3600}, groups={"user:1": {IDS[6]: now}},
        tasks={task_id: {"msg": message(task_id, **long, **more), "result": "r" * 200} for task_id in IDS[:7]},
    )  # fmt: skip
    await state.write(redis, "pictures")
    await redis.sadd(keys.queues(), "pictures")
    entry = SchedulerEntry(
        id=IDS[7], spec="*/5 * * * *", task_type="report:daily", task_payload=b"p", enqueue_options=['Queue("low")'],
        next_enqueue_time=(now + 18_000) * 10**9, prev_enqueue_time=(now - 65) * 10**9,
    )  # fmt: skip
    await redis.rpush(keys.scheduler_entries("h:1:u"), encode_scheduler_entry(entry))
    await redis.zadd(keys.schedulers(), {keys.scheduler_entries("h:1:u"): now + 3600})
    queues = {f"{name}pictures": n + 1 for n, name in enumerate(("", "small ", "large ", "old "))}
    async with RDB(redis) as rdb:
        server = ServerInfo(
            host="vm-of-a-long-name", pid=4_000_000, server_id="s", concurrency=10, queues=queues, status="active",
            start_time=(now - 65) * 10**9, active_worker_count=1,
        )  # fmt: skip
        worker = WorkerInfo(
            task_id=IDS[0], task_type=f"image:{'resize:' * 20}", queue="pictures", start_time=(now - 65) * 10**9
        )
        await rdb.write_process_info(server, {IDS[0]: worker}, ttl=600)
    return redis


#: Commands, and what has to be seen whole.
TABLES: dict[str, tuple[str, ...]] = {
    "task list -q pictures -s pending": ("ID", "Type", IDS[0], IDS[1], "image:resize", "Payload: "),
    "task list -q pictures -s scheduled": ("ID", "Type", "Process In", IDS[2], "in 59m"),
    "task list -q pictures -s retry": (
        "ID", "Next Retry", IDS[3], "in 59m", "Payload: ", "Last Error: ", "Last Failed: ", "Retried", "Max Retry",
        "12", "25",
    ),
    "task list -q pictures -s archived": ("ID", "Type", "Last Failed", IDS[4], "Payload: ", "Last Error: "),
    "task list -q pictures -s completed": ("ID", "Type", "CompletedAt", IDS[5], "Payload: ", "Result: "),
    "task list -q pictures -s aggregating -g user:1": ("ID", "Group", "user:1", IDS[6]),
    "queue ls": ("pictures",), "queue inspect pictures": ("pending", "completed"),
    "queue history pictures": ("error rate",),
    "stats": ("completed", "peak memory usage"), "group ls -q pictures": ("user:1",),
    "cron ls": ("EntryID", IDS[7], "Spec", "*/5 * * * *", "Next", "Prev", "s ago", 'Options: Queue("low")'),
    "server ls": ("Host", "PID", "State", "1/10", "s ago", "Queues: old pictures:4 "),
    "top --once": ("pictures", "aggr.", "waits", IDS[0], "image:", "…", "s ago"),
}  # fmt: skip


@pytest.mark.rows(150)
@pytest.mark.parametrize("command", TABLES)
async def test_tables_fit_into_80_columns(terminal: Start, filled: Redis, command: str) -> None:
    async with terminal(*command.split()) as running:
        assert await running.end() == 0
        await asyncio.sleep(0)
        text = running.text
    assert max(len(line) for line in text.splitlines()) <= COLUMNS
    for part in TABLES[command]:
        assert part in text


@pytest.mark.parametrize(("answer", "left", "code"), [("n\n", 3, 1), ("\n", 3, 1), ("y\n", 0, 0), (None, 3, 130)])
async def test_what_destroys_asks(terminal: Start, filled: Redis, answer: str | None, left: int, code: int) -> None:
    async with terminal("task", "deleteall", "-q", "pictures", "-s", "pending") as running:
        await running.shows("Delete all pending tasks of the queue 'pictures'? [y/N]")
        assert await filled.llen(keys.pending("pictures")) == 3
        if answer is None:  # a signal between the question and the reading is heeded after it only, so: again
            while running.process.returncode is None:
                running.process.send_signal(signal.SIGINT)
                await asyncio.wait({asyncio.ensure_future(running.end())}, timeout=1)
        else:
            running.type(answer)
        assert await running.end() == code
        await asyncio.sleep(0)
        assert ("nothing was done" in running.text) == (code == 1)
    assert await filled.llen(keys.pending("pictures")) == left


@pytest.mark.rows(150)
async def test_top_changes_and_ends_with_a_key(terminal: Start, filled: Redis) -> None:
    async with terminal("top", "--interval", "0.2") as running:
        await running.shows("pictures")
        await filled.set(keys.paused("pictures"), "1")
        await running.shows("(paused)")
        running.type("q")
        assert await running.end() == 0


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("aioasynq qu", ["queue"]), ("aioasynq task de", ["delete", "deleteall"]),
        ("aioasynq task list -q pictures -s a", ["active", "archived", "aggregating"]),
    ],
)  # fmt: skip
async def test_a_shell_completes(terminal: Start, typed: str, offered: list[str]) -> None:
    """As bash asks, with what ``--install-completion`` writes."""
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    async with terminal(_AIOASYNQ_COMPLETE="complete_bash", **words) as running:
        await running.end()
        await asyncio.sleep(0)
        assert running.text.split() == offered
