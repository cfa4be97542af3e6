"""What all parts of an Inspector share: its RDB, and the checks of arguments."""

from __future__ import annotations

from datetime import UTC, datetime

from aioasynq.errors import QueueNotFoundError
from aioasynq.keys import check_queue_name
from aioasynq.rdb.rdb import RDB
from aioasynq.task import TaskState

MAX_PAGE, MAX_PAGE_SIZE = 2**31, 10_000
MAX_DAYS = 90  #: counters are kept that long


class Base:
    """An Inspector's connection."""

    _rdb: RDB

    async def _check_queue(self, queue: str) -> None:
        """Refuse a queue that there is not.

        Raises:
            ValueError, TypeError: it cannot be a queue's name.
            QueueNotFoundError: there is no such queue.
        """
        check_queue_name(queue)
        if not await self._rdb.is_queue(queue):
            raise QueueNotFoundError(queue)


def check_text(name: str, value: str) -> None:
    """Refuse what cannot be an id or the like."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {value!r}")
    if not value.strip():
        raise ValueError(f"{name} must contain one or more characters that are not blank, got {value!r}")


def check_page(page: int, page_size: int) -> int:
    """Check a page, which counts from 1; return how many come before it."""
    check_number("page", page, 1, MAX_PAGE)
    check_number("page_size", page_size, 1, MAX_PAGE_SIZE)
    return (page - 1) * page_size


def check_number(name: str, value: int, least: int, most: int) -> None:
    """Refuse what is no whole number of that range."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least:,} to {most:,}, got {value!r}")


def check_state(state: TaskState | str, group: str | None) -> TaskState:
    """Check a state, and that a group is given with ``aggregating`` and with no other."""
    try:
        checked = TaskState(state)
    except ValueError:
        raise ValueError(f"state must be one of {', '.join(TaskState)}, got {state!r}") from None
    if checked is TaskState.AGGREGATING:
        if group is None:
            raise ValueError("group must be given with the state 'aggregating'")
        check_text("group", group)
    elif group is not None:
        raise ValueError(f"group is for the state 'aggregating' alone, got group={group!r} with {str(checked)!r}")
    return checked


def moment_of(nanoseconds: int) -> datetime | None:
    """Go's zero time, and what no datetime can hold, are None."""
    try:
        return datetime.fromtimestamp(nanoseconds / 1e9, UTC) if nanoseconds > 0 else None
    except (OverflowError, ValueError, OSError):
        return None
