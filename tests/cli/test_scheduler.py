"""``aioasynq scheduler`` as a process of its own."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aioasynq import keys
from aioasynq.devserver import ENV_URL
from tests.server.stage import eventually

PERIODIC = """
import pathlib
from aioasynq import PeriodicTaskConfig, PeriodicTaskManager, Scheduler, ServeMux, Task

scheduler = Scheduler(location="Europe/Berlin")
scheduler.register("@every 1s", Task("tick"), queue="low")
scheduler.register("CRON_TZ=UTC 0 9 1 1 *", Task("report"))
empty = Scheduler()
many = Scheduler()
for number in range(22):
    many.register("@daily", Task(f"t{number}"))
mux = ServeMux()
mux.add("tick", print)

def provide():
    lines = pathlib.Path("entries.txt").read_text().splitlines()
    return [PeriodicTaskConfig(spec, Task(name)) for spec, name in (line.split("|") for line in lines)]

manager = PeriodicTaskManager(None, provide, sync_interval=0.05)
wrong = PeriodicTaskManager(None, lambda: 5)

def make():
    return scheduler

def traced():
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    trace.set_tracer_provider(TracerProvider())
    return scheduler

def traced_manager():
    traced()
    return manager

def make_mux():
    return mux

def make_nothing():
    pass

def fail():
    raise ValueError("no settings")
