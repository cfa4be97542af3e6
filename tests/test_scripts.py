"""Each Lua script says in its header what it is given and what it answers, and is used."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RDB = ROOT / "aioasynq" / "rdb"

GIVEN = re.compile(r"^(KEYS|ARGV)\[(\d+)(\.\.)?\] +\S")  # a line of the header: KEYS[2]  lease, or ARGV[5..]  ids
USED = re.compile(r"(?<!#)\b(KEYS|ARGV)\b(?:\[(\d+)\])?")  # KEYS[2], and KEYS of KEYS[i] or unpack(KEYS, 2); not #KEYS
LOCAL = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)
COMMENT = re.compile(r"--\[\[.*?\]\]|--[^\n]*", re.DOTALL)
STRING = re.compile(r"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'")


class ScriptFile:
    """A Lua file: its header (the comment it begins with) and its body (no comments, empty strings)."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        lines = path.read_text().splitlines()
        end = next((number for number, line in enumerate(lines) if not line.startswith("--")), len(lines))
        self.header = [line.removeprefix("--").strip() for line in lines[:end]]
        # Strings first: one may hold "--". A comment that holds a lone quote mark stays within its line.
        self.body = COMMENT.sub("", STRING.sub('""', "\n".join(line for line in lines[end:])))

    @property
    def uses(self) -> list[str]:
        lines = [line.removeprefix("uses:") for line in self.header if line.startswith("uses:")]
        return [name.strip() for line in lines for name in line.split(",")]

    def defines(self) -> set[str]:
        return set(LOCAL.findall(self.body))


def faults(script: ScriptFile, helpers: dict[str, ScriptFile]) -> list[str]:
    """What is wrong with a script, as sentences; *helpers* are the files that begin with ``_``, without that."""
    wrong = []
    if not script.header or not re.match(rf"{script.name}: \S", script.header[0]):
        wrong.append(f"the first line is not '-- {script.name}: <what it does>'")
    if not any(line.startswith("Returns ") for line in script.header):
        wrong.append("no line says what it 'Returns'")
    wrong += [f"uses {name}, but there is no _{name}.lua" for name in script.uses if name not in helpers]
    for name, helper in helpers.items():
        called = {word for word in helper.defines() - script.defines() if re.search(rf"\b{word}\b", script.body)}
        if called and name not in script.uses:
            wrong.append(f"calls {', '.join(sorted(called))} but does not say 'uses: {name}'")
        if not called and name in script.uses:
            wrong.append(f"says 'uses: {name}' but calls nothing of it")
    for table in ("KEYS", "ARGV"):
        wrong += faults_of_table(table, script, [helpers[name] for name in script.uses if name in helpers])
    return wrong


def faults_of_table(table: str, script: ScriptFile, used_helpers: list[ScriptFile]) -> list[str]:
    given = [match for line in script.header if (match := GIVEN.match(line)) and match[1] == table]
    numbers = [int(match[2]) for match in given]
    open_from = int(given[-1][2]) if given and given[-1][3] else None  # KEYS[6..]: six and all that follow
    wrong = []
    if numbers != list(range(1, len(numbers) + 1)) or any(match[3] for match in given[:-1]):
        wrong.append(f"{table} is not listed as 1, 2, 3 …, with '..' in the last line only")
    body = "\n".join([script.body, *(helper.body for helper in used_helpers)])
    used = [match[2] for match in USED.finditer(body) if match[1] == table]
    literal = {int(number) for number in used if number}
    computed = len(used) > len([number for number in used if number])
    if computed and open_from is None:
        wrong.append(f"{table} is used with a computed index, but no line lists {table}[n..]")
    fixed = {number for number in numbers if number != open_from}
    known = fixed | {number for number in literal if open_from is not None and number >= open_from}
    wrong += [f"{table}[{number}] is used but not listed" for number in sorted(literal - known)]
    wrong += [f"{table}[{number}] is listed but not used" for number in sorted(fixed - literal)]
    if open_from is not None and not computed and not any(number >= open_from for number in literal):
        wrong.append(f"{table}[{open_from}..] is listed but not used")
    return wrong


def read_folder(folder: Path) -> tuple[dict[str, ScriptFile], dict[str, ScriptFile]]:
    """The scripts of a folder, and the helpers, both by name."""
    files = [ScriptFile(path) for path in sorted(folder.glob("*.lua"))]
    helpers = {file.name.removeprefix("_"): file for file in files if file.name.startswith("_")}
    return {file.name: file for file in files if not file.name.startswith("_")}, helpers


