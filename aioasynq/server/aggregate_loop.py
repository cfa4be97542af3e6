"""Aggregate loop: the tasks of a group that is ripe become one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from contextvars import copy_context
from typing import TYPE_CHECKING

from aioasynq.compose import compose
from aioasynq.context import RUN_IN_THREAD
from aioasynq.errors import BrokerError, TaskError
from aioasynq.observer import Sending
from aioasynq.options import Options
from aioasynq.rdb.groups import Aggregated, AggregationSet
from aioasynq.server.every import every
from aioasynq.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioasynq.context import RunInThread
    from aioasynq.message import TaskMessage
    from aioasynq.mux import ServeMux
    from aioasynq.rdb.rdb import RDB
    from aioasynq.server.config import Config
    from aioasynq.server.contact import Contact

log = logging.getLogger(__name__)

LONGEST_PAUSE = 7.0  #: seconds between two looks at the groups, as asynq has it
FULL_PAUSE = 1.0  #: the same where a group may be full before its time
MOST_AT_ONCE = 3  #: groups that one server aggregates at the same time
MARGIN = 5.0  #: seconds before its tasks go back to their group by themselves in which an aggregator has to be done
RECLAIM_INTERVAL = 60.0  #: seconds between two looks for tasks that never came back
GIVE_BACK_LIMIT = 1.0  #: seconds that giving them back may take at the end


class AggregateLoop:
    """Looks which groups are ripe, and puts one task in the place of each one's tasks.

    Args:
        announce: called with the queue in which a task has become pending.
    """

    def __init__(
        self,
        rdb: RDB,
        config: Config,
        contact: Contact,
        mux: ServeMux,
        run_in_thread: RunInThread,
        announce: Callable[[str], None],
    ) -> None:
        self._rdb = rdb
        self._contact = contact
        self._observers = config.observers
        self._mux = mux
        self._rules = {queue: config.group_rules(queue) for queue in config.queues if mux.find_aggregator(queue)}
        self._announce = announce
        self._context = copy_context()
        self._context.run(RUN_IN_THREAD.set, run_in_thread)
        self._working: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        self._stopped = False

    @property
    def is_needed(self) -> bool:
        """Whether there is an aggregator for any queue of this server."""
        return bool(self._rules)

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        longest = (FULL_PAUSE if rules.max_size else LONGEST_PAUSE for rules in self._rules.values())
        return min([*longest, *(rules.grace_period for rules in self._rules.values())])

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(every(self.interval, self._look, self._contact))
            loops.create_task(every(RECLAIM_INTERVAL, self._reclaim, self._contact, first=0.0))

    async def stop(self) -> None:
        """Take no more groups; what is being aggregated is cancelled, and goes back to its group."""
        self._stopped = True
        for task in self._working:
            task.cancel()
        if self._working:
            await asyncio.wait(self._working, timeout=GIVE_BACK_LIMIT)

    async def _look(self) -> None:
        for queue, rules in self._rules.items():
            try:
                for group in await self._rdb.list_groups(queue):
                    while await self._has_begun(queue, group, *rules):
                        pass
            except BrokerError as exc:
                if not exc.answered:
                    raise
                self._contact.lost(exc)  # Redis refuses this queue; the others are looked at

    async def _has_begun(self, queue: str, group: str, grace: float, max_delay: float, max_size: int) -> bool:
        """Begin to aggregate a group if it is ripe."""
        await self._places.acquire()
        begun = False
        try:
            set_id = str(uuid.uuid4())
            if not self._stopped and await self._rdb.aggregation_check(
                queue, group, set_id, grace=grace, max_delay=max_delay, max_size=max_size
            ):
                work = self._aggregate(queue, group, set_id)
                task = asyncio.get_running_loop().create_task(work, context=self._context.copy())
                self._working.add(task)
                task.add_done_callback(self._ended)
                begun = True
        finally:
            if not begun:
                self._places.release()
        return begun

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        self._places.release()

    async def _aggregate(self, queue: str, group: str, set_id: str) -> None:
        try:
            apart = await self._rdb.read_aggregation_set(queue, group, set_id)
            if apart is not None:
                await self._replace(apart)
        except asyncio.CancelledError:
            await self._give_back(queue, group, set_id)
        except BrokerError as exc:
            self._contact.lost(exc)
            log.warning("group %r of queue %s was not aggregated; its tasks go back to it: %s", group, queue, exc)
        except Exception:
            log.exception(
                "the aggregator failed for group %r of queue %s; its tasks go back within two minutes",
                group,
                queue,
            )

    async def _replace(self, apart: AggregationSet) -> None:
        queue, group = apart.queue, apart.group
        task = await self._made(apart)
        sending = self._observe(apart, task)
        try:
            answer = await self._rdb.aggregate(apart, task)
        except BaseException as exc:
            if sending is not None:
                sending.sent(exc)
            raise
        if sending is not None:
            late = None if answer else TimeoutError("the group took too long to aggregate")
            sending.sent(answer if isinstance(answer, TaskError) else late)
        if isinstance(answer, TaskError):
            log.error(
                "the task made of group %r of queue %s is refused; its tasks go back within two minutes: %s",
                group,
                queue,
                answer,
            )
        elif not answer:
            log.warning("group %r of queue %s took too long to aggregate; its tasks are in it again", group, queue)
        else:
            self._contact.counts.undecodable += len(apart.broken)
            for leased in apart.broken:
                log.warning(
                    "task %s of group %r of queue %s goes to the archive: %s", leased.shown, group, queue, leased.error
                )
            if task is not None and not task.when:
                self._announce(queue)

    async def _made(self, apart: AggregationSet) -> Aggregated | None:
        if not apart.tasks:
            return None
        async with asyncio.timeout(max(0.0, apart.left - MARGIN)):
            made = await self._mux.aggregate(apart.queue, apart.group, [_received(msg) for msg in apart.tasks])
        composed = compose(made, Options.of(queue=apart.queue), time.time())
        return Aggregated(composed.msg, composed.when, composed.unique_ttl)

    def _observe(self, apart: AggregationSet, task: Aggregated | None) -> Sending | None:
        if task is None or not self._observers:
            return None
        made_of = [_received(msg) for msg in apart.tasks]
        return Sending(self._observers, [task.msg], address=self._rdb.address, made_of=made_of)

    async def _give_back(self, queue: str, group: str, set_id: str) -> None:
        with contextlib.suppress(BrokerError):  # then they go back by themselves
            await self._rdb.return_aggregation_set(queue, group, set_id)

    async def _reclaim(self) -> None:
        for queue in self._rules:
            if count := await self._rdb.reclaim_stale_aggregation_sets(queue):
                log.warning("groups of queue %s whose tasks were set apart and have been given back: %d", queue, count)


def _received(msg: TaskMessage) -> Task:
    return Task.received(
        msg.type,
        msg.payload,
        msg.headers,
        id=msg.id,
        queue=msg.queue,
        retried=msg.retried,
        max_retry=msg.retry,
        write_result=None,
    )
