"""What processes use, read from /proc; where there is none (macOS) nothing is measured, and NaN says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

NAN = float("nan")
_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def of_session(session: int) -> list[int]:
    """The processes of a session: a program that was started in one of its own, and all that it started."""
    return [pid for pid, stat in _stats() if int(stat[3]) == session]


def cpu_of_session(session: int) -> float:
    """Seconds of CPU of all processes of a session, with the children that have ended."""
    used = [sum(int(ticks) for ticks in stat[11:15]) for _, stat in _stats() if int(stat[3]) == session]
    return sum(used) / _TICKS if used else NAN


def cpu_of(pid: int) -> float:
    """Seconds of CPU of one process."""
    stat = _stat(pid)
    return (int(stat[11]) + int(stat[12])) / _TICKS if stat else NAN


def fine_cpu_of_session(session: int) -> float:
    """As :func:`cpu_of_session`, exact to the microsecond, but without threads and children that have ended."""
    total, found = 0, False
    for pid in of_session(session):
        for schedstat in _PROC.glob(f"{pid}/task/*/schedstat"):
            with suppress(OSError):
                total += int(schedstat.read_text().split()[0])
                found = True
    return total / 1e9 if found else NAN


def memory_of_session(session: int) -> float:
    """Bytes resident: of one process all (RSS), of several what they share only once (PSS)."""
    pids = of_session(session)
    name = "Rss:" if len(pids) == 1 else "Pss:"
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                if line.startswith(name):
                    total += int(line.split()[1]) * 1024
    return total or NAN


def _stats() -> Iterator[tuple[int, list[str]]]:
    if not _PROC.is_dir():
        return
    for folder in _PROC.iterdir():
        if folder.name.isdigit() and (stat := _stat(int(folder.name))):
            yield int(folder.name), stat


def _stat(pid: int) -> list[str]:
    """The fields behind the name: state, parent, group, session, ..., utime, stime, cutime, cstime are 11 to 14."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()
