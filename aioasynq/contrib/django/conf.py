"""The setting ``AIOASYNQ``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple, cast

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from aioasynq.mux import ServeMux
from aioasynq.options import meant
from aioasynq.server import Config
from aioasynq.server.config import config_of

_OPTIONS = sorted(field.name for field in fields(Config))
_ELSEWHERE: dict[str, str] = dict.fromkeys(("url", "URL", "broker", "BROKER_URL", "LOCATION"), "redis")
_EXAMPLE = 'AIOASYNQ = {"redis": "redis://localhost:6379/0", "mux": "myapp.tasks.mux", "concurrency": 20}'


class Conf(NamedTuple):
    """What it says."""

    redis: str | None  #: as of a Client
    mux: str | None  #: where the handlers are, as ``myapp.tasks.mux``
    options: dict[str, Any]  #: of the worker


def conf() -> Conf:
    """What the setting says; nothing of it has to be there.

    Raises:
        ImproperlyConfigured: it is wrong.
    """
    said = getattr(settings, "AIOASYNQ", {})
    if not isinstance(said, dict):
        raise ImproperlyConfigured(f"AIOASYNQ must be a dict, as in {_EXAMPLE}, got {said!r}")
    options = dict(cast("dict[str, Any]", said))
    redis, mux = options.pop("redis", None), options.pop("mux", None)
    for name, value in (("redis", redis), ("mux", mux)):
        if value is not None and not isinstance(value, str):
            raise ImproperlyConfigured(f"AIOASYNQ[{name!r}] must be text, as in {_EXAMPLE}, got {type(value).__name__}")
    for name in options:
        if name not in _OPTIONS:
            hint = meant(name, ("redis", "mux", *_OPTIONS), _ELSEWHERE)
            raise ImproperlyConfigured(
                f"AIOASYNQ has no {name!r}{hint}; it has redis, mux and the options of a worker: {', '.join(_OPTIONS)}"
            )
    configured(options)
    return Conf(redis, mux, options)


def configured(options: dict[str, Any]) -> Config:
    """The options of a worker, checked.

    Raises:
        ImproperlyConfigured: one is wrong.
    """
    try:
        return config_of(None, options)
    except (TypeError, ValueError) as exc:
        raise ImproperlyConfigured(f"AIOASYNQ, or the command: {exc}") from exc


def load_mux(path: str | None) -> ServeMux:
    """The handlers.

    Raises:
        ImproperlyConfigured: there are none at *path*.
    """
    if path is None:
        raise ImproperlyConfigured(f'AIOASYNQ must say where the handlers are, by "mux", as in {_EXAMPLE}')
    try:
        mux = import_string(path.replace(":", "."))
    except ImportError as exc:
        raise ImproperlyConfigured(f'AIOASYNQ["mux"], {path!r}, cannot be imported: {exc}') from exc
    if not isinstance(mux, ServeMux):
        raise ImproperlyConfigured(f'AIOASYNQ["mux"], {path!r}, must be a ServeMux, got {mux!r}')
    return mux
