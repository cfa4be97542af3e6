"""The arguments of a typed task as bytes, and bytes as arguments, by decoders that are compiled once a type."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from types import GenericAlias
from typing import Any, NoReturn, cast

import msgspec

from aioasynq.codecs import HEADER, JSON, Codec, Json, from_plain, to_plain
from aioasynq.errors import PayloadError
from aioasynq.options import Options
from aioasynq.task import Task
from aioasynq.typed.signature import NO_DEFAULT, Shape

_as_tuple = msgspec.structs.astuple
_JSON_NAMES = {
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}
_JSON_ERRORS = (msgspec.DecodeError, ValueError, RecursionError, TypeError)  # the last one for what no set can hold


class Payloads:
    """Payloads of one task type.

    Args:
        what: how errors name the type.
        codecs: the first one writes, all of them read.

    Raises:
        TypeError, ValueError: a default cannot be encoded, or does not fit its annotation.
    """

    def __init__(self, what: str, shape: Shape, signature: inspect.Signature, codecs: Sequence[Codec]) -> None:
        self._what = what
        self._shape = shape
        self._signature = signature
        self._codec = codecs[0]
        self._is_json = self._codec.name == JSON
        self._names = dict.fromkeys(member.name for member in shape.members)  # in the order of the signature
        self._required = {member.name for member in shape.members if member.default is NO_DEFAULT}
        self._positional = [member.name for member in shape.members if member.is_positional]
        self._takes_others = shape.others is not NO_DEFAULT
        self._filled_names = list(shape.filled)
        self._struct = _struct(shape)
        self._others: Any = GenericAlias(
            dict, (str, Any if shape.others in (Any, object, NO_DEFAULT) else shape.others)
        )
        read_as = dict[str, Any] if self._takes_others else self._struct
        self._decoders = {codec.name: self._guarded(codec, codec.decoder(read_as)) for codec in codecs}
        self._reads = tuple(codec.name for codec in codecs)
        self._own = self._decoders[self._codec.name]
        self._read = self._reader()
        self._check_defaults()

    @property
    def headers(self) -> dict[str, str]:
        """What its tasks bear so that others can read them; none for JSON."""
        return {} if self._is_json else {HEADER: self._codec.name}

    @property
    def is_repeatable(self) -> bool:
        """Are the bytes the same each time the same is written?"""
        return self._codec.encode({}) == self._codec.encode({})

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arguments, in the order of the signature, save those that ``**others`` takes."""
        return tuple(self._names)

    def takes(self, name: str) -> bool:
        """May the payload have a member of this name?"""
        return name in self._names or (self._takes_others and name not in self._filled_names)

    def encode(self, args: tuple[object, ...], kwargs: dict[str, Any]) -> bytes:
        """The payload that calls the function with these arguments.

        Raises:
            TypeError, ValueError: the function does not take them, or its own check would refuse them.
        """
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
            payload = self._codec.encode(values)
        except TypeError as exc:
            raise TypeError(f"{self._what}: an argument cannot be {self._codec_name}: {exc}") from exc
        except (ValueError, OverflowError, msgspec.EncodeError) as exc:
            raise ValueError(f"{self._what}: an argument cannot be {self._codec_name}: {exc}") from exc
        if self._is_json and b"null" in payload:
            self._refuse_not_finite(values)
        try:
            self._own(payload)  # what its own handler would not take is not sent
        except PayloadError as exc:
            text = str(exc)
            error = TypeError if ", got " in text else ValueError
            raise error(f"{self._what}: {text.partition(' does not fit its handler: ')[2] or text}") from None
        return payload

    def by_position(self, task: Task) -> tuple[Any, ...]:
        """The members of the payload in the order of the signature; only where nothing else is taken.

        Raises:
            PayloadError: the payload does not fit.
        """
        return _as_tuple(self._read(task))

    def by_name(self, task: Task) -> dict[str, Any]:
        """The members by name.

        Raises:
            PayloadError: the payload does not fit.
        """
        decoded = self._read(task)
        if self._takes_others:
            return cast("dict[str, Any]", decoded)
        return dict(zip(self._names, _as_tuple(decoded), strict=True))

    def _converted(self, decoded: dict[str, Any]) -> dict[str, Any]:
        """What a struct cannot hold, since it may have any names, in a second step."""
        own = {name: value for name, value in decoded.items() if name in self._names}
        others = {name: value for name, value in decoded.items() if name not in self._names}
        if not others.keys().isdisjoint(self._filled_names):
            self._misfit(decoded)
        struct = msgspec.convert(own, self._struct, str_keys=True, dec_hook=from_plain)
        named: dict[str, Any] = msgspec.convert(others, self._others, str_keys=True, dec_hook=from_plain)
        return dict(zip(self._names, _as_tuple(struct), strict=True)) | named

    # ── reading ──

    def _reader(self) -> Callable[[Task], Any]:
        """What makes of a task a struct of its members, or a dict where the function takes others too."""
        decoders, refuse = self._decoders, self._refuse_json
        without_header: Callable[[bytes], Any] = decoders.get(JSON, self._no_header)
        # as few steps as can be: this is done for every task
        plain = self._codec.decoder(self._struct) if type(self._codec) is Json and not self._takes_others else None

        def read(task: Task) -> Any:
            if task.headers and (name := task.headers.get(HEADER)) is not None:
                return (decoders.get(name) or self._unknown_codec(name))(task.raw_payload or b"")
            if plain is None:
                return without_header(task.raw_payload or b"")
            try:
                return plain(task.raw_payload or b"{}")
            except _JSON_ERRORS as exc:
                refuse(task.payload, exc)

        return read

    def _unknown_codec(self, name: str) -> NoReturn:
        reads = " and ".join(map(repr, self._reads))
        raise PayloadError(
            f"payload of {self._what} was written by codec {name!r} (header {HEADER!r}), but its handler reads {reads}"
        )

    def _guarded(self, codec: Codec, decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        is_json, what, takes_others = codec.name == JSON, self._what, self._takes_others

        def guarded(payload: bytes) -> Any:
            try:
                decoded = decode((payload or b"{}") if is_json else payload)
                if takes_others:
                    return self._converted(decoded)
            except PayloadError:
                raise
            except _JSON_ERRORS as exc:
                if is_json:
                    self._refuse_json(payload, exc)
                raise PayloadError(f"payload of {what} {self._reason(exc, codec.name)}") from exc
            return decoded

        return guarded

    def _no_header(self, payload: bytes) -> NoReturn:
        del payload
        reads = " and ".join(map(repr, self._reads))
        raise PayloadError(
            f"payload of {self._what} has no header {HEADER!r}, so it would be JSON, but its handler reads {reads}"
        )

    def _refuse_json(self, payload: bytes, error: Exception) -> NoReturn:
        """Look at a payload again, and say all that is wrong with its names before what is wrong with a value."""
        try:
            decoded = msgspec.json.decode(payload or b"{}")
        except _JSON_ERRORS as exc:
            raise PayloadError(f"payload of {self._what} is not valid JSON: {exc}") from error
        if not isinstance(decoded, dict):
            what = _JSON_NAMES[type(decoded)]
            raise PayloadError(f"payload of {self._what} must be a JSON object, got {what}") from error
        if not self._fits(cast("dict[str, Any]", decoded)):
            self._misfit(cast("dict[str, Any]", decoded))
        raise PayloadError(f"payload of {self._what} {self._reason(error, JSON)}") from error

    def _misfit(self, values: dict[str, Any]) -> NoReturn:
        missing = [repr(name) for name in self._names if name in self._required and name not in values]
        unexpected = [repr(name) for name in values if not self.takes(name)]
        reasons = [
            f"{label} {', '.join(names)}"
            for label, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise PayloadError(f"payload of {self._what} does not fit its handler: {'; '.join(reasons)}")

    @staticmethod
    def _reason(error: Exception, codec: str) -> str:
        text = str(error)
        if isinstance(error, TypeError):
            return f"does not fit its handler: {text}"
        if not isinstance(error, msgspec.ValidationError):
            return f"is not valid {codec}: {text}"
        reason, at, path = text.rpartition(" - at `$")
        if not at:
            reason, path = text, ""
        reason = reason[:1].lower() + reason[1:]
        place = path.rstrip("`").removeprefix(".")
        return f"does not fit its handler: {f'{place!r}: ' if place else ''}{reason}"

    # ── writing ──

    @property
    def _codec_name(self) -> str:
        return "JSON" if self._is_json else self._codec.name

    def _fits(self, values: dict[str, Any]) -> bool:
        given = values.keys()
        if not self._required <= given:
            return False
        if self._takes_others:
            return given.isdisjoint(self._filled_names)
        return given <= self._names.keys()

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
            raise TypeError(f"{self._what}: {exc}; {self._takes(kwargs)}") from None
        raise AssertionError(f"{self._what}: arguments refused that {self._signature} takes")

    def _takes(self, kwargs: dict[str, Any]) -> str:
        options = [f"{name}=..." for name in kwargs if name in Options._fields and not self.takes(name)]
        if options:
            return f"options of a task are given before, as by with_options({', '.join(options)})"
        return f"it takes {', '.join(self._signature.parameters) or 'nothing'}"

    def _refuse_not_finite(self, values: dict[str, Any]) -> None:
        # msgspec writes null for them, and the handler would get None
        for name, value in values.items():
            if _has_not_finite(value):
                raise ValueError(f"{self._what}: argument {name!r} cannot be JSON: not a finite number")

    def _check_defaults(self) -> None:
        for member in self._shape.members:
            default = member.default
            if default is NO_DEFAULT or default is msgspec.UNSET:
                continue
            said = f"{self._what}: the default of parameter {member.name!r}, {default!r},"
            one = Shape((member,), {}, NO_DEFAULT, (), "", in_order=True)
            try:
                if self._is_json and _has_not_finite(default):
                    raise ValueError("not a finite number")  # noqa: TRY301 - one text for all that is wrong with it
                payload = self._codec.encode({member.name: default})
            except (TypeError, ValueError, OverflowError, msgspec.EncodeError) as exc:
                raise TypeError(f"{said} cannot be {self._codec_name}: {exc}") from exc
            try:
                self._codec.decoder(_struct(one))(payload)
            except _JSON_ERRORS as exc:
                reason = self._reason(exc, self._codec.name).removeprefix("does not fit its handler: ")
                raise TypeError(f"{said} does not fit its annotation: {reason}") from exc


def _struct(shape: Shape) -> type[msgspec.Struct]:
    """A struct of the members. Its fields have names of its own, since a parameter may have any."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    names: dict[str, str] = {}
    for number, member in enumerate(shape.members):
        field = f"p{number}"
        names[field] = member.name
        hint = Any if member.type is object else member.type
        if member.default is NO_DEFAULT:
            fields.append((field, hint))
        elif isinstance(member.default, str | int | float | bool | bytes | Enum | None):
            fields.append((field, hint, member.default))
        else:  # one that msgspec would copy or refuse: the function's own, as Python has it
            fields.append((field, hint, msgspec.field(default_factory=_same(member.default))))
    return msgspec.defstruct("Arguments", fields, rename=names, kw_only=True, forbid_unknown_fields=True)


def _same(value: object) -> Callable[[], object]:
    return lambda: value


def _has_not_finite(value: object) -> bool:
    """Is there an infinite number in it, or none; also in the fields of a dataclass, a struct, a model."""
    return _is_not_finite(msgspec.to_builtins(value, enc_hook=to_plain, str_keys=True))


def _is_not_finite(value: object) -> bool:
    match value:
        case float():
            return not math.isfinite(value)
        case dict():
            return any(map(_is_not_finite, cast("dict[object, object]", value).values()))
        case list() | tuple() | set() | frozenset():
            return any(map(_is_not_finite, cast("Iterable[object]", value)))
        case _:
            return False