def names_in_python(folder: Path) -> set[str]:
    """The names in every ``Script("name")`` of the folder's modules."""
    calls = [
        node
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Script"
    ]
    arguments = [call.args[0] for call in calls if call.args]
    return {arg.value for arg in arguments if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}


SCRIPTS, HELPERS = read_folder(RDB / "lua")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_header_says_what_the_script_is_given_and_answers(name):
    assert faults(SCRIPTS[name], HELPERS) == []


def test_each_script_is_used_and_exists():
    assert names_in_python(RDB) == set(SCRIPTS)


def test_each_helper_is_used():
    assert {name for script in SCRIPTS.values() for name in script.uses} == set(HELPERS)


def test_the_scripts_are_sound_lua():
    files = [str(path.relative_to(ROOT)) for path in sorted((RDB / "lua").glob("*.lua"))]
    if luacheck := shutil.which("luacheck"):
        command = [luacheck, "--no-color", "--quiet", *files]
    elif luac := shutil.which("luac5.1") or shutil.which("luac"):
        command = [luac, "-p", *files]
    else:
        pytest.skip("neither luacheck nor luac is installed (Debian: lua-check, lua5.1)")
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


UNORDERED = "KEYS is not listed as 1, 2, 3 …, with '..' in the last line only"
GOOD = """\
-- done: forget tasks that succeeded,
-- all of them.
--
-- uses: clock
--
-- KEYS[1]  active  list
-- KEYS[2]  lease   sorted set
-- KEYS[3..]  tasks
-- ARGV[1]  now     "" for Redis's own
--
-- Returns the number that was removed.

-- KEYS[9] in a comment, and "KEYS[8] -- in a string", are no use
local now = seconds(ARGV[1])
redis.call("ZADD", KEYS[2], now, "KEYS[7] -- '")
for i = 3, #KEYS do
  redis.call("DEL", KEYS[i])
end
return redis.call("LLEN", KEYS[1])
"""
CHANGES = {
    "nothing": ("", "", []),
    "another name": ("-- done:", "-- kill:", ["the first line is not '-- done: <what it does>'"]),
    "no sentence": (": forget tasks that succeeded,", ":", ["the first line is not '-- done: <what it does>'"]),
    "no answer": ("-- Returns", "-- returns", ["no line says what it 'Returns'"]),
    "no such helper": ("uses: clock", "uses: clock, owner", ["uses owner, but there is no _owner.lua"]),
    "a helper not named": ("-- uses: clock\n", "", ["calls seconds but does not say 'uses: clock'"]),
    "a helper not called": ("seconds(", "tonumber(", ["says 'uses: clock' but calls nothing of it"]),
    "an unlisted argument in a string": ("LLEN", "X' .. ARGV[2] .. '", []),
    "an unlisted argument in use": (', now, "', ', ARGV[2], "', ["ARGV[2] is used but not listed"]),
    "an unused argument": ("seconds(ARGV[1])", 'seconds("")', ["ARGV[1] is listed but not used"]),
    "an unused key": ("KEYS[2], now", '"x", now', ["KEYS[2] is listed but not used"]),
    "a gap": (
        "-- KEYS[2]",
        "-- KEYS[4]",
        [UNORDERED, "KEYS[2] is used but not listed", "KEYS[4] is listed but not used"],
    ),
    "open too early": ("KEYS[1]  active", "KEYS[1..]  active", [UNORDERED]),
    "an open end not used": ("KEYS[i]", "i", ["KEYS[3..] is listed but not used"]),
    "an open end not listed": (
        "KEYS[3..]",
        "KEYS[3]",
        ["KEYS is used with a computed index, but no line lists KEYS[n..]", "KEYS[3] is listed but not used"],
    ),
}


@pytest.mark.parametrize(("old", "new", "expected"), CHANGES.values(), ids=CHANGES)
def test_a_wrong_header_is_found(tmp_path, old, new, expected):
    (tmp_path / "_clock.lua").write_text(
        "-- _clock: time.\nlocal function seconds(text)\n  return tonumber(text)\nend\n"
    )
    (tmp_path / "done.lua").write_text(GOOD.replace(old, new, 1) if old else GOOD)
    scripts, helpers = read_folder(tmp_path)
    assert faults(scripts["done"], helpers) == expected


def test_script_names_are_read_from_python(tmp_path):
    (tmp_path / "rdb.py").write_text('_DONE = Script("done")\nother("kill")\n')
    assert names_in_python(tmp_path) == {"done"}
