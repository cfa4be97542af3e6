"""F4: connections that break.

| row | what happens | what may run again |
|---|---|---|
| F4 | all connections are cut every 300 ms for 5 s, those of waits that block too | nothing |
"""

from __future__ import annotations

import asyncio

from tests.faults.harness import Fault, System

INTERVAL = 0.3  #: seconds
LASTS = 5.0  #: seconds


async def cut_connections(system: System) -> None:
    """Cut every connection, again and again."""
    proxy = system.proxy
    proxy.cut_every(INTERVAL)
    await asyncio.sleep(LASTS)
    proxy.cut_every(None)
    system.struck = proxy.fired["cut_every"]


ROWS = (Fault(name="F4", text="all connections cut every 300 ms for 5 s", strike=cut_connections, lease=15.0),)
