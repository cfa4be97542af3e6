"""Errors: what they are, what they say, and how they are told apart."""

from __future__ import annotations

import copy
import pickle

import pytest

from aioasynq import (
    AioasynqError,
    BrokerError,
    BrokerRefusedError,
    DuplicateTaskError,
    HandlerNotFoundError,
    NotReplicatedError,
    QueueError,
    QueueNotEmptyError,
    QueueNotFoundError,
    RetryAfter,
    RevokeTask,
    SkipRetry,
    TaskError,
    TaskFailedError,
    TaskIDConflictError,
    TaskNotFoundError,
)

ERRORS = {
    "an id that is taken": (
        TaskIDConflictError("q", "a"), TaskError, "task id 'a' conflicts with another task in queue 'q'"
    ),
    "a lock that is held": (
        DuplicateTaskError("q", "a"),
        TaskError,
        "task 'a' not enqueued: a task with the same type and payload holds the unique lock in queue 'q'",
    ),
    "no such task": (TaskNotFoundError("q", "a"), TaskError, "cannot find task 'a' in queue 'q'"),
    "a task that failed": (TaskFailedError("q", "a", "why"), TaskError, "task 'a' in queue 'q' failed: why"),
    "no such queue": (QueueNotFoundError("q"), QueueError, "queue 'q' does not exist"),
    "a queue with tasks": (QueueNotEmptyError("q"), QueueError, "queue 'q' is not empty"),
    "no Redis": (BrokerError("Redis is away"), AioasynqError, "Redis is away"),
    "too few replicas": (
        NotReplicatedError("enqueue", "redis://h:1/0", 2, 1, 0.5),
        BrokerError,
        "enqueue on redis://h:1/0: stored, but 1 of 2 replicas have it after 0.5 s",
    ),
    "a Redis that refuses": (BrokerRefusedError("no right to do so"), BrokerError, "no right to do so"),
}  # fmt: skip


@pytest.mark.rows(11)
@pytest.mark.parametrize(("error", "kind", "text"), ERRORS.values(), ids=ERRORS)
def test_an_error_has_a_kind_and_a_text(error, kind, text):
    assert str(error) == text
    assert isinstance(error, kind)
    assert isinstance(error, AioasynqError)
    others = [other for other, _, _ in ERRORS.values() if type(other) is not type(error)]
    assert not any(isinstance(other, type(error)) and not isinstance(error, BrokerError) for other in others)


@pytest.mark.rows(11)
@pytest.mark.parametrize(("error", "kind", "text"), ERRORS.values(), ids=ERRORS)
def test_an_error_survives_a_copy_and_another_process(error, kind, text):
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(other), str(other), vars(other)) == (type(error), text, vars(error))


@pytest.mark.parametrize(
    ("delay", "error"),
    {"120": TypeError, None: TypeError, True: TypeError, -1: ValueError, float("nan"): ValueError}.items(),
)
def test_what_a_task_comes_back_after_is_a_time(delay, error):
    with pytest.raises(error, match=f"^delay must be a number of seconds.*, got {delay!r}$"):
        RetryAfter(delay)


@pytest.mark.rows(11)
def test_what_it_is_about_stands_in_its_fields():
    task, queue, broker = TaskNotFoundError("q", "a"), QueueNotFoundError("q"), BrokerError("away", maybe_done=True)
    assert (task.queue, task.task_id, queue.queue, broker.maybe_done, broker.answered) == ("q", "a", "q", True, False)
    assert HandlerNotFoundError("email").args


@pytest.mark.rows(11)
def test_one_that_was_wrapped_is_found_behind_the_other():
    def fails() -> None:
        try:
            raise TaskNotFoundError("q", "a")
        except TaskNotFoundError as exc:
            raise ValueError("outer") from exc

    with pytest.raises(ValueError, match="outer") as caught:
        fails()
    assert isinstance(caught.value.__cause__, TaskNotFoundError)


@pytest.mark.parametrize("verdict", [SkipRetry, RevokeTask, RetryAfter])
def test_a_verdict_of_a_handler_is_none_of_the_errors(verdict):
    assert not issubclass(verdict, AioasynqError)