"""


@pytest.fixture
def run_scheduler(run_worker: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    (tmp_path / "periodic.py").write_text(PERIODIC)
    (tmp_path / "entries.txt").write_text("@hourly|first\n")
    return partial(run_worker, command="scheduler")


async def test_the_banner_a_firing_and_the_end(run_scheduler, redis_url, redis):
    async with run_scheduler("periodic:scheduler", "--url", redis_url) as program:
        said = await program.until("started")
        lines = said.splitlines()
        assert lines[1:4] == [
            f"  scheduler    {socket.gethostname()}:{program.process.pid}",
            f"  redis        {redis_url}",
            "  zone         Europe/Berlin",
        ]
        assert lines[4].startswith("  entries      @every 1s: tick in queue low, next at 2")
        assert lines[5].startswith(" " * 15 + "CRON_TZ=UTC 0 9 1 1 *: report in queue default, next at 2")
        assert lines[5].endswith("-01-01 09:00:00 UTC")

        async def is_there() -> bool:
            return bool(await redis.llen(keys.pending("low")))

        await eventually(is_there)
        program.process.send_signal(signal.SIGTERM)
        assert await program.end() == 0
    assert "SIGTERM received: shutting down" in program.said
    assert await redis.keys("asynq:schedulers*") == []


async def test_a_manager_whose_file_changes(run_scheduler, redis_url, tmp_path):
    async with run_scheduler("periodic:manager", env={ENV_URL: redis_url}) as program:
        said = await program.until("started")
        assert "  entries      as provide says, which is asked every 0.05 s\n" in said
        assert "periodic task 'first' at '@hourly' is registered, next at 2" in said
        (tmp_path / "new.txt").write_text("@daily|second\n")
        (tmp_path / "new.txt").rename(tmp_path / "entries.txt")
        await program.until("periodic task 'second' at '@daily' is registered, next at 2")
        assert "periodic task 'first' at '@hourly' is no more" in program.said
        program.process.send_signal(signal.SIGINT)
        assert await program.end() == 0


async def test_lines_as_json(run_scheduler, redis_url):
    async with run_scheduler("periodic:many", "--url", redis_url, "--log-format", "json") as program:
        first = json.loads((await program.until("\n")).splitlines()[0])
        assert first["scheduler"]["redis"] == redis_url
        assert len(first["scheduler"]["entries"]) == 21
        assert first["scheduler"]["entries"][20] == "and 2 more"


async def test_redis_that_refuses(run_scheduler, own_server):
    server = own_server(config={"requirepass": "secret"})
    async with run_scheduler("periodic:make", "--url", server.url.replace("secret", "wrong")) as program:
        assert await program.end() == 1
    assert "Traceback" not in program.said
    assert "wrong" not in program.said


@pytest.mark.parametrize("target", ["periodic:traced", "periodic:traced_manager"])
async def test_traces(run_scheduler, redis_url, redis, target, tmp_path):
    (tmp_path / "entries.txt").write_text("@every 1s|tick\n")
    async with run_scheduler(target, "--url", redis_url, "--otel", "--log-level", "debug") as program:
        await program.until("is in queue")
    places: Any = await redis.keys("asynq:{*}:t:*")
    assert b"traceparent" in await redis.hget(places[0], keys.MSG)


WRONG = {
    "no colon": (["periodic"], 2, "'periodic' is no MODULE:NAME, as in periodic:scheduler"),
    "a path": (["periodic.py"], 2, "is a path; write periodic:scheduler"),
    "no such name": (
        ["periodic:nothing"],
        2,
        "has no 'nothing'; it has scheduler (Scheduler), empty (Scheduler), many (Scheduler), manager (PeriodicTask",
    ),
    "no entry": (["periodic:empty"], 2, "has no entry; register one with empty.register(spec, task)"),
    "handlers": (["periodic:mux"], 2, "is a ServeMux, which aioasynq worker periodic:mux runs"),
    "a factory of handlers": (["periodic:make_mux"], 2, "is a ServeMux, which aioasynq worker periodic:make_mux runs"),
    "something else": (["periodic:PERIODIC"], 2, "module 'periodic' has no 'PERIODIC'"),
    "a module": (["periodic:pathlib"], 2, "is of type module; a Scheduler, a PeriodicTaskManager, or a function that"),
    "a factory of nothing": (
        ["periodic:make_nothing"],
        2,
        "is a function that returned NoneType, not a Scheduler or a PeriodicTaskManager",
    ),
    "a factory that fails": (["periodic:fail"], 2, "called to make a Scheduler, failed:"),
    "no handlers in it": (["broken:x"], 2, "module 'broken' cannot be imported"),
    "a provider of nonsense": (["periodic:wrong"], 2, "the provider must return PeriodicTaskConfigs in a list"),
    "a wrong URL": (["periodic:scheduler", "--url", "http://x"], 2, "redis must be a URL that begins with one of"),
    "an empty URL": (["periodic:scheduler", "--url", ""], 2, "--url is empty"),
    "a wrong level": (["periodic:scheduler", "--log-level", "loud"], 2, "--log-level must be one of"),
    "a wrong format": (["periodic:scheduler", "--log-format", "xml"], 2, "--log-format must be one of"),
}


@pytest.mark.parametrize(("arguments", "code", "text"), WRONG.values(), ids=WRONG)
async def test_what_is_wrong_is_said(run_scheduler, arguments, code, text):
    async with run_scheduler(*arguments) as program:
        assert await program.end() == code
    assert text in program.said


async def test_a_provider_that_fails_at_the_start_shows_its_own_frames(run_scheduler, redis_url, tmp_path):
    (tmp_path / "entries.txt").unlink()
    async with run_scheduler("periodic:manager", "--url", redis_url) as program:
        assert await program.end() == 1
    assert "the provider of periodic tasks failed at the start:\nTraceback" in program.said
    assert "in provide" in program.said
    assert "aioasynq/scheduler" not in program.said


@pytest.mark.parametrize("command", ["worker", "scheduler"])
@pytest.mark.parametrize(
    "option", [["--uri", "redis://elsewhere"], ["--tls"], ["--config", "asynq.yaml"]], ids=" ".join
)
async def test_options_of_other_commands_are_not_passed_over(run_scheduler, redis_url, command, option):
    program = ("-m", "aioasynq", *option)
    async with run_scheduler("periodic:scheduler", env={ENV_URL: redis_url}, program=program, command=command) as ran:
        assert await ran.end() == 2
    assert f"aioasynq {command} takes none of the options before it; write aioasynq {command} MODULE:NAME" in ran.said


async def test_a_worker_is_no_scheduler(run_worker, run_scheduler):
    async with run_worker("periodic:manager") as program:
        assert await program.end() == 2
    assert "is a PeriodicTaskManager, which aioasynq scheduler periodic:manager runs" in program.said
