"""What README and docs show is run: Python blocks as programs, commands against what there is to run."""

from __future__ import annotations

import ast
import asyncio
import functools
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import tomllib
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer
from httpx import AsyncClient, HTTPError
from redis import Redis
from typer.main import get_command

import aioasynq.errors
from aioasynq import Client, Config, Scheduler, Task, keys, metrics
from aioasynq.cli import exposition
from aioasynq.cli.figures import Figures
from aioasynq.cli.main import app
from aioasynq.client import batcher
from aioasynq.client.client import MAX_PAYLOAD
from aioasynq.compose import compose
from aioasynq.devserver import ENV_URL, HOST, free_port
from aioasynq.options import EMPTY, MAX_DURATION, MAX_MOMENT, MAX_RETRY, Options
from aioasynq.rdb.base import MAX_BATCH, MAX_BATCH_BYTES
from aioasynq.rdb.url import MAX_CONNECTIONS
from aioasynq.server.fetcher import MAX_WAITS
from aioasynq.typed.options import HandlerOptions, Rules, TaskTypeOptions
from tests.contrib.serving import program, served
from tests.security.rules import USERS
from tests.support import forked

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
PATIENCE = 30  # seconds until something counts as not happening
RUNNER = ROOT / "tests" / "support" / "block_runner.py"
#: What a block may be. Python and shell are run, Go is compiled (tests/conformance); the rest is marked as what it is.
#: ``py`` is Python that is no program by itself: for another library, or a file of a project.
LANGUAGES = {"", "dockerfile", "go", "ini", "mermaid", "py", "python", "sh", "text", "yaml"}
#: A block, and the comment before it that readers do not see: ``<!-- then: … -->`` is code that goes on after it,
#: ``<!-- stop: SIGTERM -->`` is what a program gets that would go on.
_BLOCK = re.compile(r"(?:^<!-- (then|stop):((?:(?!-->).)*)-->\n\n?)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Block:
    """A code block of a page."""

    page: Path
    line: int
    language: str
    text: str
    then: str = ""
    stop: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file_name(self) -> str:
        """What its first line says, as in ``# tasks.py``."""
        named = re.match(r"# (\w+\.py)\n", self.text)
        return named[1] if named else "block.py"


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            page,
            text.count("\n", 0, found.start(3)) + 1,
            *found.group(3, 4),
            **{found[1]: textwrap.dedent(found[2]).strip()} if found[1] else {},
        )
        for found in _BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
ENDLESS = "exporter.py"  #: goes on until it is told to end
COMMANDS = [
    (str(block), command)
    for block in BLOCKS
    if block.language in {"sh", ""}
    for line in block.text.splitlines()
    if (command := line.partition("  #")[0].strip())
] + [  # in files of other programs a command is a line, or a list of words in JSON
    (str(block), f"aioasynq {shlex.join(json.loads(f'[{found[2]}]')) if found[2] else found[1]}")
    for block in BLOCKS
    if block.language in {"dockerfile", "ini", "text", "yaml"}
    for found in re.finditer(r'^ExecStart=\S*aioasynq (.*)$|\["aioasynq", (.*)\]', block.text, re.MULTILINE)
]


_SETTINGS = """
SECRET_KEY = "x"
ROOT_URLCONF = "urls"
ALLOWED_HOSTS = ["testserver"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
"""
_URLS = """
from django.urls import path
from shop.views import again, sign_up

urlpatterns = [path("sign-up", sign_up), path("again/<int:user_id>", again)]
"""
_MANAGE = """
import os
import django
from django.core.management import call_command
from django.test import Client

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
django.setup()
call_command("migrate", verbosity=0)
call_command("check", verbosity=0)
print(Client().post("/sign-up", {"name": "ada"}).json())
print(Client().post("/again/1").json())
"""


class Runner:
    """A process that runs blocks and commands, each in a fork of itself."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(RUNNER)],  # -P: what stands beside it is nothing to import
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )
        assert self._read() == "ready\n"

    def __call__(self, folder: Path, url: str, run: str, **more: object) -> str:
        """What was printed; what went wrong fails the test."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"folder": str(folder), "url": url, "run": run, **more}) + "\n")
        self._process.stdin.flush()
        said = json.loads(self._read())
        assert said["code"] == 0, said["out"] + said["err"]
        assert "Exception ignored" not in said["err"]
        assert "was never awaited" not in said["err"]
        return str(said["out"])

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def run() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


