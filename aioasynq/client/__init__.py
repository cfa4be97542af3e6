"""Client: puts tasks into queues."""

from __future__ import annotations

from aioasynq.client.client import Client

__all__ = ["Client"]
