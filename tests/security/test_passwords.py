"""A password is shown nowhere: not in errors and what caused them, logs, reprs, or what the worker prints.

Each URL has a marked password in it, in every form that URLs have and some that they have not. Whatever comes of it,
the mark is in no text.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from redis.asyncio import ConnectionPool, Redis

from aioasynq import Client, ServeMux, Server, Task
from aioasynq.devserver import ENV_URL, DevServer, free_port
from aioasynq.rdb.connection import open_link
from aioasynq.rdb.rdb import RDB
from tests.server.stage import PATIENCE, Stage, eventually
from tests.support import forked

MARK = "MaRkEd5eCrEt"
REAL = "0n-ReDiS"  # of the server; never in a text either

FORMS = {
    "password": "redis://:{mark}@{address}/0",
    "user and password": "redis://somebody:{mark}@{address}/0",
    "percent codes": "redis://:{mark}%2F%40%23@{address}/0",
    "in the query": "redis://{address}/0?password={mark}",
    "user and password in the query": "redis://{address}/0?username=somebody&password={mark}%26",
    "its name in percent codes": "redis://{address}/0?passw%6Frd={mark}",
    "its name in capitals": "redis://{address}/0?Password={mark}",
    "with another option that is none": "redis://{address}/0?password={mark}&socket_timeout=soon",
    "after a semicolon": "redis://{address}/0;password={mark}",
    "as a fragment": "redis://{address}/0#password={mark}",
    "tls": "rediss://:{mark}@{address}/0",
    "a socket that is not there": "unix://:{mark}@/nowhere/redis.sock",
    "a socket, and the query": "unix:///nowhere/redis.sock?password={mark}",
    "no socket": "unix://:{mark}@",
    "a cluster that is none": "redis-cluster://:{mark}@{address}",
    "a cluster, user and password": "redis-cluster://somebody:{mark}@{address},{address}",
    "a cluster and a query": "redis-cluster://{address}?password={mark}",
    "a cluster without a port": "redis-cluster://:{mark}@127.0.0.1:port",
    "asynq's socket": "redis-socket://:{mark}@/nowhere/redis.sock",
    "a cluster with TLS": "rediss-cluster://:{mark}@{address}",
    "a cluster, a hash in it": "redis-cluster://:{mark}#x@{address}",
    "no Sentinels": "redis-sentinel://:{mark}@{address}/tasks",
    "no Sentinels, asynq's form": "redis-sentinel://:{mark}@{address}?master=tasks",
    "no Sentinels, their password": "redis-sentinel://{address}/tasks?sentinel_password={mark}&password={mark}",
    "Sentinels without a service": "redis-sentinel://somebody:{mark}@{address}",
    "Sentinels, a slash in it": "redis-sentinel://:{mark}/x@{address}/tasks",
    "Sentinels with TLS": "rediss-sentinel://:{mark}@{address}/tasks",
    "the password of a key": "rediss://{address}/0?ssl_certfile=/nowhere.pem&ssl_password={mark}",
    "a certificate and no TLS": "redis://{address}/0?ssl_password={mark}",
    "unknown scheme": "http://somebody:{mark}@{address}/0",
    "no scheme": ":{mark}@{address}",
    "no colon": "redis//:{mark}@{address}",
    "one slash": "redis:/:{mark}@{address}",
    "no slash": "redis:{mark}@{address}",
    "no number for a port": "redis://:{mark}@127.0.0.1:port/0",
    "port out of range": "redis://:{mark}@127.0.0.1:99999/0",
    "no number for a database": "redis://:{mark}@{address}/jobs",
    "no number for a database, in the query": "redis://:{mark}@{address}/0?db=jobs",
    "a slash in it": "redis://:{mark}/x@{address}/0",
    "a hash in it": "redis://:{mark}#x@{address}/0",
    "digits and a hash": "redis://:12#{mark}@{address}/0",
    "a question mark in it": "redis://:{mark}?x@{address}/0",
    "an at in it": "redis://:x@{mark}@{address}/jobs",
    "a bracket in it": "redis://:{mark}[@{address}/0",
    "half an IPv6 address": "redis://:{mark}@[::1",
    "a letter that stands for others": "redis://:{mark}\u2100@{address}/0",
    "a bad percent code": "redis://:{mark}%zz@{address}/0",
    "a surrogate": "redis://:{mark}\udcff@{address}/0",
    "a space before": " redis://:{mark}@{address}/0",
    "a host that is not there": "redis://:{mark}@host.invalid:1/0",
}


class Texts:
    """Everything that somebody could read."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._all: list[str] = []
        self._caplog = caplog

    def add(self, *things: object) -> None:
        for thing in things:
            if isinstance(thing, BaseException):
                self._all += [*traceback.format_exception(thing), repr(thing), repr(thing.args), str(thing)]
            else:
                self._all += [repr(thing), str(thing), f"{thing}"]

    def check(self) -> None:
        logged = [f"{record.getMessage()} {record.args} {record.exc_text}" for record in self._caplog.records]
        for text in [*self._all, *logged, self._caplog.text]:
            for word in (MARK, REAL):
                assert word not in text


