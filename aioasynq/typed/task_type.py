"""TaskType: a function, the type of the tasks that call it, and what is settled about all of them."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial, update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeAlias, TypeVar, Unpack, overload

from aioasynq.codecs import HEADER
from aioasynq.context import STATE, Context
from aioasynq.options import Options, OptionsDict, check_headers, check_type
from aioasynq.task import Task, TaskInfo
from aioasynq.typed.calls import in_thread, is_async
from aioasynq.typed.options import TaskTypeOptions, split
from aioasynq.typed.payload import Payloads
from aioasynq.typed.signature import Shape, shape_of
from aioasynq.typed.target import Target, target_of

C = ParamSpec("C")  #: what the function takes
P = ParamSpec("P")  #: what of it is in the payload
R = TypeVar("R")
S = TypeVar("S")

Arguments: TypeAlias = tuple[tuple[Any, ...], Mapping[str, Any]]

_NOTHING: dict[str, Any] = {}


class Enqueues(Protocol):
    """What can take a task, as a ``Client`` does."""

    async def enqueue(self, task: Task, /, **options: Unpack[OptionsDict]) -> TaskInfo:
        """Store *task*."""
        ...


class TaskType(Generic[C, P, R]):
    """A function, and the type of the tasks that call it.

    Called, it is the plain function. :meth:`task` makes a task that calls the function with the same arguments,
    :meth:`enqueue` sends one. A parameter annotated ``Task`` or ``Context`` is filled in where the task runs.
    """

    def __init__(
        self,
        type: str,  # noqa: A002 - what asynq calls it
        options: TaskTypeOptions,
        function: Callable[C, R],
        names: Mapping[str, Any] = _NOTHING,
        *,
        is_declared: bool = False,
    ) -> None:
        """Use :meth:`ServeMux.task`, which also registers it, or :meth:`declare`."""
        of_tasks, self.rules, self._codecs = split(options)
        what = f"task {check_type(type)!r}"
        headers = of_tasks.pop("headers", None)
        self.type = type
        self.is_declared = is_declared  #: its function is somewhere else
        self._options = Options.of(**of_tasks)
        self._headers: dict[str, str] = {} if headers is None else check_headers(headers)
        self._function = function
        self._is_async = is_async(function)
        self._shape = shape_of(what, function, names)
        self._payloads = Payloads(what, self._shape, _signature(function, self._shape), self._codecs)
        self._arguments = _arguments(self._shape, self._payloads)
        self.target: Target | None = None  #: where a child process finds it, if it runs in one
        if self.rules.executor is not None and not is_declared:
            self.target = target_of(what, function)
            self._refuse_state(what)
        self._check_options()
        self._headers |= self._payloads.headers
        update_wrapper(self, function, updated=())

    @classmethod
    def declare(cls, type: str, **options: Unpack[TaskTypeOptions]) -> Registrar:  # noqa: A002 - what asynq calls it
        """Decorate the signature of a function that is somewhere else, in order to enqueue its tasks from here.

        Its body is never run, and calling it is an error::

            @TaskType.declare("email:welcome", queue="critical")
            async def welcome(user_id: int, lang: str = "en") -> None: ...

        Raises:
            TypeError, ValueError: as for ``ServeMux.task``.
        """
        return Registrar(check_type(type), options, is_declared=True)

    @property
    def queue(self) -> str | None:
        """The queue its tasks go to, where it names one."""
        return self._options.queue

    @property
    def function(self) -> Callable[C, R]:
        """The plain function."""
        return self._function

    @property
    def states(self) -> tuple[Any, ...]:
        """What its ``Context[State]`` expects the lifespan of a server to yield."""
        return self._shape.states

    def __call__(self, /, *args: C.args, **kwargs: C.kwargs) -> R:
        """Call the function, here and now.

        Raises:
            TypeError: it is only declared here.
        """
        if self.is_declared:
            raise TypeError(f"task {self.type!r} is only declared here, its function is elsewhere: enqueue it")
        return self._function(*args, **kwargs)

    def task(self, /, *args: P.args, **kwargs: P.kwargs) -> Task:
        """A task that calls the function with these arguments, with the options of the type.

        Raises:
            TypeError: the function does not take these arguments, or a payload cannot hold one of them.
            ValueError: an argument breaks a rule of its annotation, is infinite or not a number, or no valid Unicode.
        """
        payload = self._payloads.encode(args, kwargs)
        return Task.prepared(self.type, payload, self._headers.copy(), self._options)

    async def enqueue(self, client: Enqueues, /, *args: P.args, **kwargs: P.kwargs) -> TaskInfo:
        """Send a task with these arguments. :meth:`with_options` is for other options than those of the type.

        Raises:
            TypeError, ValueError: as :meth:`task`; nothing was sent.
            AioasynqError: as ``Client.enqueue``.
        """
        try:
            send = client.enqueue
        except AttributeError:
            raise TypeError(
                f"enqueue of task {self.type!r} takes a client in front of the arguments, got {client!r}"
            ) from None
        return await send(self.task(*args, **kwargs))

    def with_options(self, **options: Unpack[OptionsDict]) -> Self:
        """The same, with options for its tasks that win over those of the type; headers are merged.

        ``await welcome.with_options(queue="low", process_in=60).enqueue(client, user_id=42)``

        Raises:
            TypeError: there is no such option.
            ValueError: an option's value is none it can have.
        """
        other = copy.copy(self)
        other._override(options.copy())  # noqa: SLF001 - a copy of this one
        return other

    def _override(self, options: OptionsDict) -> None:
        mine, headers = self._headers, options.pop("headers", None)
        self._options = Options.of(**options).over(self._options)
        self._headers = {} if headers is None else check_headers(headers)
        self._check_options()
        self._headers = {**mine, **self._headers}

    async def handle(self, task: Task) -> object:
        """Call the function with the payload of *task*, and return what it returns.

        Raises:
            PayloadError: the payload does not fit the parameters.
        """
        args, kwargs = self._arguments(task)
        function: Callable[..., Any] = self._function
        if self._is_async:
            return await function(*args, **kwargs)
        return await in_thread(partial(function, *args, **kwargs))

    def call(self, task: Task) -> object:
        """The same without waiting: what the function returns when called here, be it a coroutine.

        Raises:
            PayloadError: as :meth:`handle`.
        """
        args, kwargs = self._arguments(task)
        function: Callable[..., object] = self._function
        return function(*args, **kwargs)

    def _refuse_state(self, what: str) -> None:
        for state in self._shape.states:
            if not any(state is each for each in (None, type(None), Any, object)):
                raise TypeError(
                    f'{what} with executor="process" must not take a state, which the lifespan of a server has opened '
                    f"in another process, got a parameter Context[{getattr(state, '__name__', state)}]"
                )

    def _check_options(self) -> None:
        if HEADER in self._headers and self._headers[HEADER] != self._payloads.headers.get(HEADER):
            raise ValueError(f"headers must not have {HEADER!r}, which codec= sets, got {self._headers[HEADER]!r}")
        if self._options.unique and not self._payloads.is_repeatable:
            raise ValueError(
                f"unique and codec={self._codecs[0]!r} exclude each other: the lock compares payloads, and this codec "
                f"writes other bytes each time, got unique={self._options.unique!r}"
            )

    def __repr__(self) -> str:
        return f"<TaskType {self.type!r}: {self._function!r}>"


class _Anything:
    """Nobody's type: only a parameter annotated ``Any`` or ``object`` takes one."""


