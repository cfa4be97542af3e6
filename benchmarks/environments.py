"""Each system's own environment, made when it is first needed and again when its requirements change."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.registry import System

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".bench"
GO = Path(__file__).resolve().parent / "go"

#: One Python for all, so that none is faster by its interpreter: 3.12, because ardiq exists from there on.
PYTHONS = ("python3.12", "python3.13", "python3.14")


class MissingError(Exception):
    """A system cannot be had on this machine; the text says why."""


@dataclass(frozen=True)
class Installed:
    """A system that can be run: the words in front of its one argument."""

    system: System
    command: tuple[str, ...]
    version: str
    #: The interpreter of its environment; empty for Go.
    python: str = ""


def find_python(wanted: str | None = None) -> str:
    """The interpreter of which all environments are made."""
    for path in [wanted] if wanted else _candidates():
        if _run(path, "-c", "import ensurepip, venv").returncode == 0:
            return _run(path, "-c", "import sys; print(sys.executable)").stdout.strip()
    if wanted:
        raise MissingError(f"{wanted} does not run, or has no venv")
    return sys.executable


def _candidates() -> Iterator[str]:
    for name in PYTHONS:
        # A version manager's shim may only say that it does not run here; what is behind it does.
        yield from filter(None, [shutil.which(name)])
        versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        yield from map(str, sorted(versions.glob(f"{name.removeprefix('python')}.*/bin/python")))


def install(system: System, python: str) -> Installed:
    """Make what *system* needs, unless that is there.

    Raises:
        MissingError: it cannot be installed here.
    """
    return _install_go(system) if system.kind == "go" else _install_python(system, python)


def _install_python(system: System, python: str) -> Installed:
    version = _run(python, "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])").stdout.strip()
    if tuple(int(part) for part in version.split(".")[:2]) < system.min_python:
        raise MissingError(f"needs Python {'.'.join(map(str, system.min_python))}, and this is {version}")
    folder = HOME / "env" / system.name.replace(" ", "-")
    program = folder / "bin" / "python"
    done = folder / ".installed"
    wanted = json.dumps([version, system.requirements, _hash(ROOT / "pyproject.toml") if system.ours else ""])
    if not done.exists() or done.read_text() != wanted:
        print(f"installing {system.name} ...", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        made = _run(python, "-m", "venv", str(folder))
        if made.returncode == 0:
            pip = [str(program), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            made = _run(*pip, *system.requirements, cwd=ROOT)
        if made.returncode:
            lines = [line for line in made.stderr.splitlines() if line.strip()]
            raise MissingError(f"cannot be installed: {lines[-1] if lines else 'pip gave no reason'}")
        done.write_text(wanted)
    return Installed(
        system,
        (str(program), "-m", f"benchmarks.systems.{system.module}"),
        _versions(program, system),
        str(program),
    )


def _versions(program: Path, system: System) -> str:
    """The system's version, and those of the Redis client and loop below it."""
    names = {"redis", "coredis", "uvloop", "hiredis"}
    names |= {word.split("=")[0].split(">")[0].split("[")[0] for word in system.requirements if word[0] not in "-."}
    if system.ours:
        names.add("aioasynq")
    listed = _run(str(program), "-m", "pip", "list", "--format=json", "--disable-pip-version-check").stdout
    found = {entry["name"].lower(): entry["version"] for entry in json.loads(listed or "[]")}
    first = [name for name in names if name.startswith(system.module.split("_")[0])]
    ordered = sorted(first) + sorted(names - set(first))
    return ", ".join(f"{name} {found[name]}" for name in ordered if name in found)


def _install_go(system: System) -> Installed:
    program, version = _build_go("asynq", ".")
    asynq = next(line.split()[1] for line in (GO / "go.mod").read_text().splitlines() if "hibiken/asynq" in line)
    return Installed(system, (str(program),), f"asynq {asynq.removeprefix('v')}, go {version}")


def hop_program() -> Path:
    """The program of :mod:`benchmarks.hop`.

    Raises:
        MissingError: it cannot be built here.
    """
    return _build_go("hop", "./hop")[0]


def _build_go(name: str, package: str) -> tuple[Path, str]:
    go = shutil.which("go")
    if go is None:
        raise MissingError("go is not installed")
    HOME.mkdir(exist_ok=True)
    program, done = HOME / name, HOME / f".{name}.built"
    version = _run(go, "version").stdout.split()[2].removeprefix("go")
    sources = (f"{package}/main.go", "go.mod", "go.sum")
    fingerprint = version + "".join(_hash(GO / source) for source in sources)
    if not (program.exists() and done.exists() and done.read_text() == fingerprint):
        print(f"building {name} ...", flush=True)
        options = ["-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w"]
        made = _run(go, "build", *options, "-o", str(program), package, cwd=GO)
        if made.returncode:
            raise MissingError(f"cannot be built: {made.stderr.strip()[-500:]}")
        done.write_text(fingerprint)
    return program, version


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONHOME"}}
    try:
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    except OSError as exc:
        return subprocess.CompletedProcess(command, 127, "", str(exc))
