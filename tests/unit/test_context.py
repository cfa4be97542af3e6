"""current_task and current_context: inside a handler, in what it calls, and outside."""

from __future__ import annotations

import asyncio
from contextvars import copy_context

import pytest

from aioasynq.context import CURRENT, RUN_IN_THREAD, STATE, current_context, current_task
from aioasynq.task import Task


@pytest.mark.rows(10)
def test_outside_a_handler_there_is_none():
    with pytest.raises(RuntimeError, match=r"current_task\(\) was called outside a handler"):
        current_task()


@pytest.mark.rows(10)
async def test_inside_it_is_the_task():
    task = Task("t")
    context = copy_context()
    context.run(CURRENT.set, task)
    assert context.run(current_task) is task
    with pytest.raises(RuntimeError):
        current_task()


@pytest.mark.rows(10)
async def test_each_handler_sees_its_own():
    async def handle(task: Task) -> Task:
        CURRENT.set(task)
        await asyncio.sleep(0)
        return current_task()

    tasks = [Task("t") for _ in range(3)]
    assert await asyncio.gather(*map(handle, tasks)) == tasks


async def test_a_thread_of_a_handler_sees_it():
    """Row 10, as far as a task's values stay visible in what a handler starts."""
    CURRENT.set(task := Task("t"))
    assert await RUN_IN_THREAD.get()(current_task) is task


def test_the_context_has_task_and_state():
    with pytest.raises(RuntimeError, match=r"current_context\(\) was called outside a handler"):
        current_context()
    context = copy_context()
    context.run(CURRENT.set, Task("t"))
    assert context.run(current_context).state is None
    context.run(STATE.set, "state")
    there = context.run(current_context)
    assert (there.task.type, there.state) == ("t", "state")
    assert repr(there) == "<Context of <Task 't' in 'default', 0 bytes>>"
