"""Options as Go's schedulers write them, read as arguments of ``enqueue``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from aioasynq.inspector.option_strings import duration, parse_options
from aioasynq.options import Options

AT = datetime(2026, 11, 23, 13, 49, 7, tzinfo=UTC)
READ: dict[str, Any] = {
    "MaxRetry(3)": {"max_retry": 3},
    'Queue("low")': {"queue": "low"},
    'Queue("a\\"b(c)")': {"queue": 'a"b(c)'},
    'TaskID("x")': {"task_id": "x"},
    "Timeout(1m30s)": {"timeout": 90.0},
    "Deadline(Mon Nov 23 13:49:07 UTC 2026)": {"deadline": AT},
    "Deadline(Sun Nov  1 13:49:07 UTC 2026)": {"deadline": datetime(2026, 11, 1, 13, 49, 7, tzinfo=UTC)},
    "Unique(1h0m0s)": {"unique": 3600.0},
    "ProcessAt(Mon Nov 23 13:49:07 UTC 2026)": {"process_at": AT},
    "ProcessIn(1.5s)": {"process_in": 1.5},
    "Retention(24h0m0s)": {"retention": 86400.0},
    'Group("g")': {"group": "g"},
    'Header(["k","v"])': {"headers": {"k": "v"}},
}


@pytest.mark.rows(136)
@pytest.mark.parametrize(("text", "options"), READ.items(), ids=READ)
def test_each_option(text: str, options: dict[str, Any]) -> None:
    assert parse_options([text]) == options
    assert Options.of(**options)  # they are what enqueue takes


@pytest.mark.rows(136)
def test_many() -> None:
    texts = ['Queue("low")', "MaxRetry(3)", 'Header(["a","1"])', 'Header(["b","2"])', "MaxRetry(5)"]
    assert parse_options(texts) == {"queue": "low", "max_retry": 5, "headers": {"a": "1", "b": "2"}}


@pytest.mark.parametrize(
    "text",
    [
        "", "junk", "(", ")", "Queue", "Queue(", "Queue(low)", "MaxRetry(x)", "Timeout(1)", "Timeout(1x)",
        "Deadline(now)",
        "Deadline(a b c d e f)", "Header(1)", "Nope(1)", "Queue(1)", "Queue(\udcff)",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_left_out(text: str) -> None:
    """asynq's own inspector panics on an option without a parenthesis."""
    assert parse_options([text, "MaxRetry(1)"]) == {"max_retry": 1}


DURATIONS = {"0": 0, "0s": 0, "1h2m3.5s": 3723.5, "100ms": 0.1, "1µs": 1e-6, "-5s": -5, "1ns": 1e-9}


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items())
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)
