"""Tasks from views: sync, async, and once the database has committed. Each process has one client, in a thread."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Unpack

from django.core.signals import setting_changed
from django.db import transaction

from aioasynq.client import Client
from aioasynq.client.portal import is_in_loop
from aioasynq.compose import compose
from aioasynq.contrib.django.conf import conf
from aioasynq.options import EMPTY, Options, OptionsDict
from aioasynq.task import Task, TaskInfo


class _Clients:
    """The client of this process; a forked one gets its own."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    def get(self) -> Client:
        with self._lock:
            if self._client is None:
                self._client = Client(conf().redis)
            return self._client

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _forget(self) -> None:
        self._client = None
        self._lock = threading.Lock()  # which another thread of the parent may have held


_clients = _Clients()


def client() -> Client:
    """The client of this process, for ``client().result_sync(…)``; made when it is first asked for.

    Its async calls are for nobody: they would bind it to the event loop of one request. :func:`aenqueue` works in all.

    Raises:
        ImproperlyConfigured: the setting ``AIOASYNQ`` is wrong.
    """
    return _clients.get()


def enqueue(task: Task, **options: Unpack[OptionsDict]) -> TaskInfo:
    """Store *task*, and return what is known of it: for sync views and scripts. Options as of ``Client.enqueue``.

    Within ``transaction.atomic`` use :func:`enqueue_on_commit`: else a worker may begin before what it needs is there.

    Raises:
        RuntimeError: this is an async view, which it would block: use :func:`aenqueue`.
        AioasynqError, ValueError, TypeError: as ``Client.enqueue``.
    """
    found = client()
    if is_in_loop():
        raise RuntimeError("enqueue would block the event loop of this thread: await aenqueue(...) there")
    return found.enqueue_sync(task, **options)


async def aenqueue(task: Task, **options: Unpack[OptionsDict]) -> TaskInfo:
    """The same for async views, in whatever loop they run: under WSGI each request has one of its own.

    Raises:
        AioasynqError, ValueError, TypeError: as ``Client.enqueue``.
    """
    return await asyncio.wrap_future(client().submit(task, **options))


def enqueue_on_commit(
    task: Task, *, using: str | None = None, robust: bool = False, **options: Unpack[OptionsDict]
) -> None:
    """Store *task* once the transaction has committed, and not at all if it is rolled back; at once outside of one.

    A wrong argument is refused at once. The commit is done when Redis is asked: when that fails, or this process dies
    in between, the task is not there.

    Args:
        using: name of the database whose transaction it is.
        robust: log what Redis says if it fails, in place of raising it where the transaction ends.

    Raises:
        ValueError, TypeError: an argument is wrong.
    """
    given = Options.of(**options) if options else EMPTY
    client()._size(compose(task, given, time.time()))  # noqa: SLF001 - for the checks, also those of the setting
    transaction.on_commit(lambda: enqueue(task, **options), using=using, robust=robust)


def _on_setting(*, setting: str, **_: object) -> None:
    """Tests may override settings."""
    if setting == "AIOASYNQ":
        _clients.close()


setting_changed.connect(_on_setting, dispatch_uid="aioasynq")
