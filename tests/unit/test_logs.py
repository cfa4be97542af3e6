"""Logs as data: lines of JSON, and the fields that say which task a line is about."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from contextvars import copy_context
from datetime import datetime
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Any

import pytest

from aioasynq import Client, RetryAfter, RevokeTask, ServeMux, Server, Task
from aioasynq.context import CURRENT
from aioasynq.logs import JsonFormatter, TaskFilter
from tests.server.stage import eventually


class Lines(logging.Handler):
    """Keeps what it would write."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[dict[str, Any]] = []
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        assert "\n" not in text
        self.all.append(json.loads(text))


@pytest.fixture
def lines() -> Iterator[Lines]:
    made = Lines()
    log.addHandler(made)
    yield made
    log.removeHandler(made)


log = logging.getLogger("tests.logs")
TASK = Task.received("email:welcome", b"", {}, id="x", queue="low", retried=2, max_retry=5, write_result=None)
FIELDS = {"task_id": "x", "task_type": "email:welcome", "queue": "low", "attempt": 3}


class Unspeakable:
    def __str__(self) -> str:
        raise ValueError("no")


EXTRA: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "values": ({"a": 1, "b": [None, 1.5], "c": {"d": True}}, {"a": 1, "b": [None, 1.5], "c": {"d": True}}),
    "an object": ({"error": ValueError("no")}, {"error": "no"}),
    "what has no text": ({"a": Unspeakable(), "b": 1}, {"a": "<Unspeakable>", "b": 1}),
    "no Unicode": ({"a": "\ud800"}, {"a": "\\ud800"}),
    "its own task": ({"task_id": "y"}, {"task_id": "y"}),
}


@pytest.mark.parametrize(("extra", "shown"), EXTRA.values(), ids=EXTRA)
def test_a_line_has_what_was_given(lines, extra, shown):
    log.warning("hello %s", "you", extra=extra)
    [line] = lines.all
    moment = datetime.fromisoformat(line.pop("time"))
    assert moment.tzinfo is not None
    assert int(line.pop("process")) > 0
    assert line == {"level": "WARNING", "logger": "tests.logs", "message": "hello you", **shown}


def test_an_error_has_its_traceback(lines):
    try:
        dict[str, str]()["missing"]
    except KeyError:
        log.exception("two\nlines", stack_info=True)
    [line] = lines.all
    assert line["message"] == "two\nlines"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("KeyError: 'missing'")
    assert line["stack"].startswith("Stack (most recent call last):\n")


def test_a_line_of_a_handler_names_its_task(lines):
    context = copy_context()
    context.run(CURRENT.set, TASK)
    context.run(log.error, "inside", extra={"user": 7})
    context.run(log.error, "about another", extra={"task_id": "y"})
    log.error("outside")
    inside, other, outside = lines.all
    assert {name: inside[name] for name in (*FIELDS, "user")} == {**FIELDS, "user": 7}
    assert (other["task_id"], other.get("queue")) == ("y", None)
    assert "task_id" not in outside


def test_a_handler_that_formats_elsewhere(lines):
    queue: SimpleQueue[Any] = SimpleQueue()
    handler = QueueHandler(queue)
    handler.addFilter(TaskFilter())
    log.addHandler(handler)
    context = copy_context()
    context.run(CURRENT.set, TASK)
    context.run(log.error, "inside")
    log.error("outside")
    log.removeHandler(handler)
    line = json.loads(JsonFormatter().format(queue.get()))
    assert {name: line[name] for name in FIELDS} == FIELDS
    assert "task_id" not in json.loads(JsonFormatter().format(queue.get()))


def test_a_format_of_ones_own():
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        logging.Formatter("%(task_id)s %(attempt)s %(message)s", defaults={"task_id": "-", "attempt": 0})
    )
    handler.addFilter(TaskFilter())
    record = logging.makeLogRecord({"msg": "outside"})
    assert handler.filter(record)
    assert handler.format(record) == "- 0 outside"
    context = copy_context()
    context.run(CURRENT.set, TASK)
    assert context.run(handler.filter, record := logging.makeLogRecord({"msg": "inside"}))
    assert handler.format(record) == "x 3 inside"


async def test_what_a_server_says_of_a_task_names_it(redis_url, caplog):
    """A failure, an archiving, a coming back, a letting go: each line has the fields."""
    mux = ServeMux()

    @mux.handler("t")
    async def end(task: Task) -> None:
        match task.id:
            case "later":
                raise RetryAfter(600)
            case "away":
                raise RevokeTask
            case _:
                raise ValueError(task.id)

    caplog.set_level(logging.INFO, "aioasynq")
    ids = {"fails": 25, "fails for good": 0, "later": 25, "away": 25}
    async with Client(redis_url) as client, Server(redis_url, mux) as server:
        for task_id, max_retry in ids.items():
            await client.enqueue(Task("t"), task_id=task_id, max_retry=max_retry)
        await eventually(lambda: server.counts.processed == len(ids))
    said = [record.__dict__ for record in caplog.records if "(t) of queue default" in record.message]
    assert {line["task_id"] for line in said} == set(ids)
    assert {(line["task_type"], line["queue"], line["attempt"]) for line in said} == {("t", "default", 1)}


async def test_what_others_named_begins_no_line(redis_url, caplog):
    """Ids and types come from whoever may enqueue, errors from what they sent: none of them forges a line."""
    mux, evil = ServeMux(), "a\r\n10:00:00.000 INFO     forged\x1b[2J\u2028"

    @mux.handler("fails")
    async def fail(task: Task) -> None:
        raise ValueError(evil)

    @mux.handler("hold")
    async def hold(task: Task) -> None:
        await asyncio.sleep(60)

    caplog.set_level(logging.INFO, "aioasynq")
    async with Client(redis_url) as client, Server(redis_url, mux, shutdown_timeout=0) as server:
        await client.enqueue(Task(f"fails{evil}"), task_id=f"1{evil}")
        await client.enqueue(Task(f"hold{evil}"), task_id=f"2{evil}")
        await eventually(lambda: server.counts.processed == 1 and server.running == 1)
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if not line.isprintable()] == []
    assert len([line for line in said if "a\\r\\n10:00:00.000 INFO     forged\\x1b[2J\\u2028" in line]) == 2
