"""``aioasynq migrate``: it shows what there is, asks, and does it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis as redis_py
from redis.asyncio import Redis
from typer.testing import CliRunner

from aioasynq.cli import migrate as command, output
from aioasynq.cli.main import app
from aioasynq.rdb.rdb import RDB
from tests.support.layout_2020 import Old, left_behind, of_today, old

PATIENCE = 20
BAD = b"no message \x1b[2J"
FILLED = Old(
    queues={"default": [old("a"), old("b"), BAD]},
    scheduled={old("s", "low"): 4102444800.0},
    counters={"processed:2020-02-29": "7", "failure:2020-02-29": "2"},
)
OVERVIEW = """\
queue    pending  scheduled  retry  archived
-----    -------  ---------  -----  --------
default  2        0          0      0
low      0        1          0      0
attempts processed:  7
attempts failed:     2

Left in place: 1
where                 why                                          begins with
-----                 ---                                          -----------
asynq:queues:default  JSON is malformed: invalid character (byte 4)  'no message \\x1b[2J'
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Awaitable[Ran]]


@pytest.fixture
def cli(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """``await cli("--yes")``, in a thread, since a command has an event loop of its own."""
    monkeypatch.setenv("AIOASYNQ_REDIS_URL", redis_url)
    monkeypatch.setenv("HOME", str(tmp_path))

    async def run(*arguments: str, answer: str = "") -> Ran:
        async with asyncio.timeout(PATIENCE):
            result = await asyncio.to_thread(CliRunner().invoke, app, ["migrate", *arguments], answer)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


def words(text: str) -> list[str]:
    """Lines without the width of columns."""
    return [" ".join(line.replace("-", "").split()) for line in text.splitlines() if line.replace("-", "").split()]


async def test_a_dry_run_shows_what_there_is(cli: Cli, redis: Redis):
    await FILLED.write(redis)
    before = await left_behind(redis)
    ran = await cli("--dry-run")
    assert (ran.code, ran.err) == (0, "")
    assert words(ran.out) == ["To be carried over", *words(OVERVIEW)]
    assert "\x1b" not in ran.out
    ran = await cli("--dry-run", "--json")
    assert ran.json["dry_run"] is True
    assert ran.json["tasks"] == {"default": {"pending": 2}, "low": {"scheduled": 1}}
    assert await left_behind(redis) == before


async def test_with_yes_it_is_done(cli: Cli, redis: Redis):
    await FILLED.write(redis)
    ran = await cli("--yes", "--counters-queue", "low", "--timeout", "60")
    assert (ran.code, ran.err) == (0, "")
    assert words(ran.out) == ["Carried over", *words(OVERVIEW)]
    states = await of_today(redis)
    assert states["default"].pending == ["a", "b"]
    assert states["low"].counters["processed"] == 7
    assert states["default"].tasks["a"]["msg"].timeout == 60  # type: ignore[index]
    assert await left_behind(redis) == {"asynq:queues:default": [BAD]}
    assert (await cli("--yes", "--json")).json == {
        "dry_run": False,
        "tasks": {},
        "same": 0,
        "counters": {"processed": 0, "failed": 0},
        "left": [
            {
                "place": "asynq:queues:default",
                "reason": "JSON is malformed: invalid character (byte 4)",
                "data": BAD.decode(),
            }
        ],
        "left_total": 1,
        "remaining": 0,
        "processes": [],
    }


async def test_without_yes_it_asks(cli: Cli, redis: Redis, monkeypatch: pytest.MonkeyPatch):
    await FILLED.write(redis)
    before = await left_behind(redis)
    ran = await cli()
    assert ran.code == 2
    assert ran.err == "aioasynq: nobody can be asked here, add --yes to carry over 3 tasks\n"
    assert words(ran.out) == ["To be carried over", *words(OVERVIEW)]
    asked: list[str] = []
    monkeypatch.setattr(command, "confirm", lambda what, _: asked.append(what))
    assert await left_behind(redis) == before
    assert (await cli()).code == 0
    assert asked == ["carry over 3 tasks"]
    assert len(await left_behind(redis)) == 1


async def test_where_there_is_nothing(cli: Cli):
    for arguments in (["--dry-run"], ["--yes"]):
        ran = await cli(*arguments)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith("There is no task and no counter of asynq's layout of 2020 here. Is it the right")


async def test_while_old_processes_live(cli: Cli, redis: Redis):
    await FILLED.write(redis)
    await redis.set("asynq:ps:host:7", "{}", ex=20)
    await redis.zadd("asynq:ps", {"asynq:ps:host:7": time.time() + 20})
    assert "Stop these first, or give --force: host:7\n" in (await cli("--dry-run")).out
    ran = await cli("--yes")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "aioasynq: processes of the old asynq live, or did a minute ago: host:7; stop them, or force it\n"
    )
    assert (await cli("--yes", "--force")).code == 0
    assert (await of_today(redis))["default"].pending == ["a", "b"]


async def test_much_that_is_left(cli: Cli, redis: Redis):
    await Old(dead={b"%d" % n: 1.0 for n in range(command.LISTED + 3)}).write(redis)
    ran = await cli("--dry-run")
    assert ran.out.count("asynq:dead") == command.LISTED
    assert ran.out.endswith("and 3 more; --json lists the first 1,000\n")


async def test_an_old_client_goes_on(cli: Cli, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch):
    await FILLED.write(redis)
    real = RDB.end_old_queue

    async def end(self: RDB, queue: str) -> None:
        await real(self, queue)
        with redis_py.Redis.from_url(redis_url) as other:
            other.lpush("asynq:queues:low", old("late", "low"))

    monkeypatch.setattr(RDB, "end_old_queue", end)
    await redis.lpush("asynq:queues:low", old("early", "low"))
    ran = await cli("--yes")
    assert ran.code == 1
    assert ran.err == ("aioasynq: 2 tasks came meanwhile: stop the clients of the old asynq, and run this again\n"), (
        "one for each of the two queues"
    )
    monkeypatch.undo()
    monkeypatch.setenv("AIOASYNQ_REDIS_URL", redis_url)
    assert (await cli("--yes")).code == 0


WRONG = {
    "a timeout that is none": (
        ["--timeout", "soon"],
        "--timeout must be seconds or a duration, as in --timeout 30 or 1h30m; got 'soon'",
    ),
    "no time": (
        ["--timeout", "0"],
        "--timeout must be more than 0 seconds, as in --timeout 1800; every task has a limit today",
    ),
    "no queue": (["--counters-queue", "{a}"], "--counters-queue must not contain braces, got '{a}'"),
}


@pytest.mark.parametrize(("arguments", "text"), WRONG.values(), ids=WRONG)
async def test_wrong_use(cli: Cli, redis: Redis, arguments: list[str], text: str):
    await FILLED.write(redis)
    before = await left_behind(redis)
    ran = await cli("--yes", *arguments)
    assert (ran.code, ran.out, ran.err) == (2, "", f"aioasynq: {text}\n")
    assert await left_behind(redis) == before


def test_the_line_of_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert output.progress(as_json=False) is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert output.progress(as_json=True) is None
    show = output.progress(as_json=False)
    assert show is not None
    show(5, 1000)
    show(1000, 1000)
    assert capsys.readouterr().err == "\r5 of 1,000\r1,000 of 1,000\n"
