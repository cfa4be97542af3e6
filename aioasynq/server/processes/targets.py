"""Whether children will find the handlers they are to run, asked before the first task comes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from aioasynq.errors import ServerStateError
from aioasynq.typed.target import MAIN, Target, find
from aioasynq.typed.task_type import TaskType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioasynq.typed.calls import Handler


def check_targets(handlers: Iterable[tuple[str, Target, Handler | TaskType[Any, Any, Any]]]) -> None:
    """Refuse handlers that a child process could not import.

    Raises:
        ServerStateError: there is one; it is named.
    """
    for pattern, target, handler in handlers:
        what = f'handler of {pattern!r} with executor="process"'
        if target.module == MAIN and main_of(sys.modules[MAIN]) == (None, None):
            raise ServerStateError(
                f"{what} must be in a file that a child process can import, but this program has none"
            )
        try:
            found = find(target)
        except (AttributeError, ImportError) as exc:
            raise ServerStateError(f"{what} cannot be imported by a child process as {target}: {exc}") from None
        if not _is_same(found, handler):
            raise ServerStateError(
                f"{what} cannot be imported by a child process: {target} is {found!r} there, and not {handler!r}"
            )


def main_of(module: object) -> tuple[str | None, str | None]:
    """Name or file of the program; neither where there is nothing to import, as at Python's prompt."""
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return spec.name, None
    return None, getattr(module, "__file__", None)


def _is_same(found: object, handler: object) -> bool:
    if isinstance(handler, TaskType):
        return isinstance(found, TaskType) and found.function is handler.function
    return found is handler
