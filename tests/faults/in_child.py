"""The handler of tasks of the kind ``child``, which child processes of the workers import."""

from __future__ import annotations

import json
import os
import sys
import time
from functools import cache

from aioasynq import Task
from tests.faults.ledger import Ledger

SPEC = "AIOASYNQ_FAULTS_SPEC"  #: the variable in which the command's processes find theirs


@cache
def _ledger() -> Ledger:
    spec = json.loads(os.environ.get(SPEC) or sys.argv[1])
    return Ledger(spec["ledger"])


def handle(task: Task) -> None:
    """Note start and end, and keep a CPU busy in between."""
    _ledger().write(task.id, "start")
    end = time.monotonic() + int(task.payload) / 1000
    while time.monotonic() < end:
        pass
    _ledger().write(task.id, "end")
