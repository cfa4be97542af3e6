"""Cron expressions: what the library of Go's schedulers makes of them, firing by firing, and which ones it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import zoneinfo
from asyncio.subprocess import PIPE
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from zoneinfo import available_timezones

import pytest

from aioasynq.cronspec import Every, parse

COUNT = 10  # firings of each
PARTS = 3  # in which the starts are taken, so that no test is long


class Start(NamedTuple):
    """When and where a scheduler asks; the moment is in UTC."""

    moment: str
    location: str

    @property
    def nanoseconds(self) -> int:
        at = datetime.fromisoformat(self.moment).replace(tzinfo=UTC)
        return int(at.replace(microsecond=0).timestamp()) * 10**9 + at.microsecond * 1000


BERLIN, NEW_YORK, SAO_PAULO, CAIRO = "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Africa/Cairo"
LORD_HOWE, KATHMANDU, APIA, CASABLANCA = "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia", "Africa/Casablanca"

STARTS = {
    "an ordinary moment": Start("2026-11-25T12:34:56.789", "UTC"),
    "the last second of a year": Start("2026-12-31T23:59:59", "UTC"),
    "clocks go forward": Start("2026-03-28T22:59:59.5", BERLIN),
    "clocks go back": Start("2026-10-24T22:30:00", BERLIN),
    "the hour that comes twice, the first time": Start("2026-10-25T00:30:00", BERLIN),
    "the hour that comes twice, the second time": Start("2026-10-25T01:30:00", BERLIN),
    "forward in New York": Start("2027-03-13T23:00:00", NEW_YORK),
    "back in New York": Start("2027-11-07T04:59:59", NEW_YORK),
    "forward at midnight": Start("2018-11-03T12:00:00", SAO_PAULO),
    "back at midnight": Start("2018-02-17T12:00:00", SAO_PAULO),
    "forward at midnight in Cairo": Start("2026-04-22T12:00:00", CAIRO),
    "back at midnight in Cairo": Start("2026-10-28T12:00:00", CAIRO),
    "half an hour forward": Start("2026-10-03T12:00:00", LORD_HOWE),
    "half an hour back": Start("2026-04-04T12:00:00", LORD_HOWE),
    "where winter is the odd time": Start("2026-10-24T22:30:00", "Europe/Dublin"),
    "back for Ramadan": Start("2026-02-14T12:00:00", CASABLANCA),
    "three quarters of an hour ahead": Start("2026-11-25T18:14:59", KATHMANDU),
    "after the day that Apia skipped": Start("2011-12-30T11:00:00", APIA),  # before it Go looks for ever
    "the end of a leap February": Start("2028-02-28T23:59:00", "UTC"),
    "after a leap day": Start("2028-03-01T00:00:00", NEW_YORK),
    "before a century without leap day": Start("2097-01-01T00:00:00", "UTC"),
    "the end of 32 bits": Start("2038-01-19T03:14:06", BERLIN),
    "before 1970": Start("1969-12-31T23:59:58.5", NEW_YORK),
    "before standard time": Start("1883-11-18T11:00:00", NEW_YORK),
    "far away": Start("2500-06-30T23:59:59", BERLIN),
}

FIRES = [
    # every field, its ends and its lists
    "* * * * *", "? ? ? ? ?", "0 0 1 1 0", "59 23 31 12 6", "30 * * * *", "0,15,30,45 * * * *", "5-10 * * * *",
    "5-5 4 * * *", "58-59 23 * * *", "*/15 * * * *", "*/7 */5 * * *", "10/20 * * * *", "10-40/15 * * * *",
    "?/20 * * * *", "*/1 * * * *", "*/59 * * * *", "*/60 * * * *", "*/1000 * * * *", "0/1 * * * *",
    "1,2,3-5,50/5 * * * *",
    "1,,2 * * * *", ",5 * * * *", "+5 +4 * * *", "05 004 * * *", "*-5 * * * *", "*-5-7/30 1 * * *", "*,5 12 * * *",
    # hours, about the changes of clocks too
    "0 * * * *", "30 1 * * *", "30 2 * * *", "0 2 * * *", "15 3 * * *", "0 0 * * *", "30 0 * * *", "0 1-3 * * *",
    "*/30 0-3 * * *", "59 1,2,3 * * *", "0 23 * * *", "0 */2 * * *", "0 0,12 * * *", "45 1 25 10 *", "30 2 28-29 3 *",
    # days of a month
    "0 0 29 2 *", "0 0 30 2 *", "0 0 31 * *", "0 0 30 * *", "0 0 28-31 * *", "0 12 1 * *", "0 0 1,15 * *",
    "0 0 31 2,4,6,9,11 *", "59 23 31 12 *", "0 0 1 1 *", "0 0 */10 * *", "0 0 */2 * *", "0 0 31/1 * *", "0 0 10/5 * *",
    "0 0 29 2 1", "30 12 29 FEB ?",
    # months
    "0 0 1 JAN *", "0 0 1 jan-mar *", "0 0 1 Feb,AUG,12 *", "0 0 1 */3 *", "0 0 1 4/3 *", "0 0 1 2-10/4 *",
    "0 0 * 2 *", "0 0 31 1-12 *", "15 6 1 DEC *",
    # days of a week, alone and with days of a month
    "0 0 * * 0", "0 0 * * sun", "0 0 * * MON-FRI", "0 0 * * mon,wed,Fri", "0 0 * * 1-5/2", "0 0 * * 6", "0 9 * * 1-5",
    "0 0 * * */2", "0 0 * * */1", "0 0 * * 3/2", "0 0 13 * 5", "0 0 13 * FRI", "0 0 ? * 5", "0 0 13 * ?",
    "0 0 */1 * 5", "0 0 */2 * 5", "0 0 13 * */1", "0 0 13 * */2", "0 0 1-7 * 1", "0 0 *,13 * 5", "0 0 13 * *,5",
    "0 0 30 2 1", "0 0 , * 1", "0 0 1 * ,",
    # a day that never comes
    "0 0 31 2 *",
    # blanks
    " 0  0\t* *  * ", "0\u00a00\u20031 * *", "0\n0\v1\f*\r*", "0\u00850 1 * *",
    # descriptors
    "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly",
    # intervals
    "@every 1s", "@every 90s", "@every 1h30m", "@every 1.5h", "@every 100ms", "@every 0", "@every -1h",
    "@every 1s999ms",
    "@every 36h", "@every .5m", "@every 1.m", "@every +1m", "@every 61000000us", "@every 61000000\u00b5s",
    "@every 61000000\u03bcs", "@every 3000000000ns", "@every 0.1h0.1m", "@every 1.123456789012345678901234567890h",
    "@every 1s1s1s", "@every 2562047h", "@every 00001h",
    # zones
    "TZ=UTC 0 0 * * *", "CRON_TZ=Asia/Tokyo 30 4 * * *", "TZ=America/New_York 30 2 * * *", "TZ= 0 5 * * *",
    "CRON_TZ=America/Sao_Paulo 0 0 * * *", "TZ=Africa/Cairo  @daily", "CRON_TZ=Pacific/Apia @every 5m",
    "TZ=Local 0 6 * * *",
    "CRON_TZ=Europe/Berlin \t@hourly ", "CRON_TZ=Etc/GMT+12 0 0 1 * *", "TZ=US/Eastern 0 1 * * 0",
]  # fmt: skip

#: Taken, though they never fire. It takes Go a second or more each to find that out.
NEVER = [", * * * *", "* , * * *", "* * * , *", "* * , * *", "0 0 , * ,"]
NEVER_WITH_SECONDS = ["* , 2 * * *", ",, 0 0 1 1 *"]

REFUSED = [
    "", " ", "*", "* * * *", "* * * * * *", "0 * * * * *", "a b", "not a spec at all", "60 * * * *", "* 24 * * *",
    "* * 0 * *", "* * 32 * *", "* * * 0 *", "* * * 13 *", "* * * * 7", "* * * * 0-7", "-1 * * * *", "5-1 * * * *",
    "1-2-3 * * * *", "1- * * * *", "-5 * * * *", "*/0 * * * *", "*/ * * * *", "*/-1 * * * *", "*/x * * * *",
    "1/2/3 * * * *",
    "5/0 * * * *", "70/5 * * * *", "1.5 * * * *", "* * * janu *", "* * * * monday", "* * * mon *", "* * * * jan",
    "jan * * * *", "* * l * *", "* * L * *", "* * * * 5#2", "* * 15W * *", "** * * * *", "*5 * * * *", "5* * * * *",
    "1_0 * * * *", "\u0661 * * * *", "0x1 * * * *", "9223372036854775808 * * * *", "* * * * *\x1c*", "0\x1f0 * * * *",
    "@", "@dayly", "@Daily", "@daily ", " @daily", "@every", "@every ", "@every1s", "@every  1s", "@every 1s ",
    "@every 1", "@every s", "@every .s", "@every 1x", "@every 1d", "@every 1S", "@every --1s", "@every 1 s",
    "@every one",
    "@every 2562048h", "@every 9223372036854775808ns", "@every 1h 30m", "@EVERY 1s", "@reboot", "@every 1s,2s",
    "TZ=UTC", "TZ=", "CRON_TZ=", "TZ=Nowhere/Land * * * * *", "TZ=europe * * * * *", "TZ=../UTC * * * * *",
    "TZ=/etc/localtime * * * * *", "CRON_TZ=UTC\t0 0 * * *", "tz=UTC * * * * *", " TZ=UTC 0 0 * * *",
    "TZ=UTC TZ=UTC 0 0 * * *",
    "TZ=America * * * * *", "TZ=UTC ", "TZ=UTC @every", "TZ=UTC 60 * * * *", "CRON_TZ= UTC 0 0 * * *",
]  # fmt: skip

WITH_SECONDS = [
    "0 * * * * *", "*/15 * * * * *", "30 5 * * * ?", "0 0 2 * * *", "59 59 23 31 12 *", "0,30 30 1-3 * * *",
    "1-5 0 0 1 1 0", "* * * * * *", "* * * * *", "15 30 2 * * *", "7/20 59 1 * OCT sun", "@daily", "@every 5s",
    "CRON_TZ=Asia/Tokyo 10 0 0 * * *",
]  # fmt: skip
REFUSED_WITH_SECONDS = ["* * * *", "* * * * * * *", "60 * * * * *", "* 60 * * * *", "* * * * * 7", "sec * * * * *"]


async def go(
    program: Path, specs: Sequence[str], *, seconds: bool = False, starts: Iterable[Start] = STARTS.values()
) -> list[dict[str, Any]]:
    """What Go makes of these."""
    asked = {
        "specs": specs,
        "starts": [
            {
                "seconds": start.nanoseconds // 10**9,
                "nanoseconds": start.nanoseconds % 10**9,
                "location": start.location,
            }
            for start in starts
        ],
        "count": COUNT,
        "seconds": seconds,
    }
    process = await asyncio.create_subprocess_exec(
        program / "cron", stdin=PIPE, stdout=PIPE, env={**os.environ, "ZONEINFO": zone_data()}
    )
    try:
        async with asyncio.timeout(50):
            out, _ = await process.communicate(json.dumps(asked).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    rows: list[dict[str, Any]] = json.loads(out)
    return rows


def zone_data() -> str:
    """The folder from which Python reads zones, so that Go reads the same."""
    for folder in zoneinfo.TZPATH:
        if (Path(folder) / "Europe" / "Berlin").exists():
            return folder
    return str(files("tzdata") / "zoneinfo")


def ours(spec: str, start: Start, *, seconds: bool) -> list[int]:
    schedule = parse(spec, location=start.location, seconds=seconds)
    moment: float | None = start.nanoseconds / 1e9
    found: list[int] = []
    while len(found) < COUNT and moment is not None:
        moment = schedule.next(moment)
        if moment is not None:
            found.append(moment)
    return found


def shown(moments: Sequence[int]) -> list[str]:
    return [datetime.fromtimestamp(moment, UTC).isoformat() for moment in moments]


@pytest.mark.timeout(120, func_only=True)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("seconds", [False, True], ids=["as asynq", "with seconds"])
async def test_no_firing_differs(go_programs: Path, seconds: bool, part: int):
    specs = WITH_SECONDS if seconds else FIRES
    starts = dict(list(STARTS.items())[part::PARTS])
    rows = await go(go_programs, specs, seconds=seconds, starts=starts.values())
    wrong: list[object] = []
    compared = 0
    for spec, row in zip(specs, rows, strict=True):
        assert "error" not in row, (spec, row)
        for (name, start), expected in zip(starts.items(), row["firings"], strict=True):
            found = ours(spec, start, seconds=seconds)
            compared += max(len(expected), len(found))
            if found != expected:
                wrong.append((spec, name, shown(found), shown(expected)))
    assert wrong == []
    assert compared > 6 * len(starts) * len(specs)


#: Zones that once had no such day, for which Go looks for ever.
ACROSS_THE_DATE_LINE = ("Pacific/", "Kwajalein")


@pytest.mark.long
@pytest.mark.timeout(600, func_only=True)
@pytest.mark.parametrize("seed", range(2))
async def test_no_firing_differs_of_what_chance_makes(go_programs: Path, seed: int):
    """Any expressions, in any zones, from any moments of the years 2010 to 2040."""
    chance = Random(seed)
    zones = [
        name for name in sorted(available_timezones()) if "/" in name and not name.startswith(ACROSS_THE_DATE_LINE)
    ]
    specs = [expression(chance) for _ in range(150)]
    starts = [
        Start(datetime.fromtimestamp(chance.uniform(1.26e9, 2.2e9), UTC).isoformat()[:26], chance.choice(zones))
        for _ in range(40)
    ]
    rows = await go(go_programs, specs, starts=starts)
    assert {spec: is_refused(spec, seconds=False) for spec in specs} == {
        spec: "error" in row for spec, row in zip(specs, rows, strict=True)
    }
    taken = [(spec, row["firings"]) for spec, row in zip(specs, rows, strict=True) if "error" not in row]
    assert len(taken) > 100
    for spec, firings in taken:
        for start, expected in zip(starts, firings, strict=True):
            assert shown(ours(spec, start, seconds=False)) == shown(expected), (spec, start)


def expression(chance: Random) -> str:
    """Five fields; one in some twenty is refused."""

    def value(least: int, most: int) -> int:
        return chance.randint(least, most) + (chance.random() < 0.01)

    def part(least: int, most: int, names: list[str]) -> str:
        begin, end = sorted((value(least, most), value(least, most)))
        text = chance.choice(["*", "?", f"{begin}", f"{begin}-{end}", chance.choice(names or [f"{end}"])])
        return f"{text}/{chance.choice([1, 2, 3, 5, 7, 20])}" if chance.random() < 0.3 else text

    bounds = [(0, 59, []), (0, 23, []), (1, 31, []), (1, 12, ["jan", "Feb", "DEC"]), (0, 6, ["sun", "Fri", "SAT"])]
    return " ".join(",".join(part(*each) for _ in range(chance.choice([1, 1, 1, 2, 3]))) for each in bounds)


async def test_what_go_refuses_is_refused_and_nothing_else(go_programs: Path):
    for seconds, specs in ((False, REFUSED + FIRES), (True, REFUSED_WITH_SECONDS + WITH_SECONDS)):
        rows = await go(go_programs, specs, seconds=seconds, starts=[])
        theirs = {spec: "error" in row for spec, row in zip(specs, rows, strict=True)}
        assert {spec: is_refused(spec, seconds=seconds) for spec in specs} == theirs
        refused = REFUSED_WITH_SECONDS if seconds else REFUSED
        assert {spec for spec, is_so in theirs.items() if is_so} == set(refused)


@pytest.mark.parametrize(
    ("specs", "seconds"), [(NEVER, False), (NEVER_WITH_SECONDS, True)], ids=["as asynq", "with seconds"]
)
async def test_what_never_fires(go_programs: Path, specs: list[str], seconds: bool):
    start = STARTS["an ordinary moment"]
    rows = await go(go_programs, specs, seconds=seconds, starts=[start])
    assert rows == [{"firings": [[]]}] * len(specs)
    assert [ours(spec, start, seconds=seconds) for spec in specs] == [[]] * len(specs)


def is_refused(spec: str, *, seconds: bool) -> bool:
    try:
        parse(spec, seconds=seconds)
    except ValueError as exc:
        assert "spec" in str(exc)  # noqa: PT017 - each is refused in words of its own, that name the argument
        return True
    return False


def test_an_interval_is_shared_by_all_who_ask():
    schedule = parse("@every 90s")
    assert isinstance(schedule, Every)
    assert [schedule.next_shared(now) for now in (0, 89.9, 90, 100, 179.5, 180)] == [90, 90, 180, 180, 180, 270]
