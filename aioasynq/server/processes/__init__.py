"""Child processes for handlers that keep a CPU busy, and that have to end when they are told to."""

from __future__ import annotations

from aioasynq.server.processes.inside import refuse_server
from aioasynq.server.processes.pool import Processes
from aioasynq.server.processes.targets import check_targets

__all__ = ["Processes", "check_targets", "refuse_server"]
