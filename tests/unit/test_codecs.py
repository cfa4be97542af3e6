"""Codecs: what they write, what tells readers, and what becomes of a payload that a handler cannot read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from cryptography.fernet import Fernet

from aioasynq import PayloadError, ServeMux, Task, TaskType
from aioasynq.codecs import HEADER, Encrypted, Json, Msgpack

OLD, NEW = Fernet.generate_key(), Fernet.generate_key().decode()
MOMENT = datetime(2026, 1, 2, tzinfo=UTC)


class Backwards:
    """JSON, the last byte first: how small a codec may be."""

    name = "backwards"

    def encode(self, arguments: Mapping[str, object], /) -> bytes:
        return Json().encode(arguments)[::-1]

    def decoder(self, type: Any, /) -> Callable[[bytes], Any]:  # noqa: A002 - as the protocol has it
        decode = Json().decoder(type)
        return lambda payload: decode(payload[::-1])


def typed(codec: Any) -> tuple[ServeMux, Any]:
    mux = ServeMux()

    @mux.task("t", codec=codec, headers={"a": "b"})
    async def handler(at: datetime, data: bytes = b"") -> object:
        return at, data

    return mux, handler


CODECS: dict[str, tuple[Any, dict[str, str]]] = {
    "JSON": (Json(), {}),
    "MessagePack": (Msgpack(), {HEADER: "msgpack"}),
    "encrypted": (Encrypted(NEW, OLD), {HEADER: "fernet+json"}),
    "encrypted MessagePack": (Encrypted(NEW, inner=Msgpack()), {HEADER: "fernet+msgpack"}),
    "one's own": (Backwards(), {HEADER: "backwards"}),
}


@pytest.mark.parametrize(("codec", "headers"), CODECS.values(), ids=CODECS)
async def test_a_payload_goes_there_and_back(codec, headers):
    mux, handler = typed(codec)
    task = handler.task(MOMENT, data=b"\x00\xff")
    assert task.headers == {"a": "b"} | headers
    assert await mux(task) == (MOMENT, b"\x00\xff")
    assert handler.with_options(headers={"c": "d"}).task(MOMENT).headers == {"a": "b", "c": "d"} | headers
    with pytest.raises(TypeError, match=r"^task 't': 'at': expected `.*`, got `int`$"):
        handler.task(at=5)


async def test_messagepack_is_what_others_know():
    _, handler = typed(Msgpack())
    assert msgspec.msgpack.decode(handler.task(MOMENT, b"\x00").payload) == {"at": MOMENT, "data": b"\x00"}


async def test_keys_rotate():
    """Workers learn the new key first, then those who enqueue; the old one goes when no task needs it."""
    _, before = typed(Encrypted(OLD))
    meanwhile, _ = typed(Encrypted(OLD, NEW))
    afterwards, after = typed(Encrypted(NEW))
    assert b"2026" not in before.task(MOMENT).payload
    for task in (before.task(MOMENT), after.task(MOMENT)):
        assert await meanwhile(task) == (MOMENT, b"")
    with pytest.raises(
        PayloadError, match=r"is not valid fernet\+json: it cannot be decrypted with the key of this wor"
    ):
        await afterwards(before.task(MOMENT))


async def test_of_several_the_first_writes_and_all_read():
    mux, handler = typed([Msgpack(), Json()])
    assert handler.task(MOMENT).headers[HEADER] == "msgpack"
    assert await mux(handler.task(MOMENT)) == (MOMENT, b"")
    assert await mux(Task("t", Json().encode({"at": MOMENT}))) == (MOMENT, b"")
    assert await mux(Task("t", Json().encode({"at": MOMENT}), headers={HEADER: "json"})) == (MOMENT, b"")


JSON = Json().encode({"at": MOMENT})
UNREAD = {
    "no header": (Msgpack(), JSON, {}, "has no header 'aioasynq-codec', so it would be JSON, but .* reads 'msgpack'$"),
    "another codec": (
        Msgpack(),
        JSON,
        {HEADER: "fernet+json"},
        r"was written by codec 'fernet\+json' \(header 'aioasynq-codec'\), but its handler reads 'msgpack'$",
    ),
    "a codec, where JSON is read": (Json(), JSON, {HEADER: "msgpack"}, "by codec 'msgpack' .* reads 'json'$"),
    "none of several": ([Json(), Msgpack()], JSON, {HEADER: "x"}, "by codec 'x' .* reads 'json' and 'msgpack'$"),
    "other bytes than it says": (Msgpack(), b"\xc1", {HEADER: "msgpack"}, "is not valid msgpack: "),
    "no bytes": (Msgpack(), b"", {HEADER: "msgpack"}, "is not valid msgpack: Input data was truncated"),
    "of another type": (
        Msgpack(),
        msgspec.msgpack.encode({"at": 5}),
        {HEADER: "msgpack"},
        "does not fit its handler: 'at': expected `datetime`, got `int`",
    ),
    "not encrypted": (Encrypted(OLD, NEW), JSON, {HEADER: "fernet+json"}, "decrypted with any of the 2 keys of this"),
}


@pytest.mark.parametrize(("codec", "payload", "headers", "text"), UNREAD.values(), ids=UNREAD)
async def test_a_payload_that_cannot_be_read(codec, payload, headers, text):
    mux, _ = typed(codec)
    with pytest.raises(PayloadError, match=f"^payload of task 't' .*{text}"):
        await mux(Task("t", payload, headers=headers))


def test_secrets_are_not_shown():
    codec = Encrypted(NEW, OLD)
    assert repr(codec) == "Encrypted(<2 keys>, inner=Json())"
    with pytest.raises(ValueError, match=r"^key 2 of 2 must be 32 bytes in url-safe base64") as refused:
        Encrypted(NEW, "secret")
    assert "secret" not in str(refused.value)


def test_encryption_needs_a_key_and_a_library(monkeypatch):
    with pytest.raises(ValueError, match="keys must have at least one key"):
        Encrypted()
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(ImportError, match="install aioasynq with the extra 'crypto'"):
        Encrypted(NEW)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a name": ({"codec": "json"}, TypeError, "codec must have a name, encode and decoder, as Json.. has, got 'json'"),
    "a class": ({"codec": Json}, TypeError, "codec must have a name, encode and decoder, .* got <class"),
    "none of several": ({"codec": []}, ValueError, "codec must name at least one codec"),
    "two of one name": ({"codec": [Json(), Json()]}, ValueError, "different names, got json, json"),
    "its header": ({"headers": {HEADER: "x"}}, ValueError, "headers must not have 'aioasynq-codec', which codec= sets"),
    "a lock that could not work": (
        {"codec": Encrypted(NEW), "unique": 60},
        ValueError,
        "unique and codec=.* exclude each other: the lock compares payloads, .* got unique=60",
    ),
}


@pytest.mark.parametrize(("options", "error", "text"), WRONG.values(), ids=WRONG)
def test_wrong_codecs(options, error, text):
    with pytest.raises(error, match=text):
        ServeMux().task("t", **options)(lambda: None)


def test_options_that_come_later_are_checked_as_well():
    @TaskType.declare("t", codec=Encrypted(NEW))
    def handler() -> None: ...

    with pytest.raises(ValueError, match="unique and codec="):
        handler.with_options(unique=60)
    with pytest.raises(ValueError, match="headers must not have 'aioasynq-codec'"):
        handler.with_options(headers={HEADER: "json"})
