"""What README and docs show of Go compiles against asynq; tests/test_docs.py runs what they show of Python."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.conformance.go_build import compile_more
from tests.test_docs import BLOCKS, Block

HERE = Path(__file__).parent / "go"
IMPORTS = {
    "asynq": "github.com/hibiken/asynq",
    "context": "context",
    "errors": "errors",
    "fmt": "fmt",
    "json": "encoding/json",
    "log": "log",
    "time": "time",
}
#: What blocks take for known.
KNOWN = """
var client *asynq.Client
var redis asynq.RedisClientOpt

func logged(next asynq.Handler) asynq.Handler { return next }

func welcome(ctx context.Context, user int) error { return nil }
"""


def function(number: int, block: Block) -> str:
    """A block as a function; Go refuses variables that nobody uses."""
    named = {
        name.strip()
        for names in re.findall(r"^(?!if )([\w, ]+) :=", block.text, re.MULTILINE)
        for name in names.split(",")
    }
    used = "\n".join(f"_ = {name}" for name in sorted(named - {"_"}))
    return f"func block{number}() (err error) {{\n{block.text}{used}\nreturn nil\n}}\n"


def test_it_compiles(go_programs: Path, tmp_path: Path) -> None:
    blocks = [block for block in BLOCKS if block.language == "go"]
    assert len(blocks) > 3
    text = KNOWN + "".join(function(number, block) for number, block in enumerate(blocks))
    imports = "\n".join(f'"{path}"' for name, path in IMPORTS.items() if f"{name}." in text)
    (tmp_path / "main.go").write_text(f"package main\n\nimport (\n{imports}\n)\n{text}\nfunc main() {{}}\n")
    overlay = {"Replace": {str(HERE / "cmd" / "docs" / "main.go"): str(tmp_path / "main.go")}}
    (tmp_path / "overlay.json").write_text(json.dumps(overlay))
    compile_more("./cmd/docs", tmp_path / "docs", "-overlay", str(tmp_path / "overlay.json"))
