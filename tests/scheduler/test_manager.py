"""A manager of periodic tasks: what its provider says is enqueued, and what it says wrong changes nothing."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from aioasynq import (
    BrokerRefusedError,
    Inspector,
    PeriodicTaskConfig,
    PeriodicTaskManager,
    SchedulerStateError,
    Task,
)
from aioasynq.devserver import DevServer
from tests.server.stage import PATIENCE, Seen, eventually


def config(name: str = "work", spec: str = "@every 1h", **options: Any) -> PeriodicTaskConfig:
    return PeriodicTaskConfig(spec, Task(name), **options)


class Provider:
    """Gives what it is told to give."""

    def __init__(self, *configs: Any) -> None:
        self.answer: Any = list(configs)
        self.asked = Seen()

    async def __call__(self) -> Any:
        self.asked.add(None)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def entries(manager: PeriodicTaskManager) -> dict[str, str]:
    """Id by the task's type, of what is registered."""
    return {entry.task.type: entry.id for entry in manager.scheduler._entries.values()}


# ── what it is made of ──


@pytest.mark.rows(142)
@pytest.mark.parametrize("kind", ["url", "client"])
async def test_either_kind_of_connection_will_do(redis_url: str, redis: Redis, kind: str):
    seen = Seen()
    provider = Provider(config(spec="@every 1s"))
    async with PeriodicTaskManager(
        redis_url if kind == "url" else redis,
        provider,
        post_enqueue=lambda info, _: seen.add(info.type if info else ""),
    ):
        assert set(await seen.until(1)) == {"work"}
    assert await redis.ping()


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no provider": ({"provider": None}, TypeError, "provider must be a function that returns .*, got None"),
    "a list": ({"provider": [config()]}, TypeError, "provider must be a function that returns"),
    "the other way round": ({"redis": entries}, TypeError, r"redis comes first, then .*\(url, provider\)"),
    "no interval": ({"sync_interval": 0}, ValueError, "sync_interval must be from 0.01 to .* seconds, got 0"),
    "an interval in words": ({"sync_interval": "3m"}, TypeError, "sync_interval must be .* got '3m'"),
    "no such option": ({"interval": 5}, TypeError, "has no option 'interval'; it has sync_interval, .*observers"),
    "an option of the scheduler": ({"location": "Mars"}, ValueError, "there is no time zone 'Mars'"),
}  # fmt: skip


@pytest.mark.rows(142)
@pytest.mark.parametrize(("arguments", "error", "text"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str):
    usual: dict[str, Any] = {"redis": "redis://nowhere", "provider": Provider()}
    usual.update(arguments)
    with pytest.raises(error, match=text):
        PeriodicTaskManager(**usual)


@pytest.mark.rows(142)
async def test_a_connection_that_is_none():
    with pytest.raises(TypeError, match=r"redis must be a URL, a redis\.asyncio client or None, got builtins\.int"):
        await PeriodicTaskManager(5, Provider()).start()  # type: ignore[arg-type]


CONFIGS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no spec": ({"spec": ""}, ValueError, "spec must be a cron expression, .* got ''"),
    "a spec that is no text": ({"spec": None}, TypeError, "spec must be a str, got None"),
    "no task": ({"task": None}, TypeError, "task must be a Task, got None"),
    "no such option": (
        {"color": 1},
        TypeError,
        "unknown option 'color'; an entry has name, catch_up and every_replica",
    ),
    "a bad option": ({"max_retry": -1}, ValueError, "max_retry must be .* got -1"),
    "no such policy": ({"catch_up": "never"}, ValueError, "catch_up must be one of skip, once, all, got 'never'"),
}


@pytest.mark.rows(142)
@pytest.mark.parametrize(("arguments", "error", "text"), CONFIGS.values(), ids=CONFIGS)
def test_wrong_configs(arguments: dict[str, Any], error: type[Exception], text: str):
    usual: dict[str, Any] = {"spec": "@daily", "task": Task("work")}
    usual.update(arguments)
    with pytest.raises(error, match=text):
        PeriodicTaskConfig(**usual)


# ── which configs are equal ──

