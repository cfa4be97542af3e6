"""mypy and pyright are run on good and bad calls of typed tasks, and find the bad ones."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import tomllib
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOOD = ROOT / "tests" / "typing" / "cases" / "good.py"
BAD = ROOT / "tests" / "typing" / "cases" / "bad.py"
PATIENCE = 170  # seconds: without a cache mypy reads all that is imported

Errors = dict[tuple[str, int], str]


async def output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 1, out.decode() + err.decode()  # there are errors, and no crash
    return out.decode()


async def mypy(_: Path) -> Errors:
    out = await output(sys.executable, "-m", "mypy", "--no-error-summary", "--no-pretty", str(GOOD), str(BAD))
    found = re.findall(r"(?m)^(.+?):(\d+): error: (.*)$", out)
    return {(Path(file).name, int(line)): text for file, line, text in found}


async def pyright(folder: Path) -> Errors:
    # as the project has it, but for these files, which it leaves out
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]
    del config["exclude"], config["executionEnvironments"]
    own = {"include": [GOOD.name, BAD.name], "venvPath": str(ROOT), "extraPaths": [str(ROOT)]}
    for case in (GOOD, BAD):
        shutil.copy(case, folder)
    (folder / "pyrightconfig.json").write_text(json.dumps(config | own))
    out = await output(str(Path(sys.executable).parent / "pyright"), "--outputjson", "--project", str(folder))
    found = [each for each in json.loads(out)["generalDiagnostics"] if each["severity"] == "error"]
    return {(Path(each["file"]).name, each["range"]["start"]["line"] + 1): each["message"] for each in found}


@pytest.mark.timeout(PATIENCE + 10)
@pytest.mark.parametrize("checker", [mypy, pyright])
async def test_bad_calls_are_found_and_good_ones_pass(checker, tmp_path):
    lines = BAD.read_text().splitlines()
    expected = {("bad.py", number) for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert len(expected) > 40
    errors = await checker(tmp_path)
    assert {place: errors.get(place) for place in errors.keys() ^ expected} == {}
