"""``aioasynq stats``: all queues at a glance."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import typer

from aioasynq.cli.connect import run
from aioasynq.cli.output import Json, plain, rate, show_json, table, title
from aioasynq.inspector import Inspector
from aioasynq.inspector.records import QueueInfo
from aioasynq.rdb.rdb import RDB

STATES = ("active", "pending", "aggregating", "scheduled", "retry", "archived", "completed")


def stats(ctx: typer.Context, as_json: Json = False) -> None:
    """Show the numbers of all queues together, and of Redis."""

    async def work(inspector: Inspector, rdb: RDB) -> tuple[list[QueueInfo], dict[str, str]]:
        queues = [await inspector.get_queue_info(name) for name in await inspector.queues()]
        return queues, await (rdb.cluster_info() if rdb.is_cluster else rdb.info())

    queues, redis = run(ctx, work)
    total = {name: sum(getattr(info, name) for info in queues) for name in (*STATES, "processed", "failed")}
    if as_json:
        show_json(_as_asynq(queues, total, redis))
        return
    title("Task Count by State")
    table(STATES, [[total[state] for state in STATES]])
    title("\nTask Count by Queue")
    sizes = [(f"{info.queue} (paused)" if info.paused else info.queue, info.size) for info in queues]
    table(("queue", "size"), sizes or [("no queues", 0)])
    title(f"\nDaily Stats {datetime.now(UTC):%Y-%m-%d} UTC")
    table(
        ("processed", "failed", "error rate"),
        [(total["processed"], total["failed"], rate(total["failed"], total["processed"]))],
    )
    if "cluster_state" in redis:
        title("\nRedis Cluster Info")
        about = [redis.get(f"cluster_{name}", "?") for name in ("state", "known_nodes", "size")]
        table(("State", "Known Nodes", "Cluster Size"), [about])
        return
    title("\nRedis Info")
    table(
        ("version", "uptime", "connections", "memory usage", "peak memory usage"),
        [
            (
                redis.get("redis_version", "?"),
                f"{redis.get('uptime_in_days', '?')} days",
                redis.get("connected_clients", "?"),
                redis.get("used_memory_human", "?"),
                redis.get("used_memory_peak_human", "?"),
            )
        ],
    )


def _as_asynq(queues: list[QueueInfo], total: dict[str, int], redis: dict[str, str]) -> dict[str, Any]:
    """In the form of ``asynq stats --json``; Latency is in nanoseconds there."""
    timestamp = queues[0].timestamp.isoformat() if queues else None
    return {
        "aggregate": {**total, "timestamp": timestamp},
        "queues": [
            {
                "Queue": info.queue,
                "MemoryUsage": info.memory_usage,
                "Paused": info.paused,
                "Size": info.size,
                "Groups": info.groups,
                **{state.title(): getattr(info, state) for state in STATES},
                "Processed": info.processed,
                "Failed": info.failed,
                "ProcessedTotal": info.processed_total,
                "FailedTotal": info.failed_total,
                "Latency": int(info.latency * 1e9),
                "Timestamp": plain(info.timestamp),
            }
            for info in queues
        ],
        "redis": redis,
    }
