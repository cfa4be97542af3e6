"""ServeMux: which handler a task gets, what is around it, and typed handlers."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Coroutine
from functools import partial, wraps
from typing import Any
from unittest.mock import AsyncMock

import pytest

from aioasynq import mux as mux_module
from aioasynq.context import CURRENT, RUN_IN_THREAD, current_task
from aioasynq.errors import HandlerNotFoundError, PayloadError
from aioasynq.mux import ServeMux
from aioasynq.options import EMPTY, Options
from aioasynq.task import Task

# Patterns


async def answer(pattern: str, task: Task) -> str:
    return pattern


def mux_of(*patterns: str) -> ServeMux:
    """A mux whose handlers return their pattern."""
    mux = ServeMux()
    for pattern in patterns:
        mux.add(pattern, partial(answer, pattern))
    return mux


OVERLAPPING = ("email:", "email:signup", "email:sign", "csv:export", "x")

MATCHES = {
    "145: exact": ("email:signup", "email:signup"),
    "145: exact and not the longer one": ("email:sign", "email:sign"),
    "145: prefix": ("email:daily", "email:"),
    "145: exact pattern that ends in a separator": ("email:", "email:"),
    "145: longest prefix": ("email:signup:premium", "email:signup"),
    "145: prefix without a separator": ("email:signal", "email:sign"),
    "145: a pattern of one character": ("xyz", "x"),
    "145: prefix of an exact one": ("csv:export:all", "csv:export"),
}


@pytest.mark.parametrize(("type_", "pattern"), MATCHES.values(), ids=MATCHES)
@pytest.mark.parametrize("patterns", [OVERLAPPING, OVERLAPPING[::-1]], ids=["in order", "reversed"])
async def test_match(type_, pattern, patterns):
    mux = mux_of(*patterns)
    assert await mux(Task(type_)) == pattern
    assert await mux(Task(type_)) == pattern  # the second time from what it remembers
    assert mux.find(type_) is mux.find(pattern)


@pytest.mark.parametrize("type_", ["csv", "csv:expor", "Email:signup", "emai", " email:"])
async def test_no_match(type_):
    """Row 147."""
    mux = mux_of(*OVERLAPPING)
    with pytest.raises(HandlerNotFoundError, match=f'^handler not found for task "{type_}"$'):
        await mux(Task(type_))
    with pytest.raises(HandlerNotFoundError) as missed:
        mux.find(type_)
    assert missed.value.task_type == type_


async def test_what_is_missing_is_said_when_it_is_awaited():
    coroutine = ServeMux()(Task("t"))
    assert inspect.iscoroutine(coroutine)  # a server makes a task of it
    with pytest.raises(HandlerNotFoundError):
        await coroutine


INVALID = {
    "146: None": ("a", None, ValueError, "handler of 'a' must not be None"),
    "146: empty pattern": ("", partial(answer, ""), ValueError, "invalid pattern: .* got ''"),
    "146: blank pattern": (" \t", partial(answer, ""), ValueError, "invalid pattern"),
    "pattern that is no text": (5, partial(answer, ""), ValueError, "invalid pattern: .* got 5"),
    "146: pattern twice": ("taken", partial(answer, ""), ValueError, "pattern 'taken' already has a handler"),
    "not callable": ("a", "email", TypeError, "handler of 'a' must be a function of one task, got 'email'"),
    "no argument": ("a", lambda: None, TypeError, "handler of 'a' must be a function of one task"),
    "two arguments": ("a", lambda task, other: None, TypeError, "missing a required argument: 'other'"),
    "generator": ("a", lambda task: (yield), TypeError, "must not yield"),
}


@pytest.mark.parametrize(("pattern", "handler", "error", "text"), INVALID.values(), ids=INVALID)
def test_registration_is_checked(pattern, handler, error, text):
    mux = mux_of("taken")
    with pytest.raises(error, match=text):
        mux.add(pattern, handler)
    assert mux.patterns == ("taken",)


def test_an_async_generator_is_no_handler():
    async def handler(task):
        yield task

    with pytest.raises(TypeError, match="must not yield"):
        ServeMux().add("a", handler)


def test_patterns_and_length():
    mux = mux_of("b", "a")
    assert mux.patterns == ("b", "a")
    assert len(mux) == 2
    assert len(ServeMux()) == 0
    assert ServeMux()


async def test_a_decorated_handler_stays_as_it_is():
    mux = ServeMux()

    @mux.handler("a")
    async def handler(task: Task) -> str:
        return task.type

    assert mux.find("a") is handler
    assert await handler(Task("direct")) == "direct"


async def test_handlers_may_be_added_while_it_works():
    mux = mux_of("a")
    assert await mux(Task("ab")) == "a"
    mux.add("ab", partial(answer, "ab"))
    assert await mux(Task("ab")) == "ab"


async def test_types_without_number_are_not_all_remembered(monkeypatch):
    monkeypatch.setattr(mux_module, "MAX_CACHED", 4)
    mux = mux_of("user:")
    for number in range(20):
        assert await mux(Task(f"user:{number}")) == "user:"
        with pytest.raises(HandlerNotFoundError):
            await mux(Task(f"unknown:{number}"))
    assert len(mux._cache) <= 4


# Kinds of handlers


class Callable:
    async def __call__(self, task: Task) -> str:
        return f"object {task.type}"

    async def method(self, task: Task) -> str:
        return f"method {task.type}"

    def plain(self, task: Task) -> str:
        return f"plain {threading.current_thread() is threading.main_thread()}"


async def plain_answer(task: Task) -> str:
    return f"async {task.type}"


@wraps(plain_answer)
def wrapped(*args: Any) -> Any:
    return plain_answer(*args)


KINDS = {
    "async function": (plain_answer, "async t"),
    "object with an async call": (Callable(), "object t"),
    "async method": (Callable().method, "method t"),
    "partial of an async function": (partial(answer, "p"), "p"),
    "mock": (AsyncMock(return_value="mocked"), "mocked"),
    "plain method, in a thread": (Callable().plain, "plain False"),
    "built-in": (type, Task),
    "plain wrapper around an async function": (wrapped, "async t"),
    "plain function that returns nothing": (lambda task: None, None),
}


@pytest.mark.parametrize(("handler", "result"), KINDS.values(), ids=KINDS)
async def test_kinds_of_handlers(handler, result):
    mux = ServeMux()
    mux.add("t", handler)
    coroutine = mux(Task("t"))
    assert inspect.iscoroutine(coroutine)
    assert await coroutine == result


async def test_an_async_handler_runs_without_a_step_between():
    mux = ServeMux()
    mux.add("t", plain_answer)
    coroutine = mux(Task("t"))
    assert coroutine.cr_code is plain_answer.__code__  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    coroutine.close()


async def test_a_plain_function_runs_where_the_server_says():
    places: list[str] = []

    async def run(function: Any) -> object:
        places.append("ours")
        return await asyncio.to_thread(function)

    RUN_IN_THREAD.set(run)
    CURRENT.set(task := Task("t"))
    mux = ServeMux()
    mux.add("t", lambda _: current_task())
    assert await mux(task) is task
    assert places == ["ours"]


@pytest.mark.parametrize(
    ("error", "seen"),
    [(ValueError("bad"), ValueError), (StopIteration(), RuntimeError), (KeyError("k"), KeyError)],
    ids=["any", "StopIteration, which no future can carry", "another"],
)
async def test_an_error_in_a_thread_arrives(error, seen):
    def handler(task: Task) -> None:
        raise error

    mux = ServeMux()
    mux.add("t", handler)
    async with asyncio.timeout(10):
        with pytest.raises(seen):
            await mux(Task("t"))


# Middleware


def recorder(name: str, seen: list[str]) -> Any:
    async def middleware(task: Task, call_next: Any) -> object:
        seen.append(f"{name} {task.type}")
        try:
            return await call_next(task)
        finally:
            seen.append(f"{name} after")

    return middleware


async def test_middleware_runs_in_order_around_the_handler():
    """Row 148."""
    seen: list[str] = []
    mux = ServeMux()
    mux.use(recorder("first", seen))

    @mux.handler("t")
    async def handler(task: Task) -> str:
        seen.append("handler")
        return "result"

    mux.use(recorder("second", seen))
    assert await mux(Task("t")) == "result"
    assert seen == ["first t", "second t", "handler", "second after", "first after"]


async def test_middleware_may_be_added_while_it_works():
    seen: list[str] = []
    mux = mux_of("t")
    await mux(Task("t"))
    mux.use(recorder("late", seen))
    await mux(Task("t"))
    assert seen == ["late t", "late after"]


async def test_middleware_sees_unknown_types():
    seen: list[str] = []
    mux = ServeMux()
    mux.use(recorder("m", seen))
    with pytest.raises(HandlerNotFoundError):
        await mux(Task("unknown"))
    assert seen == ["m unknown", "m after"]


async def test_middleware_may_answer_or_change_the_task():
    mux = mux_of("a", "b")

    @mux.use
    async def middleware(task: Task, call_next: Any) -> object:
        return "skipped" if task.payload == b"skip" else await call_next(Task(task.type, b"changed"))

    assert await mux(Task("a", b"skip")) == "skipped"
    assert await mux(Task("a")) == "a"


async def test_an_object_may_be_middleware():
    class Shout:
        async def __call__(self, task: Task, call_next: Any) -> str:
            return str(await call_next(task)).upper()

    mux = mux_of("a")
    shout = Shout()
    assert mux.use(shout) is shout
    assert await mux(Task("a")) == "A"


@pytest.mark.parametrize("middleware", [lambda task, call_next: None, None, "x"], ids=["plain", "None", "text"])
def test_middleware_must_be_async(middleware):
    with pytest.raises(TypeError, match="middleware must be an async function"):
        ServeMux().use(middleware)


# One mux in another


async def test_muxes_nest():
    seen: list[str] = []
    outer, inner = ServeMux(), mux_of("email:signup", "email:")
    outer.use(recorder("outer", seen))
    inner.use(recorder("inner", seen))
    outer.add("email:", inner)
    assert await outer(Task("email:signup")) == "email:signup"
    assert seen == ["outer email:signup", "inner email:signup", "inner after", "outer after"]
    inner.add("email:x", partial(answer, "added later"))
    assert await outer(Task("email:x")) == "added later"
    assert outer.find("email:signup") is inner


async def test_the_inner_one_may_know_no_handler():
    outer = ServeMux()
    outer.add("email:", mux_of("email:signup"))
    with pytest.raises(HandlerNotFoundError, match='"email:other"'):
        await outer(Task("email:other"))


def test_a_mux_is_not_its_own_handler():
    mux = ServeMux()
    with pytest.raises(ValueError, match="must not be the mux itself"):
        mux.add("a", mux)


# Typed handlers


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
    wrong: Task = handler.task(a="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    call: Coroutine[Any, Any, str] = handler(1)
    call.close()
    assert (task.payload, wrong.payload) == (b'{"a":1}', b'{"a":"1"}')  # values are not checked in this form


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
    "None is a value": ((1, None), {}, b'{"user_id":1,"lang":null}'),
}


@pytest.mark.parametrize(("args", "kwargs", "payload"), CALLS.values(), ids=CALLS)
def test_arguments_become_json(args, kwargs, payload):
    _, welcome = typed_mux()
    assert welcome.task(*args, **kwargs).payload == payload


MISFITS = {
    "missing": ((), {}, "missing a required argument: 'user_id'"),
    "unknown": ((), {"user_id": 1, "user": 2}, "got an unexpected keyword argument 'user'"),
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


def test_null_is_no_wrong_number():
    _, welcome = typed_mux()
    payload = welcome.task(user_id=0, lang="null", flags=[None, 1.5, {"a": None}, True]).payload
    assert payload == b'{"user_id":0,"lang":"null","flags":[null,1.5,{"a":null},true]}'


@pytest.mark.parametrize("number", [2**53 + 1, -(2**63) - 1, 2**64, 10**30, 0.1, -0.0, 1e300], ids=repr)
async def test_numbers_stay_exact(number):
    """Row 104."""
    mux, welcome = typed_mux()
    got: Any = await mux(welcome.task(user_id=number))
    assert (repr(got[0]), type(got[0])) == (repr(number), type(number))
    got = await mux(Task("email:welcome", f'{{"user_id": {number!r}}}'))
    assert (repr(got[0]), type(got[0])) == (repr(number), type(number))


BAD_PAYLOADS = {
    "not JSON": (b"hello", "is not valid JSON"),
    "cut off": (b'{"user_id": 1', "is not valid JSON"),
    "not UTF-8": (b'{"user_id": "\xff"}', "is not valid JSON"),
    "key that is not UTF-8": (b'{"\xff": 1}', "is not valid JSON"),
    "more after it": (b'{"user_id":1} x', "is not valid JSON"),
    "nested without end": (b'{"user_id":' + b"[" * 100_000, "is not valid JSON"),
    "number beyond all floats": (b'{"user_id":1e999}', "is not valid JSON"),
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
    seen: list[str] = []
    mux.use(recorder("m", seen))
    await mux(welcome.task(1))
    with pytest.raises(PayloadError):
        await mux(Task("email:welcome"))
    assert seen == ["m email:welcome", "m after"] * 2


async def test_a_typed_function_may_be_added_elsewhere():
    mux, welcome = typed_mux()
    other = ServeMux()
    other.add("mail", welcome)
    assert await other(Task("mail", b'{"user_id":1}')) == (1, "en", None)
    assert await mux.find("email:welcome")(welcome.task(2)) == (2, "en", None)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]


def position_only(a, /): ...
def variadic(*args): ...
async def yields(a):
    yield a


SIGNATURES = {
    "positional-only": (position_only, "positional-only parameter 'a' of .* does not allow"),
    "variadic": (variadic, "variadic positional parameter 'args' of .* does not allow"),
    "generator": (yields, "task 't' must not yield"),
    "not callable": (5, "task 't' must be a function, got 5"),
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
    with pytest.raises(ValueError, match="pattern 'taken' already has a handler"):
        mux_of("taken").task("taken")(plain_answer)
