"""Typed tasks: functions whose arguments are a task's payload."""

from __future__ import annotations

from aioasynq.typed.task_type import TaskType

__all__ = ["TaskType"]
