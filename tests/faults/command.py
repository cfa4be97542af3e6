"""``aioasynq worker`` as the fault suite runs it: ``python -m tests.faults.command SPEC [OPTIONS]``.

It is the command itself; only that it ends when whoever started it is gone.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from aioasynq.cli.main import main
from tests.faults.in_child import SPEC
from tests.faults.worker import end_with_parent

if __name__ == "__main__":
    text, *words = sys.argv[1:]
    os.environ[SPEC] = text
    spec = json.loads(text)
    threading.Thread(target=end_with_parent, daemon=True).start()
    options = ["--url", spec["url"], "--concurrency", str(spec["concurrency"])]
    sys.argv = ["aioasynq/__main__.py", "worker", "tests.faults.worker:make_server", *options, *words]
    main()
