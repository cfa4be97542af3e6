"""Which file may import which: only what stands in a lower layer, or in its own folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "aioasynq"

#: Lowest first. What stands together does not know each other.
LAYERS = [
    {"_version", "errors"},
    {"cronspec", "keys", "queues"},
    {"options"},
    {"option_text", "task"},
    {"codecs", "context", "hooks", "message", "retry"},
    {"compose", "logs", "observer", "typed"},
    {"mux"},
    {"proto"},
    {"rdb"},
    {"life"},
    {"client", "inspector", "server"},
    {"contrib", "devserver", "metrics", "otel", "rate", "scheduler", "testing"},
    {"web"},
    {"cli"},
    {"__init__"},
    # The plugin is loaded before anything else here, and takes its names when they are needed.
    {"__main__", "pytest_plugin"},
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}


def imported(path: Path, package: Path) -> Iterator[str]:
    """The files and folders of *package* that a file imports, anywhere in it; the package itself is ``__init__``."""
    here = ("aioasynq", *path.relative_to(package).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [start, node.module]))
            # `from aioasynq import keys` imports a file, `from aioasynq import Task` a name of __init__
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "aioasynq" else [module]
        else:
            continue
        for root, *rest in (name.split(".") for name in names):
            if root == "aioasynq":
                yield rest[0] if rest and rest[0] in HEIGHT else "__init__"


def wrong_imports(package: Path) -> list[str]:
    wrong = []
    for path in sorted(package.rglob("*.py")):
        own = path.relative_to(package).parts[0].removesuffix(".py")
        if own not in HEIGHT:
            wrong.append(f"{own} stands in no layer")
            continue
        wrong += [
            f"{path.relative_to(package)} imports {other}"
            for other in sorted(set(imported(path, package)))
            if other != own and HEIGHT[other] >= HEIGHT[own]
        ]
    return wrong


def test_files_import_lower_layers_only():
    assert wrong_imports(PACKAGE) == []


def test_generated_code_is_used_by_the_codec_only():
    users = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if "asynq_pb2" in p.read_text()}
    assert users <= {"proto/codec.py", "proto/asynq_pb2.py"}


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("client/batcher.py", "from aioasynq.rdb.rdb import RDB\nfrom aioasynq.client.client import Client", []),
        ("client/batcher.py", "from .client import Client\nfrom ..rdb import rdb\nimport redis", []),
        ("rdb/rdb.py", "def f():\n    import aioasynq.server.server", ["rdb/rdb.py imports server"]),
        ("rdb/rdb.py", "from ..client import Client", ["rdb/rdb.py imports client"]),
        ("server/server.py", "from aioasynq.inspector import Inspector", ["server/server.py imports inspector"]),
        ("task.py", "from . import keys, mux", ["task.py imports mux"]),
        ("web/app.py", "from aioasynq import Task", ["web/app.py imports __init__"]),
        ("utils.py", "", ["utils stands in no layer"]),
    ],
)
def test_an_import_upwards_is_found(tmp_path, file, text, expected):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert wrong_imports(tmp_path) == expected