@pytest.fixture
def texts(caplog: pytest.LogCaptureFixture) -> Iterator[Texts]:
    caplog.set_level(logging.DEBUG)
    found = Texts(caplog)
    yield found
    found.check()


@pytest.fixture(scope="module")
def server() -> Iterator[DevServer]:
    with DevServer(config={"requirepass": REAL}) as running:
        yield running


async def use(url: Any, texts: Texts) -> int:
    """Do with *url* whatever can be done with one; how many errors came of it."""
    errors = 0
    makers: list[Callable[[], Any]] = [
        lambda: open_link(url).address,
        lambda: Client(url, operation_timeout=0.05),
        lambda: Server(url, ServeMux()),
        lambda: Server(url, Stage().mux),
        lambda: RDB(url, operation_timeout=0.05),
    ]
    for make in makers:
        try:
            made = make()
        except (ValueError, TypeError) as exc:
            texts.add(exc)
            errors += 1
            continue
        texts.add(made)
        works: list[Callable[[], Any]] = []
        if isinstance(made, Client):
            works = [made.ping, partial(made.enqueue, Task("t")), made.aclose, made.ping]
        elif isinstance(made, RDB):
            twin = made.twin()
            texts.add(made.address, twin.address, twin, made.client)
            works = [made.check_server, partial(made.dequeue, "q", owner="o"), twin.ping, twin.aclose]
            works += [made.aclose]
        elif isinstance(made, Server):
            works = [made.start, made.shutdown]
            texts.add(made.describe(), made.name)
        for work in works:
            try:
                await work()
            except Exception as exc:  # noqa: BLE001 - all of them are read
                texts.add(exc)
                errors += 1
        texts.add(made)
    return errors


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_no_error_log_or_repr_shows_it(form: str, server: DevServer, texts: Texts) -> None:
    async with asyncio.timeout(PATIENCE * 2):
        assert await use(form.format(mark=MARK, address=f"127.0.0.1:{server.port}"), texts)


@pytest.mark.parametrize("form", ["user and password", "in the query", "a cluster, user and password"])
async def test_nor_where_nobody_listens(form: str, texts: Texts) -> None:
    async with asyncio.timeout(PATIENCE * 2):
        assert await use(FORMS[form].format(mark=MARK, address=f"127.0.0.1:{free_port()}"), texts)


