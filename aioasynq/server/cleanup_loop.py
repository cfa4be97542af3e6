"""Cleanup loop: completed tasks past their retention are deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioasynq.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aioasynq.rdb.rdb import RDB
    from aioasynq.server.contact import Contact


def cleanup(rdb: RDB, queues: Sequence[str], contact: Contact) -> Callable[[], Awaitable[object]]:
    """The step of this loop."""

    async def step() -> None:
        for queue in queues:
            try:
                await rdb.delete_expired_completed(queue)
            except BrokerError as exc:
                if not exc.answered:
                    raise
                contact.lost(exc)  # Redis refuses this queue; the others are cleaned

    return step
