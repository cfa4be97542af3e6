"""The public names: a change here is one that users notice."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest

import aioasynq

#: In ruff's order, which it holds in ``__all__``: constants and all-capitals, classes, functions.
PUBLIC = [
    "RDB",
    "AioasynqError",
    "BrokerError",
    "BrokerRefusedError",
    "Client",
    "Config",
    "DuplicateTaskError",
    "HandlerNotFoundError",
    "LeaseExpiredError",
    "MessageDecodeError",
    "PayloadError",
    "QueueError",
    "QueueNotEmptyError",
    "QueueNotFoundError",
    "RetryAfter",
    "RevokeTask",
    "ServeMux",
    "Server",
    "ServerStateError",
    "SkipRetry",
    "Task",
    "TaskCancelledError",
    "TaskDeadlineError",
    "TaskError",
    "TaskFailedError",
    "TaskIDConflictError",
    "TaskInfo",
    "TaskNotFoundError",
    "TaskState",
    "TaskTimeoutError",
    "__version__",
    "current_task",
]


def test_the_public_names_are_these_in_order():
    assert list(aioasynq.__all__) == PUBLIC
    assert sorted(PUBLIC, key=lambda name: (not name.isupper(), name.islower(), name)) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there_and_says_what_it_is(name):
    thing = getattr(aioasynq, name)
    own = thing.__doc__ if inspect.isclass(thing) else inspect.getdoc(thing)
    assert own, f"{name} has no docstring"
    # A dataclass and an enum without a docstring are given one.
    assert not own.startswith(f"{name}("), f"{name} has no docstring of its own"


def test_nothing_else_is_public():
    modules = {name for name, thing in vars(aioasynq).items() if inspect.ismodule(thing)}
    others = {name for name in vars(aioasynq) if not name.startswith("_")} - modules - {"annotations"}
    assert others == {name for name in PUBLIC if not name.startswith("_")}


def test_the_version_is_that_of_the_distribution():
    assert aioasynq.__version__ == version("aioasynq")
