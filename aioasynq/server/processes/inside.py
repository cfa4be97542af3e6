"""Whether this process is the child of a server."""

from __future__ import annotations

from aioasynq.errors import ServerStateError

_inside: list[bool] = []


def enter() -> None:
    """From now on this process is one."""
    _inside.append(True)


def refuse_server() -> None:
    """Refuse a server in a child, as a program without ``if __name__ == "__main__"`` would start when it is imported.

    Raises:
        ServerStateError: this is one.
    """
    if _inside:
        raise ServerStateError(
            "a child process that runs handlers has started a server while it imported the program: "
            'put what starts it behind if __name__ == "__main__":'
        )
