"""Typed tasks: functions, and the payloads that call them."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from aioasynq.errors import PayloadError
from aioasynq.mux import ServeMux
from aioasynq.options import EMPTY, Options
from aioasynq.task import Task


def typed_mux() -> tuple[ServeMux, Any]:
    mux = ServeMux()

    @mux.task("email:welcome", queue="critical", max_retry=5, headers={"from": "us"})
    async def welcome(user_id: int, lang: str = "en", *, flags: list[str] | None = None) -> tuple[object, ...]:
        """Say hello."""
        return user_id, lang, flags

    return mux, welcome


async def test_a_typed_task_goes_there_and_back():
    mux, welcome = typed_mux()
    task = welcome.task(user_id=42, flags=["a"])
    assert (task.type, task.payload) == ("email:welcome", b'{"user_id":42,"flags":["a"]}')
    assert await mux(task) == (42, "en", ["a"])


async def test_a_typed_function_is_still_one():
    _, welcome = typed_mux()
    assert await welcome(1, "de") == (1, "de", None)
    assert (welcome.type, welcome.__name__, welcome.__doc__) == ("email:welcome", "welcome", "Say hello.")
    assert list(inspect.signature(welcome).parameters) == ["user_id", "lang", "flags"]
    assert repr(welcome).startswith("<TaskType 'email:welcome': <function ")


def test_type_checkers_know_the_arguments():
    mux = ServeMux()

    @mux.task("t")
    async def handler(a: int) -> str:
        return str(a)

    task: Task = handler.task(a=1)
    with pytest.raises(TypeError, match=r"^task 't': 'a': expected `int`, got `str`$"):
        handler.task(a="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    call: Coroutine[Any, Any, str] = handler(1)
    call.close()
    assert task.payload == b'{"a":1}'


def test_a_typed_task_has_the_options_of_its_type():
    """Row 97."""
    _, welcome = typed_mux()
    one, other = welcome.task(1), welcome.task(1)
    assert one.options == Options.of(queue="critical", max_retry=5)
    assert (one.queue, one.max_retry, one.id) == ("critical", 5, "")
    assert one.headers == {"from": "us"}
    one.headers["a"] = "1"
    assert other.headers == {"from": "us"}


def test_a_type_without_options_has_none():
    mux = ServeMux()

    @mux.task("t")
    async def handler() -> None: ...

    assert handler.task().options is EMPTY
    assert handler.task().payload == b"{}"


CALLS = {
    "by name": ((), {"user_id": 1}, b'{"user_id":1}'),
    "by position": ((1, "de"), {}, b'{"user_id":1,"lang":"de"}'),
    "both": ((1,), {"flags": [], "lang": "de"}, b'{"user_id":1,"lang":"de","flags":[]}'),
    "in one order, whatever the call's": (
        (),
        {"flags": [], "lang": "de", "user_id": 1},
        b'{"user_id":1,"lang":"de","flags":[]}',
    ),
    "None is a value": ((1,), {"flags": None}, b'{"user_id":1,"flags":null}'),
}


@pytest.mark.parametrize(("args", "kwargs", "payload"), CALLS.values(), ids=CALLS)
def test_arguments_become_json(args, kwargs, payload):
    _, welcome = typed_mux()
    assert welcome.task(*args, **kwargs).payload == payload


MISFITS = {
    "missing": ((), {}, "missing a required argument: 'user_id'; it takes user_id, lang, flags$"),
    "unknown": ((), {"user_id": 1, "user": 2}, "got an unexpected keyword argument 'user'; it takes user_id, lang"),
    "options among them": (
        (1,),
        {"process_in": 5, "queue": "low"},
        r"'process_in'; options of a task are given before, as by with_options\(process_in=..., queue=...\)$",
    ),
    "too many": ((1, "de", []), {}, "too many positional arguments"),
    "twice": ((1,), {"user_id": 1}, "multiple values for argument 'user_id'"),
    "not JSON": ((object(),), {}, "an argument cannot be JSON"),
    "complex": ((), {"user_id": 1j}, "an argument cannot be JSON"),
}


@pytest.mark.parametrize(("args", "kwargs", "text"), MISFITS.values(), ids=MISFITS)
def test_arguments_that_do_not_fit(args, kwargs, text):
    _, welcome = typed_mux()
    with pytest.raises(TypeError, match=f"^task 'email:welcome': .*{text}"):
        welcome.task(*args, **kwargs)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), [1, [float("-inf")]], {"a": (1.0, float("nan"))}, "\ud800"],
    ids=["nan", "inf", "in a list", "in an object", "surrogate"],
)
def test_values_that_json_would_change_are_refused(value):
    _, welcome = typed_mux()
    with pytest.raises(ValueError, match=r"^task 'email:welcome': .* cannot be JSON: "):
        welcome.task(user_id=1, flags=value)


def anything_mux() -> tuple[ServeMux, Any]:
    mux = ServeMux()

    @mux.task("any")
    async def handler(value: Any, *, other: object = None) -> tuple[object, ...]:
        return value, other

    return mux, handler


def test_null_is_no_wrong_number():
    _, handler = anything_mux()
    payload = handler.task(value=[None, 1.5, {"a": None}, True], other="null").payload
    assert payload == b'{"value":[null,1.5,{"a":null},true],"other":"null"}'


@pytest.mark.parametrize("number", [2**53 + 1, -(2**63) - 1, 2**64, 10**30, 0.1, -0.0, 1e300], ids=repr)
async def test_numbers_stay_exact(number):
    """Row 104."""
    mux, handler = anything_mux()
    got: Any = await mux(handler.task(value=number))
    assert (repr(got[0]), type(got[0])) == (repr(number), type(number))
    got = await mux(Task("any", f'{{"value": {number!r}}}'))
    assert (repr(got[0]), type(got[0])) == (repr(number), type(number))


@pytest.mark.parametrize("number", [2**53 + 1, -(2**63) - 1, 2**64, 10**30])
async def test_whole_numbers_may_be_large(number):
    """Row 104."""
    mux, welcome = typed_mux()
    assert await mux(welcome.task(user_id=number)) == (number, "en", None)
    assert await mux(Task("email:welcome", f'{{"user_id": {number}}}')) == (number, "en", None)


BAD_PAYLOADS = {
    "not JSON": (b"hello", "is not valid JSON"),
    "cut off": (b'{"user_id": 1', "is not valid JSON"),
    "not UTF-8": (b'{"user_id": "\xff"}', "is not valid JSON"),
    "key that is not UTF-8": (b'{"\xff": 1}', "is not valid JSON"),
    "more after it": (b'{"user_id":1} x', "is not valid JSON"),
    "nested without end": (b'{"user_id":' + b"[" * 100_000, "is not valid JSON"),
    "number beyond all floats": (b'{"user_id":1e999}', "is not valid JSON"),
    "of another type": (b'{"user_id":"1"}', "does not fit its handler: 'user_id': expected `int`, got `str`$"),
    "of another type, deep within": (
        b'{"user_id":1,"flags":["a",2]}',
        r"does .*: 'flags\[1\]': expected `str`, got `int`$",
    ),
    "array": (b"[1]", "must be a JSON object, got an array"),
    "text": (b'"a"', "must be a JSON object, got a string"),
    "number": (b"1.5", "must be a JSON object, got a number"),
    "boolean": (b"true", "must be a JSON object, got a boolean"),
    "null": (b"null", "must be a JSON object, got null"),
    "no payload": (None, "does not fit its handler: missing 'user_id'"),
    "empty payload": (b"", "does not fit its handler: missing 'user_id'"),
    "missing": (b'{"lang":"de"}', "does not fit its handler: missing 'user_id'$"),
    "unexpected": (b'{"user_id":1,"secret":5,"b":1}', "does not fit its handler: unexpected 'secret', 'b'$"),
    "both": (b'{"x":1}', "does not fit its handler: missing 'user_id'; unexpected 'x'$"),
}


@pytest.mark.parametrize(("payload", "text"), BAD_PAYLOADS.values(), ids=BAD_PAYLOADS)
async def test_a_payload_that_does_not_fit(payload, text):
    mux, _ = typed_mux()
    coroutine = mux(Task("email:welcome", payload))
    with pytest.raises(PayloadError, match=f"^payload of task 'email:welcome' {text}"):
        await coroutine


@pytest.mark.parametrize("payload", [None, b"", b"{}", b" {} "])
async def test_no_payload_is_no_arguments(payload):
    mux = ServeMux()

    @mux.task("t")
    async def handler(a: int = 1) -> int:
        return a

    assert await mux(Task("t", payload)) == 1


async def test_a_function_may_take_others():
    mux = ServeMux()

    @mux.task("t")
    async def handler(a: int, **others: object) -> object:
        return a, others

    assert handler.task(c=3, a=1, b=2).payload == b'{"a":1,"b":2,"c":3}'
    assert await mux(handler.task(1, self=2)) == (1, {"self": 2})
    with pytest.raises(PayloadError, match=r"missing 'a'$"):
        await mux(Task("t", b'{"b":1}'))


async def test_a_plain_typed_function_runs_in_a_thread():
    mux = ServeMux()

    @mux.task("t")
    def handler(a: int) -> tuple[int, bool]:
        return a, threading.current_thread() is threading.main_thread()

    assert await mux(handler.task(a=1)) == (1, False)
    assert handler(1) == (1, True)


async def test_an_error_of_the_function_is_not_one_of_the_payload():
    mux = ServeMux()

    @mux.task("t")
    async def handler(a: int) -> None:
        raise TypeError("handler() missing 1 required positional argument: 'a'")

    with pytest.raises(TypeError):
        await mux(handler.task(1))


async def test_middleware_is_around_typed_handlers():
    """Row 148."""
    mux, welcome = typed_mux()
    seen: list[object] = []

    @mux.use
    async def middleware(task: Task, call_next: Any) -> None:
        try:
            seen.append(await call_next(task))
        except PayloadError as exc:
            seen.append(type(exc))

    await mux(welcome.task(1))
    await mux(Task("email:welcome"))
    assert seen == [(1, "en", None), PayloadError]


async def test_a_typed_function_may_be_added_elsewhere():
    mux, welcome = typed_mux()
    other = ServeMux()
    other.add("mail", welcome)
    assert await other(Task("mail", b'{"user_id":1}')) == (1, "en", None)
    assert await mux.find("email:welcome")(welcome.task(2)) == (2, "en", None)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]


def yields_not(): ...
def position_only(a, /): ...
def variadic(*args): ...
async def yields(a):
    yield a


SIGNATURES = {
    "positional-only": (position_only, "positional-only parameter 'a' of .* does not allow"),
    "variadic": (variadic, "variadic positional parameter 'args' of .* does not allow"),
    "generator": (yields, "task 't' must not yield"),
    "not callable": (5, "task 't' must be a function, got 5"),
    "a class": (ServeMux, "task 't' must be a function, got the class <class 'aioasynq.mux.ServeMux'>"),
}


@pytest.mark.parametrize(("function", "text"), SIGNATURES.values(), ids=SIGNATURES)
def test_signatures_are_checked_at_registration(function, text):
    mux = ServeMux()
    with pytest.raises(TypeError, match=text):
        mux.task("t")(function)
    assert len(mux) == 0


def test_options_of_a_type_are_checked_at_registration():
    mux = ServeMux()
    with pytest.raises(ValueError, match=r"^timeout must "):
        mux.task("t", timeout=-1)(variadic)
    mux.add("taken", repr)
    with pytest.raises(ValueError, match="pattern 'taken' already has a handler"):
        mux.task("taken")(yields_not)
    with pytest.raises(TypeError, match=r"unknown option 'retries' \(did you mean max_retry\?\); .*, codec$"):
        mux.task("t", retries=3)(yields_not)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def test_enqueue_without_a_client():
    _, welcome = typed_mux()
    with pytest.raises(TypeError, match=r"^enqueue of task 'email:welcome' takes a client in front .*, got 42$"):
        await welcome.enqueue(42)
