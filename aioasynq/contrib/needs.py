"""What to say when the framework of a module here is not installed."""

from __future__ import annotations

from importlib.util import find_spec


def needs(framework: str, extra: str) -> None:
    """Refuse to go on without *framework*.

    Raises:
        ImportError: it is not installed; the text says what to install.
    """
    if find_spec(framework) is None:
        raise ImportError(
            f"aioasynq.contrib.{extra} needs {framework}: install aioasynq with the extra {extra!r}, or {framework}",
            name=framework,
        )
