"""docs/coming_from_go.md has every exported name of Go asynq, and names of ours that exist."""

from __future__ import annotations

import inspect
import re
import subprocess
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import aioasynq
import aioasynq.inspector
from aioasynq.options import Options
from aioasynq.server import Config

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "coming_from_go.md"

NONE = "\N{EN DASH}"  #: what the page says where there is nothing of the kind
_NAMES = re.compile(r"`([^`]+)`")
#: ``Client.enqueue``, ``Client(redis=…, operation_timeout=…)``
_OURS = re.compile(r"([A-Za-z_]\w*)(?:\.(\w+)|\((.*)\))?")


def _public() -> dict[str, Any]:
    """Names of the package, and of its room for looking at queues."""
    return {name: getattr(module, name) for module in (aioasynq, aioasynq.inspector) for name in module.__all__}


PUBLIC = _public()


class Row(NamedTuple):
    go: list[str]
    ours: list[str]
    text: str


def rows(head: str = "Go") -> list[Row]:
    """The rows of all tables that have names of Go's beside ours."""
    found: list[Row] = []
    for table in re.findall(rf"(?m)^\| {head} \| aioasynq \| \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", PAGE.read_text()):
        for line in table.splitlines():
            go, ours, _ = (cell.strip() for cell in line.strip("|").split("|", 2))
            found.append(Row(_NAMES.findall(go), _NAMES.findall(ours), ours))
    return found


ROWS = rows()
LATER = rows("Go, after v0.26")  #: what its main branch has; no release that a test could ask


def test_the_page_has_every_name_of_go(go_programs: Path):
    where = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", "github.com/hibiken/asynq"],
        cwd=HERE / "go",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    exported = subprocess.run([go_programs / "names", where], capture_output=True, text=True, check=True).stdout.split()
    assert len(exported) > 300
    said = Counter(name for row in ROWS for name in row.go)
    assert sorted(said) == sorted(exported)
    assert {name for name, times in said.items() if times > 1} == set()


def test_every_row_says_what_is_here():
    assert len(ROWS) > 80
    assert [row for row in ROWS if not row.ours and row.text != NONE] == []


@pytest.mark.parametrize("name", sorted({name for row in ROWS + LATER for name in row.ours}))
def test_a_name_of_ours_exists(name: str):
    parts = _OURS.fullmatch(name)
    assert parts, "neither a name, nor one of a class, nor a call"
    head, member, arguments = parts.groups()
    if head not in PUBLIC:
        assert head in {*Options._fields, *(field.name for field in fields(Config))}
        assert (member, arguments) == (None, None)
        return
    thing = PUBLIC[head]
    if member is not None:
        assert hasattr(thing, member) or member in thing.__annotations__
    elif arguments is not None:
        taken = inspect.signature(thing).parameters
        said = set(re.findall(r"(\w+)=", arguments))
        assert said - set(taken) - set(Options._fields) == set()


def test_what_came_after_the_release_is_here():
    assert {name for row in LATER for name in row.go} >= {"Client.BatchEnqueueContext", "Header", "Task.Options"}
    assert [row for row in LATER if not row.ours and row.text != NONE] == []
