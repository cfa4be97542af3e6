"""A process ends when its parent is gone, also where it hears nothing: in an import, or its loop blocked."""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import suppress

from aioasynq.cli.exits import REFUSED


class Orphan:
    """Watches the line to the parent, in a thread of its own.

    As long as :attr:`limit` is 0 the process ends at once when the parent is gone, as it would by the SIGTERM that
    the parent sends it then.

    Args:
        fd: of the line. It is watched as a descriptor of its own, whatever becomes of this one.
    """

    def __init__(self, fd: int) -> None:
        self.limit = 0.0  #: seconds that the process may take to end by itself
        self._fd = os.dup(fd)
        threading.Thread(target=self._watch, name="aioasynq-orphan", daemon=True).start()

    def _watch(self) -> None:
        hang_up = select.poll()
        hang_up.register(self._fd, 0)  # that the other end is closed is always told, and nothing else here
        hang_up.poll()
        time.sleep(self.limit)
        # By hand: the lock of stderr may be held by what is stuck.
        text = f"aioasynq: the parent process is gone; process {os.getpid()} did not end, and is ended\n"
        with suppress(OSError):  # what it wrote to may be gone with the parent
            os.write(2, text.encode())
        os._exit(REFUSED)
