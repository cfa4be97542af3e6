"""Inspector: see and change queues and tasks."""

from __future__ import annotations

from aioasynq.inspector.inspector import Inspector
from aioasynq.inspector.records import (
    ClusterNode,
    DailyStats,
    Explanation,
    GroupInfo,
    LeftInPlace,
    MigrationReport,
    Progress,
    QueueInfo,
    SchedulerEnqueueEventInfo,
    SchedulerEntryInfo,
    ServerStatus,
    WorkerStatus,
)

__all__ = [
    "ClusterNode",
    "DailyStats",
    "Explanation",
    "GroupInfo",
    "Inspector",
    "LeftInPlace",
    "MigrationReport",
    "Progress",
    "QueueInfo",
    "SchedulerEnqueueEventInfo",
    "SchedulerEntryInfo",
    "ServerStatus",
    "WorkerStatus",
]