@pytest.mark.parametrize(
    ("text", "then", "said"),
    [
        ("raise ValueError('one')", "", "ValueError: one"),
        ("import sys\nsys.exit('five')", "", "five"),
        ("", "print(two)", "NameError: name 'two'"),
        ("from aioasynq import ServeMux\nmux = ServeMux()", "", "ServerStateError: "),
        ("import warnings\nwarnings.warn('three')", "", "UserWarning: three"),
        ("async def four(): ...\nfour()", "", "was never awaited"),
    ],
)
def test_a_block_that_fails_is_seen(text, then, said, tmp_path, redis_url, run):
    (tmp_path / "block.py").write_text(text)
    with pytest.raises(AssertionError, match=re.escape(said)):
        run(tmp_path, redis_url, "file", file=str(tmp_path / "block.py"), serve=True, then=then)


def test_there_are_blocks():
    assert len(PYTHON) >= 3
    assert {block.language for block in BLOCKS} <= LANGUAGES


@pytest.mark.parametrize("block", [block for block in PYTHON if block.file_name != ENDLESS], ids=str)
def test_a_python_block_runs(block: Block, tmp_path, redis_url, run):
    """As a program. Its handlers are served, unless it does so itself, and what the comment before it says follows."""
    path = put_files(block, tmp_path, redis_url)
    if block.file_name.startswith("test_"):
        options = ["-c", os.devnull, "--rootdir", str(tmp_path), "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
        more = ["-o", "asyncio_default_fixture_loop_scope=function"]
        said = run(tmp_path, redis_url, "pytest", arguments=[*options, *more, str(path)])
        assert re.search(r"[1-9] passed", said)
    else:
        serve = "asyncio.run(" not in block.text
        run(tmp_path, redis_url, "file", file=str(path), serve=serve, then=block.then, stop=block.stop)


async def test_the_exporter_answers(tmp_path, redis_url):
    [block] = [block for block in PYTHON if block.file_name == ENDLESS]
    port = free_port()
    (tmp_path / ENDLESS).write_text(block.text.replace("9876", str(port)))
    exporter = await asyncio.create_subprocess_exec(
        sys.executable, ENDLESS, cwd=tmp_path, env={**os.environ, ENV_URL: redis_url}
    )
    said = ""
    try:
        async with asyncio.timeout(PATIENCE), AsyncClient(trust_env=False) as http:
            while not said:
                try:
                    said = (await http.get(f"http://{HOST}:{port}/metrics")).text
                except HTTPError:  # it has not begun
                    assert exporter.returncode is None
                    await asyncio.sleep(0.05)
    finally:
        exporter.kill()
        await exporter.wait()
    assert "aioasynq_scrape_up 1.0\n" in said


def put_files(block: Block, folder: Path, url: str) -> Path:
    """A block as a file, beside those before it on its page that have names."""
    before = BLOCKS[: BLOCKS.index(block)]
    for each in [other for other in before if other.page == block.page and other.file_name != "block.py"] + [block]:
        text = each.text.replace("redis://localhost:6379/0", url).replace("redis://localhost", url)
        (folder / each.file_name).write_text(text)
    return folder / block.file_name


async def test_the_tutorial(tmp_path, redis_url):
    *_, last = [block for block in PYTHON if block.page.name == "tutorial.md"]
    put_files(last, tmp_path, redis_url)
    worker = ("-u", "-m", "aioasynq", "worker", "tasks:mux", "--queues", "default:3,low:1")
    assert any(command.endswith(" ".join(worker[2:])) for _, command in COMMANDS)
    here = {"PYTHONPATH": str(tmp_path)}
    async with (
        program(*worker, url=redis_url, **here) as working,
        served("app:app", redis_url, tmp_path) as (http, app),
    ):
        answer = await http.post("/sign-up/7")
        assert answer.status_code == 202
        result = await http.get(f"/results/{answer.json()['task']}")
        assert result.json() == {"result": "wrote to user 7"}
        assert "error" in (await http.get("/results/none")).json()
        await working.until("a welcome to user 7")
        await http.post("/orders/3/pay")
        for said in ("failed (try 1 of 6), again in 1.0 s", "failed (try 2 of 6)", "order 3 is paid"):
            await working.until(said)
        await app.stop()
        assert await working.stop() == 0


async def test_the_project_of_django(tmp_path, redis_url, redis, run):
    """Blocks that begin with the path of a file are a project, with what each project has besides."""
    files = {
        named[1]: block.text
        for block in BLOCKS
        if (named := re.match(r"# (\S+\.py)\n", block.text)) and block.language == "py"
    }
    assert set(files) == {"settings.py", "shop/tasks.py", "shop/views.py"}
    assert '"redis://localhost:6379/0"' in files["settings.py"]
    files["settings.py"] = _SETTINGS + files["settings.py"].replace("redis://localhost:6379/0", redis_url)
    for name, text in {**files, "urls.py": _URLS, "manage.py": _MANAGE, "shop/__init__.py": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    said = run(tmp_path, redis_url, "file", file=str(tmp_path / "manage.py"), serve=False, then="")
    assert "{'user': 1}" in said.splitlines()
    assert await redis.llen(keys.pending("default")) == 1
    assert await redis.zcard(keys.scheduled("default")) == 1


async def test_the_first_example_of_the_readme(tmp_path, redis_url, redis, run):
    block = next(block for block in PYTHON if block.page.name == "README.md")
    (tmp_path / block.file_name).write_text(block.text)
    commands = [command for place, command in COMMANDS if place.startswith("README.md")]
    assert "python tasks.py" in commands
    assert "aioasynq worker tasks:mux" in commands

    run(tmp_path, redis_url, "file", file=str(tmp_path / "tasks.py"), serve=False, then="")
    assert await redis.zcard(keys.scheduled("default")) == 1
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aioasynq", "worker", "tasks:mux"),
        cwd=tmp_path,
        stdout=PIPE,
        stderr=DEVNULL,
        env={**os.environ, ENV_URL: redis_url, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert worker.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await worker.stdout.readline() == b"a welcome to user 42\n"
            worker.send_signal(signal.SIGTERM)
            await worker.communicate()
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
    assert worker.returncode == 0


@pytest.mark.parametrize(("place", "command"), COMMANDS, ids=[f"{place} {command}" for place, command in COMMANDS])
def test_a_command_exists(place, command, redis_url):
    match shlex.split(command):
        case ["make", *targets]:
            targets = [target for target in targets if "=" not in target]
            assert set(targets) <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        case ["pip", "install", wanted, *others]:
            extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", wanted)
            assert extras
            optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(filter(None, (extras[1] or "").split(","))) <= set(optional)
            known = {re.split(r"\W*[<>=;]", each)[0] for extra in optional.values() for each in extra}
            assert set(others) <= known
        case ["redis-cli", *arguments]:
            with Redis.from_url(redis_url) as client:
                client.execute_command(*arguments)
        case ["python", "-m", "aioasynq.devserver"]:
            pass  # tested in tests/unit/test_devserver.py
        case (
            ["aioasynq", *arguments]
            | ["python", "-m", "aioasynq", *arguments]
            | ["opentelemetry-instrument", "aioasynq", *arguments]
        ):
            parse(arguments)  # what it does is tested in tests/cli
        case ["python" | "pytest", file]:
            assert file in {block.file_name for block in PYTHON}
        case ["uvicorn", "app:app"] | ["curl", *_] if place.startswith("docs/tutorial.md"):
            pass  # done by test_the_tutorial
        case _:
            pytest.fail(f"{place}: nobody knows how to test {command!r}")


whole = functools.cache(lambda: typer.main.get_command(app))


def parse(arguments: list[str]) -> str:
    """Read a command line of aioasynq as the program does, up to where it would do something; the command's name."""
    command: Any = whole()
    context, name = None, "aioasynq"
    while True:
        context = command.make_context(name, arguments, parent=context)
        if not hasattr(command, "resolve_command"):
            return str(context.command_path)
        name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nothing", "No such command"),
        ("stats --nothing", "No such option"),
        ("task run -q default", "Missing parameter"),
        ("queue pause", "Missing parameter"),
        ("task list -q", "requires an argument"),
    ],
)
def test_a_command_that_is_wrong_is_seen(line, said):
    with pytest.raises(Exception, match=said):
        parse(line.split())
    assert parse(["task", "run", "-q", "default", "-i", "x"]) == "aioasynq task run"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "py"], ids=str)
