"""``--otel``: what is told of tasks on their way."""

from __future__ import annotations

from collections.abc import Sequence

from aioasynq.cli.exits import refuse
from aioasynq.observer import Observer


def observers(*, otel: bool) -> list[Observer]:
    """Those that the command asks for."""
    if not otel:
        return []
    try:
        from aioasynq.otel import OpenTelemetry
    except ImportError:
        refuse("--otel needs opentelemetry-api: pip install 'aioasynq[otel]'")
    return [OpenTelemetry()]


def beside(own: Sequence[Observer], further: Sequence[Observer]) -> list[Observer]:
    """Those that the program has, and further ones; one of each kind, or all comes twice."""
    return [*own, *(each for each in further if not any(type(one) is type(each) for one in own))]
