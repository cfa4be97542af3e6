"""The public names: a change here is one that users notice."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest

import aioasynq

#: In ruff's order, which it holds in ``__all__``: constants and all-capitals, classes, functions.
PUBLIC = [
    "RDB",
    "AioasynqError",
    "BrokerError",
    "BrokerRefusedError",
    "ChildDiedError",
    "ChildTaskError",
    "Client",
    "Config",
    "Context",
    "DuplicateTaskError",
    "EntryNotFoundError",
    "Exponential",
    "HandlerNotFoundError",
    "Inspector",
    "LeaseExpiredError",
    "MessageDecodeError",
    "MigrationRefusedError",
    "NotReplicatedError",
    "PayloadError",
    "PeriodicTaskConfig",
    "PeriodicTaskManager",
    "Progress",
    "QueueError",
    "QueueNotEmptyError",
    "QueueNotFoundError",
    "QueueStateError",
    "RedisOptions",
    "RetryAfter",
    "RevokeTask",
    "Scheduler",
    "SchedulerStateError",
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
    "TaskStateError",
    "TaskTimeoutError",
    "TaskType",
    "TokenNotFoundError",
    "__version__",
    "current_context",
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
    others = {name for name in dir(aioasynq) if not name.startswith("_")} - modules - {"annotations"}
    assert others == {name for name in PUBLIC if not name.startswith("_")}


def test_a_name_that_there_is_not():
    with pytest.raises(AttributeError, match="module 'aioasynq' has no attribute 'Cleint'"):
        _ = aioasynq.Cleint  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def test_names_are_loaded_when_they_are_asked_for():
    heavy = {"redis", "google.protobuf", "msgspec", "anyio"}
    program = f"import aioasynq.pytest_plugin, sys; print(sorted({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


OTHERS = {
    "aioasynq.testing": [
        *("Clock", "InlineClient", "Ran", "RecordingClient"),
        *("assert_enqueued", "assert_not_enqueued", "run_until_idle"),
    ],
    "aioasynq.contrib.starlette": ["get_client", "lifespan"],
    "aioasynq.contrib.litestar": ["get_client", "lifespan", "provide_client"],
}


@pytest.mark.parametrize(("module", "names"), OTHERS.items(), ids=OTHERS)
def test_the_names_of_other_modules(module, names):
    imported = importlib.import_module(module)
    assert list(imported.__all__) == names
    assert [name for name in names if not getattr(imported, name).__doc__] == []


def test_the_version_is_that_of_the_distribution():
    assert aioasynq.__version__ == version("aioasynq")
