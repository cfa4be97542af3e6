"""ServeMux: from a task's type to its handler, through middleware.

A pattern is a task type, or what several types begin with: the exact one is taken first, then the longest that is a
prefix (asynq servemux.go).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar, Unpack, cast, overload

from aioasynq.errors import HandlerNotFoundError
from aioasynq.hooks import NO_HOOKS, ErrorHook, Hooks, RetryHook, StartHook, SuccessHook, check_hook
from aioasynq.keys import check_queue_name
from aioasynq.options import check_type, meant
from aioasynq.retry import RetryDelay
from aioasynq.task import Task
from aioasynq.typed.calls import Handler, Middleware, Run, check_middleware, in_thread, is_async, refuse_generator
from aioasynq.typed.options import HandlerOptions, Rules, TaskTypeOptions
from aioasynq.typed.target import Target, in_process, target_of
from aioasynq.typed.task_type import Registrar, TaskType

__all__ = ["Aggregator", "Handler", "Middleware", "Run", "ServeMux", "TaskType"]

Aggregator: TypeAlias = Callable[[str, list[Task]], Awaitable[Task] | Task]
"""Takes the name of a group and its tasks, the first that joined in front, and returns the task they become."""

H = TypeVar("H", bound=Handler)
A = TypeVar("A", bound=Aggregator)
M = TypeVar("M", bound=Middleware)
Start = TypeVar("Start", bound=StartHook)
Success = TypeVar("Success", bound=SuccessHook)
Error = TypeVar("Error", bound=ErrorHook)
Retried = TypeVar("Retried", bound=RetryHook)

MAX_CACHED = 1024  #: types whose way is remembered; types may carry ids and be without number


class Ends(NamedTuple):
    """What is settled for tasks of a type about what comes after a try, and who is told."""

    retry: RetryDelay | None = None  #: None: as the server says
    dont_retry: tuple[type[BaseException], ...] = ()
    hooks: Hooks = NO_HOOKS


_NO_RULES = Rules()


class ServeMux:
    """Handlers by pattern, and the middleware around them. It is a handler itself, so one can be added to another."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._types: dict[str, TaskType[Any, Any, Any]] = {}  # by pattern: the typed ones of the handlers
        self._rules: dict[str, Rules] = {}  # by pattern, where there are any
        self._targets: dict[str, Target] = {}  # by pattern: those of the handlers that run in child processes
        self._hooks = NO_HOOKS
        self._middleware: list[Middleware] = []
        self._aggregators: dict[str | None, Aggregator] = {}  # by queue; None for all others
        self._lengths: list[int] = []  # of the patterns, longest first
        self._ways: dict[str, Run] = {}  # by pattern: the handler inside all middleware
        self._cache: dict[str, Run] = {}  # by type
        self._ends: dict[str, Ends] = {}  # by type

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
        return frozenset(each.queue for _, each in self.task_types() if each.queue is not None)

    def task_types(self) -> Iterator[tuple[str, TaskType[Any, Any, Any]]]:
        """The typed handlers, and the patterns they are registered for; those of muxes within this one too."""
        for pattern, handler in self._handlers.items():
            if isinstance(handler, ServeMux):
                yield from handler.task_types()
            elif pattern in self._types:
                yield pattern, self._types[pattern]

    def in_processes(self) -> Iterator[tuple[str, Target, Handler | TaskType[Any, Any, Any]]]:
        """The handlers that run in child processes, by pattern, and where those find them; of muxes within too."""
        for pattern, handler in self._handlers.items():
            if isinstance(handler, ServeMux):
                yield from handler.in_processes()
            elif pattern in self._targets:
                yield pattern, self._targets[pattern], self._types.get(pattern, handler)

    def find(self, type: str) -> Handler:  # noqa: A002 - what asynq calls it
        """The handler that was registered for this task type, without middleware.

        Raises:
            HandlerNotFoundError: no pattern fits.
        """
        return self._handlers[self._match(type)]

    def pattern_of(self, type: str) -> str:  # noqa: A002 - what asynq calls it
        """The pattern under which the handler for this task type was registered; "" when there is none."""
        try:
            return self._match(type)
        except HandlerNotFoundError:
            return ""

    def add(self, pattern: str, handler: Handler | TaskType[..., ..., Any], **options: Unpack[HandlerOptions]) -> None:
        """Let *handler* process all tasks whose type is *pattern*, or begins with it and with no longer pattern.

        *options* are ``retry``, ``dont_retry``, ``middleware`` and ``executor``:
        :class:`~aioasynq.typed.options.HandlerOptions`. A typed handler has its own, and another mux has those of its
        handlers.

        Raises:
            TypeError: *handler* cannot be called with a task, or there is no such option.
            ValueError: *pattern* is blank or already has a handler, or an option's value is none it can have.
        """
        try:
            check_type(pattern)
        except ValueError as exc:
            raise ValueError(f"invalid pattern: {exc}") from None
        if handler is None:
            raise ValueError(f"handler of {pattern!r} must not be None")
        if pattern in self._handlers:
            taken = self._types[pattern].function if pattern in self._types else self._handlers[pattern]
            raise ValueError(f"pattern {pattern!r} already has a handler: {_where(taken)}")
        if handler is self:
            raise ValueError(f"handler of {pattern!r} must not be the mux itself")
        rules = _rules(pattern, handler, options)
        if isinstance(handler, TaskType):
            if handler.is_declared:
                raise ValueError(f"task {handler.type!r} is only declared here and cannot be a handler of {pattern!r}")
            target = handler.target
            self._types[pattern] = handler
            self._handlers[pattern] = handler.handle
        else:
            _check_handler(pattern, handler)
            target = None if rules.executor is None else target_of(f"handler of {pattern!r}", handler)
            self._handlers[pattern] = handler
        if target is not None:
            self._targets[pattern] = target
        self._rules[pattern] = rules
        self._lengths = sorted({len(each) for each in self._handlers}, reverse=True)
        self._forget_ways()

    def handler(self, pattern: str, **options: Unpack[HandlerOptions]) -> Callable[[H], H]:
        """Decorate a function of one task: :meth:`add` it, and leave it as it is."""
        _refuse_bare("handler", pattern)

        def register(handler: H) -> H:
            self.add(pattern, handler, **options)
            return handler

        return register

    def task(self, type: str, **options: Unpack[TaskTypeOptions]) -> Registrar:  # noqa: A002 - what asynq calls it
        """Decorate a function that takes a task's payload as its arguments.

        For example::

            @mux.task("email:welcome", max_retry=5, timeout=30)
            async def welcome(user_id: int, lang: str = "en") -> None: ...

            await welcome.enqueue(client, user_id=42)

        An ``async def`` runs on the event loop, a plain ``def`` in a thread. The payload is a JSON object whose members
        are checked against the annotations of the parameters. A parameter annotated ``Task`` or ``Context[State]`` is
        filled in; it comes first. *options* are the defaults of the tasks that :meth:`TaskType.task` makes, and
        ``retry``, ``dont_retry``, ``middleware``, ``executor`` and ``codec``:
        :class:`~aioasynq.typed.options.TaskTypeOptions`.

        Raises:
            TypeError: the function has parameters that no JSON object can fill or whose values could not be checked, a
                default that does not fit, a name that is reserved; or there is no such option.
            ValueError: *type* is blank or already has a handler, or an option's value is none it can have.
        """
        _refuse_bare("task", type)
        return Registrar(type, options, lambda task_type: self.add(type, task_type))

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
        made = await (call() if is_async(function) else in_thread(call))  # type: ignore[misc]
        if not isinstance(made, Task):
            raise TypeError(f"the aggregator {function!r} must return a Task, got {made!r}")
        return made

    def use(self, middleware: M) -> M:
        """Put *middleware* around all handlers, inside what was put there before. It sees unknown types too. Decorates.

        Raises:
            TypeError: *middleware* is not an async function.
        """
        self._middleware.append(check_middleware(middleware))
        self._forget_ways()
        return middleware

    # ── hooks ──

    def on_start(self, hook: Start) -> Start:
        """Call *hook(task)* before each handler. Decorates.

        Hooks are called one after another, those of a mux within another one after the other's. An ``async def`` may
        take 30 s, a plain ``def`` runs on the event loop and must not block it. What they raise is logged, and changes
        nothing about the task.

        Raises:
            TypeError: *hook* is no function of one argument.
        """
        self._add_hook("start", hook, 1)
        return hook

    def on_success(self, hook: Success) -> Success:
        """Call *hook(task, result)* after each handler that returned. Decorates, as :meth:`on_start`."""
        self._add_hook("success", hook, 2)
        return hook

    def on_failure(self, hook: Error) -> Error:
        """Call *hook(task, error)* after each try that counts as a failure; retry or archive follows. Decorates."""
        self._add_hook("failure", hook, 2)
        return hook

    def on_retry(self, hook: Retried) -> Retried:
        """Call *hook(task, error, delay)* when a task comes back in *delay* seconds, failed or not. Decorates."""
        self._add_hook("retry", hook, 3)
        return hook

    def on_archive(self, hook: Error) -> Error:
        """Call *hook(task, error)* when a task goes to the archive. Decorates."""
        self._add_hook("archive", hook, 2)
        return hook

    def _add_hook(self, when: str, hook: object, arguments: int) -> None:
        check_hook(f"on_{when}", hook, arguments=arguments)
        self._hooks = self._hooks._replace(**{when: (*getattr(self._hooks, when), hook)})
        self._ends = {}

    def ends(self, task_type: str) -> Ends:
        """What comes after a try of a task of this type, and who is told of it."""
        ends = self._ends.get(task_type)
        if ends is not None:
            return ends
        try:
            pattern = self._match(task_type)
        except HandlerNotFoundError:
            return Ends(hooks=self._hooks)
        handler = self._handlers[pattern]
        if isinstance(handler, ServeMux):  # what is registered there later has to be seen here
            inner = handler.ends(task_type)
            return inner._replace(hooks=self._hooks.and_then(inner.hooks))
        rules = self._rules[pattern]
        if len(self._ends) >= MAX_CACHED:
            self._ends = {}
        ends = self._ends[task_type] = Ends(rules.retry, rules.dont_retry, self._hooks)
        return ends

    def _forget_ways(self) -> None:
        self._ways = {}
        self._cache = {}
        self._ends = {}

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
            return _within(self._middleware, _not_found)
        way = self._ways.get(pattern)
        if way is None:
            run = _run(self._handlers[pattern])
            if pattern in self._targets:
                run = in_process(self._targets[pattern], run)
            run = _within(self._rules[pattern].middleware, run)
            way = self._ways[pattern] = _within(self._middleware, run)
        if len(self._cache) >= MAX_CACHED:
            self._cache = {}
        self._cache[task_type] = way
        return way


