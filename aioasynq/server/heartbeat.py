"""Heartbeat: WriteProcessInfo, and leases extended, from a thread with an event loop and a connection of its own.

It reads a snapshot of what is running and never waits for the server's loop, so that a handler that blocks that loop
loses no leases, and its neighbours are not run twice.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections import defaultdict
from typing import TYPE_CHECKING

from aioasynq.errors import AioasynqError, BrokerError
from aioasynq.message import WorkerInfo
from aioasynq.rdb.base import MAX_BATCH
from aioasynq.server.nap import Nap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aioasynq.message import ServerInfo
    from aioasynq.rdb.rdb import RDB
    from aioasynq.server.config import Config
    from aioasynq.server.counts import Counts
    from aioasynq.server.running import Held, Pulse, Running

log = logging.getLogger(__name__)

BLOCKED = 3.0  #: seconds the loop may stand still before that is logged
LOOK_INTERVAL = 1.0  #: seconds between two looks at the loop
IDLE_LOOK_INTERVAL = 5.0  #: the same while no task is held: as often as the heart beats, so that it is one waking
FAREWELL_LIMIT = 1.0  #: seconds that Redis may take to answer once the server ends
OVERDUE_GRACE = 10.0  #: seconds past its end, and its grace, after which a handler that blocks the loop loses its lease
MAX_PAYLOAD = 1024  #: bytes of a payload that are shown of a running task


class Heartbeat:
    """The thread. Started and stopped on the server's loop.

    Args:
        describe: the server's record as it is now; called in the thread.
        patterns: of the task types that it has handlers for; called in the thread.
        on_lost: called on the server's loop with tasks that belong to somebody else by now.
    """

    def __init__(
        self,
        rdb: RDB,
        config: Config,
        held: Held,
        pulse: Pulse,
        describe: Callable[[], ServerInfo],
        patterns: Callable[[], Sequence[str]],
        on_lost: Callable[[list[Running]], None],
        counts: Counts,
    ) -> None:
        self._parent = rdb
        self._config = config
        self._held = held
        self._pulse = pulse
        self._describe = describe
        self._patterns = patterns
        self._on_lost = on_lost
        self._counts = counts
        self._server_loop = asyncio.get_running_loop()
        self._server_thread = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._nap = Nap()
        self._stopping = False
        self._now = False  #: to beat at once
        self._beating: asyncio.Task[bool] | None = None
        self._begun = threading.Event()
        self._over = asyncio.Event()  #: of the server's loop
        self._thread = threading.Thread(target=self._main, name="aioasynq-heartbeat", daemon=True)
        self._written = -1
        self._reported = 0.0

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def beat_now(self) -> None:
        """Beat at once, since what there is to tell has changed."""
        self._now = True
        self._tell(self._nap.wake)

    async def stop(self) -> None:
        """Take back what was told, and end."""
        self._tell(self._end)
        try:
            async with asyncio.timeout(3 * FAREWELL_LIMIT):
                await self._over.wait()  # not a join in the executor, whose threads may all be the handlers'
        except TimeoutError:
            log.error("the heartbeat does not end; it is left to itself")  # noqa: TRY400 - a limit, no fault of ours
        else:
            self._thread.join()  # its last line

    def _tell(self, what: Callable[[], None]) -> None:
        """Have *what* called on the thread's loop."""
        if self._thread.ident is None:
            return  # it is yet to start, and tells all at its first beat
        self._begun.wait()  # a moment at most: the thread sets it first of all
        if self._loop is None or self._loop.is_closed():
            return
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            log.debug("the heartbeat has ended already")

    # ── in the thread ──

    def _main(self) -> None:
        try:
            asyncio.run(self._beat())
        except Exception:
            log.critical("the heartbeat ended by a bug; leases will run out", exc_info=True)
        finally:
            self._begun.set()
            try:
                self._server_loop.call_soon_threadsafe(self._over.set)
            except RuntimeError:
                log.debug("the server's loop was closed before its heartbeat ended")

    async def _beat(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun.set()
        rdb = self._parent.twin()
        try:
            next_beat = 0.0
            while not self._stopping:
                self._look_at_loop()
                if time.monotonic() >= next_beat or self._now:
                    self._now = False
                    next_beat = time.monotonic() + (
                        self._config.beat if await self._unless_stopped(rdb) else LOOK_INTERVAL
                    )
                look = LOOK_INTERVAL if self._held else IDLE_LOOK_INTERVAL
                await self._nap.sleep(min(look, max(0.0, next_beat - time.monotonic())))
            await self._farewell(rdb)
        finally:
            rdb.abort()
            await rdb.aclose()

    def _end(self) -> None:
        self._stopping = True
        self._nap.wake()
        if self._beating is not None:  # Redis may not answer
            asyncio.get_running_loop().call_later(FAREWELL_LIMIT, self._beating.cancel)

    async def _unless_stopped(self, rdb: RDB) -> bool:
        """One beat, which is given up when Redis does not answer and the server ends."""
        self._beating = asyncio.get_running_loop().create_task(self._once(rdb))
        await asyncio.wait({self._beating})
        beat, self._beating = self._beating, None
        return not beat.cancelled() and beat.result()

    async def _once(self, rdb: RDB) -> bool:
        """One beat: leases first, for they matter more. False when Redis could not be reached."""
        held = self._held.snapshot()
        version = self._held.version
        try:
            await self._extend(rdb, self._worth_keeping(held))
            workers = None if version == self._written else self._workers(held)
            told = await rdb.write_process_info(self._describe(), workers, patterns=self._patterns())
            self._written = version if told or not held else -1  # what was told before may be gone
        except AioasynqError as exc:
            log.debug("heartbeat failed: %s", exc)
            self._written = -1
            return False
        return True

    def _worth_keeping(self, held: Iterable[Running]) -> list[Running]:
        """Tasks whose lease is extended: not those that should have ended long ago, nor any that never began."""
        now, standing = time.monotonic(), self._pulse.standing()
        blocking = asyncio.current_task(self._server_loop) if standing > BLOCKED else None
        keep: list[Running] = []
        for running in held:
            limit = running.ends + self._config.cancel_grace + OVERDUE_GRACE
            if running.task is not blocking or blocking is None:
                limit += standing + self._pulse.lost - running.credit
            if not running.ended and now > limit:
                continue
            if not running.started and standing > self._config.lease:
                continue
            keep.append(running)
        return keep

    async def _extend(self, rdb: RDB, held: list[Running]) -> None:
        by_queue: defaultdict[str, list[Running]] = defaultdict(list)
        for running in held:
            by_queue[running.leased.queue].append(running)
        lost: list[Running] = []
        for queue, some in by_queue.items():
            try:
                for i in range(0, len(some), MAX_BATCH):
                    batch = some[i : i + MAX_BATCH]
                    answers = await rdb.extend_lease([r.leased for r in batch], lease=self._config.lease)
                    lost += [running for running, ours in zip(batch, answers, strict=True) if not ours]
            except BrokerError as exc:
                if not exc.answered:
                    raise
                log.debug("leases of queue %s were not extended: %s", queue, exc)  # the others' are
        if lost:
            self._server_loop.call_soon_threadsafe(self._on_lost, lost)

    def _workers(self, held: Iterable[Running]) -> dict[str, WorkerInfo]:
        info = self._describe()
        return {
            running.leased.id: WorkerInfo(
                host=info.host,
                pid=info.pid,
                server_id=info.server_id,
                task_id=running.leased.id,
                task_type=running.msg.type,
                task_payload=(running.msg.payload or b"")[:MAX_PAYLOAD],
                queue=running.leased.queue,
                start_time=int(running.began * 1e9),
                deadline=int(running.deadline * 1e9),
            )
            for running in held
            if not running.ended
        }

    async def _farewell(self, rdb: RDB) -> None:
        try:
            async with asyncio.timeout(FAREWELL_LIMIT):
                await rdb.clear_process_info(self._describe())
        except (AioasynqError, TimeoutError) as exc:
            log.debug("what this server told of itself runs out by itself: %s", exc)

    def _look_at_loop(self) -> None:
        standing = self._pulse.standing()
        if standing < BLOCKED:
            self._reported = 0.0
            return
        if standing < self._reported * 2:
            return
        if not self._reported:
            self._counts.blocked += 1
        self._reported = standing
        task = asyncio.current_task(self._server_loop)
        name = next((r.leased.shown for r in self._held.snapshot() if r.task is task and task is not None), None)
        frame = sys._current_frames().get(self._server_thread)  # noqa: SLF001 - documented for just this
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "no stack\n"
        log.error(
            "the event loop has stood still for %.0f s%s; leases are kept meanwhile, all else waits. What blocks "
            "belongs in a plain def, which runs in a thread. It is here:\n%s",
            standing,
            f", in task {name}" if name else "",
            stack,
        )
