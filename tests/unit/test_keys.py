"""Names of Redis keys, letter by letter (asynq's base tests, rows 1 to 5)."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from aioasynq import keys

QUEUES = ["default", "low", "a:b", "Größe", "with space"]

ROW_1_AND_5_OF_A_QUEUE = {
    "prefix": (keys.prefix, "asynq:{%s}:"),
    "task prefix, row 1": (keys.task_prefix, "asynq:{%s}:t:"),
    "pending, row 1": (keys.pending, "asynq:{%s}:pending"),
    "active, row 1": (keys.active, "asynq:{%s}:active"),
    "lease, row 1": (keys.lease, "asynq:{%s}:lease"),
    "scheduled, row 1": (keys.scheduled, "asynq:{%s}:scheduled"),
    "retry, row 1": (keys.retry, "asynq:{%s}:retry"),
    "archived, row 1": (keys.archived, "asynq:{%s}:archived"),
    "completed, row 1": (keys.completed, "asynq:{%s}:completed"),
    "paused, row 1": (keys.paused, "asynq:{%s}:paused"),
    "processed total, row 2": (keys.processed_total, "asynq:{%s}:processed"),
    "failed total, row 2": (keys.failed_total, "asynq:{%s}:failed"),
    "all groups, row 5": (keys.groups, "asynq:{%s}:groups"),
    "group prefix, row 5": (keys.group_prefix, "asynq:{%s}:g:"),
    "all aggregation sets, row 5": (keys.aggregation_sets, "asynq:{%s}:aggregation_sets"),
    "waiting": (keys.waiting, "asynq:{%s}:waiting"),
}


@pytest.mark.rows(1, 2, 5)
@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize(
    ("key", "text"), ROW_1_AND_5_OF_A_QUEUE.values(), ids=[name.replace(" ", "-") for name in ROW_1_AND_5_OF_A_QUEUE]
)
def test_a_key_of_a_queue(key, text, queue):
    assert key(queue) == text % queue


FIXED = {
    "row 1, task": (keys.task("low", "id:{1}"), "asynq:{low}:t:id:{1}"),
    "row 5, group": (keys.group("low", "g:h"), "asynq:{low}:g:g:h"),
    "row 5, aggregation set": (keys.aggregation_set("low", "gg", "u-1"), "asynq:{low}:g:gg:u-1"),
    "receipt": (keys.receipt("low", "vm:1:u"), "asynq:{low}:receipt:vm:1:u"),
    "queues": (keys.queues(), "asynq:queues"),
    "servers": (keys.servers(), "asynq:servers"),
    "workers": (keys.workers(), "asynq:workers"),
    "schedulers": (keys.schedulers(), "asynq:schedulers"),
    "cancelation": (keys.CANCEL, "asynq:cancel"),
    "row 3, server": (
        keys.server("vm", 18678, "d14ad89a-d878-4628-8600-e03f741467d2"),
        "asynq:servers:{vm:18678:d14ad89a-d878-4628-8600-e03f741467d2}",
    ),
    "row 3, workers of a server": (keys.server_workers("vm", 18678, "d14"), "asynq:workers:{vm:18678:d14}"),
    "row 3, entries of a scheduler": (keys.scheduler_entries("vm:7:u"), "asynq:schedulers:{vm:7:u}"),
    "row 3, history of an entry": (keys.scheduler_history("e-1"), "asynq:scheduler_history:e-1"),
    "row 2, processed on a day": (keys.processed("low", date(2026, 11, 23)), "asynq:{low}:processed:2026-11-23"),
    "row 2, failed on a day": (keys.failed("low", date(2026, 1, 2)), "asynq:{low}:failed:2026-01-02"),
    "row 2, a day as text": (keys.processed("low", "2026-11-23"), "asynq:{low}:processed:2026-11-23"),
    "row 2, the UTC day of a moment elsewhere": (
        keys.failed("low", datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))),
        "asynq:{low}:failed:2025-12-31",
    ),
}


@pytest.mark.rows(1, 2, 3, 5)
@pytest.mark.parametrize(("key", "text"), FIXED.values(), ids=FIXED)
def test_key(key, text):
    assert key == text


DAYS = {
    "row 2, the first second": (datetime(2026, 11, 23, tzinfo=UTC), "2026-11-23"),
    "row 2, the last moment": (datetime(2026, 11, 23, 23, 59, 59, 999_000, tzinfo=UTC), "2026-11-23"),
    "row 2, the next day in Tokyo": (
        datetime(2026, 11, 24, 8, 59, tzinfo=timezone(timedelta(hours=9))),
        "2026-11-23",
    ),
    "row 2, the epoch": (datetime(1970, 1, 1, tzinfo=UTC), "1970-01-01"),
}


@pytest.mark.rows(2)
@pytest.mark.parametrize(("moment", "day"), DAYS.values(), ids=DAYS)
def test_day_of_a_moment(moment, day):
    assert keys.day(moment.timestamp()) == day


def test_a_naive_datetime_is_no_day():
    with pytest.raises(ValueError, match="day must be a date or an aware datetime"):
        keys.processed("low", datetime(2026, 1, 1))  # noqa: DTZ001 - that is what is refused


# Row 4. The first four were captured from asynq.
UNIQUE = {
    "row 4, no payload": ("q", "u:t", None, "asynq:{q}:unique:u:t:"),
    "row 4, a payload of no bytes": ("q", "u:t", b"", "asynq:{q}:unique:u:t:d41d8cd98f00b204e9800998ecf8427e"),
    "row 4, abc": ("q", "u:t", b"abc", "asynq:{q}:unique:u:t:900150983cd24fb0d6963f7d28e17f72"),
    "row 4, raw bytes": (
        "crit",
        "img:resize",
        b"\x00\x01\x02\xff",
        "asynq:{crit}:unique:img:resize:0416dab819887333af831f8c765ac2ae",
    ),
    **{
        f"row 4, JSON {text.decode()}": (
            "default",
            "email:send",
            text,
            f"asynq:{{default}}:unique:email:send:{hashlib.md5(text).hexdigest()}",
        )
        for text in (b"{}", b"null", b'{"a":123,"b":"hello","c":true}', b'{"nested":{"list":[1,2,3]}}')
    },
}


@pytest.mark.rows(4)
@pytest.mark.parametrize(("queue", "task_type", "payload", "key"), UNIQUE.values(), ids=UNIQUE)
def test_unique_key(queue, task_type, payload, key):
    assert keys.unique(queue, task_type, payload) == key


@pytest.mark.parametrize("name", ["default", "a", " a ", "a:b", "Größe", "日本", "-"])
def test_a_queue_name(name):
    keys.check_queue_name(name)


NO_QUEUE_NAMES = {
    "empty": ("", ValueError, "one or more characters"),
    "spaces": ("  ", ValueError, "one or more characters"),
    "blanks": ("\t\n\u3000", ValueError, "one or more characters"),
    "opening brace": ("a{b", ValueError, "braces"),
    "closing brace": ("}", ValueError, "braces"),
    "lone surrogate": ("a\udc80", ValueError, "valid Unicode"),
    "bytes": (b"a", TypeError, "must be a str"),
    "nothing": (None, TypeError, "must be a str"),
}


@pytest.mark.parametrize(("name", "error", "text"), NO_QUEUE_NAMES.values(), ids=NO_QUEUE_NAMES)
def test_no_queue_name(name, error, text):
    with pytest.raises(error, match=f"^queue .*{text}") as caught:
        keys.check_queue_name(name)
    assert repr(name) in str(caught.value)
