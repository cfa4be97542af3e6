"""A worker process of the fault suite: ``python -m tests.faults.worker SPEC``.

SPEC is JSON: ``url``, ``ledger``, ``clock`` (seconds by which this process's clock is wrong), and the options of the
server. Every handler notes its start and its end in the ledger. "ready" on standard output says that the server runs;
when standard input ends, whoever started this process is gone, and it follows.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import sys
import threading
import time
from typing import Any

from aioasynq import ServeMux, Server, SkipRetry, Task
from tests.faults import in_child
from tests.faults.in_child import SPEC
from tests.faults.ledger import KINDS, Ledger

RETRY_DELAY = 0.1  #: seconds

#: Types that Go's programs know as well; the kind of such a task is in its id alone.
_OF_GO = ("sleep", "fail", "skip")


class WantedError(Exception):
    """Raised on purpose."""


def make_mux(ledger: Ledger) -> ServeMux:
    """The handlers of all kinds of tasks but ``nobody``."""
    mux = ServeMux()

    async def handle(task: Task) -> object:
        kind = task.id.partition("-")[0]
        ledger.write(task.id, "start")
        await _work(ledger, task, kind, int(task.payload[:20].split()[0]) / 1000)
        if task.retried < KINDS[kind] or kind == "raises":
            ledger.write(task.id, "fail")
            raise WantedError(f"wanted at try {task.retried + 1}")
        ledger.write(task.id, "end")
        if kind == "bad":
            raise SkipRetry("wanted")
        return object() if kind == "odd" else "done"

    for kind in (*KINDS, *_OF_GO):
        if kind == "child":
            mux.add(kind, in_child.handle, executor="process")
        elif kind != "nobody":
            mux.add(kind, handle)
    return mux


async def _work(ledger: Ledger, task: Task, kind: str, seconds: float) -> None:
    if kind == "block":
        time.sleep(seconds)
        return
    if kind == "gil" and not task.retried:  # or it would be too late again and again, until its retries are used up
        ledger.write("-", "dark")
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # unlike CDLL it keeps the interpreter's lock
        ledger.write("-", "light")
        return
    end = time.monotonic() + seconds
    while True:
        try:
            await asyncio.sleep(max(0.0, end - time.monotonic()))
        except asyncio.CancelledError:
            ledger.write(task.id, "cancelled")
            if kind != "stubborn":
                raise
        else:
            return


def make_server(spec: dict[str, Any] | None = None) -> Server:
    """The server of this process."""
    options = dict(spec or json.loads(os.environ[SPEC]))
    url, ledger = options.pop("url"), Ledger(options.pop("ledger"))
    _shift_clock(options.pop("clock", 0.0))
    logging.getLogger("aioasynq.server.consumer").addFilter(lambda record: "wanted" not in record.getMessage())
    return Server(url, make_mux(ledger), retry_delay=lambda *_: RETRY_DELAY, **options)


def _shift_clock(seconds: float) -> None:
    real = time.time
    if seconds:
        time.time = lambda: real() + seconds


async def main(server: Server) -> None:
    """Work until SIGTERM."""
    running = asyncio.create_task(server.run())
    while server.status == "new" and not running.done():
        await asyncio.sleep(0.01)  # looked at, because nothing announces it
    print("ready", flush=True)
    await running
    logging.getLogger("aioasynq.faults").info("counts: %s", server.counts)


def end_with_parent() -> None:
    """Wait until nobody holds the other end of standard input, and end."""
    os.read(0, 1)  # not sys.stdin, whose lock would be held while the interpreter ends
    os._exit(70)


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("aioasynq.faults").setLevel(logging.INFO)
    threading.Thread(target=end_with_parent, daemon=True).start()
    asyncio.run(main(make_server(json.loads(sys.argv[1]))))