def test_python_for_others_can_be_read(block):
    compile(block.text, str(block), "exec")


async def test_the_users_of_the_page_of_redis_are_those_of_the_table(own_server):
    """And Redis takes them as they stand there; tests/security lets each of the table's work."""
    text = next(block.text for block in BLOCKS if block.page.name == "redis.md" and block.text.startswith("user "))
    users = {line.split()[1]: line.split()[2:] for line in text.splitlines()}
    rows = {"web": "client", "worker": "server", "clock": "scheduler", "monitor": "reader"}
    begin = {name: ["on", f">change-this-{name}", "resetkeys", "resetchannels", "-@all"] for name in rows}
    assert users == {name: begin[name] + USERS[row] for name, row in rows.items()}
    server = own_server()
    with Redis.from_url(server.url) as client:
        for name, rules in users.items():
            client.execute_command("ACL", "SETUSER", name, *rules)
    async with Client(f"redis://web:change-this-web@127.0.0.1:{server.port}/0") as client:
        await client.enqueue(Task("x"))


def test_doctor_is_content_with_the_settings_of_the_page_of_redis(own_server, tmp_path):
    text = next(block.text for block in BLOCKS if block.text.startswith("# redis.conf"))
    settings = dict(line.split(" ", 1) for line in text.splitlines()[1:])
    server = own_server(appendonly=settings.pop("appendonly") == "yes", config=settings)
    assert "0 to look at, 0 wrong" in forked.run("doctor", cwd=tmp_path, env={ENV_URL: server.url}).said


