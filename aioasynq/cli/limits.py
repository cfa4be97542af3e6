"""How much a child may use before it is replaced."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

_STATM = Path("/proc/self/statm")


class Limits(NamedTuple):
    """None: no limit."""

    memory: int | None = None  #: bytes
    tasks: int | None = None


def resident() -> int:
    """Bytes of memory this process holds; where the system does not tell, the most it ever held."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def shown(amount: int) -> str:
    """Bytes for people."""
    return f"{amount / 1e6:.0f} MB"