BASE: dict[str, Any] = {"spec": "@daily", "task": ("work", b"p"), "queue": "low", "max_retry": 3, "timeout": 60}
SAME: dict[str, dict[str, Any]] = {
    "in another order": dict(reversed(BASE.items())),
    "a duration in another form": BASE | {"timeout": 60.0},
}
OTHER: dict[str, dict[str, Any]] = {
    "another spec": BASE | {"spec": "@hourly"},
    "another type": BASE | {"task": ("job", b"p")},
    "another payload": BASE | {"task": ("work", b"q")},
    "no payload": BASE | {"task": ("work", None)},
    "another option": BASE | {"max_retry": 4},
    "an option less": {name: value for name, value in BASE.items() if name != "timeout"},
    "an option more": BASE | {"retention": 1},
    "another queue": BASE | {"queue": "high"},
    "headers": BASE | {"headers": {"a": "b"}},
    "a name": BASE | {"name": "n"},
    "another policy": BASE | {"catch_up": "once"},
    "for every replica": BASE | {"every_replica": True},
    "what would be the same when written one after the other": BASE | {"spec": "@dailyw", "task": ("ork", b"p")},
}


def made(spec: str, task: tuple[str, bytes | None], **options: Any) -> PeriodicTaskConfig:
    return PeriodicTaskConfig(spec, Task(*task), **options)


@pytest.mark.rows(143)
@pytest.mark.parametrize("other", SAME.values(), ids=SAME)
def test_equal_configs(other: dict[str, Any]):
    assert made(**other) == made(**BASE)
    assert hash(made(**other)) == hash(made(**BASE))


@pytest.mark.rows(143)
@pytest.mark.parametrize("other", OTHER.values(), ids=OTHER)
def test_configs_that_are_not_equal(other: dict[str, Any]):
    assert made(**other) != made(**BASE)
    assert made(**BASE) != "something else"


# ── keeping in step ──


@pytest.mark.rows(144)
async def test_new_configs_appear_and_old_ones_go(redis_url: str):
    provider = Provider(config("stays"), config("goes"))
    async with (
        PeriodicTaskManager(redis_url, provider, sync_interval=0.05) as manager,
        Inspector(redis_url) as inspector,
    ):
        before = entries(manager)
        assert set(before) == {"stays", "goes"}
        provider.answer = [config("comes"), config("stays")]
        await eventually(lambda: set(entries(manager)) == {"stays", "comes"})
        assert entries(manager)["stays"] == before["stays"]
        stays = manager.scheduler._entries[before["stays"]]
        await provider.asked.until(len(provider.asked.all) + 2)
        assert manager.scheduler._entries[before["stays"]] is stays

        async def shown() -> bool:
            return {entry.task_type for entry in await inspector.scheduler_entries()} == {"stays", "comes"}

        await eventually(shown)


async def test_a_changed_config_takes_the_place_of_the_old_one(redis_url: str):
    provider = Provider(config(name="n", queue="low"))
    provider.answer = [PeriodicTaskConfig("@every 1h", Task("work"), name="n")]
    async with PeriodicTaskManager(redis_url, provider) as manager:
        [id_] = entries(manager).values()
        provider.answer = [PeriodicTaskConfig("@every 2h", Task("work"), name="n")]
        await manager.sync()
        assert entries(manager) == {"work": id_}
        assert manager.scheduler._entries[id_].spec == "@every 2h"


async def test_what_somebody_else_took_out_is_no_trouble(redis_url: str, caplog):
    """And it stays out as long as the provider gives it."""
    provider = Provider(config("work"), config("other"))
    async with PeriodicTaskManager(redis_url, provider, sync_interval=0.05) as manager:
        manager.scheduler.unregister(entries(manager)["work"])
        await provider.asked.until(len(provider.asked.all) + 2)
        assert set(entries(manager)) == {"other"}
        provider.answer = [config("other")]
        await provider.asked.until(len(provider.asked.all) + 2)
        provider.answer = [config("other"), config("work")]
        await eventually(lambda: set(entries(manager)) == {"other", "work"})
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_the_questions_go_on_after_a_cancellation(redis_url: str):
    provider = Provider(config("work"))
    async with PeriodicTaskManager(redis_url, provider, sync_interval=0.05) as manager:
        provider.answer = asyncio.CancelledError()
        await provider.asked.until(len(provider.asked.all) + 2)
        provider.answer = [config("new")]
        await eventually(lambda: set(entries(manager)) == {"new"})


