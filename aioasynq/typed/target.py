"""Handlers that run in another process: how that one finds them. The name is the one they are registered with here.

Nothing from a queue is ever taken for such a name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

from aioasynq.task import Task
from aioasynq.typed.calls import Run

MAIN = "__main__"  #: the module of a program, as Python calls it
MAIN_OF_CHILD = "__mp_main__"  #: the same in a child process, as multiprocessing calls it


class Target(NamedTuple):
    """A function of a module."""

    module: str
    name: str
    around: str = ""  #: ``module:name`` of a function that is given what calls it, in the child process

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


RunInProcess: TypeAlias = Callable[[Target, Task], Coroutine[Any, Any, object]]

RUN_IN_PROCESS: ContextVar[RunInProcess | None] = ContextVar("aioasynq_run_in_process", default=None)
"""Runs a handler in a child process, and hands back what it returns; None where there are none: it runs here then."""


def target_of(what: str, function: object) -> Target:
    """Where another process finds *function*.

    Raises:
        TypeError: nowhere; the text begins with *what*.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    must = f'{what} with executor="process" must be a function that a module has under its own name'
    if not isinstance(module, str) or not isinstance(name, str) or not module:
        raise TypeError(f"{must}, got {function!r}")
    if "<" in name:
        kind = "a lambda" if name.endswith("<lambda>") else "a function within another"
        raise TypeError(f"{must}, got {kind}, which no other process can import: {function!r}")
    return Target(module, name)


def named(text: str) -> Target:
    """The target that ``module:name`` names."""
    module, _, name = text.partition(":")
    return Target(module, name)


def find(target: Target) -> object:
    """What a module has under this name.

    Raises:
        AttributeError, ImportError: nothing, or there is no such module; or whatever importing it raises.
    """
    name = target.module
    if name == MAIN and MAIN_OF_CHILD in sys.modules:
        name = MAIN_OF_CHILD
    found: object = sys.modules[name] if name in sys.modules else import_module(name)
    for part in target.name.split("."):
        found = getattr(found, part)
    return found


def in_process(target: Target, here: Run) -> Run:
    """A handler that runs in a child process where there are such, else as *here* says."""

    def run(task: Task) -> Coroutine[Any, Any, object]:
        elsewhere = RUN_IN_PROCESS.get()
        return here(task) if elsewhere is None else elsewhere(target, task)

    return run
