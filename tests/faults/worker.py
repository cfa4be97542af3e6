"""A worker process of the fault suite: ``python -m tests.faults.worker URL LEDGER LEASE CONCURRENCY``.

Every handler notes its start and its end in the ledger. "ready" on standard output says that the server runs; when
standard input ends, whoever started this process is gone, and it follows.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading

from aioasynq import ServeMux, Server, SkipRetry, Task
from tests.faults.ledger import KINDS, Ledger

RETRY_DELAY = 0.1  #: seconds


class WantedError(Exception):
    """Raised on purpose."""


async def main(url: str, ledger: Ledger, lease: float, concurrency: int) -> None:
    """Work until SIGTERM."""
    mux = ServeMux()

    async def handle(task: Task) -> str:
        ledger.write(task.id, "start")
        try:
            await asyncio.sleep(int(task.payload) / 1000)
        except asyncio.CancelledError:
            ledger.write(task.id, "cancelled")
            raise
        if task.retried < KINDS[task.type]:
            ledger.write(task.id, "fail")
            raise WantedError(f"wanted at try {task.retried + 1}")
        ledger.write(task.id, "end")
        if task.type == "bad":
            raise SkipRetry("wanted")
        return "done"

    for kind in KINDS:
        mux.add(kind, handle)
    server = Server(url, mux, lease=lease, concurrency=concurrency, retry_delay=lambda *_: RETRY_DELAY)
    running = asyncio.create_task(server.run())
    while server.status == "new" and not running.done():
        await asyncio.sleep(0.01)  # looked at, because nothing announces it
    print("ready", flush=True)
    await running


def _end_with_parent() -> None:
    os.read(0, 1)  # not sys.stdin, whose lock would be held while the interpreter ends
    os._exit(70)


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("aioasynq.server.consumer").addFilter(lambda record: "wanted" not in record.getMessage())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(main(sys.argv[1], Ledger(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
