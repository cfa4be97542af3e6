"""ServeMux: from a task's type to its handler, through middleware.

A pattern is a task type, or what several types begin with: the exact one is taken first, then the longest that is a
prefix (asynq servemux.go).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial, update_wrapper
from typing import Any, Generic, NoReturn, ParamSpec, TypeAlias, TypeVar, Unpack, cast, overload

import msgspec

from aioasynq.context import RUN_IN_THREAD
from aioasynq.errors import HandlerNotFoundError, PayloadError
from aioasynq.keys import check_queue_name
from aioasynq.options import Options, OptionsDict, check_headers, check_type
from aioasynq.task import Task

P = ParamSpec("P")
R = TypeVar("R")

Handler: TypeAlias = Callable[[Task], Awaitable[object] | object]
"""Takes a task and returns its result. An ``async def`` runs on the event loop, a plain ``def`` in a thread."""
Run: TypeAlias = Callable[[Task], Coroutine[Any, Any, object]]
Middleware: TypeAlias = Callable[[Task, Run], Coroutine[Any, Any, object]]
"""``async def middleware(task, call_next)``: returns what ``await call_next(task)`` returned, or does otherwise."""

Aggregator: TypeAlias = Callable[[str, list[Task]], Awaitable[Task] | Task]
"""Takes the name of a group and its tasks, the first that joined in front, and returns the task they become."""

H = TypeVar("H", bound=Handler)
A = TypeVar("A", bound=Aggregator)
M = TypeVar("M", bound=Middleware)

MAX_CACHED = 1024  #: types whose way is remembered; types may carry ids and be without number


class ServeMux:
    """Handlers by pattern, and the middleware around them. It is a handler itself, so one can be added to another."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._middleware: list[Middleware] = []
        self._aggregators: dict[str | None, Aggregator] = {}  # by queue; None for all others
        self._lengths: list[int] = []  # of the patterns, longest first
        self._ways: dict[str, Run] = {}  # by pattern: the handler inside all middleware
        self._cache: dict[str, Run] = {}  # by type

    def __call__(self, task: Task) -> Coroutine[Any, Any, object]:
        """Process *task*: await this for what its handler returns.

        Raises:
            HandlerNotFoundError: no pattern fits.
            PayloadError: the payload does not fit a typed handler.
        """
        # no coroutine of its own: the handler's is handed on
        run = self._cache.get(task.type)
        return run(task) if run is not None else self._way(task.type)(task)

    def __len__(self) -> int:
        return len(self._handlers)

    def __repr__(self) -> str:
        return f"<ServeMux {', '.join(map(repr, self._handlers)) or 'without a handler'}>"

    def __bool__(self) -> bool:
        return True  # an empty mux is still one

    @property
    def patterns(self) -> tuple[str, ...]:
        """The registered patterns, oldest first."""
        return tuple(self._handlers)

    @property
    def queues(self) -> frozenset[str]:
        """The queues that typed handlers name for their tasks."""
        types = (getattr(handler, "__self__", None) for handler in self._handlers.values())
        named = {each.queue for each in types if isinstance(each, TaskType)}
        return frozenset(queue for queue in named if queue is not None)

    def find(self, type: str) -> Handler:  # noqa: A002 - what asynq calls it
        """The handler that was registered for this task type, without middleware.

        Raises:
            HandlerNotFoundError: no pattern fits.
        """
        return self._handlers[self._match(type)]

    def add(self, pattern: str, handler: Handler | TaskType[..., Any]) -> None:
        """Let *handler* process all tasks whose type is *pattern*, or begins with it and with no longer pattern.

        Raises:
            TypeError: *handler* cannot be called with a task.
            ValueError: *pattern* is blank or already has a handler.
        """
        try:
            check_type(pattern)
        except ValueError as exc:
            raise ValueError(f"invalid pattern: {exc}") from None
        if handler is None:
            raise ValueError(f"handler of {pattern!r} must not be None")
        if pattern in self._handlers:
            raise ValueError(f"pattern {pattern!r} already has a handler")
        if handler is self:
            raise ValueError(f"handler of {pattern!r} must not be the mux itself")
        if isinstance(handler, TaskType):
            handler = handler.handle
        _check_handler(pattern, handler)
        self._handlers[pattern] = handler
        self._lengths = sorted({len(each) for each in self._handlers}, reverse=True)
        self._forget_ways()

    def handler(self, pattern: str) -> Callable[[H], H]:
        """Decorate a function of one task: :meth:`add` it, and leave it as it is."""
        _refuse_bare("handler", pattern)

        def register(handler: H) -> H:
            self.add(pattern, handler)
            return handler

        return register

    def task(self, type: str, **options: Unpack[OptionsDict]) -> Callable[[Callable[P, R]], TaskType[P, R]]:  # noqa: A002
        """Decorate a function that takes a task's payload as its arguments.

        The payload is a JSON object; its members become keyword arguments. *options* are the defaults of the tasks that
        :meth:`TaskType.task` makes.

        Raises:
            TypeError: the function has parameters that no JSON object can fill, or there is no such option.
            ValueError: *type* is blank or already has a handler, or an option's value is none it can have.
        """
        _refuse_bare("task", type)

        def register(function: Callable[P, R]) -> TaskType[P, R]:
            task_type = TaskType(type, options, function)
            self.add(type, task_type)
            return task_type

        return register

    @overload
    def aggregator(self, function: A) -> A: ...
    @overload
    def aggregator(self, function: None = None, *, queue: str) -> Callable[[A], A]: ...
    def aggregator(self, function: A | None = None, *, queue: str | None = None) -> A | Callable[[A], A]:
        """Decorate the function that makes one task of those in a group: ``@mux.aggregator``.

        It is called with the name of the group and its tasks, and returns a :class:`Task`, which goes to the same
        queue. An ``async def`` runs on the event loop, a plain ``def`` in a thread. ``@mux.aggregator(queue="emails")``
        is for the groups of one queue only.

        Raises:
            TypeError: it cannot be called with a name and a list.
            ValueError: there is one for this queue already.
        """

        def register(function: A) -> A:
            _check_aggregator(function)
            if queue in self._aggregators:
                raise ValueError(f"{_groups_of(queue)} have an aggregator already: {self._aggregators[queue]!r}")
            self._aggregators[queue] = function
            return function

        if queue is not None:
            check_queue_name(queue)
        return register if function is None else register(function)

    def find_aggregator(self, queue: str) -> Aggregator | None:
        """The aggregator for the groups of *queue*; None when they wait for somebody else's."""
        return self._aggregators.get(queue) or self._aggregators.get(None)

    async def aggregate(self, queue: str, group: str, tasks: list[Task]) -> Task:
        """Make one task of those in a group.

        Raises:
            TypeError: there is no aggregator, or it returned something else.
        """
        function = self.find_aggregator(queue)
        if function is None:
            raise TypeError(f"there is no aggregator for the groups of queue {queue!r}")
        call = partial(function, group, tasks)
        made = await (call() if _is_async(function) else _in_thread(call))  # type: ignore[misc]
        if not isinstance(made, Task):
            raise TypeError(f"the aggregator {function!r} must return a Task, got {made!r}")
        return made

    def use(self, middleware: M) -> M:
        """Put *middleware* around all handlers, inside what was put there before. It sees unknown types too. Decorates.

        Raises:
            TypeError: *middleware* is not an async function.
        """
        if not _is_async(middleware):
            raise TypeError(f"middleware must be an async function of a task and the next step, got {middleware!r}")
        self._middleware.append(middleware)
        self._forget_ways()
        return middleware

    def _forget_ways(self) -> None:
        self._ways = {}
        self._cache = {}

    def _match(self, task_type: str) -> str:
        handlers = self._handlers
        if task_type in handlers:
            return task_type
        for length in self._lengths:
            if length < len(task_type) and (prefix := task_type[:length]) in handlers:
                return prefix
        raise HandlerNotFoundError(task_type)

    def _way(self, task_type: str) -> Run:
        try:
            pattern = self._match(task_type)
        except HandlerNotFoundError:
            return self._within_middleware(_not_found)
        way = self._ways.get(pattern)
        if way is None:
            way = self._ways[pattern] = self._within_middleware(_run(self._handlers[pattern]))
        if len(self._cache) >= MAX_CACHED:
            self._cache = {}
        self._cache[task_type] = way
        return way

    def _within_middleware(self, run: Run) -> Run:
        for middleware in reversed(self._middleware):
            run = _around(middleware, run)
        return run


