"""How long a failed task waits before it is tried again: asynq's rule, and rules of a task type's own."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeAlias, cast

from aioasynq.options import MAX_DURATION
from aioasynq.task import Task

RetryDelay: TypeAlias = Callable[[int, BaseException, Task], float | timedelta]
"""(failures so far, error, task) → how long until the next try: seconds, or a ``timedelta``."""
Retry: TypeAlias = float | timedelta | Sequence[float | timedelta] | RetryDelay
"""What ``retry=`` takes: one delay, one for each try (the last is that of all further ones), or a function."""


class Chance(Protocol):
    """Where chance comes from: the module ``random``, or a ``random.Random``."""

    def randrange(self, stop: int, /) -> int:
        """A whole number from 0 to below *stop*."""
        ...


def default_delay(
    retried: int, error: BaseException | None = None, task: object = None, *, random: Chance = random
) -> float:
    """Seconds until the next try of a task that had failed *retried* times before.

    It is asynq's rule, ``retried⁴ + 15 + r · (retried + 1)`` with a whole *r* from 0 to 29, so that tasks that failed
    together do not come back together: 15 to 44 s at first, 1.6 to 3.6 min after three failures, a week after 28.
    *error* and *task* are there because rules of one's own have the same form; this one ignores them.
    """
    del error, task
    return float(retried**4 + 15 + random.randrange(30) * (retried + 1))


@dataclass(frozen=True, slots=True)
class Exponential:
    """A rule: at most ``first · factor^retried`` seconds, never more than *longest*, with full jitter.

    With *jitter* the delay is anything from 0 to that, so that tasks which failed together come back spread out.

    Raises:
        TypeError: an argument is no number of seconds and no ``timedelta``.
        ValueError: *first* or *longest* is negative or not finite, or *factor* is less than 1.
    """

    first: float | timedelta = 1.0  #: the limit after the first failure, in seconds
    factor: float = 2.0  #: by which it grows with each further one
    longest: float | timedelta = 3600.0  #: which no delay exceeds, in seconds
    jitter: bool = True  #: False: the limits themselves

    def __post_init__(self) -> None:
        for name in ("first", "longest"):
            object.__setattr__(self, name, check_delay(name, getattr(self, name)))
        if not isinstance(self.factor, int | float) or isinstance(self.factor, bool):
            raise TypeError(f"factor must be a number, got {self.factor!r}")
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"factor must be at least 1 and finite, got {self.factor!r}")
        object.__setattr__(self, "factor", float(self.factor))  # a power of whole numbers may have millions of digits

    def __call__(self, retried: int, error: BaseException | None = None, task: object = None) -> float:
        """Seconds until the next try of a task that had failed *retried* times before."""
        del error, task
        first, longest = cast("float", self.first), cast("float", self.longest)
        try:
            limit = min(longest, first * self.factor**retried)
        except OverflowError:
            limit = longest
        return random.uniform(0.0, limit) if self.jitter else limit


def retry_delay(given: object) -> RetryDelay:
    """The function that ``retry=`` stands for.

    Raises:
        TypeError: *given* is nothing that ``retry=`` takes.
        ValueError: a delay is negative or too long, or a list of them is empty.
    """
    if isinstance(given, int | float | timedelta) and not isinstance(given, bool):
        return _Constant(check_delay("retry", given))
    if isinstance(given, list | tuple):
        if not given:
            raise ValueError(f"retry must have at least one delay, got {given!r}")
        delays: Sequence[object] = given
        return _Listed(tuple(check_delay(f"retry[{index}]", delay) for index, delay in enumerate(delays)))
    what = "retry must be seconds, a timedelta, a list of them or a function (retried, error, task) of them"
    if not callable(given) or inspect.iscoroutinefunction(given):
        raise TypeError(f"{what}, got {given!r}")
    try:
        inspect.signature(given).bind(0, None, None)
    except TypeError as exc:
        raise TypeError(f"{what}, got {given!r}: {exc}") from None
    except ValueError:  # some built-in functions have no signature to show
        pass
    return cast("RetryDelay", given)


def check_delay(name: str, value: Any) -> float:
    """*value* in seconds.

    Raises:
        TypeError: it is no number and no ``timedelta``.
        ValueError: it is negative, longer than asynq's longest duration or no number.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise TypeError(f"{name} must be a number of seconds or a timedelta, got {value!r}")
    if not 0 <= seconds <= MAX_DURATION:
        raise ValueError(f"{name} must be from 0 to {MAX_DURATION} seconds, got {value!r}")
    return float(seconds)


def check_dont_retry(given: object) -> tuple[type[BaseException], ...]:
    """The classes of errors that ``dont_retry=`` names.

    Raises:
        TypeError: there is something else among them.
    """
    classes = cast(
        "tuple[object, ...]", tuple(given) if isinstance(given, list | tuple | set | frozenset) else (given,)
    )
    for each in classes:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise TypeError(f"dont_retry must be classes of exceptions, such as (ValueError,), got {each!r}")
    return cast("tuple[type[BaseException], ...]", classes)


@dataclass(frozen=True, slots=True)
class _Constant:
    seconds: float

    def __call__(self, retried: int, error: BaseException, task: Task) -> float:
        del retried, error, task
        return self.seconds


@dataclass(frozen=True, slots=True)
class _Listed:
    delays: tuple[float, ...]

    def __call__(self, retried: int, error: BaseException, task: Task) -> float:
        del error, task
        return self.delays[min(retried, len(self.delays) - 1)]