class Registrar:
    """What ``mux.task(…)`` and ``TaskType.declare(…)`` are: decorators that make a :class:`TaskType` of a function."""

    def __init__(
        self,
        type: str,  # noqa: A002 - what asynq calls it
        options: TaskTypeOptions,
        register: Callable[[TaskType[Any, Any, Any]], object] | None = None,
        *,
        is_declared: bool = False,
    ) -> None:
        self._type = type
        self._options = options
        self._register = register
        self._is_declared = is_declared

    # A function whose first parameter takes anything would also take a Context: about its arguments nothing is known.
    @overload
    def __call__(self, function: Callable[Concatenate[_Anything, P], R]) -> TaskType[..., ..., R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context[S], P], R]
    ) -> TaskType[Concatenate[Context[S], P], P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Task, P], R]) -> TaskType[Concatenate[Task, P], P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> TaskType[P, P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> TaskType[Any, Any, Any]:
        """Make a task type of *function*, and register it.

        Raises:
            TypeError: a payload cannot fill its parameters, or could not be checked.
            ValueError: the type already has a handler, or an option's value is none it can have.
        """
        # annotations are text under `from __future__ import annotations`, and may name what is local to the caller
        names = sys._getframe(1).f_locals  # noqa: SLF001 - there is no other way to them
        made: TaskType[Any, Any, Any] = TaskType(
            self._type, self._options, function, names, is_declared=self._is_declared
        )
        if self._register is not None:
            self._register(made)
        return made


def _signature(function: Callable[..., Any], shape: Shape) -> inspect.Signature:
    """The signature without what is filled in: what ``task()`` takes."""
    whole = inspect.signature(function)
    return whole.replace(parameters=[each for name, each in whole.parameters.items() if name not in shape.filled])


def _arguments(shape: Shape, payloads: Payloads) -> Callable[[Task], Arguments]:
    """How arguments are made of a task; chosen once, as it is done for each task."""
    if not shape.in_order:
        return lambda task: _by_name(shape, payloads, task)
    by_position = payloads.by_position
    if not shape.filled:
        return lambda task: (by_position(task), _NOTHING)
    [kind] = shape.filled.values()
    fill = _FILL[kind]
    return lambda task: ((fill(task), *by_position(task)), _NOTHING)


def _by_name(shape: Shape, payloads: Payloads, task: Task) -> Arguments:
    values = payloads.by_name(task)
    args: list[Any] = []
    for name, kind in shape.filled.items():
        if name == shape.leading:
            args.append(_FILL[kind](task))
        else:
            values[name] = _FILL[kind](task)
    return tuple(args), values


def _context(task: Task) -> Context[Any]:
    return Context(task, STATE.get(None))


_FILL: dict[str, Callable[[Task], Any]] = {"task": lambda task: task, "context": _context}