JUNK: dict[str, Any] = {
    "an error": RuntimeError("the database is away"),
    "a cancellation of its own": asyncio.CancelledError("the database is away"),
    "nothing": None,
    "a text": "@daily",
    "a number": 5,
    "a list with None in it": [config("new"), None],
    "a list of tasks": [Task("new")],
    "one config": config("new"),
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
async def test_a_wrong_answer_changes_nothing_and_is_logged(redis_url: str, junk: Any, caplog):
    provider = Provider(config("work"))
    async with PeriodicTaskManager(redis_url, provider) as manager:
        before = entries(manager)
        provider.answer = junk
        await manager.sync()
        assert entries(manager) == before
        [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert record.message == "the provider of periodic tasks failed; nothing is changed"
        provider.answer = [config("work"), config("new")]
        await manager.sync()
        assert set(entries(manager)) == {"work", "new"}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
async def test_a_wrong_first_answer_is_an_error(redis_url: str, redis: Redis, junk: Any):
    manager = PeriodicTaskManager(redis_url, Provider())
    manager._provider.answer = junk  # type: ignore[attr-defined]
    error = type(junk) if isinstance(junk, BaseException) else TypeError
    with pytest.raises(error, match=r"database|provider must"):
        await manager.start()
    assert await redis.keys() == []
    with pytest.raises(SchedulerStateError, match="started once"):
        await manager.start()


async def test_a_spec_that_cannot_be_read_is_left_out_and_tried_again(redis_url: str, caplog):
    provider = Provider(config("good"), config("bad", spec="* * *"))
    async with PeriodicTaskManager(redis_url, provider) as manager:
        assert set(entries(manager)) == {"good"}
        await manager.sync()
        said = [record.message for record in caplog.records if record.levelno == logging.ERROR]
        assert len(said) == 2
        assert said[0].startswith("periodic task 'bad' is left out: spec must have 5 fields")


async def test_two_equal_configs_count_once(redis_url: str, caplog):
    provider = Provider(config("work"), config("other"), config("work"))
    async with PeriodicTaskManager(redis_url, provider) as manager:
        assert set(entries(manager)) == {"work", "other"}
        assert "gave task 'work' at '@every 1h' 2 times; it counts once" in caplog.text
        provider.answer = []
        await manager.sync()
        assert entries(manager) == {}


async def test_a_plain_provider_runs_in_a_thread(redis_url: str):
    threads: list[int] = []

    def provide() -> list[PeriodicTaskConfig]:
        threads.append(threading.get_ident())
        return [config("plain")]

    async def later() -> list[PeriodicTaskConfig]:
        return [config("async")]

    providers: dict[str, Callable[[], Any]] = {
        "plain": provide,
        "async": later,
        "partial": functools.partial(later),
        "future": lambda: _future(later),
    }
    for name, provider in providers.items():
        async with PeriodicTaskManager(redis_url, provider) as manager:
            assert set(entries(manager)) == {"plain" if name == "plain" else "async"}
    assert threads
    assert threading.get_ident() not in threads


def _future(work: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
    return work()


async def test_a_provider_that_hangs_does_not_keep_it_from_ending(redis_url: str):
    seen = Seen()

    async def provide() -> list[PeriodicTaskConfig]:
        seen.add(None)
        if len(seen.all) > 1:
            await asyncio.sleep(60)
        return []

    async with asyncio.timeout(10), PeriodicTaskManager(redis_url, provide, sync_interval=0.01):
        await seen.until(2)


HANGS = """
import asyncio, sys, threading
from aioasynq import PeriodicTaskManager

first, hangs = threading.Event(), threading.Event()


def provide():
    if first.is_set():
        hangs.set()
        threading.Event().wait()
    first.set()
    return []


async def main():
    async with PeriodicTaskManager(sys.argv[1], provide, sync_interval=0.01):
        while not hangs.is_set():
            await asyncio.sleep(0.01)


asyncio.run(main())
"""


async def test_a_thread_that_hangs_does_not_keep_the_program_from_ending(redis_url: str):
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", HANGS, redis_url)
    try:
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_states_of_a_manager(redis_url: str, own_server: Callable[..., DevServer]):
    manager = PeriodicTaskManager(redis_url, Provider(config("work")))
    async with manager:
        with pytest.raises(SchedulerStateError, match="started once"):
            await manager.start()
        assert "active, 1 of" in repr(manager)
    await manager.shutdown()
    server = own_server(config={"requirepass": "secret"})
    refused = PeriodicTaskManager(server.url.replace("secret", "wrong"), Provider())
    with pytest.raises(BrokerRefusedError):
        await refused.start()
