"""``manage.py aioasynq_worker``: process tasks until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import logging
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from aioasynq.contrib.django.conf import conf, configured, load_mux
from aioasynq.contrib.django.connections import fresh_connections
from aioasynq.errors import AioasynqError
from aioasynq.logs import LINE, LINE_TIME
from aioasynq.queues import weights_of
from aioasynq.server import Server
from aioasynq.server.leave import ends_anyway


class Command(BaseCommand):
    """The worker. What is not given here stands in the setting ``AIOASYNQ``."""

    help = "Process tasks until SIGTERM or SIGINT, then let what runs finish; a second signal gives it back at once."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """What may be said on the command line."""
        parser.add_argument("--mux", help="Where the handlers are, as myapp.tasks.mux.")
        parser.add_argument("--url", help="Redis, as redis://localhost:6379/0.")
        parser.add_argument("--queues", help="Queues and weights, as critical:6,default:3; a weight left out is 1.")
        parser.add_argument("--concurrency", type=int, help="Tasks that run at once.")
        parser.add_argument("--shutdown-timeout", type=float, help="Seconds that tasks may go on at the end.")

    def handle(self, **given: Any) -> None:
        """Run.

        Raises:
            CommandError: setting or command line are wrong, or Redis refuses the worker.
        """
        if not logging.getLogger("aioasynq").hasHandlers():
            logging.basicConfig(format=LINE, datefmt=LINE_TIME, level=logging.INFO)
        try:
            said = conf()
            options = dict(said.options)
            for name in ("concurrency", "shutdown_timeout"):
                if given[name] is not None:
                    options[name] = given[name]
            if given["queues"] is not None:
                options["queues"] = _weights(given["queues"])
            config = configured(options)
            mux = load_mux(given["mux"] or said.mux)
            mux.use(fresh_connections)
            server = Server(given["url"] or said.redis, mux, config=config)
            asyncio.run(_work(server))
        except (ImproperlyConfigured, AioasynqError, ValueError) as exc:
            raise CommandError(str(exc)) from exc


async def _work(server: Server) -> None:
    async with ends_anyway():
        await server.run()


def _weights(text: str) -> dict[str, int]:
    try:
        return weights_of(text)
    except ValueError as exc:
        raise ValueError(f"--queues must be like critical:6,default:3, got {text!r}: {exc}") from None
