"""Django: tasks of views and transactions, the setting, and the worker command. The example runs in test_apps."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import override_settings
from redis import Redis

from aioasynq import BrokerError, Client, ServeMux, Server, Task, keys
from aioasynq.devserver import free_port

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["aioasynq.contrib.django"],
    CACHES={},
)
django.setup()

from aioasynq.contrib.django import aenqueue, client, enqueue, enqueue_on_commit  # noqa: E402
from aioasynq.contrib.django.conf import conf  # noqa: E402
from aioasynq.contrib.django.connections import fresh_connections  # noqa: E402

mux = ServeMux()


@mux.task("work")
def work() -> None: ...


not_a_mux = object()


@pytest.fixture
def queue(redis_url: str) -> Iterator[Redis]:
    """What Django enqueues to, empty."""
    with override_settings(AIOASYNQ={"redis": redis_url}), Redis.from_url(redis_url) as found:
        yield found
    connection.close()


def pending(queue: Redis) -> int:
    return int(queue.llen(keys.pending("default")))


def test_enqueue_and_its_client(queue: Redis) -> None:
    before = {thread.name for thread in threading.enumerate()}
    assert enqueue(work.task(), max_retry=2).max_retry == 2
    assert client() is client()
    assert pending(queue) == 1
    with override_settings(AIOASYNQ={"redis": f"redis://127.0.0.1:{free_port()}"}):
        other = client()
        assert other is not None
    assert "aioasynq portal" not in before


def test_aenqueue_in_loops_that_come_and_go(queue: Redis) -> None:
    async def view() -> str:
        infos = await asyncio.gather(*(aenqueue(work.task()) for _ in range(5)))
        with pytest.raises(RuntimeError, match="enqueue would block the event loop of this thread: await aenqueue"):
            enqueue(work.task())
        return infos[0].state

    for _ in range(3):
        assert asyncio.run(view()) == "pending"
    assert pending(queue) == 15


def test_a_task_waits_for_its_transaction(queue: Redis) -> None:
    enqueue_on_commit(work.task())
    assert pending(queue) == 1  # at once outside of one
    with transaction.atomic():
        enqueue_on_commit(work.task(), task_id="a")
        with transaction.atomic():
            enqueue_on_commit(work.task(), task_id="rolled back")
            transaction.set_rollback(True)
        assert pending(queue) == 1
    assert pending(queue) == 2
    with transaction.atomic():
        enqueue_on_commit(work.task())
        transaction.set_rollback(True)
    assert pending(queue) == 2


def test_what_is_wrong_is_said_before_the_commit(queue: Redis) -> None:
    with transaction.atomic():
        with pytest.raises(TypeError, match="task must be a Task"):
            enqueue_on_commit("work")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="max_retry"):
            enqueue_on_commit(work.task(), max_retry=-1)
        with pytest.raises(ValueError, match="payload must have at most 10,000,000 bytes"):
            enqueue_on_commit(Task("work", b"x" * 10_000_001))
        with override_settings(AIOASYNQ={"redis": 7}), pytest.raises(ImproperlyConfigured):
            enqueue_on_commit(work.task())
    assert pending(queue) == 0


def test_there_is_no_redis_after_the_commit(monkeypatch, caplog) -> None:
    with override_settings(AIOASYNQ={"redis": f"redis://127.0.0.1:{free_port()}"}):
        client()._patience = 0.3
        client()._rdb._timeout = 0.3
        with pytest.raises(BrokerError), transaction.atomic():
            enqueue_on_commit(work.task())
        with transaction.atomic():
            enqueue_on_commit(work.task(), robust=True)
    assert any(isinstance((record.exc_info or (None, None))[1], BrokerError) for record in caplog.records)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12: forking servers do just this
def test_a_forked_process_has_a_client_of_its_own(queue: Redis) -> None:
    enqueue(work.task())
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writer, enqueue(work.task()).state.encode())
        except BaseException as exc:  # noqa: BLE001 - told to the parent
            os.write(writer, repr(exc).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        assert said.read() == b"pending"
    os.waitpid(child, 0)
    assert enqueue(work.task()).state == "pending"
    assert pending(queue) == 3


async def test_connections_are_fresh_for_each_handler(redis_url: str, monkeypatch) -> None:
    """Also in the threads of the worker, where nobody else looks after them."""
    closed: list[int] = []
    monkeypatch.setattr(
        "aioasynq.contrib.django.connections.close_old_connections", lambda: closed.append(threading.get_ident())
    )
    own = ServeMux()
    own.use(fresh_connections)
    ran: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    @own.task("thread")
    def in_thread() -> None:
        loop.call_soon_threadsafe(ran.put_nowait, threading.get_ident())

    @own.task("loop")
    async def in_loop() -> None:
        ran.put_nowait(threading.get_ident())

    from aioasynq.testing import run_until_idle

    async with Client(redis_url) as tasks, Server(redis_url, own) as server:
        await in_thread.enqueue(tasks)
        await run_until_idle(server, tasks)
        thread = await ran.get()
        assert closed.count(thread) == 2
        assert len(closed) == 4
        await in_loop.enqueue(tasks)
        await run_until_idle(server, tasks)
        assert len(closed) == 6
        assert await ran.get() not in closed


PROJECT = {
    "settings.py": """
