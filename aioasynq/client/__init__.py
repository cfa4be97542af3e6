"""Client: puts tasks into queues."""

from aioasynq.client.client import Client

__all__ = ["Client"]
