"""Server: takes tasks from queues and runs their handlers."""

from __future__ import annotations

from aioasynq.server.config import Config
from aioasynq.server.server import Server

__all__ = ["Config", "Server"]
