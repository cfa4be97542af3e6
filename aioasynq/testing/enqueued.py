"""What was enqueued: by a client that remembers, or as Redis has it; and what to say when it was not."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import msgspec

from aioasynq.client import Client
from aioasynq.codecs import HEADER, JSON, Codec, Json, Msgpack
from aioasynq.errors import PayloadError, QueueNotFoundError
from aioasynq.hooks import EnqueueHook, enqueue_hooks
from aioasynq.inspector import Inspector
from aioasynq.options import check_type
from aioasynq.task import Task, TaskInfo, TaskState
from aioasynq.typed import TaskType

SHOWN = 20  #: tasks that a failure lists

AnyType: TypeAlias = str | TaskType[Any, Any, Any]

_NO_COMPARISON = "cannot be compared"
_READ: dict[str, Codec] = {JSON: Json(), "msgpack": Msgpack()}
_STATES = [state for state in TaskState if state is not TaskState.AGGREGATING]


class Remembers:
    """A part of clients for tests: the tasks they have enqueued, in order."""

    enqueued: list[TaskInfo]

    def assert_enqueued(self, type: AnyType, /, **args: Any) -> TaskInfo:  # noqa: A002 - what asynq calls it
        """The first task of *type* that was enqueued here with at least these arguments.

        *type* is a typed handler, or the name of a type, whose payload must then be a JSON object (or MessagePack).

        Raises:
            AssertionError: there is none; the text lists what was enqueued.
        """
        return _find(self.enqueued, type, args)

    def assert_not_enqueued(self, type: AnyType, /, **args: Any) -> None:  # noqa: A002 - as above
        """No task of *type* was enqueued here with at least these arguments.

        Raises:
            AssertionError: there is one, or one whose payload cannot be read here.
            TypeError: a typed handler has no such argument.
        """
        _find_none(self.enqueued, type, args)


class RecordingClient(Remembers, Client):
    """A Client that remembers what it has enqueued, whatever has become of it: :attr:`enqueued`.

    Arguments are those of :class:`~aioasynq.Client`.
    """

    def __init__(
        self, redis: Any = None, *, on_enqueue: EnqueueHook | Iterable[EnqueueHook] | None = None, **options: Any
    ) -> None:
        enqueued: list[TaskInfo] = []
        self.enqueued = enqueued

        def remember(_: Task, info: TaskInfo) -> None:
            enqueued.append(info)

        super().__init__(redis, on_enqueue=(remember, *enqueue_hooks(on_enqueue)), **options)


async def assert_enqueued(client: Client, type: AnyType, /, **args: Any) -> TaskInfo:  # noqa: A002 - what asynq calls it
    """A task of *type* with at least these arguments that Redis holds, in whatever queue and state.

    Whoever has enqueued it; one that has succeeded is gone, unless it has a ``retention``. A client for tests finds
    those too: :meth:`RecordingClient.assert_enqueued`.

    Raises:
        AssertionError: there is none; the text lists what there is.
    """
    return _find(await _stored(client), type, args)


async def assert_not_enqueued(client: Client, type: AnyType, /, **args: Any) -> None:  # noqa: A002 - as above
    """Redis holds no task of *type* with at least these arguments.

    Raises:
        AssertionError: it does, or has one whose payload cannot be read here.
        TypeError: a typed handler has no such argument.
    """
    _find_none(await _stored(client), type, args)


async def _stored(client: Client) -> list[TaskInfo]:
    if not isinstance(client, Client):
        raise TypeError(f"client must be a Client, which comes before the type, got {client!r}")
    found: list[TaskInfo] = []
    async with Inspector(client._rdb) as inspector:  # noqa: SLF001 - in the loop of the client, and on its clock
        for queue in await inspector.queues():
            try:
                for state in _STATES:
                    found += [info async for info in inspector.tasks(queue, state)]
                for group in await inspector.groups(queue):
                    tasks = inspector.tasks(queue, TaskState.AGGREGATING, group=group.group)
                    found += [info async for info in tasks]
            except QueueNotFoundError:  # deleted meanwhile
                continue
    return found


# ── does it fit ──


def _find(infos: Sequence[TaskInfo], wanted: AnyType, args: Mapping[str, Any]) -> TaskInfo:
    name, task_type = _type_of(wanted)
    for info in infos:
        if info.type == name and _difference(info, task_type, args) == "":
            return info
    what = f"task {name!r}{_with(args)}"
    if not infos:
        raise AssertionError(f"{what} was not enqueued; nothing was")
    lines = [_line(info, name, task_type, args) for info in infos]
    more = [f"  … and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    raise AssertionError("\n".join([f"{what} was not enqueued; there are:", *lines[:SHOWN], *more]))


def _find_none(infos: Sequence[TaskInfo], wanted: AnyType, args: Mapping[str, Any]) -> None:
    name, task_type = _type_of(wanted)
    if task_type is not None:
        _check_names(task_type, args)
    for info in infos:
        difference = _difference(info, task_type, args) if info.type == name else "type"
        if difference.startswith(_NO_COMPARISON):
            line = _line(info, name, task_type, args).strip()
            raise AssertionError(f"it cannot be told whether task {name!r}{_with(args)} was enqueued: {line}")
        if not difference:
            line = _line(info, name, task_type, {}).strip()
            raise AssertionError(f"task {name!r}{_with(args)} was enqueued, and should not have been: {line}")


def _type_of(wanted: AnyType) -> tuple[str, TaskType[Any, Any, Any] | None]:
    if isinstance(wanted, TaskType):
        return wanted.type, wanted
    if not isinstance(wanted, str):
        raise TypeError(f"type must be the name of a task type, or a typed handler, got {wanted!r}")
    return check_type(wanted), None


def _check_names(task_type: TaskType[Any, Any, Any], args: Mapping[str, Any]) -> None:
    """Refuse arguments that no task of this type can have: a misspelt one would never be found.

    Raises:
        TypeError: there is one.
    """
    payloads = task_type._payloads  # noqa: SLF001 - it knows them
    for name in args:
        if not payloads.takes(name):
            raise TypeError(f"{task_type.type!r} has no argument {name!r}; it has {', '.join(payloads.names)}")


def _difference(info: TaskInfo, task_type: TaskType[Any, Any, Any] | None, args: Mapping[str, Any]) -> str:
    """In what a task of the right type is not as expected; empty when it is."""
    if not args:
        return ""
    try:
        has, expected = _arguments(info, task_type), args
        if task_type is None:
            expected = _as_sent(info, args)
    except (PayloadError, ValueError, TypeError) as exc:
        return f"{_NO_COMPARISON}: {exc}"
    for name, value in expected.items():
        if name not in has:
            return f"has no {name!r}"
        if has[name] != value:
            return f"{name} differs"
    return ""


def _arguments(info: TaskInfo, task_type: TaskType[Any, Any, Any] | None) -> dict[str, Any]:
    """The arguments in a payload: as the handler gets them, defaults included, or as they were sent.

    Raises:
        PayloadError, ValueError: it has none, or they cannot be read here.
    """
    if task_type is not None:
        received = Task.received(
            info.type,
            info.payload,
            info.headers,
            id=info.id,
            queue=info.queue,
            retried=info.retried,
            max_retry=info.max_retry,
            write_result=None,
        )
        return task_type._payloads.by_name(received)  # noqa: SLF001 - as the handler is called
    codec = info.headers.get(HEADER, JSON)
    if codec not in _READ:
        raise ValueError(f"its payload was written by codec {codec!r}; give the handler in place of the name")
    try:
        decoded = _READ[codec].decoder(Any)(info.payload or b"{}")
    except (ValueError, msgspec.DecodeError):
        raise ValueError("its payload is raw, it has no named arguments") from None
    if not isinstance(decoded, dict):
        raise ValueError("its payload is no JSON object")  # noqa: TRY004 - about a payload, not an argument
    return cast("dict[str, Any]", decoded)


def _as_sent(info: TaskInfo, args: Mapping[str, Any]) -> dict[str, Any]:
    """What *args* are once they have been a payload: a datetime is text there."""
    codec = _READ[info.headers.get(HEADER, JSON)]
    return cast("dict[str, Any]", codec.decoder(Any)(codec.encode(args)))


# ── what to say ──


def _with(args: Mapping[str, Any]) -> str:
    return f" with {_shown(args)}" if args else ""


def _shown(args: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_short.repr(value)}" for name, value in args.items())


def _line(info: TaskInfo, name: str, task_type: TaskType[Any, Any, Any] | None, args: Mapping[str, Any]) -> str:
    is_it = info.type == name
    try:
        what = f"({_shown(_arguments(info, task_type if is_it else None))})"
    except (PayloadError, ValueError, TypeError):
        what = f" {_short.repr(info.payload)}"
    difference = _difference(info, task_type, args) if is_it else ""
    return f"  {info.type}{what}, {info.state} in queue {info.queue!r}{f'  <- {difference}' if difference else ''}"


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
