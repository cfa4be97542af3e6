"""What a worker tells over HTTP: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for whoever runs it.

It answers from threads of its own: also while a handler blocks the event loop, which is when one wants to know.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import socketserver
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from aioasynq.cli.exits import refuse
from aioasynq.cli.figures import BOUNDS, Figures, Source

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

log = logging.getLogger(__name__)

PATIENCE = 5.0  #: seconds whoever connects may take to ask, and to take the answer
MOST = 64  #: connections at once; one more ends the oldest, so that who says nothing keeps nobody out
REST = 0.1  #: seconds until the next try when no connection can be taken, as without a free descriptor
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  #: where prometheus_client keeps the metrics of several processes

_COUNTS = {
    "processed": "Handlers that have ended, however they did.",
    "failed": "Of these, those that raised or ran out of time.",
    "abandoned": "Handlers that did not end when cancelled, and were left to themselves.",
    "lost": "Tasks that turned out to be another server's when they were settled.",
    "recovered": "Tasks taken back from workers that died or were cut off.",
    "repaired": "Entries of queues that stood where no such task was.",
    "undecodable": "Entries whose bytes were no message.",
    "contact_lost": "Times that Redis did not answer any more.",
    "refused": "Operations that Redis refused.",
    "blocked": "Times that the event loop stood still for 3 s or longer.",
}


class WorkerCollector(Collector):
    """The figures of a worker as metrics."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        """Those without figures."""
        return _families(Figures())

    def collect(self) -> Iterable[Metric]:
        """Those of now."""
        return _families(self._source.figures())


def _families(figures: Figures) -> list[Metric]:
    found: list[Metric] = [
        CounterMetricFamily(f"aioasynq_worker_{name}", _COUNTS.get(name, name), value=count)
        for name, count in figures.counts.items()
    ]
    for name, text, value in (
        ("running", "Handlers that run now.", figures.running),
        ("concurrency", "Handlers that may run at once.", figures.concurrency),
        ("processes", "Processes at work.", figures.processes),
        ("redis_up", "Processes for which Redis is there.", figures.in_contact),
        ("ready", "Processes that take tasks.", figures.ready),
    ):
        found.append(GaugeMetricFamily(f"aioasynq_worker_{name}", text, value=value))
    tasks = CounterMetricFamily(
        "aioasynq_worker_tasks", "Handlers that have ended, by pattern and outcome.", labels=["type", "outcome"]
    )
    for pattern, outcomes in sorted(figures.outcomes.items()):
        for outcome, count in sorted(outcomes.items()):
            tasks.add_metric([pattern, outcome], count)
    seconds = HistogramMetricFamily(
        "aioasynq_worker_task_seconds", "How long handlers took, by pattern.", labels=["type"]
    )
    for pattern, durations in sorted(figures.durations.items()):
        sums = [sum(durations.counts[: n + 1]) for n in range(len(durations.counts))]
        bounds = [*map(str, BOUNDS), "+Inf"]
        seconds.add_metric([pattern], list(zip(bounds, sums, strict=True)), durations.total)
    return [*found, tasks, seconds]


def registry_of(source: Source, *, many: bool) -> tuple[CollectorRegistry, ...]:
    """What a scrape gets: the figures of the worker, and what the program itself measures.

    That of *many* processes is seen from their parent only where prometheus_client keeps it in files.
    """
    own = CollectorRegistry()
    own.register(WorkerCollector(source))
    if many and os.environ.get(MULTIPROCESS):
        MultiProcessCollector(own)  # type: ignore[no-untyped-call]
    return own, REGISTRY


class _Together(Collector):
    """Several registries as one."""

    def __init__(self, registries: tuple[CollectorRegistry, ...]) -> None:
        self._registries = registries

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for each in self._registries:
            try:
                yield from each.collect()
            except Exception:  # a collector of the program's
                log.exception("metrics of the program cannot be collected, and are left out")


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # nobody who asks keeps a worker from ending
    request_queue_size = MOST

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily, source: Source, *, many: bool) -> None:
        self.address_family = family
        self.source = source
        self._open: dict[socket.socket, float] = {}  # until when it may take to ask; the oldest first
        self._opening = threading.Lock()
        self.registry = CollectorRegistry()
        self.registry.register(_Together(registry_of(source, many=many)))
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind, without asking DNS for a name of this machine, as HTTPServer would."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def get_request(self) -> tuple[socket.socket, object]:
        """The next connection; a socket stays readable when none can be taken, and would be asked without a pause."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(REST)
            raise

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """Answer it in a thread, and end the oldest connection when there are too many."""
        with self._opening:
            self._open[request] = time.monotonic() + PATIENCE
            if len(self._open) > MOST:
                self._cut(next(iter(self._open)))
        super().process_request(request, client_address)

    def has_asked(self, request: socket.socket) -> None:
        """The answer may take as long as it takes."""
        with self._opening:
            if request in self._open:
                self._open[request] = math.inf

    def service_actions(self) -> None:
        """End connections whose request has not come in time, be it that a byte comes now and then."""
        now = time.monotonic()
        with self._opening:
            for request in [request for request, until in self._open.items() if until < now]:
                self._cut(request)

    def _cut(self, request: socket.socket) -> None:
        """Whoever waits for something on it hears that nothing comes."""
        del self._open[request]
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """It is answered, or cannot be."""
        with self._opening:  # so that none is cut whose descriptor is somebody else's by then
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - the base's shape
        """Whoever asked has gone."""
        log.debug("a request from %s was not answered: %r", client_address, sys.exception())


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE

    def version_string(self) -> str:
        return "aioasynq"

    def do_GET(self) -> None:
        server = cast("_Server", self.server)
        server.has_asked(self.request)
        source = server.source
        match urlsplit(self.path).path:
            case "/metrics":
                encode, kind = choose_encoder(self.headers.get("Accept", ""))
                try:
                    body = encode(server.registry)
                except Exception:  # what a collector of the program's gave is no metric, or no text
                    log.exception("metrics cannot be told")
                    self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"metrics cannot be told; the log says why\n")
                else:
                    self._answer(HTTPStatus.OK, body, kind)
            case "/healthz":
                self._say(source.sick())
            case "/readyz":
                self._say(source.sick() or source.unready())
            case _:
                self._answer(HTTPStatus.NOT_FOUND, b"there are /metrics, /healthz and /readyz\n")

    do_HEAD = do_GET  # noqa: N815 - the base's name

    def _say(self, wrong: str) -> None:
        status = HTTPStatus.SERVICE_UNAVAILABLE if wrong else HTTPStatus.OK
        self._answer(status, f"{wrong or 'ok'}\n".encode())

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        log.debug("%s " + format, self.client_address[0], *args)  # noqa: G003 - the base's format


@contextmanager
def exposed(source: Source, host: str, port: int, *, many: bool = False) -> Generator[str]:
    """Answer on that port meanwhile; yields the URL. What is wrong with host or port ends the command."""
    try:
        [(family, *_), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        server = _Server((host, port), family, source, many=many)
    except OSError as exc:
        refuse(f"--metrics-port {port}: cannot listen on {host!r}: {exc.strerror or exc}")
    thread = threading.Thread(
        target=server.serve_forever, name="aioasynq-http", kwargs={"poll_interval": 0.1}, daemon=True
    )
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{server.server_port}"
    log.info("metrics at %s/metrics, with /healthz and /readyz beside it", url)
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
