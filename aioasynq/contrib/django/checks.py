"""``manage.py check``, and with it ``runserver`` and the worker: is the setting right?"""

from __future__ import annotations

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured

from aioasynq.client import Client
from aioasynq.contrib.django.conf import conf, load_mux


def check_setting(**_: object) -> list[CheckMessage]:
    """What is wrong with ``AIOASYNQ``, the handlers it names included. Redis is not asked."""
    try:
        said = conf()
        Client(said.redis).close()
        if said.mux is not None:
            load_mux(said.mux)
    except (ImproperlyConfigured, ValueError, TypeError) as exc:
        return [Error(str(exc), id="aioasynq.E001")]
    return []
