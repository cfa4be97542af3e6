"""When an attempt has to be over (asynq's processor tests, row 114), and what a new record holds."""

from __future__ import annotations

import pytest

from aioasynq.message import GO_ZERO_TIME, SchedulerEnqueueEvent, SchedulerEntry, ServerInfo, TaskMessage, WorkerInfo

NOW = 1795437947.75

# What is set, and when an attempt that starts NOW has to be over: timeout, deadline, end.
EFFECTIVE_DEADLINE = {
    "row 114, timeout only: to the fraction": (30, 0, NOW + 30),
    "row 114, deadline only": (0, 1795437990, 1795437990),
    "row 114, both, the timeout is earlier: whole seconds": (30, 1795438000, 1795437977),
    "row 114, both, the deadline is earlier": (60, 1795437950, 1795437950),
    "row 114, both at the same time": (53, 1795438000, 1795438000),
    "row 114, neither: half an hour": (0, 0, NOW + 1800),
    "a deadline that has passed": (0, 1, 1),
    "a deadline that has passed, with a timeout": (60, 1, 1),
    "a negative timeout, as Go may store": (-5, 0, NOW - 5),
}


@pytest.mark.rows(114)
@pytest.mark.parametrize(("timeout", "deadline", "end"), EFFECTIVE_DEADLINE.values(), ids=EFFECTIVE_DEADLINE)
def test_effective_deadline(timeout, deadline, end):
    msg = TaskMessage(type="t", id="i", queue="q", timeout=timeout, deadline=deadline)
    assert msg.effective_deadline(NOW) == end


def test_the_timeout_starts_anew_with_each_attempt_and_the_deadline_does_not():
    msg = TaskMessage(type="t", id="i", queue="q", timeout=30, deadline=1795438000)
    assert [msg.effective_deadline(NOW + later) for later in (0, 10, 60)] == [1795437977, 1795437987, 1795438000]


def test_gos_zero_time_stands_for_never():
    times = [
        ServerInfo().start_time,
        WorkerInfo().start_time,
        WorkerInfo().deadline,
        SchedulerEntry().next_enqueue_time,
        SchedulerEntry().prev_enqueue_time,
        SchedulerEnqueueEvent().enqueue_time,
    ]
    assert set(times) == {GO_ZERO_TIME}


def test_records_share_no_containers():
    first, second = (TaskMessage(type="t", id="i", queue="q") for _ in range(2))
    first.headers["k"] = "v"
    assert second.headers == {}
