"""What can be said about a task type beyond the options of its tasks: where they run, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias, TypedDict, cast

from aioasynq.codecs import Codec, Json
from aioasynq.options import OptionsDict, unknown_option
from aioasynq.retry import Retry, RetryDelay, check_dont_retry, retry_delay
from aioasynq.typed.calls import Middleware, check_all_middleware

Executor: TypeAlias = Literal["process"]


class HandlerOptions(TypedDict, total=False):
    """What is settled about the tasks of a handler where it runs; nothing of it travels with a task."""

    retry: Retry | None  #: delays until the next try, in place of the server's ``retry_delay``
    dont_retry: type[BaseException] | Iterable[type[BaseException]]  #: errors after which it goes to the archive
    middleware: Sequence[Middleware]  #: around this handler only, inside that of the mux; the first is outermost
    executor: Executor | None  #: "process": in a child process; None: on the event loop, a plain def in a thread


class TaskTypeOptions(OptionsDict, HandlerOptions, total=False):
    """What :meth:`ServeMux.task` takes: defaults for tasks, rules for the handler, and how a payload is written."""

    codec: Codec | Sequence[Codec] | None  #: default JSON; of several the first one writes, all of them read


class Rules:
    """The :class:`HandlerOptions` of a handler, checked.

    Raises:
        TypeError, ValueError: one is wrong; it is named with its value.
    """

    __slots__ = ("dont_retry", "executor", "middleware", "retry")

    def __init__(
        self,
        retry: Retry | None = None,
        dont_retry: type[BaseException] | Iterable[type[BaseException]] = (),
        middleware: Sequence[Middleware] = (),
        executor: Executor | None = None,
    ) -> None:
        if executor is not None and executor != "process":
            raise ValueError(f'executor must be "process" or None, got {executor!r}')
        self.retry: RetryDelay | None = None if retry is None else retry_delay(retry)
        self.dont_retry = check_dont_retry(dont_retry)
        self.middleware = check_all_middleware(middleware)
        self.executor = executor


def split(options: TaskTypeOptions) -> tuple[OptionsDict, Rules, tuple[Codec, ...]]:
    """Options of tasks (their values not checked yet), rules of the handler, and codecs.

    Raises:
        TypeError, ValueError: there is no such option, or one of the handler is wrong.
    """
    for name in options:
        if name not in TaskTypeOptions.__annotations__:
            raise unknown_option(name, TaskTypeOptions.__annotations__)
    left = cast("dict[str, Any]", options.copy())
    rules = Rules(**{name: left.pop(name) for name in HandlerOptions.__annotations__ if name in left})
    codecs = check_codecs(left.pop("codec", None))
    return cast("OptionsDict", left), rules, codecs


def check_codecs(given: object) -> tuple[Codec, ...]:
    """The codecs that ``codec=`` names, the one that writes in front.

    Raises:
        TypeError: there is something else among them.
        ValueError: there is none, or two have one name.
    """
    if given is None:
        return (Json(),)
    codecs: tuple[object, ...] = tuple(cast("Iterable[object]", given)) if isinstance(given, list | tuple) else (given,)
    if not codecs:
        raise ValueError(f"codec must name at least one codec, got {given!r}")
    for codec in codecs:
        if isinstance(codec, type) or not isinstance(codec, Codec) or not isinstance(codec.name, str):
            raise TypeError(f"codec must have a name, encode and decoder, as Json() has, got {codec!r}")
    found = cast("tuple[Codec, ...]", codecs)
    names = [codec.name for codec in found]
    if len(set(names)) < len(names):
        raise ValueError(f"codec must name codecs of different names, got {', '.join(names)}")
    return found