class TaskType(Generic[P, R]):
    """A function, and the type of the tasks that call it.

    Called, it is the plain function. :meth:`task` makes a task that calls the function with the same arguments.
    """

    def __init__(self, type: str, options: OptionsDict, function: Callable[P, R]) -> None:  # noqa: A002
        """Use :meth:`ServeMux.task`, which also registers it."""
        own = options.copy()
        headers = own.pop("headers", None)
        self.type = check_type(type)
        self._headers = {} if headers is None else check_headers(headers)
        self._options = Options.of(**own)
        self._function = function
        self._parameters = _Parameters(type, function)
        self._is_async = _is_async(function)
        update_wrapper(self, function, updated=())

    @property
    def queue(self) -> str | None:
        """The queue its tasks go to, where it names one."""
        return self._options.queue

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, here and now."""
        return self._function(*args, **kwargs)

    def task(self, /, *args: P.args, **kwargs: P.kwargs) -> Task:
        """A task that calls the function with these arguments, with the options of the type.

        Raises:
            TypeError: the function does not take these arguments, or JSON cannot hold one of them.
            ValueError: an argument is infinite or not a number, or text that is not valid Unicode.
        """
        payload = self._parameters.encode(args, kwargs)
        return Task.prepared(self.type, payload, self._headers.copy(), self._options)

    async def handle(self, task: Task) -> object:
        """Call the function with the payload of *task*, and return what it returns.

        Raises:
            PayloadError: the payload is no JSON object, or the function does not take its members.
        """
        arguments: dict[str, Any] = self._parameters.decode(task.raw_payload)
        function: Callable[..., Any] = self._function
        if self._is_async:
            return await function(**arguments)
        return await _in_thread(partial(function, **arguments))

    def __repr__(self) -> str:
        return f"<TaskType {self.type!r}: {self._function!r}>"


class _Parameters:
    """What a function takes, and a payload that holds values for it."""

    def __init__(self, task_type: str, function: Callable[..., object]) -> None:
        if not callable(function):
            raise TypeError(f"task {task_type!r} must be a function, got {function!r}")
        _refuse_generator(f"task {task_type!r}", function)
        self._task_type = task_type
        self._signature = inspect.signature(function)
        self._names: dict[str, None] = {}  # in the order of the signature
        self._required: set[str] = set()
        self._positional: list[str] = []
        self._takes_others = False
        for parameter in self._signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                self._takes_others = True
                continue
            if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL}:
                raise TypeError(
                    f"task {task_type!r}: a payload is a JSON object and fills parameters by name, which "
                    f"{parameter.kind.description} parameter {parameter.name!r} of {function!r} does not allow"
                )
            self._names[parameter.name] = None
            if parameter.default is parameter.empty:
                self._required.add(parameter.name)
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                self._positional.append(parameter.name)

    def encode(self, args: tuple[object, ...], kwargs: dict[str, Any]) -> bytes:
        values = kwargs
        if args:
            values = dict(zip(self._positional, args, strict=False))
            if len(values) < len(args) or not values.keys().isdisjoint(kwargs):
                self._refuse(args, kwargs)
            values.update(kwargs)
        if not self._fits(values):
            self._refuse(args, kwargs)
        if len(values) > 1:
            values = self._in_order(values)
        try:
            payload = msgspec.json.encode(values)
        except TypeError as exc:
            raise TypeError(f"task {self._task_type!r}: an argument cannot be JSON: {exc}") from exc
        except (ValueError, msgspec.EncodeError) as exc:
            raise ValueError(f"task {self._task_type!r}: an argument cannot be JSON: {exc}") from exc
        if b"null" in payload:
            self._refuse_not_finite(values)
        return payload

    def decode(self, payload: bytes | None) -> dict[str, Any]:
        if not payload:
            values: dict[str, Any] = {}
        else:
            try:
                decoded = _decode(payload)
            except (msgspec.DecodeError, ValueError, RecursionError) as exc:
                raise PayloadError(f"payload of task {self._task_type!r} is not valid JSON: {exc}") from exc
            if not isinstance(decoded, dict):
                what = _JSON_NAMES[type(decoded)]
                raise PayloadError(f"payload of task {self._task_type!r} must be a JSON object, got {what}")
            values = cast("dict[str, Any]", decoded)
        if not self._fits(values):
            missing = [repr(name) for name in self._names if name in self._required and name not in values]
            others = [] if self._takes_others else [repr(name) for name in values if name not in self._names]
            reasons = [
                f"{label} {', '.join(names)}"
                for label, names in (("missing", missing), ("unexpected", others))
                if names
            ]
            raise PayloadError(f"payload of task {self._task_type!r} does not fit its handler: {'; '.join(reasons)}")
        return values

    def _fits(self, values: dict[str, Any]) -> bool:
        given = values.keys()
        return self._required <= given and (self._takes_others or given <= self._names.keys())

    def _in_order(self, values: dict[str, Any]) -> dict[str, Any]:
        # one order, however it was called: the lock of a unique task is made of these bytes
        ordered = {name: values[name] for name in self._names if name in values}
        if len(ordered) < len(values):
            ordered.update((name, values[name]) for name in sorted(values.keys() - ordered.keys()))
        return ordered

    def _refuse(self, args: tuple[object, ...], kwargs: dict[str, Any]) -> NoReturn:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError(f"task {self._task_type!r}: {exc}") from None
        raise AssertionError(f"task {self._task_type!r}: arguments refused that {self._signature} takes")

    def _refuse_not_finite(self, values: dict[str, Any]) -> None:
        # msgspec writes null for them, and the handler would get None
        for name, value in values.items():
            if _has_not_finite(value):
                raise ValueError(f"task {self._task_type!r}: argument {name!r} cannot be JSON: not a finite number")


_decode = msgspec.json.Decoder().decode
_JSON_NAMES = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def _has_not_finite(value: object) -> bool:
    match value:
        case float():
            return not math.isfinite(value)
        case dict():
            return any(map(_has_not_finite, cast("dict[object, object]", value).values()))
        case list() | tuple() | set() | frozenset():
            return any(map(_has_not_finite, cast("Iterable[object]", value)))
        case _:
            return False


def _run(handler: Handler) -> Run:
    if isinstance(handler, ServeMux) or _is_async(handler):
        return cast("Run", handler)
    return lambda task: _in_thread(partial(handler, task))


def _around(middleware: Middleware, run: Run) -> Run:
    return lambda task: middleware(task, run)


async def _not_found(task: Task) -> object:
    raise HandlerNotFoundError(task.type)


async def _in_thread(call: Callable[[], object]) -> object:
    result = await RUN_IN_THREAD.get()(partial(_guarded, call))
    # a plain function may hand back a coroutine, as wrappers around async functions do; it belongs on the loop
    return await result if inspect.isawaitable(result) else result


def _guarded(call: Callable[[], object]) -> object:
    try:
        return call()
    except StopIteration as exc:  # a future cannot carry it: whoever awaits it would wait for ever
        raise RuntimeError("handler raised StopIteration") from exc


def _refuse_bare(decorator: str, argument: object) -> None:
    """Refuse ``@mux.task`` without parentheses, which would register nothing."""
    if callable(argument):
        raise TypeError(f'{decorator} needs a task type: write @mux.{decorator}("some:type"), got {argument!r}')


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _check_handler(pattern: str, handler: object) -> None:
    if not callable(handler):
        raise TypeError(f"handler of {pattern!r} must be a function of one task, got {handler!r}")
    _refuse_generator(f"handler of {pattern!r}", handler)
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):  # some built-in functions have none to show
        return
    try:
        signature.bind(None)
    except TypeError as exc:
        raise TypeError(f"handler of {pattern!r} must be a function of one task, got {handler!r}: {exc}") from None


def _check_aggregator(function: object) -> None:
    what = "an aggregator must be a function of the name of a group and a list of tasks"
    if not callable(function):
        raise TypeError(f"{what}, got {function!r}")
    _refuse_generator("an aggregator", function)
    try:
        inspect.signature(function).bind("", [])
    except TypeError as exc:
        raise TypeError(f"{what}, got {function!r}: {exc}") from None


def _groups_of(queue: str | None) -> str:
    return "all groups" if queue is None else f"the groups of queue {queue!r}"


def _refuse_generator(what: str, function: object) -> None:
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"{what} must not yield: it would return before it has done anything, got {function!r}")
