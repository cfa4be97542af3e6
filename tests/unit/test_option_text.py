"""Options in Go's spelling."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from aioasynq.inspector.option_strings import parse_options
from aioasynq.option_text import duration_text, option_texts, quoted
from aioasynq.options import Options

#: What asynq's own ``String()`` gives; conformance/test_scheduler.py holds it to that.
OPTIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "none": ({}, []),
    "max_retry": ({"max_retry": 0}, ["MaxRetry(0)"]),
    "queue": ({"queue": "low"}, ['Queue("low")']),
    "task_id": ({"task_id": 'a"b'}, ['TaskID("a\\"b")']),
    "timeout": ({"timeout": 90}, ["Timeout(1m30s)"]),
    "deadline": ({"deadline": 1893456000}, ["Deadline(Tue Jan  1 00:00:00 UTC 2030)"]),
    "unique": ({"unique": 3600}, ["Unique(1h0m0s)"]),
    "process_at": ({"process_at": 1795438107.9}, ["ProcessAt(Mon Nov 23 12:48:27 UTC 2026)"]),
    "process_in": ({"process_in": 0}, ["ProcessIn(0s)"]),
    "retention": ({"retention": 36 * 3600}, ["Retention(36h0m0s)"]),
    "group": ({"group": "\u00fcber"}, ['Group("\u00fcber")']),
    "headers": ({"headers": {"b": "2", "a": '"'}}, ['Header(["a","\\""])', 'Header(["b","2"])']),
    "in one order": (
        {"group": "g", "timeout": 1, "queue": "q", "max_retry": 3},
        ["MaxRetry(3)", 'Queue("q")', "Timeout(1s)", 'Group("g")'],
    ),
}


@pytest.mark.parametrize(("given", "texts"), OPTIONS.values(), ids=OPTIONS)
def test_options(given: dict[str, Any], texts: list[str]):
    assert option_texts(Options.of(**given)) == texts
    assert all("(" in text for text in texts)  # else Go's inspector would end with a panic
    read = parse_options(texts)
    moments = {
        name: datetime.fromtimestamp(int(given[name]), UTC) for name in ("deadline", "process_at") if name in given
    }
    assert read == given | moments


DURATIONS = {
    0: "0s", 1e-9: "1ns", 1.5e-6: "1.5\u00b5s", 0.001: "1ms", 0.0015: "1.5ms", 0.999999999: "999.999999ms", 1: "1s",
    1.5: "1.5s", 60: "1m0s", 61.25: "1m1.25s", 3600: "1h0m0s", 5400: "1h30m0s", 129600: "36h0m0s", -1.5: "-1.5s",
    9_223_372_036: "2562047h47m16s",
}  # fmt: skip


@pytest.mark.parametrize("seconds", DURATIONS)
def test_durations(seconds: float):
    assert duration_text(seconds) == DURATIONS[seconds]


def test_quotes():
    assert quoted("a b") == '"a b"'
    assert quoted('\\"\n\t\x00\x7f\x9f\u200b\U000e0001') == r'"\\\"\n\t\x00\x7f\u009f\u200b\U000e0001"'
