"""Scheduler: enqueues periodic tasks, each firing once however many schedulers there are."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Sequence
from datetime import timedelta, tzinfo
from typing import TYPE_CHECKING, TypeAlias, TypedDict, Unpack

from aioasynq.client.client import MAX_PAYLOAD
from aioasynq.compose import compose
from aioasynq.cronspec import find_zone, parse
from aioasynq.errors import EntryNotFoundError, SchedulerStateError
from aioasynq.life import Life
from aioasynq.observer import Observer, check_observers
from aioasynq.options import Options, OptionsDict
from aioasynq.rdb.base import OPERATION_TIMEOUT
from aioasynq.rdb.rdb import RDB, open_rdb
from aioasynq.scheduler.due import CATCH_UPS, CatchUp
from aioasynq.scheduler.engine import Engine
from aioasynq.scheduler.entry import Entry, entry_id
from aioasynq.scheduler.hooks import Hooks, OnError, PostEnqueue, PreEnqueue
from aioasynq.server.contact import Contact
from aioasynq.task import Task

if TYPE_CHECKING:
    from aioasynq.rdb.connection import ToRedis

log = logging.getLogger(__name__)

Location: TypeAlias = str | tzinfo


class SchedulerOptions(TypedDict, total=False):
    """The options of a scheduler, as keyword arguments."""

    location: Location  #: of specs that name no zone. Default "UTC"
    seconds: bool  #: specs may have a field for seconds in front. Default False
    heartbeat_interval: float | timedelta  #: how often others are told of the entries. Default 10 s
    pre_enqueue: PreEnqueue | None  #: called with the task and the options before each enqueue
    post_enqueue: PostEnqueue | None  #: called with the TaskInfo or None, and None or the error, after it
    error_handler: OnError | None  #: called with the task, the options and the error when it failed
    observers: Sequence[Observer]  #: told of each task that is enqueued, for traces and metrics
    operation_timeout: float  #: seconds a call to Redis may take. Default 5


class Scheduler(Life):
    """Enqueues tasks when they are due.

    Embedded in a service::

        async with Scheduler("redis://localhost") as scheduler:
            scheduler.register("*/5 * * * *", Task("report"))

    or alone, until SIGTERM or SIGINT::

        await scheduler.run()

    Any number of schedulers may have the same entries: each firing is enqueued once, by whichever comes first. Redis's
    clock counts, not this machine's.

    Args:
        redis: a URL, a ``redis.asyncio`` client (never closed here), an :class:`RDB`, or None for the URL in
            ``AIOASYNQ_REDIS_URL``.
        location: the time zone of specs that name none: a name, or a ``ZoneInfo``.
        seconds: specs may have six fields, of which the first is the second.
        heartbeat_interval: seconds; how often the entries are told to those who look (``asynq cron ls``).
        pre_enqueue: called with the task and its options before each firing, also where another scheduler is then
            faster. May be async, as the others.
        post_enqueue: called with the TaskInfo and None, or with None and the error, when this scheduler has enqueued a
            task or could not.
        error_handler: called with the task, its options and the error when it could not.
        observers: told of each task that this scheduler enqueues, for traces and metrics; :mod:`aioasynq.otel` has one.
        operation_timeout: seconds a call to Redis may take, repeats included.

    Raises:
        ValueError, TypeError: an option is wrong; it is named with its value.
    """

    _kind = "scheduler"
    _state_error = SchedulerStateError

    def __init__(
        self,
        redis: ToRedis | RDB | None = None,
        *,
        location: Location = "UTC",
        seconds: bool = False,
        heartbeat_interval: float | timedelta = 10.0,
        pre_enqueue: PreEnqueue | None = None,
        post_enqueue: PostEnqueue | None = None,
        error_handler: OnError | None = None,
        observers: Sequence[Observer] = (),
        operation_timeout: float = OPERATION_TIMEOUT,
    ) -> None:
        super().__init__()
        self.id = f"{socket.gethostname() or 'unknown-host'}:{os.getpid()}:{uuid.uuid4()}"
        self._zone = find_zone(location)
        self._location = location
        if not isinstance(seconds, bool):
            raise TypeError(f"seconds must be True or False, got {seconds!r}")
        self._seconds = seconds
        self._beat = seconds_of("heartbeat_interval", heartbeat_interval, 0.1)
        self._timeout = seconds_of("operation_timeout", operation_timeout, 0.01, 50)
        self._hooks = Hooks(pre_enqueue, post_enqueue, error_handler)
        self._observers = check_observers(observers)
        self._redis = redis
        self._entries: dict[str, Entry] = {}
        self._engine: Engine | None = None

    # ── entries ──

    def register(
        self,
        spec: str,
        task: Task,
        *,
        name: str | None = None,
        catch_up: CatchUp = "skip",
        every_replica: bool = False,
        **options: Unpack[OptionsDict],
    ) -> str:
        """Enqueue *task* whenever *spec* says so, from now on; return the id of the entry.

        Before the start or while it runs, in the thread of its event loop.

        Args:
            spec: a cron expression of five fields, ``@daily`` and the like, or ``@every 1h30m``; see
                :func:`aioasynq.cronspec.parse`. Intervals count from 1970, so that all schedulers agree.
            task: its type, payload, headers and options are enqueued as they are now.
            name: makes this entry the same as those of the same name and queue, whatever else they are; without one
                entries are the same when spec, location, task and options are.
            catch_up: what becomes of firings while no scheduler could enqueue them. ``skip`` leaves them out, ``once``
                makes up for the last one, ``all`` for each, 100 at most.
            every_replica: let each scheduler enqueue a task of its own, as Go's do. Intervals then count from now, and
                there is nothing to catch up.
            options: as of :meth:`Client.enqueue`; they win over the task's own.

        Raises:
            ValueError, TypeError: an argument is wrong, or there is such an entry already; the text says which.
            SchedulerStateError: the scheduler has ended.
        """
        if self._status == "closed":
            raise SchedulerStateError("this scheduler has ended; nothing can be registered any more")
        entry = self._entry(spec, task, name, catch_up, entry_options(options), every_replica=every_replica)
        if (other := self._entries.get(entry.id)) is not None:
            raise ValueError(
                f"spec {spec!r} with task {task.type!r} and these options is registered already, as {entry.id}; "
                "give one of the two a name of its own"
                if name is None
                else f"name {name!r} is taken in queue {entry.queue!r}, by {other.spec!r} with task "
                f"{other.task.type!r}; choose another, or unregister that one first"
            )
        if entry.next() is None:
            log.warning("periodic task %r: %r does not come within five years", task.type, spec)
        self._entries[entry.id] = entry
        if self._engine is not None:
            self._engine.begin(entry)
        return entry.id

    def unregister(self, entry_id: str) -> None:
        """Enqueue no more for an entry. A firing under way goes to its end.

        Raises:
            EntryNotFoundError: there is no such entry.
        """
        if entry_id not in self._entries:
            raise EntryNotFoundError(entry_id)
        entry = self._entries.pop(entry_id)
        entry.end()
        if self._engine is not None:
            self._engine.tell()

    def _entry(
        self,
        spec: str,
        task: Task,
        name: str | None,
        catch_up: CatchUp,
        options: Options,
        *,
        every_replica: bool,
    ) -> Entry:
        if not isinstance(task, Task):
            raise TypeError(f"task must be a Task (a function of mux.task makes one: function.task(...)), got {task!r}")
        check_entry(name, catch_up, every_replica=every_replica)
        schedule = parse(spec, location=self._zone, seconds=self._seconds)
        now = self._engine.clock.now() if self._engine is not None else 0.0
        size = compose(task, options, now).msg.size
        if size > MAX_PAYLOAD:
            raise ValueError(f"payload must have at most {MAX_PAYLOAD:,} bytes, got {size:,} for task {task.type!r}")
        return Entry(
            id=str(uuid.uuid4()) if every_replica else entry_id(spec, task, options, self._location, name),
            spec=spec,
            schedule=schedule,
            task=task,
            options=options,
            catch_up=catch_up,
            shared=not every_replica,
            cursor=now,
        )

    # ── life ──

    async def start(self) -> None:
        """Begin to enqueue what is due, and return at once.

        When Redis cannot be reached the scheduler starts all the same, says so, and keeps trying.

        Raises:
            SchedulerStateError: the scheduler was started before.
            BrokerRefusedError: Redis refuses this password or user, or is older than 6.2.
        """
        with self._once():
            rdb = open_rdb(self._redis, operation_timeout=self._timeout)
            contact = Contact(rdb.address)
            try:
                await self._look_at(rdb, contact.lost)
            except BaseException:  # refused, cancelled, or shut down meanwhile
                rdb.abort()
                await rdb.aclose()
                raise
        self._engine = Engine(rdb, contact, self._hooks, self.id, self._beat, self._entries, self._observers)
        self._supervise(asyncio.get_running_loop().create_task(self._engine.run(), name="aioasynq scheduler"))
        count = len(self._entries)
        log.info(
            "scheduler %s started%s: %s, %d %s, zone %s",
            self.id,
            "" if contact.there else ", without contact to Redis yet",
            rdb.address,
            count,
            "entry" if count == 1 else "entries",
            self._zone,
        )

    async def ping(self) -> None:
        """Ask Redis for a sign of life.

        Raises:
            SchedulerStateError: the scheduler does not run.
            BrokerError: there is none.
        """
        if self._engine is None or self._status != "active":
            raise SchedulerStateError(f"only a scheduler that runs asks Redis; this one is {self._status}")
        await self._engine.rdb.ping()

    async def shutdown(self) -> None:
        """Let firings under way end, take back what others were told of the entries, and end.

        It runs to its end even when the caller is cancelled. Calling it again waits for the same end.
        """
        await super().shutdown()

    async def _finish(self) -> None:
        assert self._engine is not None  # noqa: S101 - only a started scheduler comes here
        assert self._supervisor is not None  # noqa: S101 - as above
        self._status = "closed"
        await self._engine.finish()
        await asyncio.wait({self._supervisor})
        log.info("scheduler %s ended", self.id)

    async def run(self) -> None:
        """Enqueue what is due until SIGTERM or SIGINT, then shut down."""
        await super().run()

    def __repr__(self) -> str:
        return f"<Scheduler {self.id} {self._status}, {len(self._entries)} entries>"


def entry_options(given: OptionsDict) -> Options:
    """The options of an entry's tasks.

    Raises:
        TypeError: there is no such option.
        ValueError, TypeError: a value is wrong.
    """
    for unknown in sorted(given.keys() - OptionsDict.__annotations__.keys()):
        zone = ", and the zone stands in the spec, as in 'CRON_TZ=Europe/Berlin 0 9 * * *', or in Scheduler(location=…)"
        raise TypeError(
            f"unknown option {unknown!r}; an entry has name, catch_up and every_replica, its tasks have "
            f"{', '.join(OptionsDict.__annotations__)}{zone if unknown in _ZONES else ''}"
        )
    return Options.of(**given)


_ZONES = {"location", "timezone", "time_zone", "tz", "zone"}


def check_entry(name: str | None, catch_up: str, *, every_replica: bool) -> None:
    """Refuse what an entry cannot have."""
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a str or None, got {name!r}")
    if name is not None and not name.strip():
        raise ValueError(f"name must contain one or more characters that are not blank, got {name!r}")
    if catch_up not in CATCH_UPS:
        raise ValueError(f"catch_up must be one of {', '.join(CATCH_UPS)}, got {catch_up!r}")
    if not isinstance(every_replica, bool):
        raise TypeError(f"every_replica must be True or False, got {every_replica!r}")
    if every_replica and (name is not None or catch_up != "skip"):
        given = f"name={name!r}" if name is not None else f"catch_up={catch_up!r}"
        raise ValueError(f"every_replica has nothing in common with other schedulers or earlier runs, got {given} too")


def seconds_of(name: str, value: float | timedelta, least: float, most: float = 10**9) -> float:
    """A duration in seconds."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise TypeError(f"{name} must be a number of seconds or a timedelta, got {value!r}")
    if not least <= seconds <= most:
        raise ValueError(f"{name} must be from {least:g} to {most:g} seconds, got {value!r}")
    return float(seconds)
