"""PeriodicTaskManager: a scheduler whose entries come from a provider, which may change its mind."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextvars import copy_context
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

from aioasynq.errors import EntryNotFoundError, SchedulerStateError
from aioasynq.life import Life
from aioasynq.options import OptionsDict
from aioasynq.rdb.rdb import RDB
from aioasynq.scheduler.due import CatchUp
from aioasynq.scheduler.entry import entry_id
from aioasynq.scheduler.scheduler import Scheduler, SchedulerOptions, check_entry, entry_options, seconds_of
from aioasynq.task import Task

if TYPE_CHECKING:
    from aioasynq.rdb.connection import ToRedis

log = logging.getLogger(__name__)


class PeriodicTaskConfig:
    """A periodic task as a provider gives it: what :meth:`Scheduler.register` takes.

    Two are equal when all they say is, in whatever order the options were given.

    Raises:
        ValueError, TypeError: an argument is wrong; it is named with its value.
    """

    __slots__ = ("catch_up", "every_replica", "key", "name", "options", "spec", "task")

    spec: str
    task: Task
    name: str | None
    catch_up: CatchUp
    every_replica: bool
    options: OptionsDict  #: as they were given
    key: tuple[str, ...]  #: equal for equal ones

    def __init__(
        self,
        spec: str,
        task: Task,
        *,
        name: str | None = None,
        catch_up: CatchUp = "skip",
        every_replica: bool = False,
        **options: Unpack[OptionsDict],
    ) -> None:
        if not isinstance(spec, str):
            raise TypeError(f"spec must be a str, got {spec!r}")
        if not spec:
            raise ValueError("spec must be a cron expression, a descriptor such as '@daily' or '@every 30s', got ''")
        if not isinstance(task, Task):
            raise TypeError(f"task must be a Task, got {task!r}")
        check_entry(name, catch_up, every_replica=every_replica)
        self.spec = spec
        self.task = task
        self.name = name
        self.catch_up = catch_up
        self.every_replica = every_replica
        self.options = options
        content = entry_id(spec, task, entry_options(options), "", None)
        self.key = (content, repr(name), catch_up, str(every_replica))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PeriodicTaskConfig) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"<PeriodicTaskConfig {self.spec!r} {self.task!r}>"


Provided: TypeAlias = Iterable[PeriodicTaskConfig]
Provider: TypeAlias = Callable[[], Provided | Awaitable[Provided]]

SYNC_INTERVAL = 180.0  #: seconds


class PeriodicTaskManager(Life):
    """Enqueues what a provider says is to be enqueued periodically, and asks it again now and then.

    For example::

        async def provide() -> list[PeriodicTaskConfig]:
            return [PeriodicTaskConfig(row.spec, Task("report", row.payload)) for row in await rows()]

        async with PeriodicTaskManager("redis://localhost", provide, sync_interval=60):
            ...

    New configs are registered, those that are gone are unregistered, equal ones go on undisturbed. A provider that
    raises, or answers with something else than configs, changes nothing, and is logged.

    Args:
        redis: as of :class:`Scheduler`.
        provider: a function without arguments that returns the configs. A plain one runs in a thread.
        sync_interval: seconds from one question to the next.
        options: of the :class:`Scheduler`.

    Raises:
        ValueError, TypeError: an argument is wrong; it is named with its value.
    """

    _kind = "manager of periodic tasks"
    _state_error = SchedulerStateError

    def __init__(
        self,
        redis: ToRedis | RDB | None = None,
        provider: Provider | None = None,
        *,
        sync_interval: float | timedelta = SYNC_INTERVAL,
        **options: Unpack[SchedulerOptions],
    ) -> None:
        if inspect.isroutine(redis):
            raise TypeError(
                f"redis comes first, then the provider: PeriodicTaskManager(url, provider) or provider=…, got {redis!r}"
            )
        if not callable(provider):
            raise TypeError(f"provider must be a function that returns PeriodicTaskConfigs, got {provider!r}")
        for unknown in sorted(options.keys() - SchedulerOptions.__annotations__.keys()):
            known = ", ".join(["sync_interval", *SchedulerOptions.__annotations__])
            raise TypeError(f"a manager of periodic tasks has no option {unknown!r}; it has {known}")
        super().__init__()
        self._interval = seconds_of("sync_interval", sync_interval, 0.01)
        self._provider = provider
        self._scheduler = Scheduler(redis, **options)
        self.id = self._scheduler.id
        self._ids: dict[PeriodicTaskConfig, str] = {}
        self._syncing: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()

    @property
    def status(self) -> str:
        """``new``, ``active`` or ``closed``."""
        return self._scheduler.status

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler at work. What is registered there by hand is left alone."""
        return self._scheduler

    async def start(self) -> None:
        """Ask the provider, and begin to enqueue what it says.

        Raises:
            SchedulerStateError: the manager was started before.
            TypeError: the provider's answer is no list of configs.
            BrokerRefusedError: as of :meth:`Scheduler.start`.

        What the provider raises is raised.
        """
        with self._once():
            scheduler = self._scheduler
            if scheduler.status != "new":
                raise SchedulerStateError(f"a manager starts its scheduler itself; this one is {scheduler.status}")
            try:
                self._take(await self._ask())
                await scheduler.start()
            except BaseException:
                await scheduler.shutdown()
                self._status = "closed"
                raise
        self._status = "active"
        self._supervisor = scheduler._supervisor  # noqa: SLF001 - they live as long as each other
        self._syncing = asyncio.get_running_loop().create_task(self._keep_in_step(), name="aioasynq periodic tasks")

    async def sync(self) -> None:
        """Ask the provider now. What it does wrong is logged, and nothing is changed."""
        me = asyncio.current_task()
        async with self._one_at_a_time:
            cancelled = me.cancelling() if me is not None else 0
            try:
                configs = await self._ask()
            except (Exception, asyncio.CancelledError):
                if me is not None and me.cancelling() > cancelled:
                    raise  # it was this task, not something that the provider awaited
                log.exception("the provider of periodic tasks failed; nothing is changed")
            else:
                if self._scheduler.status != "closed":
                    self._take(configs)

    async def _keep_in_step(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self.sync()

    async def _ask(self) -> list[PeriodicTaskConfig]:
        provider: Any = self._provider
        if inspect.iscoroutinefunction(provider) or inspect.iscoroutinefunction(getattr(provider, "__call__", None)):  # noqa: B004 - of an object whose __call__ is async
            answer = provider()
        else:
            answer = await _in_thread(provider)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, str | bytes) or not isinstance(answer, Iterable):
            raise TypeError(f"the provider must return PeriodicTaskConfigs in a list or the like, got {answer!r}")
        configs = list(answer)
        for number, config in enumerate(configs):
            if not isinstance(config, PeriodicTaskConfig):
                raise TypeError(f"the provider must return PeriodicTaskConfigs, but number {number} is {config!r}")
        return configs

    def _take(self, configs: list[PeriodicTaskConfig]) -> None:
        times = Counter(configs)
        for config in [config for config, count in times.items() if count > 1]:
            log.warning(
                "the provider of periodic tasks gave task %r at %r %d times; it counts once",
                *(config.task.type, config.spec, times[config]),
            )
        wanted = list(times)
        for config in [config for config in self._ids if config not in times]:
            with contextlib.suppress(EntryNotFoundError):  # somebody has taken it out by hand
                self._scheduler.unregister(self._ids.pop(config))
            log.info("periodic task %r at %r is no more", config.task.type, config.spec)
        for config in wanted:
            if config in self._ids:
                continue
            try:
                self._ids[config] = self._scheduler.register(
                    config.spec,
                    config.task,
                    name=config.name,
                    catch_up=config.catch_up,
                    every_replica=config.every_replica,
                    **config.options,
                )
            except ValueError as exc:  # tried again with each answer
                log.error("periodic task %r is left out: %s", config.task.type, exc)  # noqa: TRY400 - it says it all
            else:
                coming = self._scheduler._entries[self._ids[config]].coming()  # noqa: SLF001 - it is our own
                log.info("periodic task %r at %r is registered, %s", config.task.type, config.spec, coming)

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT, then shut down."""
        await super().run()

    async def shutdown(self) -> None:
        """Ask the provider no more, and shut the scheduler down."""
        await super().shutdown()
        await self._scheduler.shutdown()  # also one that was never started

    async def _finish(self) -> None:
        self._status = "closed"
        if self._syncing is not None:
            self._syncing.cancel()
            await asyncio.gather(self._syncing, return_exceptions=True)
        await self._scheduler.shutdown()

    def __repr__(self) -> str:
        return f"<PeriodicTaskManager {self._scheduler.status}, {len(self._ids)} of {self._provider!r}>"


async def _in_thread(function: Callable[[], object]) -> object:
    """Call *function* in a thread that does not keep the program from ending, should it hang."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[object] = loop.create_future()

    def tell(result: object, error: BaseException | None) -> None:
        if answer.done():  # nobody waits any more
            return
        if error is None:
            answer.set_result(result)
        else:
            # A future takes no StopIteration.
            answer.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)

    def work() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as exc:  # noqa: BLE001 - whoever waits judges it
            error = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=copy_context().run, args=(work,), name="aioasynq-provider", daemon=True).start()
    return await answer
