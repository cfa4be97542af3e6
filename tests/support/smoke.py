"""Run by wheel.py in an environment that holds the package and what it needs, and nothing else, in an empty folder."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import aioasynq
from aioasynq.devserver import DevServer

BIN = Path(sys.executable).parent
#: What no import of aioasynq may load: it comes with extras, or is of the command line.
OPTIONAL = (
    "cryptography",
    "django",
    "fastapi",
    "litestar",
    "opentelemetry",
    "prometheus_client",
    "pydantic",
    "pytest",
    "rich",
    "starlette",
    "typer",
    "uvicorn",
    "uvloop",
    "watchfiles",
)
ALL_NAMES = "import aioasynq; [getattr(aioasynq, name) for name in aioasynq.__all__]"
LOADED = f"{ALL_NAMES}; import sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
HANDLERS = """
from aioasynq import ServeMux
mux = ServeMux()

@mux.task("greet", retention=60)
async def greet(name: str) -> str:
    return f"hello, {name}"
"""
ROUNDS = 7  #: of each import that is timed


def main() -> None:
    package = files("aioasynq")
    assert aioasynq.__version__ == version("aioasynq"), aioasynq.__version__
    for name in aioasynq.__all__:
        getattr(aioasynq, name)
    assert package.joinpath("py.typed").is_file()
    scripts = [entry.name for entry in package.joinpath("rdb", "lua").iterdir()]
    assert "dequeue.lua" in scripts, scripts
    print(f"aioasynq {aioasynq.__version__}: {len(aioasynq.__all__)} names, {len(scripts)} Lua files, {package}")

    assert not (loaded := set(run(sys.executable, "-c", LOADED).split()) & set(OPTIONAL)), loaded
    show_import_times()
    for command in ([BIN / "aioasynq"], [sys.executable, "-m", "aioasynq"]):
        assert "worker" in run(*command, "--help")
    asyncio.run(use())
    print("a worker was started, had a task from a client, and ended when told to")


def show_import_times() -> None:
    """How long imports take beyond that of redis.asyncio: the least of some, since a busy machine only adds."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else it is the compiler that is timed
    programs = {"redis.asyncio": "import redis.asyncio"}
    for name, what in {
        "aioasynq": "import aioasynq",
        "Client, Server and Task of it": "from aioasynq import Client, Server, Task",
        "all its names": ALL_NAMES,
    }.items():
        programs[name] = f"import redis.asyncio; {what}"
    took: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            began = time.perf_counter()
            run(sys.executable, "-c", program)
            took[name].append(time.perf_counter() - began)
    base, *others = ((name, min(seconds) * 1000) for name, seconds in took.items())
    print(f"python and redis.asyncio take {base[1]:.0f} ms to load")
    for name, milliseconds in others:
        print(f"  with {name} {milliseconds - base[1]:.0f} ms more")


async def use() -> None:
    """A worker as a process, and a client."""
    Path("handlers.py").write_text(HANDLERS)
    async with DevServer() as redis, aioasynq.Client(redis.url) as client:
        env = {**os.environ, "AIOASYNQ_REDIS_URL": redis.url, "PYTHONPATH": os.curdir}
        worker = await asyncio.create_subprocess_exec(BIN / "aioasynq", "worker", "handlers:mux", env=env)
        info = await client.enqueue(aioasynq.Task("greet", b'{"name": "world"}'), retention=60)
        assert await client.result(info, timeout=30) == "hello, world"
        worker.terminate()
        assert await worker.wait() == 0, worker.returncode


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
