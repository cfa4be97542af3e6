"""Counts the commands that clients send. INFO would count those inside scripts as well."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self


class Monitor:
    """MONITOR on a connection of its own, read by a thread; only for works with few commands."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(b"MONITOR\r\n")
        self._lines = self._socket.makefile("rb")
        self._lines.readline()  # +OK
        self.count = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        # +1700000000.123456 [0 127.0.0.1:5000] "GET" "k"; a script's commands have "lua" in place of the address
        for line in self._lines:
            if b" lua] " not in line[:64]:
                self.count += 1
