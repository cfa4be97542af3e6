"""OpenTelemetry: traces that go with a task through its headers, and metrics; by the conventions for messaging.

Only OpenTelemetry's interface is needed here; the program sets up an SDK, and without one nothing is recorded.
https://opentelemetry.io/docs/specs/semconv/messaging/ (of 2025, still in development there)
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

try:
    from opentelemetry import context as contexts, metrics, trace
    from opentelemetry.context import Context
    from opentelemetry.propagators.textmap import Setter
    from opentelemetry.trace import Link, SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as missing:
    raise ImportError("aioasynq.otel needs opentelemetry-api: pip install 'aioasynq[otel]'") from missing

from aioasynq._version import __version__
from aioasynq.observer import Ended, Observer, Processed, Sent

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import Span, SpanContext, TracerProvider

    from aioasynq.message import TaskMessage
    from aioasynq.task import Task

SCHEMA = "https://opentelemetry.io/schemas/1.38.0"
SYSTEM = "asynq"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)  #: as the conventions say
FAILURES = frozenset({"retry", "archived", "lost"})  #: outcomes that make a span one of an error
MOST_LINKS = 128  #: spans keep that many by default

Attributes: TypeAlias = dict[str, str | int]


class OpenTelemetry(Observer):
    """Give it to clients, servers and schedulers: ``Client(…, observers=[otel])``, ``Server(…, observers=[otel])``.

    A client begins a span where a task is enqueued, in the trace of its caller, and puts its context into the headers
    of the task (``traceparent``, ``tracestate``). A server begins one, which the handler runs in, as the child of that
    context, and links to it. So a trace goes from a web request through all that it sets off, and through programs in
    between that copy the two headers.

    Args:
        tracer_provider: by default the one the program has set.
        meter_provider: by default the one the program has set.
        propagator: what writes headers and reads them; W3C trace context by default.
        link_only: let each processing begin a trace of its own, which only links to where the task came from: for
            tasks that run long after.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagator: TextMapPropagator | None = None,
        link_only: bool = False,
    ) -> None:
        self._tracer = trace.get_tracer("aioasynq", __version__, tracer_provider, SCHEMA)
        self._propagator = TraceContextTextMapPropagator() if propagator is None else propagator
        self._link_only = link_only
        meter = metrics.get_meter("aioasynq", __version__, meter_provider, SCHEMA)
        self._sent = meter.create_counter(
            "messaging.client.sent.messages", "{message}", "Tasks that a client tried to store."
        )
        self._operation = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "How long storing took.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Tasks that were given to a handler."
        )
        self._process = meter.create_histogram(
            "messaging.process.duration", "s", "How long handlers took.", explicit_bucket_boundaries_advisory=SECONDS
        )
        self._running = meter.create_up_down_counter(
            "messaging.asynq.process.active", "{message}", "Handlers that run now."
        )

    # ── sending ──

    def sending(self, messages: Sequence[TaskMessage], *, address: str, made_of: Sequence[Task] = ()) -> Sent:
        """Begin a span, and give its context to the tasks; of several each has one of its own."""
        one = messages[0] if len(messages) == 1 else None
        queues = {msg.queue for msg in messages}
        common: Attributes = {"messaging.system": SYSTEM, **_server(address)}
        if len(queues) == 1:
            common["messaging.destination.name"] = messages[0].queue
        links = [Link(origin) for task in made_of[:MOST_LINKS] if (origin := self._origin(task.headers)) is not None]
        if one is not None:
            parent = self._parent_of(one)
            span = self._begin("send", SpanKind.PRODUCER, common | _message(one), links, parent)
            self._propagator.inject(one.headers, trace.set_span_in_context(span, parent), _HEADERS)
        else:
            links += [Link(self._create(msg, common)) for msg in messages]
            span = self._begin(
                "send",
                SpanKind.CLIENT,
                common | {"messaging.batch.message_count": len(messages)},
                links[:MOST_LINKS],
                None,
            )
        began = time.perf_counter()

        def sent(answers: Sequence[BaseException | None]) -> None:
            seconds = time.perf_counter() - began
            named: Attributes = {"messaging.operation.name": "send", "messaging.operation.type": "send"}
            errors = [answer for answer in answers if answer is not None]
            if errors:
                _fail(span, errors[0], f"{len(errors)} of {len(answers)} tasks: " if one is None else "")
            span.end()
            failed: Attributes = {"error.type": _name(errors[0])} if errors else {}
            self._operation.record(seconds, common | named | failed)
            for msg, answer in zip(messages, answers, strict=True):
                kind: Attributes = {} if answer is None else {"error.type": _name(answer)}
                self._sent.add(1, common | named | kind | {"messaging.destination.name": msg.queue})

        return sent

    def _create(self, msg: TaskMessage, common: Attributes) -> SpanContext:
        """The span of one task of several, which has only its context to give."""
        parent = self._parent_of(msg)
        span = self._begin("create", SpanKind.PRODUCER, common | _message(msg), [], parent)
        self._propagator.inject(msg.headers, trace.set_span_in_context(span, parent), _HEADERS)
        span.end()
        return span.get_span_context()

    def _parent_of(self, msg: TaskMessage) -> Context | None:
        """The caller's context; where it is in no trace, the one that the headers name, if they name one."""
        if msg.headers and not trace.get_current_span().get_span_context().is_valid:
            return self._propagator.extract(msg.headers)
        return None

    # ── processing ──

    def processing(self, task: Task, *, pattern: str, address: str) -> Processed:
        """Begin the span in which the handler runs."""
        common: Attributes = {
            "messaging.system": SYSTEM,
            "messaging.destination.name": task.queue,
            **_server(address),
        }
        about: Attributes = {
            "messaging.message.id": task.id,
            "messaging.message.body.size": len(task.payload),
            "messaging.asynq.task.type": task.type,
            "messaging.asynq.task.attempt": task.retried + 1,
            "messaging.asynq.task.max_retry": task.max_retry,
        }
        context = self._propagator.extract(task.headers, Context())
        origin = trace.get_current_span(context).get_span_context()
        span = self._begin(
            "process",
            SpanKind.CONSUMER,
            common | about,
            [Link(origin)] if origin.is_valid else [],
            _without_span(context) if self._link_only else context,
        )
        # Never detached: this is the context of one handler, and ends with it.
        contexts.attach(trace.set_span_in_context(span, context))
        named = common | {
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.asynq.task.pattern": pattern,
        }
        self._running.add(1, named)
        self._consumed.add(1, named)
        began = time.time_ns()

        def processed(ended: Ended) -> None:
            span.set_attribute("messaging.asynq.task.outcome", ended.outcome)
            failed = ended.error is not None and ended.outcome in FAILURES
            if ended.error is not None and failed:
                _fail(span, ended.error)
            span.end(began + int(ended.seconds * 1e9))
            kind: Attributes = {"error.type": _name(ended.error)} if ended.error is not None and failed else {}
            self._running.add(-1, named)
            self._process.record(ended.seconds, named | kind | {"messaging.asynq.task.outcome": ended.outcome})

        return processed

    # ── both ──

    def _begin(
        self, operation: str, kind: SpanKind, attributes: Attributes, links: Sequence[Link], context: Context | None
    ) -> Span:
        queue = attributes.get("messaging.destination.name")
        attributes = attributes | {"messaging.operation.name": operation, "messaging.operation.type": operation}
        name = operation if queue is None else f"{operation} {queue}"
        return self._tracer.start_span(name, context=context, kind=kind, attributes=attributes, links=links)

    def _origin(self, headers: Mapping[str, str]) -> SpanContext | None:
        found = trace.get_current_span(self._propagator.extract(headers, Context())).get_span_context()
        return found if found.is_valid else None


