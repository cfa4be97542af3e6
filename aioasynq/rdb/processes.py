"""What servers say about themselves, who stands in line for a queue, and cancelation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from aioasynq import keys
from aioasynq.errors import BrokerRefusedError, MessageDecodeError
from aioasynq.message import ServerInfo, WorkerInfo
from aioasynq.proto.codec import decode_server, decode_worker, encode_server, encode_worker
from aioasynq.rdb.base import Arg, Operations
from aioasynq.rdb.connection import subscriber_of
from aioasynq.rdb.script import Script

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

PROCESS_TTL = 10  #: seconds what a server says about itself is kept
MAX_PATTERNS = 1 << 16  #: bytes of patterns that a server tells

_WRITE_PROCESS_INFO = Script("write_process_info")
_WAIT_RANK = Script("wait_rank")


class Processes(Operations):
    """Operations about servers rather than tasks."""

    async def write_process_info(
        self,
        info: ServerInfo,
        workers: Mapping[str, WorkerInfo] | None,
        *,
        ttl: int = PROCESS_TTL,
        patterns: Sequence[str] | None = None,
    ) -> bool:
        """Tell that a server lives, and what it works on, by task id; None: what it told last time.

        Kept for *ttl* seconds.

        Args:
            patterns: of the task types that it has handlers for; Go's servers do not tell, and very many are not told.

        Returns:
            Whether any workers are told of now. What it told last time may be gone, say because Redis was emptied.
        """
        server, tasks = _keys_of(info)
        told = b"" if patterns is None else msgspec.json.encode(list(patterns))
        args: list[Arg] = [self.clock_argument(), ttl, encode_server(info), 0 if workers is None else 1]
        args.append(told if len(told) <= MAX_PATTERNS else b"")
        for task_id, worker in (workers or {}).items():
            args += (task_id, encode_worker(worker))
        own = (server, tasks, _patterns_of(info))
        if not self._is_cluster:
            return bool(await self._run(_WRITE_PROCESS_INFO, (*own, keys.servers(), keys.workers()), args))
        expiry = await self._expiry(ttl)
        *_, there = await asyncio.gather(  # three slots
            self._plain("ZADD", partial(self.command, "ZADD", keys.servers(), expiry, server), writes=True),
            self._plain("ZADD", partial(self.command, "ZADD", keys.workers(), expiry, tasks), writes=True),
            self._run(_WRITE_PROCESS_INFO, own, args),
        )
        return bool(there)

    async def read_process_info(self) -> list[tuple[ServerInfo, dict[str, WorkerInfo]]]:
        """What the living servers said about themselves and their running tasks, by task id.

        What cannot be read is left out, as in asynq.
        """
        now = await self._expiry(0)
        found: list[tuple[ServerInfo, dict[str, WorkerInfo]]] = []
        with contextlib.suppress(BrokerRefusedError):  # who may only read leaves that to others
            for index in (keys.servers(), keys.workers()):  # as Go's reader does: those that are gone do not pile up
                await self._ask("ZREMRANGEBYSCORE", index, "-inf", f"({now}")
        members = await self._plain("ZRANGEBYSCORE", lambda: self._redis.zrangebyscore(keys.servers(), now, "+inf"))
        for member in members:
            data = await self._ask("GET", member)
            if data is None:
                continue
            try:
                info = decode_server(data)
            except MessageDecodeError:
                continue
            found.append((info, _readable(await self._ask("HGETALL", _keys_of(info)[1]))))
        return found

    async def read_patterns(self, info: ServerInfo) -> list[str] | None:
        """The patterns that a living server has handlers for; None when it does not tell, as Go's do not."""
        data = await self._ask("GET", _patterns_of(info))
        try:
            return None if data is None else msgspec.json.decode(data, type=list[str])
        except msgspec.DecodeError:
            return None

    async def count_stale_servers(self) -> int:
        """How many records there are of servers that have not been heard of."""
        now = await self._expiry(0)
        return int(await self._ask("ZCOUNT", keys.servers(), "-inf", f"({now}"))

    async def _ask(self, *command: Any) -> Any:
        return await self._plain(str(command[0]), lambda: self._redis.execute_command(*command))

    async def clear_process_info(self, info: ServerInfo) -> None:
        """Take back all that a server said about itself."""
        server, tasks = _keys_of(info)
        await self._plain("ZREM", partial(self.command, "ZREM", keys.servers(), server), writes=True)
        await self._plain("ZREM", partial(self.command, "ZREM", keys.workers(), tasks), writes=True)
        await self._plain("DEL", partial(self.command, "DEL", server, tasks, _patterns_of(info)), writes=True)

    async def publish_cancelation(self, task_id: str) -> int:
        """Ask every server to cancel this task if it runs there, and return how many heard it."""
        return int(await self._plain("PUBLISH", partial(self.command, "PUBLISH", keys.CANCEL, task_id)))

    def pubsub(self) -> PubSub:
        """Something to subscribe with, on a connection of its own; the caller closes it."""
        return subscriber_of(self._redis).pubsub(ignore_subscribe_messages=True)

    async def wait_rank(self, queue: str, name: str, *, ttl: float) -> int:
        """Stand in line with the idle servers of *queue* for *ttl* seconds; how many stand before *name*."""
        return int(await self._run(_WAIT_RANK, (keys.waiting(queue),), (self.clock_argument(), ttl, name)))

    async def leave_line(self, queue: str, name: str) -> None:
        """Stand in line no longer."""
        await self._plain("ZREM", partial(self.command, "ZREM", keys.waiting(queue), name), writes=True)

    async def _expiry(self, ttl: int) -> int:
        return int(await self._redis_now()) + ttl


def _readable(workers: Mapping[bytes, bytes]) -> dict[str, WorkerInfo]:
    found: dict[str, WorkerInfo] = {}
    for task_id, data in workers.items():
        with contextlib.suppress(MessageDecodeError):
            found[task_id.decode("utf-8", "backslashreplace")] = decode_worker(data)
    return found


def _keys_of(info: ServerInfo) -> tuple[str, str]:
    return (
        keys.server(info.host, info.pid, info.server_id),
        keys.server_workers(info.host, info.pid, info.server_id),
    )


def _patterns_of(info: ServerInfo) -> str:
    return keys.server_patterns(info.host, info.pid, info.server_id)
