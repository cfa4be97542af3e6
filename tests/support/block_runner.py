"""Runs blocks of code, each in a process of its own, and none of them waits for imports.

A line on stdin is a job in JSON: the folder to be in, the URL of Redis, and what to run: ``file`` as a program, or
``pytest`` with arguments. A line on stdout is what came of it: exit code, and what was printed. Each job is a fork of
this process, which has imported what they need and has no threads.
"""

from __future__ import annotations

import asyncio
import atexit
import faulthandler
import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NoReturn

import aioasynq

#: What blocks import that takes long. Nothing here starts a thread or an event loop.
HEAVY = [
    *("aioasynq.contrib.litestar", "aioasynq.contrib.starlette", "aioasynq.devserver", "aioasynq.metrics"),
    *("aioasynq.otel", "aioasynq.rate", "aioasynq.testing", "cryptography.fernet", "fastapi", "httpx"),
    *("opentelemetry.sdk.trace", "pytest", "pytest_asyncio", "redis.asyncio", "uvicorn"),
]
PATIENCE = 30  # seconds that a job has


def main() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    for name in aioasynq.__all__:
        getattr(aioasynq, name)  # which loads it
    gc.collect()
    gc.freeze()  # what all have in common is not looked through, and so not copied, in each
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if child == 0:
                _end(_become, job, out, err)
            if job.get("stop"):
                _stop_when_it_speaks(child, out)
            _, status = os.waitpid(child, 0)
            said = {"code": os.waitstatus_to_exitcode(status), "out": _read(out), "err": _read(err)}
        print(json.dumps(said), flush=True)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _stop_when_it_speaks(child: int, out: IO[bytes]) -> None:
    """A program that goes on until it is told to stop: it has come to work once it has printed something."""
    while not os.fstat(out.fileno()).st_size:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return  # it has failed
        time.sleep(0.01)
    os.kill(child, signal.SIGTERM)


def _end(job: Callable[..., None], *arguments: object) -> NoReturn:
    """Do it, and end as a program does, but for taking apart all modules, which takes longer than most jobs."""
    code: object = 0
    signal.alarm(PATIENCE)  # the default action of this signal is the end
    faulthandler.dump_traceback_later(PATIENCE - 1)
    try:
        job(*arguments)
    except SystemExit as exc:
        code = exc.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _become(job: dict[str, Any], out: IO[bytes], err: IO[bytes]) -> None:
    """Do the job; this process ends with it."""
    with Path(os.devnull).open("rb") as nothing, out, err:
        for mine, standard in ((nothing, 0), (out, 1), (err, 2)):
            os.dup2(mine.fileno(), standard)
    os.chdir(job["folder"])
    sys.path.insert(0, job["folder"])
    os.environ["AIOASYNQ_REDIS_URL"] = job["url"]
    match job["run"]:
        case "file":
            sys.argv = [job["file"]]
            # multiprocessing, once imported, calls the program by a second name
            program = sys.modules["__main__"] = sys.modules["__mp_main__"] = ModuleType("__main__")
            program.__file__ = job["file"]
            told = vars(program)
            exec(compile(Path(job["file"]).read_text(), job["file"], "exec"), told)
            if job["serve"]:
                asyncio.run(_serve(told))
            told["post"] = lambda app, path: asyncio.run(_post(app, path))
            exec(compile(job["then"], f"what follows {job['file']}", "exec"), told)
        case "pytest":
            sys.exit(importlib.import_module("pytest").main(job["arguments"]))
        case other:
            raise ValueError(other)


async def _serve(told: dict[str, Any]) -> None:
    """Start and end a server with the handlers that were made: it refuses what does not fit together."""
    from aioasynq import ServeMux, Server

    for mux in [thing for thing in told.values() if isinstance(thing, ServeMux)]:
        async with Server(mux=mux):
            pass


async def _post(app: Any, path: str) -> int:
    """The status of a request to a web app, which is served for it."""
    import httpx
    import uvicorn

    from aioasynq.devserver import free_port

    server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_level="warning"))
    serving = asyncio.create_task(server.serve())
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.config.port}", trust_env=False) as browser:
            while True:
                try:
                    return (await browser.post(path)).status_code
                except httpx.ConnectError:
                    await asyncio.sleep(0.01)
    finally:
        server.should_exit = True
        await serving


if __name__ == "__main__":
    main()
