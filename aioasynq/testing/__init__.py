"""For tests of one's own: a clock to move, running until idle, handlers at enqueue, and what was enqueued."""

from __future__ import annotations

from aioasynq.testing.clock import Clock
from aioasynq.testing.enqueued import RecordingClient, assert_enqueued, assert_not_enqueued
from aioasynq.testing.idle import Ran, run_until_idle
from aioasynq.testing.inline import InlineClient

__all__ = [
    "Clock",
    "InlineClient",
    "Ran",
    "RecordingClient",
    "assert_enqueued",
    "assert_not_enqueued",
    "run_until_idle",
]
