"""What Django asks of an app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import Tags, register

from aioasynq.contrib.django.checks import check_setting


class AioasynqConfig(AppConfig):
    """The app, which has a command and no models."""

    name = "aioasynq.contrib.django"
    label = "aioasynq"
    verbose_name = "aioasynq"

    def ready(self) -> None:
        """Let ``manage.py check`` look at the setting."""
        register(check_setting, Tags.compatibility)
