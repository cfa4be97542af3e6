"""Which parameters of a function a payload fills, and of which types; checked when the function is registered."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, Literal, cast, get_args, get_origin, get_type_hints

import msgspec

from aioasynq.codecs import is_model
from aioasynq.context import Context
from aioasynq.task import Task
from aioasynq.typed.calls import refuse_generator

Filled = Literal["task", "context"]

NO_DEFAULT: Final = inspect.Parameter.empty
_METHOD_NAMES = {"self", "cls"}
_FILLED_NAMES = {"task": "Task", "ctx": "Context", "context": "Context"}


@dataclass(frozen=True, slots=True)
class Member:
    """A parameter that a member of the payload fills."""

    name: str
    type: Any  #: its annotation; Any without one
    default: Any  #: :data:`NO_DEFAULT` when there is none
    is_positional: bool  #: may be given by position


@dataclass(frozen=True, slots=True)
class Shape:
    """What a function takes."""

    members: tuple[Member, ...]  #: in the order of the signature
    filled: Mapping[str, Filled]  #: parameters that are no part of the payload, and what they get
    others: Any  #: type of the members that ``**others`` takes; :data:`NO_DEFAULT` when it takes none
    states: tuple[Any, ...]  #: what its ``Context[State]`` wants of the server
    leading: str  #: the one that is filled and comes first, if so; it may be positional-only
    in_order: bool  #: all can be given by position: at most one that is filled, leading, then the members


def shape_of(what: str, function: Callable[..., object], names: Mapping[str, Any]) -> Shape:
    """Read the signature of *function*; *names* are the local ones that its annotations may use.

    Raises:
        TypeError: a payload cannot fill it, or could not be checked; the text begins with *what*.
    """
    if not callable(function):
        raise TypeError(f"{what} must be a function, got {function!r}")
    if isinstance(function, type):  # to call it would make an object and do nothing
        raise TypeError(f"{what} must be a function, got the class {function!r}: register a method of an object of it")
    refuse_generator(what, function)
    parameters = inspect.signature(function).parameters
    hints = _hints(what, function, parameters, names)
    members: list[Member] = []
    filled: dict[str, Filled] = {}
    states: list[Any] = []
    others: Any = NO_DEFAULT
    for parameter in parameters.values():
        name, hint = parameter.name, hints.get(parameter.name, Any)
        if (kind := _filled(hint)) is not None and parameter.kind not in {
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        }:
            if parameter.kind is parameter.POSITIONAL_ONLY and (filled or members):
                raise TypeError(f"{what}: positional-only parameter {name!r} must be the first one of {function!r}")
            filled[name] = kind
            states += get_args(hint)
            continue
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL}:
            raise TypeError(
                f"{what}: a payload is a JSON object and fills parameters by name, which "
                f"{parameter.kind.description} parameter {name!r} of {function!r} does not allow"
            )
        if parameter.kind is parameter.VAR_KEYWORD:
            others = hint
        else:
            _check_name(what, parameter)
            positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            members.append(Member(name, hint, parameter.default, positional))
        _check_type(f"{what}: parameter {name!r}", hint)
    first = next(iter(parameters), "")
    leading = first if first in filled and parameters[first].kind is not inspect.Parameter.KEYWORD_ONLY else ""
    in_order = (
        others is NO_DEFAULT
        and all(member.is_positional for member in members)
        and list(filled) == ([leading] if leading else [])
    )
    return Shape(tuple(members), filled, others, tuple(states), leading, in_order)


def _hints(
    what: str, function: Callable[..., object], parameters: Mapping[str, inspect.Parameter], names: Mapping[str, Any]
) -> dict[str, Any]:
    inner: Any = function
    while isinstance(inner, partial):
        inner = cast("Any", inner.func)
    inner = inspect.unwrap(inner)
    inner = getattr(inner, "__func__", inner)
    if not hasattr(inner, "__globals__"):
        inner = getattr(type(inner).__call__, "__func__", type(inner).__call__)
    known = getattr(inner, "__globals__", {})
    hints: dict[str, Any] = {}
    for parameter in parameters.values():
        if parameter.annotation is parameter.empty:
            continue
        annotated = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
        try:
            hints |= get_type_hints(annotated, known, dict(names), include_extras=True)
        except Exception as exc:
            raise TypeError(
                f"{what}: annotation {parameter.annotation!r} of parameter {parameter.name!r} cannot be resolved "
                f"({exc}); it has to be there at run time, not only under TYPE_CHECKING"
            ) from exc
    return hints


def _filled(hint: Any) -> Filled | None:
    if hint is Context or get_origin(hint) is Context:
        return "context"
    return "task" if hint is Task else None


def _check_name(what: str, parameter: inspect.Parameter) -> None:
    name = parameter.name
    if name in _METHOD_NAMES:
        raise TypeError(
            f"{what}: parameter name {name!r} is reserved: register a function, or a method of an object that is there"
        )
    if name.startswith("_"):
        raise TypeError(f"{what}: parameter name {name!r} is reserved, as are all that begin with an underscore")
    if name in _FILLED_NAMES and parameter.annotation is parameter.empty:
        raise TypeError(
            f"{what}: parameter name {name!r} without an annotation is reserved: annotate it with "
            f"{_FILLED_NAMES[name]} to have it filled in, or with Any for a member of the payload"
        )


def _check_type(what: str, hint: Any) -> None:
    """Refuse a type that msgspec would let through unchecked, or not take at all."""
    if hint is object:
        return
    try:
        info = msgspec.inspect.type_info(hint)
    except Exception as exc:
        raise TypeError(f"{what} has an annotation that cannot be validated: {exc}") from exc
    for each in _within(info):
        if isinstance(each, msgspec.inspect.CustomType) and each.cls is not object and not is_model(each.cls):
            hint_at = "; a task or context is filled in where that alone is the annotation"
            raise TypeError(
                f"{what} has an annotation that cannot be validated: {each.cls.__module__}.{each.cls.__qualname__} is "
                "neither built in, nor a dataclass, Struct, TypedDict, NamedTuple, enum or model of pydantic"
                f"{hint_at if each.cls in (Task, Context) else ''}"
            )
        if isinstance(each, msgspec.inspect.DataclassType) and hasattr(each.cls, "__pydantic_validator__"):
            raise TypeError(
                f"{what} has an annotation that cannot be validated: {each.cls.__qualname__} is a dataclass of "
                "pydantic, whose own checks would be passed over; make it a BaseModel"
            )


def _within(info: object) -> list[object]:
    """A type and all that it is made of."""
    found: list[object] = []
    seen: set[int] = set()
    left: list[object] = [info]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, tuple | list):
            left += cast("list[object]", each)
        elif isinstance(each, msgspec.inspect.Type | msgspec.inspect.Field):
            found.append(each)
            fields: tuple[str, ...] = each.__struct_fields__
            left += [getattr(each, name) for name in fields if name not in {"cls", "default", "default_factory"}]
    return found
