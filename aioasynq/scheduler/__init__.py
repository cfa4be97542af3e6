"""Periodic tasks: Scheduler, and PeriodicTaskManager, whose entries come from a provider."""

from aioasynq.scheduler.manager import PeriodicTaskConfig, PeriodicTaskManager
from aioasynq.scheduler.scheduler import Scheduler

__all__ = ["PeriodicTaskConfig", "PeriodicTaskManager", "Scheduler"]
