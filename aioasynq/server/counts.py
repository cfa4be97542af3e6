"""What a server counts, so that whoever runs it sees how often something happened that should not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Since the server was started. Each but the first two goes with a line in the log."""

    processed: int = 0  #: handlers that have ended, however they did, those left to themselves included
    failed: int = 0  #: of these, those that raised or ran out of time
    abandoned: int = 0  #: handlers that did not end when cancelled, and were left to themselves
    lost: int = 0  #: tasks that turned out to be another server's when they were settled
    recovered: int = 0  #: tasks taken back from workers that died or were cut off
    repaired: int = 0  #: entries of queues that stood where no such task was, and were taken off or watched again
    undecodable: int = 0  #: entries whose bytes were no message, and went to the archive
    contact_lost: int = 0  #: times that Redis did not answer any more
    refused: int = 0  #: operations that Redis refused, logged once a minute each
    blocked: int = 0  #: times that the event loop stood still for 3 s or longer
