"""Cron expressions without Go beside them: what is wrong is said, and the calendar's edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from aioasynq.cronspec import Every, find_zone, parse, parse_duration

NOW = datetime(2026, 11, 25, 12, 34, 56, tzinfo=UTC).timestamp()


def firings(spec: str, start: str, count: int, **options: Any) -> list[str]:
    schedule = parse(spec, **options)
    moment: float | None = datetime.fromisoformat(start).timestamp()
    found: list[str] = []
    for _ in range(count):
        assert moment is not None
        moment = schedule.next(moment)
        assert moment is not None
        found.append(datetime.fromtimestamp(moment, UTC).isoformat(" ", "minutes").removesuffix("+00:00"))
    return found


WRONG = {
    "": "spec must be a cron expression",
    "* * * *": r"5 fields \(minute, hour, day of month, month, day of week\), got 4 in '\* \* \* \*'$",
    "* * * * * *": "got 6 in .* a second in front is taken with seconds=True",
    "60 * * * *": r"spec '60 \* \* \* \*': minute must be from 0 to 59, got 60 in '60'",
    "* 24 * * *": "hour must be from 0 to 23, got 24",
    "* * 0 * *": "day of month must be from 1 to 31, got 0",
    "* * * 1-13 *": "month must be from 1 to 12, got 13 in '1-13'",
    "* * * * 7": "day of week must be from 0 to 6, got 7 in '7'; Sunday is 0$",
    "* * * * 8": "day of week must be from 0 to 6, got 8 in '8'$",
    "* 7 7 13 *": "month must be from 1 to 12, got 13 in '13'$",
    "every 5m": "got 2 in 'every 5m'; an interval is written like '@every 1h30m'",
    "* * * * 5-1": "day of week '5-1' begins after its end",
    "1-2-3 * * * *": "minute '1-2-3' has too many hyphens",
    "1/2/3 * * * *": "minute '1/2/3' has too many slashes",
    "*/0 * * * *": r"the step of minute '\*/0' must be 1 or more",
    "*/x * * * *": r"the step of minute '\*/x' must be a whole number, got 'x'",
    "a * * * *": "minute 'a' must be made of whole numbers, got 'a'",
    "* * * foo *": "month 'foo' must be made of whole numbers or one of jan, feb, .*, got 'foo'",
    "1- * * * *": "minute '1-' must be made of whole numbers, got ''",
    "@dayly": "'@dayly' is no descriptor; they are @yearly, .*@every <duration>",
    "@every": "'@every' is no descriptor",
    "@every 1d": "a duration must be like '1h30m', .* got '1d'",
    "@every 9999999999h": "a duration must be at most 2562047h, got '9999999999h'",
    "TZ=UTC": "has a zone, and after it no space",
    "TZ=Nowhere/Land * * * * *": "there is no time zone 'Nowhere/Land' here; .* tzdata",
    "TZ=europe/berlin * * * * *": r"there is no time zone 'europe/berlin' here; did you mean 'Europe/Berlin'\?",
    "TZ=Tokyo * * * * *": r"did you mean 'Asia/Tokyo'\?",
    "CRON_TZ=America * * * * *": "there is no time zone 'America' here",
    "TZ=UTC 61 * * * *": "spec 'TZ=UTC 61 .*minute must be from 0 to 59, got 61",
}


@pytest.mark.parametrize("spec", WRONG)
def test_what_is_wrong_is_said(spec: str):
    with pytest.raises(ValueError, match=WRONG[spec]):
        parse(spec)


@pytest.mark.parametrize("spec", [None, 5, b"* * * * *"])
def test_a_spec_is_text(spec: Any):
    with pytest.raises(TypeError, match="spec must be a str, got "):
        parse(spec)


def test_with_seconds_there_are_five_or_six_fields():
    assert firings("*/30 * * * * *", "2026-11-25T12:34:56Z", 1, seconds=True) == ["2026-11-25 12:35"]
    assert parse("* * * * *", seconds=True).next(NOW) == parse("* * * * *").next(NOW)
    with pytest.raises(ValueError, match=r"5 fields, or 6 with the second in front .*, got 7"):
        parse("* * * * * * *", seconds=True)
    with pytest.raises(ValueError, match="second must be from 0 to 59, got 60"):
        parse("60 * * * * *", seconds=True)


def test_zones():
    berlin = ZoneInfo("Europe/Berlin")
    assert find_zone("Europe/Berlin") == find_zone(berlin) == berlin
    assert find_zone("UTC") is UTC
    assert find_zone(timezone(timedelta(hours=2))).utcoffset(None) == timedelta(hours=2)
    for wrong in (5, None, timedelta()):
        with pytest.raises(TypeError, match="location must be the name of a time zone or a ZoneInfo, got "):
            find_zone(wrong)  # type: ignore[arg-type]
    for name in ("Mars/Olympus", "", "../UTC", "/etc/localtime", "Europe", "a\0b", "\udcff"):
        with pytest.raises(ValueError, match="there is no time zone"):
            find_zone(name)


def test_a_location_counts_unless_the_spec_has_one():
    start = "2026-06-01T00:00:00Z"
    assert firings("0 12 * * *", start, 1, location="Europe/Berlin") == ["2026-06-01 10:00"]
    assert firings("TZ=Asia/Tokyo 0 12 * * *", start, 1, location="Europe/Berlin") == ["2026-06-01 03:00"]
    assert firings("CRON_TZ=Local 0 12 * * *", start, 1, location="Europe/Berlin") == ["2026-06-01 10:00"]


def test_the_hour_that_is_skipped_and_the_one_that_comes_twice():
    spring = firings("30 2 * * *", "2026-03-28T12:00:00Z", 2, location="Europe/Berlin")
    assert spring == ["2026-03-30 00:30", "2026-03-31 00:30"]
    autumn = firings("30 2 * * *", "2026-10-24T12:00:00Z", 3, location="Europe/Berlin")
    assert autumn == ["2026-10-25 00:30", "2026-10-25 01:30", "2026-10-26 01:30"]


def test_a_day_that_never_was_is_passed_over():
    """Go looks for it for ever."""
    found = firings("0 12 31 * *", "2011-12-29T00:00:00Z", 1, location="Pacific/Apia")
    assert found == ["2011-12-30 22:00"]  # noon of the 31st, which followed the 29th


def test_there_is_none_within_five_years():
    assert parse("0 0 30 2 *").next(NOW) is None
    assert parse(", * * * *").next(NOW) is None
    leap_day = parse("0 0 29 2 *")
    assert leap_day.next(datetime(2096, 3, 1, tzinfo=UTC).timestamp()) is None  # 2100 has none
    assert leap_day.next(datetime(2099, 3, 1, tzinfo=UTC).timestamp()) is not None


def test_the_end_of_all_years():
    last = datetime(9999, 12, 31, 23, 58, 59, tzinfo=UTC).timestamp()
    schedule = parse("* * * * *")
    assert schedule.next(last) == last + 1
    assert schedule.next(last + 1) is None
    assert parse("@yearly").next(last) is None


DURATIONS = {
    "1s": 10**9, "1h30m": 5400 * 10**9, "1.5h": 5400 * 10**9, "0": 0, "-0": 0, "+1s": 10**9, "-1.5s": -15 * 10**8,
    ".5s": 5 * 10**8, "1.s": 10**9, "1us": 1000, "1\u00b5s": 1000, "1\u03bcs": 1000, "1.1ns": 1, "1ms1ms": 2 * 10**6,
    "9223372036854775807ns": 2**63 - 1, "-9223372036854775808ns": -(2**63),
}  # fmt: skip


@pytest.mark.parametrize("text", DURATIONS)
def test_durations(text: str):
    assert parse_duration(text) == DURATIONS[text]


@pytest.mark.parametrize(
    "text", ["", "1", "s", ".s", "-", "+-1s", "1 s", "1s ", "1x", "1_0s", "1\n", "9223372036854775808ns"]
)
def test_what_is_no_duration(text: str):
    with pytest.raises(ValueError, match="a duration must be"):
        parse_duration(text)


def test_a_long_text_that_is_no_duration_is_refused_at_once():
    with pytest.raises(ValueError, match="a duration must be"):
        parse_duration("11111111s" * 5_000 + "1")


def test_intervals():
    schedule = parse("@every 90s")
    assert isinstance(schedule, Every)
    assert [schedule.next(now) for now in (0.0, 0.9, 100.5)] == [90, 90, 190]
    assert [schedule.next_shared(now) for now in (0, 89.9, 90, 100, 179.5, 180)] == [90, 90, 180, 180, 180, 270]
    assert parse("@every 1500ms") == parse("@every -1h") == Every(1)
