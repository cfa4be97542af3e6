"""Builds the Go programs of this folder, once for all test processes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
BIN = HERE / "go" / "bin"

#: Modules by the name of their folder, and what is built of each.
MODULES = {"go": "./cmd/...", "asynqmon": "."}


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
    go = shutil.which("go")
    if go is None:
        raise GoMissingError("go is not installed")
    folder = HERE / module
    BIN.mkdir(exist_ok=True)
    built = BIN / f".{module}.built"
    with _locked(BIN / f".{module}.lock"):
        fingerprint = _fingerprint(folder, _run(go, "version", cwd=folder).stdout)
        if built.exists() and built.read_text() == fingerprint:
            return BIN
        fetched = _run(go, "mod", "download", cwd=folder)
        if fetched.returncode:
            raise GoMissingError(f"the Go modules cannot be downloaded: {fetched.stderr.strip()}")
        # Without debug data and paths of this machine: smaller, and the same bytes wherever it is built.
        options = ["-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w"]
        made = _run(go, "build", *options, "-o", f"{BIN}{os.sep}", MODULES[module], cwd=folder)
        if made.returncode:
            raise GoBuildError(made.stderr)
        built.write_text(fingerprint)
    return BIN


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