SECRET_KEY = "a test"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}}
INSTALLED_APPS = ["aioasynq.contrib.django", "shop"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
AIOASYNQ = {"mux": "shop.tasks.mux", "max_processes": 1}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"one": {"format": "LINE %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "one"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
""",
    "manage.py": """
import os, sys
from django.core.management import execute_from_command_line
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
execute_from_command_line(sys.argv)
""",
    "shop/__init__.py": "",
    "shop/models.py": """
from django.db import models
class Order(models.Model):
    number = models.IntegerField()
""",
    "shop/tasks.py": """
import logging, os, time
from django.db import connection
from aioasynq import ServeMux
from shop.models import Order
mux = ServeMux()

@mux.task("order", executor="process", retention=60, max_retry=0)
def order(number: int) -> list[int]:
    was_open = connection.connection is not None
    Order.objects.create(number=number)
    logging.getLogger("shop").info("order %d", number)
    return [os.getpid(), Order.objects.count(), was_open]

@mux.task("stuck")
def stuck() -> None:
    logging.getLogger("shop").info("stuck now")
    time.sleep(600)

@mux.task("aorder", executor="process", retention=60, max_retry=0)
async def aorder(number: int) -> list[int]:
    await Order.objects.acreate(number=number)
    return [os.getpid(), await Order.objects.acount()]
""",
}


class Project:
    """A project in a folder of its own, and its commands."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self._folder = folder
        self._env = {**os.environ, "AIOASYNQ_REDIS_URL": redis_url}
        for name, text in PROJECT.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    async def manage(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "manage.py", *arguments), cwd=self._folder, env=self._env, stderr=asyncio.subprocess.PIPE
        )


async def test_handlers_in_child_processes_find_django_set_up(redis_url: str, tmp_path: Path) -> None:
    project = Project(tmp_path, redis_url)
    async with asyncio.timeout(50), Client(redis_url) as tasks:
        assert await (await project.manage("migrate", "--run-syncdb", "-v", "0")).wait() == 0
        worker = await project.manage("aioasynq_worker")
        infos = [
            await tasks.enqueue(Task(name, f'{{"number": {n}}}'), retention=60, max_retry=0)
            for n, name in enumerate(["order", "order", "aorder", "aorder"])
        ]
        results = [await tasks.result(info) for info in infos]
        assert len({result[0] for result in results}) == 1
        assert sorted(result[1] for result in results) == [1, 2, 3, 4]
        assert [result[2] for result in results[:2]] == [False, False]  # Django closes them after each request
        worker.send_signal(signal.SIGTERM)
        _, said = await worker.communicate()
        assert [line for line in said.decode().splitlines() if "LINE order" in line] == ["LINE order 0", "LINE order 1"]


async def test_a_thread_that_does_not_end_does_not_keep_the_worker(redis_url: str, tmp_path: Path) -> None:
    project = Project(tmp_path, redis_url)
    async with asyncio.timeout(50), Client(redis_url) as tasks:
        worker = await project.manage("aioasynq_worker", "--shutdown-timeout", "0")
        assert worker.stderr is not None
        await tasks.enqueue(Task("stuck"))
        while b"stuck now" not in await worker.stderr.readline():
            pass
        worker.send_signal(signal.SIGTERM)
        said = await worker.stderr.read()
        assert await worker.wait() == 0
    assert b"the process ends although something in it does not: thread aioasynq-handler" in said
    assert pending(Redis.from_url(redis_url)) == 1


WRONG: dict[str, tuple[Any, str]] = {
    "no dict": ("redis://", "AIOASYNQ must be a dict, as in AIOASYNQ = {"),
    "redis": ({"redis": 7}, "AIOASYNQ['redis'] must be text, as in AIOASYNQ = {"),
    "mux": ({"mux": mux}, "AIOASYNQ['mux'] must be text"),
    "option": ({"concurency": 7}, "AIOASYNQ has no 'concurency' (did you mean concurrency?); it has redis, mux and"),
    "capitals": ({"MUX": "x"}, "AIOASYNQ has no 'MUX' (did you mean mux?)"),
    "another word": ({"url": "redis://x"}, "AIOASYNQ has no 'url' (did you mean redis?)"),
    "value": ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
}


@pytest.mark.parametrize(("said", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_setting(said: Any, text: str) -> None:
    with override_settings(AIOASYNQ=said), pytest.raises(ImproperlyConfigured) as caught:
        conf()
    assert text in str(caught.value)


CHECKS: dict[str, tuple[Any, str]] = {
    **WRONG,
    "no URL": ({"redis": "localhost:6379"}, "redis must be a URL that begins with"),
    "no handlers": ({"mux": "nowhere.mux"}, "AIOASYNQ[\"mux\"], 'nowhere.mux', cannot be imported"),
}


def of_ours(found: list[CheckMessage]) -> list[CheckMessage]:
    return [each for each in found if str(each.id).startswith("aioasynq.")]


@pytest.mark.parametrize(("said", "text"), CHECKS.values(), ids=CHECKS)
def test_the_check_of_django_looks_at_the_setting(said: Any, text: str) -> None:
    with override_settings(AIOASYNQ=said):
        [found] = of_ours(run_checks())
    assert (found.id, text in found.msg) == ("aioasynq.E001", True)


def test_a_setting_that_is_right_or_not_there_passes_the_check() -> None:
    assert of_ours(run_checks()) == []
    with override_settings(AIOASYNQ={"redis": "redis://localhost", "concurrency": 5}):
        assert of_ours(run_checks()) == []


COMMANDS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "no mux": ({}, [], 'AIOASYNQ must say where the handlers are, by "mux", as in AIOASYNQ = {'),
    "no module": ({"mux": "nowhere.mux"}, [], "AIOASYNQ[\"mux\"], 'nowhere.mux', cannot be imported: No module named"),
    "no name": ({}, ["--mux", "json.mux"], "AIOASYNQ[\"mux\"], 'json.mux', cannot be imported"),
    "another thing": ({}, ["--mux", "json.dumps"], "'json.dumps', must be a ServeMux, got <function dumps"),
    "queues": (
        {"mux": "x"},
        ["--queues", "a:b"],
        "--queues must be like critical:6,default:3, got 'a:b': in 'a:b' the w",
    ),
    "queues with =": ({"mux": "x"}, ["--queues", "a=3"], "got 'a=3': 'a=3' has a = where a : belongs"),
    "value": ({}, ["--concurrency", "0"], "concurrency must be at least 1, got 0"),
    "url": (
        {},
        ["--mux", "tests.contrib.test_django.mux", "--url", "http://x"],
        "redis must be a URL that begins with",
    ),
}


@pytest.mark.parametrize(("said", "arguments", "text"), COMMANDS.values(), ids=COMMANDS)
def test_a_wrong_command(said: dict[str, Any], arguments: list[str], text: str, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tests.contrib.test_django", sys.modules[__name__])
    with override_settings(AIOASYNQ=said), pytest.raises(CommandError) as caught:
        call_command("aioasynq_worker", *arguments)
    assert text in str(caught.value)


def test_tasks_are_plain_tasks() -> None:
    assert isinstance(work.task(), Task)
