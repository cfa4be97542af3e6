"""When a periodic task is due: cron expressions, descriptors and ``@every``, in the grammar of robfig/cron v3.

asynq's schedulers use that library, so what it takes is taken here, what it refuses is refused, and both come to the
same moments, also where clocks are put forward and back. Moments are whole unix seconds; no clock is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timezone, tzinfo
from typing import Final, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo, available_timezones

YEARS_AHEAD: Final = 5  #: calendar years in which a firing is looked for, as in Go

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
# What Go takes for white space. Python's own idea of it has four control characters more.
_SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_WORDS: Final = re.compile(f"[^{_SPACE}]+")
_NUMBER: Final = re.compile(r"\+?[0-9]+")
_MAX_INT: Final = 2**63 - 1

_MONTH_NAMES: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS: Final = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_DAYS: Final = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_DESCRIPTORS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class _Bounds(NamedTuple):
    """What a field may hold."""

    name: str
    least: int
    most: int
    names: dict[str, int]


_FIELDS: Final = (
    _Bounds("second", 0, 59, {}),
    _Bounds("minute", 0, 59, {}),
    _Bounds("hour", 0, 23, {}),
    _Bounds("day of month", 1, 31, {}),
    _Bounds("month", 1, 12, _MONTHS),
    _Bounds("day of week", 0, 6, _DAYS),
)


class Field(NamedTuple):
    """The values that a field names, and whether it leaves its part open (``*``)."""

    values: frozenset[int]
    is_open: bool


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression, read."""

    second: Field
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field  #: 0 is Sunday
    zone: tzinfo

    def next(self, after: float) -> int | None:
        """The first moment later than *after*, both in unix seconds; None when there is none in :data:`YEARS_AHEAD`.

        Neither is there one past the year 9999, the end of ``datetime``.
        """
        if not (self.second.values and self.minute.values and self.hour.values and self.month.values):
            return None  # as of ",": it would be looked for second by second through all those years
        try:
            return self._search(int(after // 1) + 1)
        except (OverflowError, ValueError):  # what datetime says of the year 10000
            return None

    def _search(self, moment: int) -> int | None:
        zone = self.zone
        last_year = _local(moment, zone).year + YEARS_AHEAD
        at_edge = False  # of a unit; once it has moved, all smaller units are at their least
        while (now := _local(moment, zone)).year <= last_year:
            for unit in _UNITS:
                while not unit.fits(self, now):
                    if not at_edge:
                        moment = unit.begin(moment, now, zone)
                        at_edge = True
                    moment = unit.forward(self, moment, zone)
                    now = _local(moment, zone)
                    if unit.is_over(now):  # into the next larger unit: that has to be looked at again
                        break
                else:
                    continue
                break
            else:
                return moment
        return None

    def fits_day(self, now: datetime) -> bool:
        """Day of month and day of week both have to fit, unless both are restricted: then one is enough."""
        day = now.day in self.day.values
        weekday = now.isoweekday() % 7 in self.weekday.values
        return (day and weekday) if self.day.is_open or self.weekday.is_open else (day or weekday)


@dataclass(frozen=True, slots=True)
class Every:
    """``@every``: one firing each *interval* seconds."""

    interval: int

    def next(self, after: float) -> int:
        """One interval after *after*, in whole unix seconds: relative to the start of whoever asks, as in Go."""
        return int(after // 1) + self.interval

    def next_shared(self, after: float) -> int:
        """The first multiple of the interval, counted from 1970, that is later than *after*.

        All who ask come to the same moments, whenever they were started.
        """
        return (int(after // 1) // self.interval + 1) * self.interval


Schedule: TypeAlias = "Cron | Every"


def parse(spec: str, *, location: str | tzinfo = "UTC", seconds: bool = False) -> Schedule:
    """Read *spec*.

    Args:
        spec: five fields (minute, hour, day of month, month, day of week), a descriptor such as ``@daily``, or
            ``@every 1h30m``; ``TZ=Zone`` or ``CRON_TZ=Zone`` and a space may stand in front.
        location: the zone of a spec that names none.
        seconds: six fields are taken too, of which the first is the second.

    Raises:
        TypeError: *spec* is no string.
        ValueError: it cannot be read; the text says what is wrong with which part.
    """
    if not isinstance(spec, str):
        raise TypeError(f"spec must be a str, got {spec!r}")
    if not spec:
        raise ValueError("spec must be a cron expression, a descriptor such as '@daily' or '@every 30s', got ''")
    rest = spec
    zone = find_zone(location)
    if spec.startswith(("TZ=", "CRON_TZ=")):
        head, space, rest = spec.partition(" ")
        if not space:
            raise ValueError(f"spec has a zone, and after it no space and nothing to say when: {spec!r}")
        name = head.partition("=")[2]
        try:
            zone = zone if name == "Local" else find_zone(name or "UTC")
        except ValueError as exc:
            raise ValueError(f"spec {spec!r}: {exc}") from None
        rest = _trimmed(rest)
    if rest.startswith("@"):
        return _descriptor(rest, spec, zone)
    return _expression(_WORDS.findall(rest), spec, zone, seconds=seconds)


def find_zone(name: str | tzinfo) -> tzinfo:
    """The zone of that name.

    Raises:
        TypeError: *name* is neither a string nor a ``ZoneInfo`` or UTC.
        ValueError: there is no such zone on this machine.
    """
    if isinstance(name, ZoneInfo | timezone):
        return name
    if not isinstance(name, str):
        raise TypeError(f"location must be the name of a time zone or a ZoneInfo, got {name!r}")
    if name == "UTC":
        return UTC  # known where there is no data about zones
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # unknown; "/etc", "../x", "a\0"; a folder of zones
        raise ValueError(f"there is no time zone {name!r} here; {_like(name)}") from None


def _like(name: str) -> str:
    """What may be meant by the name of a zone that there is not."""
    wanted = name.casefold().replace(" ", "_")
    for known in sorted(available_timezones()):
        if wanted and wanted in {known.casefold(), known.casefold().rpartition("/")[2]}:
            return f"did you mean {known!r}?"
    return "names are like 'Europe/Berlin' (where none are known, install the package tzdata)"


# ── reading ──


def _trimmed(text: str) -> str:
    return re.sub(f"^[{_SPACE}]+|[{_SPACE}]+$", "", text)


def _descriptor(text: str, spec: str, zone: tzinfo) -> Schedule:
    if text in _DESCRIPTORS:
        return _expression(_DESCRIPTORS[text].split(), spec, zone, seconds=False)
    name, space, duration = text.partition(" ")
    if name == "@every" and space:
        try:
            nanoseconds = parse_duration(duration)
        except ValueError as exc:
            raise ValueError(f"spec {spec!r}: {exc}") from None
        return Every(max(1, nanoseconds // 10**9))
    known = ", ".join([*_DESCRIPTORS, "@every <duration>"])
    raise ValueError(f"spec {spec!r}: {text!r} is no descriptor; they are {known}")


def _expression(words: list[str], spec: str, zone: tzinfo, *, seconds: bool) -> Cron:
    if len(words) == 5:
        words = ["0", *words]
    elif len(words) != 6 or not seconds:
        wanted = "5 fields, or 6 with the second in front" if seconds else "5 fields"
        names = ", ".join(bounds.name for bounds in _FIELDS[1:])
        hint = "; a second in front is taken with seconds=True" if len(words) == 6 else ""
        if words[:1] == ["every"]:
            hint = "; an interval is written like '@every 1h30m'"
        raise ValueError(f"spec must have {wanted} ({names}), got {len(words)} in {spec!r}{hint}")
    try:
        fields = [_field(word, bounds) for word, bounds in zip(words, _FIELDS, strict=True)]
    except ValueError as exc:
        raise ValueError(f"spec {spec!r}: {exc}") from None
    second, minute, hour, day, month, weekday = fields
    return Cron(second, minute, hour, day, month, weekday, zone)


def _field(word: str, bounds: _Bounds) -> Field:
    """A list of ranges. Empty parts of it count for nothing, so that ``,`` alone is a field that never fits."""
    values: set[int] = set()
    is_open = False
    for part in filter(None, word.split(",")):
        span, leaves_open = _span(part, bounds)
        values.update(span)
        is_open |= leaves_open
    return Field(frozenset(values), is_open)


def _span(part: str, bounds: _Bounds) -> tuple[range, bool]:
    """``*``, ``5``, ``5-9``, each perhaps with ``/step``; ``5/step`` goes on to the end."""
    ends, *steps = part.split("/")
    first, *others = ends.split("-")
    is_open = first in {"*", "?"}
    if is_open:
        start, end = bounds.least, bounds.most
    else:
        start = end = _value(first, part, bounds)
        if len(others) > 1:
            raise ValueError(f"{bounds.name} {part!r} has too many hyphens")
        if others:
            end = _value(others[0], part, bounds)
    if len(steps) > 1:
        raise ValueError(f"{bounds.name} {part!r} has too many slashes")
    step = 1
    if steps:
        step = _number(steps[0], f"the step of {bounds.name} {part!r} must be a whole number")
        is_open = is_open and step <= 1
        if not others:
            end = bounds.most
    limits = f"from {bounds.least} to {bounds.most}"
    for value in (start, end):
        if not bounds.least <= value <= bounds.most:
            hint = "; Sunday is 0" if bounds is _FIELDS[-1] and value == 7 else ""
            raise ValueError(f"{bounds.name} must be {limits}, got {value} in {part!r}{hint}")
    if start > end:
        raise ValueError(f"{bounds.name} {part!r} begins after its end")
    if step == 0:
        raise ValueError(f"the step of {bounds.name} {part!r} must be 1 or more")
    return range(start, end + 1, step), is_open


def _value(text: str, part: str, bounds: _Bounds) -> int:
    if (named := bounds.names.get(text.lower())) is not None:
        return named
    names = f" or one of {', '.join(bounds.names)}" if bounds.names else ""
    return _number(text, f"{bounds.name} {part!r} must be made of whole numbers{names}")


def _number(text: str, wrong: str) -> int:
    number = int(text) if _NUMBER.fullmatch(text) and len(text) < 1000 else _MAX_INT + 1
    if number > _MAX_INT:
        raise ValueError(f"{wrong}, got {text!r}")
    return number


_DURATION: Final = re.compile(r"([+-]?)(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[^0-9.]+)+")
_PART: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]+)")
_UNITS_OF_TIME: Final = {
    "ns": 1,
    "us": 10**3,
    "\N{MICRO SIGN}s": 10**3,
    "\N{GREEK SMALL LETTER MU}s": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


def parse_duration(text: str) -> int:
    """Nanoseconds of a duration in Go's spelling, such as ``1h30m``, ``1.5s`` or ``0``.

    Raises:
        ValueError: it is none.
    """
    if text in {"0", "+0", "-0"}:
        return 0
    wrong = ValueError(f"a duration must be like '1h30m', '90s' or '1.5h' (units {', '.join(_GO_UNITS)}), got {text!r}")
    matched = _DURATION.fullmatch(text)
    if matched is None:
        raise wrong
    total = 0
    for whole, fraction, unit in _PART.findall(text.lstrip("+-")):
        size = _UNITS_OF_TIME.get(unit)
        if size is None:
            raise wrong
        total += int(whole[:40] or 0) * size
        if fraction:
            # Go counts as many digits as fit, and multiplies as a float
            digits = fraction[:18]
            total += int(float(int(digits)) * (size / float(10 ** len(digits))))
        if len(whole) > 40 or total > _MAX_INT + (matched[1] == "-"):
            raise ValueError(f"a duration must be at most 2562047h, got {text!r}")
    return -total if matched[1] == "-" else total


_GO_UNITS: Final = ("h", "m", "s", "ms", "us", "ns")


# ── the calendar ──


def _local(moment: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(moment, zone)


def _offset(moment: int, zone: tzinfo) -> int:
    """Seconds that *zone* is ahead of UTC at a moment."""
    ahead = _local(moment, zone).utcoffset()
    return 0 if ahead is None else ahead.days * _DAY + ahead.seconds


def _moment(day: int, second: int, zone: tzinfo) -> int:
    """The moment of a day (counted as ``date.toordinal`` does) and a second in it, by the clocks of *zone*.

    Where clocks show that twice or never, the offset is that of the moment to which the offset at the same time in UTC
    leads, as in Go.
    """
    utc = (day - _EPOCH_DAY) * _DAY + second
    ahead = _offset(utc, zone)
    return utc - _offset(utc - ahead, zone) if ahead else utc


def _second_of(now: datetime) -> int:
    return now.hour * _HOUR + now.minute * _MINUTE + now.second


def _first_of_month(_: int, now: datetime, zone: tzinfo) -> int:
    return _moment(now.toordinal() - now.day + 1, 0, zone)


def _a_month_later(_: Cron, moment: int, zone: tzinfo) -> int:
    now = _local(moment, zone)
    year, month = divmod(now.year * 12 + now.month, 12)
    return _moment(date(year, month + 1, 1).toordinal() + now.day - 1, _second_of(now), zone)


def _midnight(_: int, now: datetime, zone: tzinfo) -> int:
    return _moment(now.toordinal(), 0, zone)


def _a_day_later(_: Cron, moment: int, zone: tzinfo) -> int:
    now = _local(moment, zone)
    later = _moment(now.toordinal() + 1, _second_of(now), zone)
    if later <= moment:  # a zone that crossed the date line had no such day; Go would look for it for ever
        return moment + _DAY
    hour = _local(later, zone).hour
    # Where clocks skip midnight, what is an hour short of it goes on, and what is past it goes back.
    return later + (24 - hour if hour > 12 else -hour) * _HOUR


def _full_hour(_: int, now: datetime, zone: tzinfo) -> int:
    return _moment(now.toordinal(), now.hour * _HOUR, zone)


def _next_hour(cron: Cron, moment: int, zone: tzinfo) -> int:
    return _further(cron.hour, _local(moment, zone).hour, 24, _HOUR, moment, zone)


def _next_minute(cron: Cron, moment: int, zone: tzinfo) -> int:
    return _further(cron.minute, _local(moment, zone).minute, 60, _MINUTE, moment, zone)


def _next_second(cron: Cron, moment: int, zone: tzinfo) -> int:
    return _further(cron.second, _local(moment, zone).second, 60, 1, moment, zone)


def _further(field: Field, value: int, end: int, size: int, moment: int, zone: tzinfo) -> int:
    """To the next value that fits, or to the *end*; by one only where the clocks are changed in between."""
    target = min((other for other in field.values if other > value), default=end)
    later = moment + (target - value) * size
    return later if _offset(later, zone) == _offset(moment, zone) else moment + size


class _Unit(NamedTuple):
    """A part of the date: whether it fits, its beginning, the next one to look at, whether that begins a larger one."""

    fits: Callable[[Cron, datetime], bool]
    begin: Callable[[int, datetime, tzinfo], int]
    forward: Callable[[Cron, int, tzinfo], int]
    is_over: Callable[[datetime], bool]


# Hours and less are real ones: a local time that is skipped does not come, one that comes twice may fire twice.
_UNITS: Final = (
    _Unit(
        lambda cron, now: now.month in cron.month.values, _first_of_month, _a_month_later, lambda now: now.month == 1
    ),
    _Unit(Cron.fits_day, _midnight, _a_day_later, lambda now: now.day == 1),
    _Unit(lambda cron, now: now.hour in cron.hour.values, _full_hour, _next_hour, lambda now: now.hour == 0),
    _Unit(
        lambda cron, now: now.minute in cron.minute.values,
        lambda moment, *_: moment - moment % _MINUTE,
        _next_minute,
        lambda now: now.minute == 0,
    ),
    _Unit(
        lambda cron, now: now.second in cron.second.values,
        lambda moment, *_: moment,
        _next_second,
        lambda now: now.second == 0,
    ),
)
