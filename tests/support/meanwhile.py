"""Between two calls of one who looks, another changes something."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aioasynq import keys
from aioasynq.rdb.rdb import RDB
from tests.support.build import QUEUE
from tests.support.state import State

Meanwhile = Callable[[str, State], None]


def arrange(target: Any, monkeypatch: pytest.MonkeyPatch, name: str, state: State) -> None:
    """The queue ``q`` is in *state* once the next call of *name*, of any RDB, has been answered."""
    real: Callable[..., Awaitable[Any]] = getattr(RDB, name)

    async def answer_first(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(RDB, name, real)
        answer = await real(*args, **kwargs)
        await replace(target, state)
        return answer

    monkeypatch.setattr(RDB, name, answer_first)


async def replace(target: Any, state: State) -> None:
    """The queue ``q`` is in *state*, whatever it was in."""
    for name in [key async for key in target.scan_iter(match=keys.prefix(QUEUE) + "*")]:
        await target.delete(name)
    await state.write(target, QUEUE)
    await target.sadd(keys.queues(), QUEUE)