async def test_nor_what_stands_in_the_environment(
    server: DevServer, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form in ("password", "no number for a database", "unknown scheme", "a letter that stands for others"):
        monkeypatch.setenv(ENV_URL, FORMS[form].format(mark=MARK, address=f"127.0.0.1:{server.port}"))
        assert await use(None, texts)


async def test_nor_what_works(server: DevServer, texts: Texts) -> None:
    """The right password: whatever is said while all goes well, and what lies in Redis afterwards."""
    stage = Stage()
    stage.raises = ValueError("it broke")
    async with (
        asyncio.timeout(PATIENCE),
        Redis.from_url(server.url) as redis,
        Client(server.url) as client,
        Server(server.url, stage.mux) as worker,
        RDB(server.url) as rdb,
    ):
        texts.add(client, worker, rdb, worker.describe())
        texts.add(await client.enqueue(Task("work")))
        await stage.ended.until(1)
        await eventually(lambda: _told(rdb))
        async for key in redis.scan_iter():
            texts.add(key, await redis.dump(key))


async def _told(rdb: RDB) -> bool:
    return len(await rdb.read_process_info()) == 1


def test_nor_what_is_no_url(texts: Texts) -> None:
    url = f"redis://:{MARK}@127.0.0.1/0"
    strange: list[Any] = [
        url.encode(),
        [url],
        {"url": url},
        redis_py.Redis.from_url(url),
        ConnectionPool.from_url(url),
        Redis.from_url(url, decode_responses=True),
    ]
    for thing in strange:
        with pytest.raises((TypeError, ValueError)) as caught:
            Client(thing)
        texts.add(caught.value)
    texts.add(Client(Redis.from_url(url)), RDB(Redis.from_url(url)))


# ── the command line ──

WORKER = """
from aioasynq import ServeMux
mux = ServeMux()
@mux.handler("work")
async def work(task): ...
"""


def environment(url: str) -> dict[str, str]:
    """The variables of a command; *url* may be empty."""
    return {"PYTHONASYNCIODEBUG": "1", **({ENV_URL: url} if url else {})}


def ended(folder: Path, *words: str, env: str = "") -> str:
    """What a command prints that ends by itself."""
    (folder / "tasks.py").write_text(WORKER)
    ran = forked.run(*words, cwd=folder, env=environment(env))
    assert ran.said
    return ran.said


async def stopped(folder: Path, *words: str) -> str:
    """What ``aioasynq worker`` prints that is told to stop as soon as it has started."""
    (folder / "tasks.py").write_text(WORKER)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aioasynq", *words),
        cwd=folder,
        env={**os.environ, **environment("")},
        stdout=DEVNULL,
        stderr=PIPE,
    )
    assert process.stderr is not None
    said = b""
    try:
        async with asyncio.timeout(PATIENCE * 2):
            while line := await process.stderr.readline():
                said += line
                if b" started" in line:
                    process.terminate()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said.decode()


COMMANDS: dict[str, tuple[str, str]] = {
    "wrong password": ("redis://:{mark}@{address}/0", ""),
    "unknown scheme": ("http://:{mark}@{address}/0", ""),
    "no number for a database": ("redis://:{mark}@{address}/jobs", ""),
    "an unknown option": ("redis://{address}/0?Password={mark}", ""),
    "a cluster that is none": ("redis-cluster://:{mark}@{address}", ""),
    "in the environment": ("", "redis://:{mark}@{address}/0"),
    "in the environment, unreadable": ("", "redis://:{mark}/@{address}/0"),
}


@pytest.mark.parametrize(("url", "env"), COMMANDS.values(), ids=COMMANDS)
def test_the_worker_does_not_print_it(url: str, env: str, server: DevServer, texts: Texts, tmp_path: Path) -> None:
    address = f"127.0.0.1:{server.port}"
    given = ("--url", url.format(mark=MARK, address=address)) if url else ()
    words = ("worker", "tasks:mux", "--log-level", "debug", "--shutdown-timeout", "0", *given)
    texts.add(ended(tmp_path, *words, env=env.format(mark=MARK, address=address)))


async def test_nor_when_all_goes_well(server: DevServer, texts: Texts, tmp_path: Path) -> None:
    texts.add(await stopped(tmp_path, "worker", "tasks:mux", "--log-level", "debug", "--url", server.url))


async def test_nor_while_redis_is_away(texts: Texts, tmp_path: Path) -> None:
    url = f"redis://:{MARK}@127.0.0.1:1/0"
    words = ("worker", "tasks:mux", "--log-level", "debug", "--shutdown-timeout", "0", "--url", url)
    texts.add(await stopped(tmp_path, *words))


@pytest.mark.parametrize(
    "words", [("--help",), ("worker", "--help"), ("worker", "no.such:mux"), ("worker", "tasks:no")]
)
def test_nor_when_something_else_is_asked_for(words: tuple[str, ...], texts: Texts, tmp_path: Path) -> None:
    texts.add(ended(tmp_path, *words, env=f"redis://:{MARK}@127.0.0.1:1/0"))


def test_nor_when_a_module_breaks(texts: Texts, tmp_path: Path) -> None:
    """The trace of an error in the user's own module, with a URL in its variables."""
    (tmp_path / "broken.py").write_text("import os\nurl = os.environ['AIOASYNQ_REDIS_URL']\nraise RuntimeError('no')\n")
    texts.add(ended(tmp_path, "worker", "broken:mux", env=f"redis://:{MARK}@127.0.0.1:1/0"))
