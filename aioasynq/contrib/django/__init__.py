"""Django: ``enqueue``, ``aenqueue``, ``enqueue_on_commit``, and the command ``manage.py aioasynq_worker``.

In ``INSTALLED_APPS`` goes ``"aioasynq.contrib.django"``; the setting ``AIOASYNQ`` may say ``redis``, ``mux`` and the
options of the worker.
"""

from __future__ import annotations

from aioasynq.contrib.needs import needs

needs("django", "django")

from aioasynq.contrib.django.enqueuing import aenqueue, client, enqueue, enqueue_on_commit  # noqa: E402

__all__ = ["aenqueue", "client", "enqueue", "enqueue_on_commit"]
