"""Django: tasks from sync and async views and once the database has committed, and a worker started by manage.py.

A whole project in one file, which is its own manage.py:

uvicorn --app-dir examples django_app:app
python examples/django_app.py aioasynq_worker
curl -X POST localhost:8000/welcome/42      # prints, in the worker: a welcome to user 42
curl -X POST localhost:8000/welcome/0       # is rolled back, so that nothing is printed
curl -X POST localhost:8000/reminders/tea   # prints, in the worker: do not forget tea
"""

from __future__ import annotations

import os
import sys

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import execute_from_command_line
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

from aioasynq import ServeMux

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY="an example",
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DATABASE", ":memory:")}},
    INSTALLED_APPS=["aioasynq.contrib.django"],
    AIOASYNQ={"mux": f"{__name__}.mux", "concurrency": 20},  # and "redis", else AIOASYNQ_REDIS_URL
)
django.setup()

from aioasynq.contrib.django import aenqueue, enqueue_on_commit  # noqa: E402 - as all of Django, after the settings

mux = ServeMux()


@mux.task("email:welcome")
def welcome(user_id: int) -> None:  # a plain def runs in a thread, where the ORM may be used
    print(f"a welcome to user {user_id}", flush=True)


@mux.task("remind")
async def remind(text: str) -> None:
    print(f"do not forget {text}", flush=True)


def post_welcome(_: HttpRequest, user_id: int) -> JsonResponse:
    with transaction.atomic():
        enqueue_on_commit(welcome.task(user_id))
        if user_id == 0:
            transaction.set_rollback(True)  # as anything does that a view raises within
            return JsonResponse({"error": "there is no such user"}, status=400)
    return JsonResponse({"state": "committed"}, status=202)


async def post_reminder(_: HttpRequest, text: str) -> JsonResponse:
    info = await aenqueue(remind.task(text))
    return JsonResponse({"id": info.id, "state": info.state}, status=202)


urlpatterns = [path("welcome/<int:user_id>", post_welcome), path("reminders/<str:text>", post_reminder)]
app = get_asgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
