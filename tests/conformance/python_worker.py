"""A PythonServer as a program: ``python_worker.py URL QUEUE…``. Prints its events as JSON; ends when its stdin does."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are no package

from tests.conformance.go_side import plain
from tests.conformance.history import Json
from tests.conformance.python_side import PythonServer


class _Printed(PythonServer):
    def add(self, event: Json) -> None:
        print(json.dumps(event, default=plain), flush=True)


async def main(url: str, *queues: str) -> None:
    async with _Printed(url, queues=queues) as server:
        server.add({"event": "ready"})
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
