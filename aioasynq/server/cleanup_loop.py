"""Cleanup loop: completed tasks past their retention are deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aioasynq.rdb.rdb import RDB


def cleanup(rdb: RDB, queues: Sequence[str]) -> Callable[[], Awaitable[object]]:
    """The step of this loop."""
    return lambda: rdb.delete_expired_completed(*queues)
