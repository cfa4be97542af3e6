"""Tasks for later: after a while, or at a moment."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

from aioasynq import Client, ServeMux, Server
from aioasynq.devserver import redis_url

mux = ServeMux()
started: asyncio.Queue[tuple[str, float]] = asyncio.Queue()


@mux.task("remind")
async def remind(text: str) -> None:
    started.put_nowait((text, time.time()))


async def main() -> None:
    with redis_url() as url:
        async with Client(url) as client, Server(url, mux):
            began = time.time()
            moment = datetime.now(UTC) + timedelta(seconds=0.8)  # one without a time zone is refused
            infos = {
                "after 1.2 s": await client.enqueue(remind.task("after 1.2 s"), process_in=1.2),
                "after 0.4 s": await client.enqueue(remind.task("after 0.4 s"), process_in=timedelta(seconds=0.4)),
                "at a moment": await client.enqueue(remind.task("at a moment"), process_at=moment),
                "at once": await client.enqueue(remind.task("at once")),
            }
            for text, info in infos.items():
                print(f"{text}: {info.state}")
            for _ in infos:
                text, at = await started.get()
                due = infos[text].next_process_at
                assert due is not None
                early = at < max(due.timestamp(), began) - 0.01
                print(f"started: {text}{', too early' if early else ''}")


if __name__ == "__main__":
    asyncio.run(main())
