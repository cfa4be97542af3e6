"""ServeMux: which handler a task gets, what is around it, and typed handlers."""

from __future__ import annotations

import asyncio
import inspect
import threading
from functools import partial, wraps
from typing import Any
from unittest.mock import AsyncMock

import pytest

from aioasynq import mux as mux_module
from aioasynq.context import CURRENT, RUN_IN_THREAD, current_task
from aioasynq.errors import HandlerNotFoundError
from aioasynq.hooks import NO_HOOKS, Hooks
from aioasynq.mux import ServeMux
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


@pytest.mark.rows(145)
@pytest.mark.parametrize(("type_", "pattern"), MATCHES.values(), ids=MATCHES)
@pytest.mark.parametrize("patterns", [OVERLAPPING, OVERLAPPING[::-1]], ids=["in order", "reversed"])
async def test_match(type_, pattern, patterns):
    mux = mux_of(*patterns)
    assert await mux(Task(type_)) == pattern
    assert await mux(Task(type_)) == pattern  # the second time from what it remembers
    assert mux.find(type_) is mux.find(pattern)


@pytest.mark.rows(147)
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


class Yields:
    async def __call__(self, task: Task):
        yield task


INVALID = {
    "146: None": ("a", None, ValueError, "handler of 'a' must not be None"),
    "146: empty pattern": ("", partial(answer, ""), ValueError, "invalid pattern: .* got ''"),
    "146: blank pattern": (" \t", partial(answer, ""), ValueError, "invalid pattern"),
    "pattern that is no text": (5, partial(answer, ""), ValueError, "invalid pattern: .* got 5"),
    "146: pattern twice": ("taken", partial(answer, ""), ValueError, "already has a handler: .*answer"),
    "not callable": ("a", "email", TypeError, "handler of 'a' must be a function of one task, got 'email'"),
    "no argument": ("a", lambda: None, TypeError, "handler of 'a' must be a function of one task"),
    "two arguments": ("a", lambda task, other: None, TypeError, "missing a required argument: 'other'"),
    "generator": ("a", lambda task: (yield), TypeError, "must not yield"),
    "object that yields": ("a", Yields(), TypeError, "must not yield"),
}


@pytest.mark.rows(146)
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


@pytest.mark.rows(148)
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


@pytest.mark.rows(148)
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


async def _of_one(task):
    del task


@pytest.mark.parametrize(
    "middleware", [lambda task, call_next: None, None, "x", _of_one], ids=["plain", "None", "text", "of one argument"]
)
def test_middleware_must_be_an_async_function_of_two(middleware):
    with pytest.raises(TypeError, match="middleware must be an async function of a task and the next step, got "):
        ServeMux().use(middleware)


async def test_middleware_of_one_handler_is_inside_that_of_the_mux():
    seen: list[str] = []
    mux = ServeMux()
    mux.use(recorder("mux", seen))
    own = [recorder("first", seen), recorder("second", seen)]

    @mux.task("typed", middleware=own)
    async def typed() -> str:
        return "typed"

    @mux.handler("raw", middleware=own[:1])
    async def raw(task: Task) -> str:
        return "raw"

    @mux.task("bare")
    async def bare() -> str:
        return "bare"

    assert [await mux(Task(each)) for each in ("typed", "raw", "bare")] == ["typed", "raw", "bare"]
    assert seen == [
        *("mux typed", "first typed", "second typed", "second after", "first after", "mux after"),
        *("mux raw", "first raw", "first after", "mux after"),
        *("mux bare", "mux after"),
    ]


async def test_a_mux_within_another_may_have_middleware_there():
    seen: list[str] = []
    outer = ServeMux()
    outer.add("a", mux_of("a"), middleware=[recorder("around", seen)])
    assert await outer(Task("a")) == "a"
    assert seen == ["around a", "around after"]


WRONG_OPTIONS = {
    "middleware that is plain": ({"middleware": [len]}, TypeError, "middleware must be an async function"),
    "middleware that is no list": ({"middleware": recorder("m", [])}, TypeError, "middleware must be a list of async"),
    "an option of tasks": (
        {"queue": "low"},
        TypeError,
        "a handler has no option 'queue'; it has retry, dont_retry, mi",
    ),
    "a wrong delay": ({"retry": -1}, ValueError, "retry must be from 0 to 9223372036 seconds, got -1"),
    "no class of errors": ({"dont_retry": ["x"]}, TypeError, "dont_retry must be classes of exceptions.* got 'x'"),
}


@pytest.mark.parametrize(("options", "error", "text"), WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
def test_options_of_a_handler_are_checked(options, error, text):
    mux = ServeMux()
    with pytest.raises(error, match=text):
        mux.add("a", plain_answer, **options)
    with pytest.raises(error, match=text):
        mux.handler("a", **options)(plain_answer)
    assert mux.patterns == ()


def test_what_has_rules_of_its_own_is_given_no_others():
    mux = ServeMux()

    @mux.task("t")
    async def typed() -> None: ...

    with pytest.raises(TypeError, match=r"options of 'b' are those of <TaskType 't'.*got retry besides"):
        mux.add("b", typed, retry=1)
    with pytest.raises(TypeError, match="a mux as handler of 'b' has the rules of its own handlers, got retry"):
        mux.add("b", mux_of("b"), retry=1)


# What comes after a try, and who is told


def test_hooks_of_a_mux_within_another_come_after_its():
    outer, inner = ServeMux(), ServeMux()

    async def first(task: Task) -> None: ...
    def second(task: Task) -> None: ...

    outer.add("in:", inner)
    inner.add("in:a", plain_answer, retry=5, dont_retry=KeyError)
    outer.add("out", plain_answer)
    assert outer.ends("in:a").hooks == outer.ends("unknown").hooks == NO_HOOKS
    assert inner.on_start(second) is second
    assert outer.on_start(first) is first
    assert outer.ends("in:a").hooks.start == (first, second)
    assert outer.ends("in:a").dont_retry == (KeyError,)
    assert outer.ends("out") == outer.ends("unknown") == outer.ends("out") == (None, (), Hooks(start=(first,)))


HOOKS = {
    "on_start": ("on_start", lambda: None, "on_start must be a function of 1 argument, got"),
    "on_success": ("on_success", lambda task: None, "on_success must be a function of 2 arguments, got .* too many"),
    "on_failure": ("on_failure", "text", "on_failure must be a function of 2 arguments, got 'text'"),
    "on_retry": ("on_retry", lambda task, error: None, "on_retry must be a function of 3 arguments"),
    "on_archive": ("on_archive", lambda task, error: (yield), "on_archive must be .* that does not yield"),
}


@pytest.mark.parametrize(("name", "hook", "text"), HOOKS.values(), ids=HOOKS)
def test_hooks_are_checked(name, hook, text):
    with pytest.raises(TypeError, match=text):
        getattr(ServeMux(), name)(hook)


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
