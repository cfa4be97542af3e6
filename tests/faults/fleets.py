"""F11: asynq's own workers beside ours, on one queue.

| row | what happens | what may run again |
|---|---|---|
| F11 | two Python workers beside one of Go; a Python one is killed, five times | what ran in those that were killed |
"""

from __future__ import annotations

from tests.faults.deaths import kill_workers
from tests.faults.harness import Fault
from tests.faults.load import Load

ROWS = (
    Fault(
        name="F11",
        text="a Go worker beside two Python workers, of which one is killed, five times",
        strike=kill_workers,
        load=Load(span=5.0, burst=80, share=3.0, for_go=True),
        workers=("go", "python", "python"),
        proxied=False,
        beyond_lease=20.0,
        limit=60.0,
        slow="Go's program has to be built",
    ),
)