class _Headers(Setter[dict[str, str]]):
    """How a propagator writes to the headers of a task."""

    def set(self, carrier: dict[str, str], key: str, value: str) -> None:
        carrier[key] = value


_HEADERS = _Headers()


def _message(msg: TaskMessage) -> Attributes:
    return {
        "messaging.message.id": msg.id,
        "messaging.message.body.size": len(msg.payload or b""),
        "messaging.destination.name": msg.queue,
        "messaging.asynq.task.type": msg.type,
    }


def _without_span(context: Context) -> Context:
    """What else was propagated, as baggage, for a span that begins a trace."""
    return trace.set_span_in_context(trace.INVALID_SPAN, context)


def _fail(span: Span, error: BaseException, where: str = "") -> None:
    """Say what went wrong, as ``record_exception`` does; that fails by an error whose text fails."""
    if not span.is_recording():
        return
    text = _text(error)
    attributes: Attributes = {
        "exception.type": _name(error),
        "exception.message": text,
        "exception.stacktrace": _unicode("".join(traceback.format_exception(error))),
        "exception.escaped": "False",
    }
    span.add_event("exception", attributes)
    span.set_attribute("error.type", _name(error))
    span.set_status(Status(StatusCode.ERROR, f"{where}{text}"))


def _text(error: BaseException) -> str:
    try:
        return _unicode(str(error))
    except Exception:  # noqa: BLE001 - a broken __str__
        return ""


def _unicode(text: str) -> str:
    """The bytes of a file's name may be no text: an exporter fails by them, and drops all it was to send with them."""
    return text.encode("utf-8", "backslashreplace").decode()


def _name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


@lru_cache(maxsize=128)
def _server(address: str) -> Attributes:
    """Host and port of a URL; of a Cluster the first, and none of a socket."""
    found = re.match(r"redis(?:s|-cluster)?://(\[[^\]]*\]|[^:/,]*)(?::(\d+))?", address)
    if found is None:
        return {"server.address": address.partition("://")[2].partition("?")[0]} if "://" in address else {}
    host, port = found.groups()
    return {"server.address": host.strip("[]"), "server.port": int(port or 6379)}
