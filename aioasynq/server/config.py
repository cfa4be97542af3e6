"""Config: every option of a server, its default, its check."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias, TypedDict, cast

from aioasynq import keys
from aioasynq.observer import Observer, check_observers
from aioasynq.options import MAX_DURATION, meant
from aioasynq.queues import MAX_WEIGHT, normalise
from aioasynq.rdb.lifecycle import LEASE, MAX_ARCHIVE, MAX_ARCHIVE_AGE
from aioasynq.retry import RetryDelay, default_delay
from aioasynq.server.lifespan import check_lifespan
from aioasynq.task import Task

IsFailure: TypeAlias = Callable[[BaseException], bool]
ErrorHandler: TypeAlias = Callable[[Task, BaseException], Awaitable[object]]
LifespanFactory: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]
HealthCheck: TypeAlias = Callable[[BaseException | None], object]

GRACE_PERIOD = 60.0  #: seconds


def _every_error(error: BaseException) -> bool:  # noqa: ARG001 - the shape of is_failure
    return True


def _default_queues() -> dict[str, int]:
    return {"default": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a Server works. Times are in seconds, or a ``timedelta``."""

    concurrency: int = 100  #: consumers, so also the most tasks that run at once
    queues: Mapping[str, int] = field(
        default_factory=_default_queues
    )  #: weight by queue, or priority when strict; a list gives all 1
    strict_priority: bool = False  #: a queue gets a place only when all of higher priority are empty
    lease: float = (
        LEASE  #: how long a task stays ours after the last sign of life; extended every third of it, at most every 5
    )
    shutdown_timeout: float = (
        8.0  #: how long running tasks may take to finish once told to stop; 0 requeues them at once
    )
    cancel_grace: float = 2.0  #: how long a cancelled handler may take to end before it is left to itself
    retry_delay: RetryDelay = default_delay  #: (failures so far, error, task) → seconds until the next try
    is_failure: IsFailure = _every_error  #: False: back later without counting the try
    error_handler: ErrorHandler | None = None  #: async, called with task and error for each try that failed
    lifespan: LifespanFactory | None = (
        None  #: (server) or () → async context manager around all it does; what it yields is the state of handlers
    )
    health_check: HealthCheck | None = None  #: called with None while Redis answers, else with the error; may be async
    observers: Sequence[Observer] = ()  #: told of each task whose handler begins and ends, for traces and metrics
    health_check_interval: float = 15.0  #: how often
    group_grace_period: float | Mapping[str, float] = (
        GRACE_PERIOD  #: how long a group waits after its last task for more; one number, or one by queue
    )
    group_max_delay: float | Mapping[str, float] = (
        0.0  #: how long after its first task at most; 0 sets no limit; by queue as above
    )
    group_max_size: int | Mapping[str, int] = (
        0  #: how many tasks of a group become one at most, and at once; 0 sets no limit; by queue as above
    )
    max_threads: int = 40  #: most plain ``def`` handlers that run at once
    max_processes: int | None = (
        None  #: most ``executor="process"`` handlers that run at once, each in a child process; None: one for each CPU
    )
    max_archive: int = MAX_ARCHIVE  #: most tasks an archive holds
    archive_days: float = MAX_ARCHIVE_AGE / 86400  #: how long it holds them, in days
    cleanup_interval: float = 8.0  #: how often completed tasks past their retention are looked for

    def __post_init__(self) -> None:
        """Check each value.

        Raises:
            ValueError, TypeError: naming the option, its value and what would be right.
        """
        for name in ("concurrency", "max_threads", "max_archive"):
            _check_int(name, getattr(self, name))
        if self.max_processes is not None:
            _check_int("max_processes", self.max_processes)
        for name, least in _LEAST.items():
            object.__setattr__(self, name, _seconds(name, getattr(self, name), least))
        object.__setattr__(self, "queues", _weights(self.queues))
        for name, check in _BY_QUEUE.items():
            object.__setattr__(self, name, _by_queue(name, getattr(self, name), self.queues, check))
        if not isinstance(self.strict_priority, bool):
            raise TypeError(f"strict_priority must be True or False, got {self.strict_priority!r}")
        object.__setattr__(self, "observers", check_observers(self.observers))
        for name in ("retry_delay", "is_failure"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be callable, got {getattr(self, name)!r}")
        for name in ("error_handler", "health_check"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be callable or None, got {value!r}")
        if self.lifespan is not None:
            check_lifespan(self.lifespan)

    @property
    def beat(self) -> float:
        """Seconds between two heartbeats."""
        return min(5.0, self.lease / 3)

    def group_rules(self, queue: str) -> GroupRules:
        """When the groups of *queue* are ripe."""
        grace, delay, size = self.group_grace_period, self.group_max_delay, self.group_max_size
        return GroupRules(
            grace.get(queue, GRACE_PERIOD) if isinstance(grace, Mapping) else grace,
            delay.get(queue, 0.0) if isinstance(delay, Mapping) else delay,
            size.get(queue, 0) if isinstance(size, Mapping) else size,
        )

    @property
    def weights(self) -> dict[str, int]:
        """Queues and their weights, divided by what they have in common."""
        return normalise(dict(self.queues))


class GroupRules(NamedTuple):
    """When a group is ripe: with *max_size* tasks, *max_delay* s after the first or *grace_period* s after the last."""

    grace_period: float
    max_delay: float
    max_size: int


class ServerOptions(TypedDict, total=False):
    """The fields of :class:`Config`, as keyword arguments of a server."""

    concurrency: int
    queues: Mapping[str, int] | Iterable[str]
    strict_priority: bool
    lease: float | timedelta
    shutdown_timeout: float | timedelta
    cancel_grace: float | timedelta
    retry_delay: RetryDelay
    is_failure: IsFailure
    error_handler: ErrorHandler | None
    lifespan: LifespanFactory | None
    health_check: HealthCheck | None
    observers: Sequence[Observer]
    health_check_interval: float | timedelta
    group_grace_period: float | timedelta | Mapping[str, float | timedelta]
    group_max_delay: float | timedelta | Mapping[str, float | timedelta]
    group_max_size: int | Mapping[str, int]
    max_threads: int
    max_processes: int | None
    max_archive: int
    archive_days: float
    cleanup_interval: float | timedelta


#: What other queues call an option of a worker, and what it is called here.
_ELSEWHERE = {"max_jobs": "concurrency", "on_startup": "lifespan", "on_shutdown": "lifespan"}
_LEAST = {
    "lease": 1.0,
    "shutdown_timeout": 0.0,
    "cancel_grace": 0.0,
    "health_check_interval": 0.1,
    "archive_days": 0.0,
    "cleanup_interval": 0.1,
}


def _check_int(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    if value > MAX_WEIGHT:
        raise ValueError(f"{name} must be at most {MAX_WEIGHT}, got {value!r}")


def _weights(queues: Any) -> dict[str, int]:
    if isinstance(queues, str) or not isinstance(queues, Iterable):
        raise TypeError(f"queues must be a mapping of names to weights or a list of names, got {queues!r}")
    weights = dict(queues) if isinstance(queues, Mapping) else dict.fromkeys(queues, 1)
    if not weights:
        raise ValueError("queues must name at least one queue, got none")
    for queue, weight in weights.items():
        keys.check_queue_name(queue)
        _check_int(f"queues[{queue!r}]", weight)
    return weights


def _seconds(name: str, value: Any, least: float) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise TypeError(f"{name} must be a number of seconds or a timedelta, got {value!r}")
    if seconds > MAX_DURATION:
        raise ValueError(f"{name} must be at most {MAX_DURATION}, got {value!r}")
    if not seconds >= least:  # also what is not a number
        raise ValueError(f"{name} must be at least {least:g}, got {value!r}")
    return float(seconds)


def _group_size(name: str, value: Any) -> int:
    if value != 0:
        _check_int(name, value)
    return int(value)


_BY_QUEUE: dict[str, Callable[[str, Any], float]] = {
    "group_grace_period": lambda name, value: _seconds(name, value, 1.0),
    "group_max_delay": lambda name, value: _seconds(name, value, 0.0),
    "group_max_size": _group_size,
}


def _by_queue(
    name: str, value: object, queues: Mapping[str, int], check: Callable[[str, Any], float]
) -> float | dict[str, float]:
    """One rule for all queues, or by queue, with the default for those that are not named."""
    if not isinstance(value, Mapping):
        return check(name, value)
    given = cast("Mapping[str, object]", value)
    for queue in given:
        if queue not in queues:
            raise ValueError(f"{name} names queue {queue!r}, which this server does not serve: {', '.join(queues)}")
    return {queue: check(f"{name}[{queue!r}]", each) for queue, each in given.items()}


def config_of(config: Config | None, options: dict[str, Any]) -> Config:
    """The Config of a server that was given one ready-made, or its fields, but not both."""
    if config is None:
        known = {f.name for f in fields(Config)}
        for name in options:
            if name not in known:
                hint = meant(name, known, _ELSEWHERE)
                raise TypeError(f"a server has no option {name!r}{hint}; it has {', '.join(sorted(known))}")
        return Config(**options)
    if options:
        raise TypeError(f"config and single options exclude each other, got config and {', '.join(options)}")
    return config