def test_the_page_of_monitoring_has_names_that_there_are():
    """Of metrics; a counter gets its ``_total`` from the library, a histogram its ``_bucket`` and the like."""
    families = [*exposition._families(Figures()), *metrics._families([], {}, up=True)]
    there = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    named = set(re.findall(r"\b(?:aio)?asynq_[a-z_]+", (ROOT / "docs" / "monitoring.md").read_text()))
    assert len(named) > 10
    assert named - there == set()


SOURCES = "".join(path.read_text() for path in sorted((ROOT / "aioasynq").rglob("*")) if path.suffix in {".py", ".lua"})


def test_the_runbook_quotes_what_is_said():
    """The first cells of its tables: what a command prints, or what a line of the log says."""
    text = (ROOT / "docs" / "runbook.md").read_text()
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    quotes = [quote for cell in cells for quote in re.findall(r"[`*]([^`*]+)[`*]", cell)]
    quotes += re.findall(r"`((?:no contact|the event loop)[^`]*)`", text)
    parts = [part.strip(" ,:.") for quote in quotes if not quote.isupper() for part in quote.split("…")]
    missing = [part for part in parts if len(part) > 3 and not part.isupper() and part not in SOURCES]
    assert missing == []
    assert len(parts) > 20


_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    missing = [target for target in _LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert missing == []


def test_the_page_of_the_wire_names_every_field_and_our_keys():
    text = (ROOT / "docs" / "wire.md").read_text()
    fields = {keys.MSG, keys.STATE, keys.PENDING_SINCE, keys.UNIQUE_KEY, keys.GROUP, keys.RESULT}
    ours = {keys.JOIN, keys.OWNER, keys.RECOVERED, keys.ERROR}
    assert f"| `{keys.PROGRESS}`, `{keys.PROGRESS_TEXT}` |" in text
    assert {name for name in fields | ours if f"| `{name}` |" not in text} == set()
    per_queue = (
        *(keys.pending, keys.active, keys.lease, keys.scheduled, keys.retry, keys.completed, keys.archived),
        *(
            keys.paused,
            keys.groups,
            keys.aggregation_sets,
            keys.processed_total,
            keys.failed_total,
            keys.waiting,
            keys.awaited,
        ),
    )
    assert {key("q") for key in per_queue if f"`{key('q')}`" not in text} == set()
    others = {
        *(keys.queues(), keys.servers(), keys.workers(), keys.schedulers(), keys.CANCEL),
        keys.semaphore("<scope>"),
        keys.receipt("q", "<caller>"),
        keys.fired("q", "<entry>"),
        keys.scheduler_entries("host:pid:id"),
        keys.scheduler_history("<entry>"),
        keys.server_patterns("host", "pid", "id"),  # type: ignore[arg-type]
        keys.task("q", "<id>"),
        keys.group("q", "<group>"),
        keys.aggregation_set("q", "<group>", "<set>"),
    }
    assert {key for key in others if f"`{key}`" not in text} == set()


def table(page: str, title: str) -> list[list[str]]:
    """The rows of the table under a title of a page, cell by cell."""
    section = (ROOT / "docs" / page).read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert len(lines) > 2, f"{page} has no table under {title!r}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def defaults(title: str, page: str = "options.md") -> dict[str, object]:
    """What a page says: option → default; a text where that is no literal."""
    said: dict[str, object] = {}
    for option, _, default, *_ in table(page, title):
        try:
            said[option.strip("`")] = ast.literal_eval(default.strip("`"))
        except (SyntaxError, ValueError):
            said[option.strip("`")] = default.strip("`")
    return said


def test_the_page_of_options_says_what_a_task_has():
    composed = compose(Task("x"), EMPTY, now=1.0)
    msg = composed.msg
    assert UUID(msg.id).version == 4
    assert (msg.deadline, composed.unique_ttl, composed.when, msg.group_key) == (0, 0, "", "")
    assert defaults("Of a task") == {
        **dict.fromkeys(Options._fields),
        "max_retry": msg.retry,
        "queue": msg.queue,
        "task_id": "a random UUID",
        "timeout": msg.timeout,
        "retention": msg.retention,
        "headers": msg.headers,
    }


def test_the_page_of_options_says_what_a_handler_has():
    of_handlers, of_types = HandlerOptions.__annotations__, TaskTypeOptions.__annotations__
    assert list(defaults("Of a handler")) == [
        *of_handlers,
        *(of_types.keys() - of_handlers.keys() - set(Options._fields)),
    ]
    rules = Rules()
    assert defaults("Of a handler") == {name: getattr(rules, name) for name in of_handlers} | {"codec": None}


def test_the_page_of_options_says_what_a_server_has():
    config = Config()
    has = {name: getattr(config, name) for name in Config.__dataclass_fields__}
    assert config.is_failure(Exception()) is True
    has["retry_delay"] = getattr(config.retry_delay, "__name__", "")
    has["is_failure"] = "lambda error: True"
    assert defaults("Of a server") == has


def test_the_page_of_options_says_what_a_client_has():
    has = {each.name: each.default for each in inspect.signature(Client).parameters.values()}
    assert defaults("Of a client") == has


def test_the_page_of_the_scheduler_says_what_it_has():
    has = {each.name: each.default for each in inspect.signature(Scheduler).parameters.values()}
    del has["redis"]
    assert defaults("Options", "scheduler.md") == has


def test_the_page_of_options_names_the_limits():
    numbers = [int(re.findall(r"`(\d+)`", cells[1])[0]) for cells in table("options.md", "Limits")]
    assert numbers == [
        *(MAX_PAYLOAD, MAX_BATCH, MAX_BATCH_BYTES, batcher.MAX_WAITING, batcher.MAX_WAITING_BYTES),
        *(MAX_RETRY, MAX_DURATION, MAX_MOMENT, MAX_CONNECTIONS, MAX_WAITS),
    ]


@pytest.mark.parametrize(("command", "head"), [("worker", "| option |"), ("dev", "| option of `dev` |")])
def test_the_page_of_the_worker_names_every_option(command, head):
    rows = (ROOT / "docs" / "worker.md").read_text().partition(head)[2].partition("\n\n")[0].splitlines()[2:]
    named = [option for row in rows for option in re.findall(r"`(--[\w-]+)", row.split("|")[1])]
    group: Any = get_command(app)
    has = [each.opts[0] for each in group.commands[command].params if each.opts[0].startswith("--") and not each.hidden]
    assert sorted(named) == sorted(has)


def test_the_page_of_errors_names_every_error():
    text = (ROOT / "docs" / "errors.md").read_text()
    named = set(re.findall(r"`([A-Z]\w+)(?:\([^`]*\))?`", text))
    assert set(aioasynq.errors.__all__) - named == set()
    assert {name for name in named if name.endswith("Error")} - set(aioasynq.errors.__all__) == {
        *("ValueError", "TypeError", "RuntimeError", "TimeoutError", "CancelledError", "ImportError")
    }


@pytest.mark.parametrize("python", ["", "/nowhere/python3", "false"], ids=["none", "missing", "too-old"])
async def test_without_a_fitting_python_make_says_so(python, tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    env = {name: value for name, value in os.environ.items() if "MAKE" not in name}  # these tests are run by make
    make = await asyncio.create_subprocess_exec(
        *("make", f"PYTHON={python}", "demo"), cwd=tmp_path, env=env, stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(PATIENCE):
        out, err = await make.communicate()
    assert make.returncode == 2
    assert out == b""
    assert err.decode().splitlines()[0].startswith("aioasynq needs Python 3.11 or later on PATH")
    assert list(tmp_path.glob(".venv*")) == []
