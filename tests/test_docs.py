"""What README and docs show is run: Python blocks as programs, commands against what there is to run."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import shlex
import shutil
import signal
import sys
import tomllib
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

import aioasynq.errors
from aioasynq import Client, Config, Task, keys
from aioasynq.client import batcher
from aioasynq.client.client import MAX_PAYLOAD
from aioasynq.compose import compose
from aioasynq.devserver import ENV_URL
from aioasynq.options import EMPTY, MAX_DURATION, MAX_MOMENT, MAX_RETRY, Options
from aioasynq.rdb.base import MAX_BATCH
from aioasynq.rdb.connection import MAX_CONNECTIONS
from aioasynq.server.fetcher import MAX_WAITS

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
PATIENCE = 30  # seconds until something counts as not happening
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Block:
    """A code block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file_name(self) -> str:
        """What its first line says, as in ``# tasks.py``."""
        named = re.match(r"# (\w+\.py)\n", self.text)
        return named[1] if named else "block.py"


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2]) for found in _BLOCK.finditer(text)]


BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
COMMANDS = [
    (str(block), command)
    for block in BLOCKS
    if block.language in {"sh", ""}
    for line in block.text.splitlines()
    if (command := line.partition("  #")[0].strip())
]


async def run(*command: str, cwd: Path, url: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=PIPE, stderr=PIPE, env={**os.environ, ENV_URL: url, "PYTHONWARNINGS": "error"}
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()


def test_there_are_blocks():
    assert len(PYTHON) >= 3
    assert {block.language for block in BLOCKS} <= {"", "go", "mermaid", "python", "sh", "text"}


@pytest.mark.parametrize("block", PYTHON, ids=str)
async def test_a_python_block_runs(block: Block, tmp_path, redis_url):
    path = tmp_path / block.file_name
    path.write_text(block.text)
    await run(sys.executable, str(path), cwd=tmp_path, url=redis_url)


async def test_the_first_example_of_the_readme(tmp_path, redis_url, redis):
    block = next(block for block in PYTHON if block.page.name == "README.md")
    (tmp_path / block.file_name).write_text(block.text)
    commands = [command for place, command in COMMANDS if place.startswith("README.md")]
    assert "python tasks.py" in commands
    assert "aioasynq worker tasks:mux" in commands

    await run(sys.executable, "tasks.py", cwd=tmp_path, url=redis_url)
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
async def test_a_command_exists(place, command, tmp_path, redis_url):
    match shlex.split(command):
        case ["make", *targets]:
            targets = [target for target in targets if "=" not in target]
            assert set(targets) <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        case ["pip", "install", wanted]:
            extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", wanted)
            assert extras
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert set(filter(None, (extras[1] or "").split(","))) <= set(project["optional-dependencies"])
        case ["python", "-m", "aioasynq.devserver"]:
            pass  # tested in tests/unit/test_devserver.py
        case ["aioasynq", *arguments] | ["python", "-m", "aioasynq", *arguments]:
            # Options are read before --help; what they do is tested in tests/cli.
            assert await run(sys.executable, "-m", "aioasynq", *arguments, "--help", cwd=tmp_path, url=redis_url)
        case ["python", file]:
            assert file in {block.file_name for block in PYTHON}
        case _:
            pytest.fail(f"{place}: nobody knows how to test {command!r}")


_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    missing = [target for target in _LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert missing == []


def test_the_page_of_the_wire_names_every_field_and_our_keys():
    text = (ROOT / "docs" / "wire.md").read_text()
    fields = {keys.MSG, keys.STATE, keys.PENDING_SINCE, keys.UNIQUE_KEY, keys.GROUP, keys.RESULT}
    ours = {keys.JOIN, keys.OWNER, keys.RECOVERED, keys.ERROR}
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
        keys.receipt("q", "<caller>"),
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


def defaults(title: str) -> dict[str, object]:
    """What a page says: option → default; a text where that is no literal."""
    said: dict[str, object] = {}
    for option, _, default, *_ in table("options.md", title):
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


def test_the_page_of_options_names_the_limits():
    numbers = [int(re.findall(r"`(\d+)`", cells[1])[0]) for cells in table("options.md", "Limits")]
    assert numbers == [
        *(MAX_PAYLOAD, MAX_BATCH, batcher.MAX_WAITING, batcher.MAX_WAITING_BYTES),
        *(MAX_RETRY, MAX_DURATION, MAX_MOMENT, MAX_CONNECTIONS, MAX_WAITS),
    ]


def test_the_page_of_errors_names_every_error():
    text = (ROOT / "docs" / "errors.md").read_text()
    named = set(re.findall(r"`([A-Z]\w+)(?:\([^`]*\))?`", text))
    assert set(aioasynq.errors.__all__) - named == set()
    assert {name for name in named if name.endswith("Error")} - set(aioasynq.errors.__all__) == {
        *("ValueError", "TypeError", "RuntimeError", "TimeoutError", "CancelledError")
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
