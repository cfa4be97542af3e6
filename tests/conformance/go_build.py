"""Builds the Go programs of this folder, once for all test processes.

`build_shifted` makes one of them whose clock is wrong. Go's programs ask the kernel for the time by themselves, where
libraries that pretend another time cannot step in between; so that program is compiled with a copy of Go's package
``time`` that has one line more.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
BIN = HERE / "go" / "bin"

#: Modules by the name of their folder, and what is built of each.
MODULES = {"go": "./cmd/...", "go_2020": ".", "asynqmon": "."}


#: The variable that tells `build_shifted`'s program by how many seconds its clock is wrong.
CLOCK = "AIOASYNQ_GO_CLOCK"

#: The first line of ``time.Now``: where the seconds since 1970 come from.
_NOW = re.compile(r"(?m)^func Now\(\) Time \{\n\tsec, nsec, mono := \w+\(\)\n")
_SHIFT = f"""package time

import "syscall"

var shift = func() int64 {{
	text, _ := syscall.Getenv("{CLOCK}")
	seconds, _ := atoi(text)
	return int64(seconds)
}}()
"""


class GoMissingError(Exception):
    """The programs cannot be built on this machine, for no fault of theirs."""


class GoBuildError(Exception):
    """The programs do not compile."""


def build(module: str) -> Path:
    """Build what belongs to *module*, unless that was done since its sources last changed; return the folder.

    Raises:
        GoMissingError: there is no Go, or the modules it depends on cannot be had.
        GoBuildError: the compiler refuses; the text is what it said.
    """
    go = _compiler()
    folder = HERE / module
    with _once(module, go) as outdated:
        if outdated:
            _compile(go, folder, MODULES[module], BIN)
    return BIN


def build_shifted() -> Path:
    """Build `serve` with a clock that `CLOCK` sets wrong, like `build`; return the program."""
    go = _compiler()
    folder = HERE / "go"
    program = BIN / "serve-shifted"
    with _once("go", go, "shifted") as outdated, tempfile.TemporaryDirectory() as made:
        if outdated:
            _compile(go, folder, "./cmd/serve", program, "-overlay", str(_overlay(go, Path(made))))
    return program


def compile_more(package: str, out: Path, *options: str) -> None:
    """Build another package of the module ``go``, each time.

    Raises:
        GoMissingError, GoBuildError: as for `build`.
    """
    _compile(_compiler(), HERE / "go", package, out, *options)


def _compiler() -> str:
    if go := shutil.which("go"):
        return go
    raise GoMissingError("go is not installed")


@contextmanager
def _once(module: str, go: str, name: str = "") -> Generator[bool]:
    """Let one process at a time in; True when the sources have changed since one got through here without an error."""
    name = name or module
    folder = HERE / module
    built = BIN / f".{name}.built"
    BIN.mkdir(exist_ok=True)
    with _locked(BIN / f".{name}.lock"):
        fingerprint = _fingerprint(folder, _run(go, "version", cwd=folder).stdout)
        outdated = not built.exists() or built.read_text() != fingerprint
        yield outdated
        if outdated:
            built.write_text(fingerprint)


def _compile(go: str, folder: Path, package: str, out: Path, *options: str) -> None:
    fetched = _run(go, "mod", "download", cwd=folder)
    if fetched.returncode:
        raise GoMissingError(f"the Go modules cannot be downloaded: {fetched.stderr.strip()}")
    # Without debug data and paths of this machine: smaller, and the same bytes wherever it is built.
    usual = ["-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w"]
    target = f"{out}{os.sep}" if out.is_dir() else str(out)
    made = _run(go, "build", *usual, *options, "-o", target, package, cwd=folder)
    if made.returncode:
        raise GoBuildError(made.stderr)


def _overlay(go: str, made: Path) -> Path:
    """Write a package ``time`` whose clock can be set wrong, and the list that puts it in place of Go's own."""
    package = Path(_run(go, "env", "GOROOT", cwd=HERE).stdout.strip()) / "src" / "time"
    source, count = _NOW.subn(r"\g<0>\tsec += shift\n", (package / "time.go").read_text("utf-8"))
    if count != 1:
        raise GoBuildError("time.Now of this version of Go does not begin as in those that are known")
    (made / "time.go").write_text(source, "utf-8")
    (made / "shift.go").write_text(_SHIFT, "utf-8")
    overlay = made / "overlay.json"
    replaced = {str(package / name): str(made / name) for name in ("time.go", "shift.go")}
    overlay.write_text(json.dumps({"Replace": replaced}), "utf-8")
    return overlay


def _run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def _fingerprint(folder: Path, version: str) -> str:
    digest = hashlib.sha256(version.encode())
    for path in sorted([*folder.rglob("*.go"), folder / "go.mod", folder / "go.sum"]):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Generator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed, also by a process that dies
        yield
