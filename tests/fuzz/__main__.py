"""`python -m tests.fuzz [SECONDS] [WORD …]`: feed all targets, or those whose names have a word, in turns.

Each round has new examples. The first failure ends the run, with the smallest example that was found; it is kept in
.hypothesis, and tried first the next time.
"""

from __future__ import annotations

import sys
import time

from hypothesis import HealthCheck, Phase, settings

from tests.fuzz.targets import TARGETS

ROUND = settings(
    max_examples=300,
    deadline=None,
    phases=set(Phase) - {Phase.explain},
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def run(seconds: float, words: list[str]) -> int:
    """Feed until the time is over; how many rounds each target has had."""
    targets = [target for target in TARGETS if not words or any(word in target.__name__ for word in words)]
    if not targets:
        sys.exit(f"no target has a name with {' or '.join(words)}: {', '.join(each.__name__ for each in TARGETS)}")
    fed = {target.__name__: ROUND(target) for target in targets}
    end = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < end:
        rounds += 1
        for name, feed in fed.items():
            if time.monotonic() >= end and rounds > 1:
                break
            began = time.monotonic()
            feed()
            print(f"{rounds:3}  {time.monotonic() - began:5.1f} s  {name}", flush=True)
    return rounds


if __name__ == "__main__":
    run(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0, sys.argv[2:])
