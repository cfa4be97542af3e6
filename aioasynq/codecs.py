"""Codecs: how the arguments of a typed task become its payload, and a payload becomes arguments.

JSON is the default, and all that Go and other programs need to know. Any other codec leaves its name in the header
:data:`HEADER` of each task it wrote, and a handler that does not read it archives the task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast, runtime_checkable

import msgspec

HEADER: Final = "aioasynq-codec"  #: header with the name of the codec; a task without it is JSON
JSON: Final = "json"


@runtime_checkable
class Codec(Protocol):
    """What a codec has to have. One that changes bytes only, like :class:`Encrypted`, wraps another."""

    @property
    def name(self) -> str:
        """What stands in the header of its tasks: it says all that a reader has to know, but no secret."""
        ...

    def encode(self, arguments: Mapping[str, object], /) -> bytes:
        """The payload that holds *arguments*.

        Raises:
            TypeError, ValueError: there is one that it cannot hold.
        """
        ...

    def decoder(self, type: Any, /) -> Callable[[bytes], Any]:  # noqa: A002 - what msgspec calls it
        """What makes a *type* of a payload; asked once, when a task type is defined.

        It raises ``ValueError`` (also ``msgspec.ValidationError``, which is one) for bytes that are none.
        """
        ...


class Json:
    """JSON by msgspec: the default, which Go reads and writes."""

    name: str = JSON

    def encode(self, arguments: Mapping[str, object], /) -> bytes:
        """A JSON object."""
        return msgspec.json.encode(arguments, enc_hook=to_plain)

    def decoder(self, type: Any, /) -> Callable[[bytes], Any]:  # noqa: A002 - what msgspec calls it
        """A decoder that was compiled for *type*."""
        return msgspec.json.Decoder(type, dec_hook=from_plain).decode

    def __repr__(self) -> str:
        return "Json()"


class Msgpack:
    """MessagePack by msgspec: smaller where there are numbers and bytes. Go reads it with a library of its own."""

    name: str = "msgpack"

    def encode(self, arguments: Mapping[str, object], /) -> bytes:
        """A map of MessagePack."""
        return msgspec.msgpack.encode(arguments, enc_hook=to_plain)

    def decoder(self, type: Any, /) -> Callable[[bytes], Any]:  # noqa: A002 - what msgspec calls it
        """A decoder that was compiled for *type*."""
        return msgspec.msgpack.Decoder(type, dec_hook=from_plain).decode

    def __repr__(self) -> str:
        return "Msgpack()"


class Encrypted:
    """Another codec's bytes, encrypted and signed by Fernet of ``cryptography`` (extra ``crypto``).

    Keys are made by ``Fernet.generate_key()``. The first one encrypts, all of them decrypt: to rotate, give workers
    the new key as a further one, then everybody the new one in front, and drop the old one when no task needs it.
    Each time the bytes are others, so that a ``unique`` lock, which compares payloads, cannot work.

    Args:
        keys: Fernet keys, as text or bytes; the one to encrypt with in front.
        inner: makes the bytes that are encrypted; JSON if not given.

    Raises:
        ImportError: ``cryptography`` is not installed.
        ValueError: there is no key, or one is none; it is not shown.
    """

    def __init__(self, *keys: str | bytes, inner: Codec | None = None) -> None:
        try:
            from cryptography.fernet import Fernet, InvalidToken, MultiFernet  # noqa: PLC0415 - an extra
        except ImportError as exc:
            raise ImportError("Encrypted needs cryptography: install aioasynq with the extra 'crypto'") from exc
        if not keys:
            raise ValueError("keys must have at least one key, as Fernet.generate_key() makes them, got none")
        fernets: list[Fernet] = []
        for number, key in enumerate(keys, 1):
            try:
                fernets.append(Fernet(key))
            except (ValueError, TypeError):
                text = "must be 32 bytes in url-safe base64, as Fernet.generate_key() makes them"
                raise ValueError(f"key {number} of {len(keys)} {text}") from None
        self._fernet = MultiFernet(fernets)
        self._invalid = InvalidToken
        self._count = len(keys)
        self._inner = Json() if inner is None else inner
        self.name = f"fernet+{self._inner.name}"

    def encode(self, arguments: Mapping[str, object], /) -> bytes:
        """What the inner codec makes of them, encrypted."""
        return self._fernet.encrypt(self._inner.encode(arguments))

    def decoder(self, type: Any, /) -> Callable[[bytes], Any]:  # noqa: A002 - what msgspec calls it
        """Decrypt, and hand on to the inner codec."""
        decode = self._inner.decoder(type)

        def decrypt(payload: bytes) -> Any:
            try:
                plain = self._fernet.decrypt(payload)
            except self._invalid:
                keys = "the key" if self._count == 1 else f"any of the {self._count} keys"
                raise ValueError(f"it cannot be decrypted with {keys} of this worker") from None
            return decode(plain)

        return decrypt

    def __repr__(self) -> str:
        return f"Encrypted(<{self._count} keys>, inner={self._inner!r})"


# ── what msgspec itself does not know ──


def is_model(cls: type) -> bool:
    """Is it a model of pydantic 2 or 3? Asked without importing pydantic, which need not be there."""
    return hasattr(cls, "model_validate_json") and hasattr(cls, "model_dump")


class Unfit:
    """Stands for a value that another process could not encode."""

    why: str


def to_plain(value: object) -> object:
    """What msgspec can encode in place of *value*.

    Raises:
        TypeError: nobody knows.
    """
    if isinstance(value, Unfit):
        raise TypeError(value.why)
    if is_model(type(value)):
        return cast("Any", value).model_dump(mode="json", by_alias=True)
    raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")


def from_plain(cls: type, value: object) -> object:
    """A *cls* made of what msgspec has decoded.

    Raises:
        ValueError: it does not fit.
    """
    if cls is object:
        return value
    try:
        # as JSON again: a strict model takes a date as text from JSON only
        return cast("Any", cls).model_validate_json(msgspec.json.encode(value))
    except ValueError as exc:
        raise ValueError(_what_is_wrong(exc)) from None


def _what_is_wrong(error: ValueError) -> str:
    """One line of what pydantic says, without the values, which may be secret."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return str(error)
    found = cast("list[dict[str, Any]]", errors(include_url=False, include_context=False, include_input=False))
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}".removeprefix(": ") for each in found)