def _run(handler: Handler) -> Run:
    if isinstance(handler, ServeMux) or is_async(handler):
        return cast("Run", handler)
    return lambda task: in_thread(partial(handler, task))


def _within(middleware: Sequence[Middleware], run: Run) -> Run:
    for each in reversed(middleware):
        run = _around(each, run)
    return run


def _around(middleware: Middleware, run: Run) -> Run:
    return lambda task: middleware(task, run)


async def _not_found(task: Task) -> object:
    raise HandlerNotFoundError(task.type)


def _rules(pattern: str, handler: object, options: HandlerOptions) -> Rules:
    if isinstance(handler, TaskType):
        if options:
            raise TypeError(f"options of {pattern!r} are those of {handler!r}, got {', '.join(options)} besides")
        return handler.rules
    for name in options:
        if name not in HandlerOptions.__annotations__:
            known = ", ".join(HandlerOptions.__annotations__)
            hint = meant(name, HandlerOptions.__annotations__)
            raise TypeError(f"a handler has no option {name!r}{hint}; it has {known}")
    if isinstance(handler, ServeMux) and (options.keys() - {"middleware"}):
        raise TypeError(f"a mux as handler of {pattern!r} has the rules of its own handlers, got {', '.join(options)}")
    return Rules(**options) if options else _NO_RULES


def _where(function: object) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(function)


def _refuse_bare(decorator: str, argument: object) -> None:
    """Refuse ``@mux.task`` without parentheses, which would register nothing."""
    if callable(argument):
        raise TypeError(f'{decorator} needs a task type: write @mux.{decorator}("some:type"), got {argument!r}')


def _check_handler(pattern: str, handler: object) -> None:
    if not callable(handler):
        raise TypeError(f"handler of {pattern!r} must be a function of one task, got {handler!r}")
    refuse_generator(f"handler of {pattern!r}", handler)
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
    refuse_generator("an aggregator", function)
    try:
        inspect.signature(function).bind("", [])
    except TypeError as exc:
        raise TypeError(f"{what}, got {function!r}: {exc}") from None


def _groups_of(queue: str | None) -> str:
    return "all groups" if queue is None else f"the groups of queue {queue!r}"
