"""Where requests go: Prometheus, OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from diffprof.live.requests import Request
from diffprof.model.errors import UsageError

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Seconds: from a step of a small model to a video."""


def prometheus(registry: object = None) -> Callable[[Request], None]:
    """Metrics: `diffprof_request_seconds{pipeline}`, `diffprof_requests_total{pipeline, outcome}`, and of
    sampled requests `diffprof_stage_seconds{pipeline, stage}`. registry: of prometheus-client; None: its own.

    Raises UsageError where prometheus-client is not installed.
    """
    try:
        from prometheus_client import REGISTRY
    except ImportError as error:
        raise UsageError(
            "prometheus-client is not installed.", "pip install 'diffprof[prometheus]'"
        ) from error
    requests, whole, stages = _metrics(registry or REGISTRY)

    def sink(request: Request) -> None:
        outcome = "error" if request.error else "slow" if request.slow else "ok"
        requests.labels(request.pipeline, outcome).inc()
        if request.error is None:
            whole.labels(request.pipeline).observe(request.seconds)
        for stage in request.stages:
            stages.labels(request.pipeline, stage.name).observe(stage.seconds)

    return sink


@cache
def _metrics(registry: object) -> tuple[Any, Any, Any]:
    """Once a registry: several pipelines share them."""
    from prometheus_client import Counter, Histogram

    known = {"registry": registry, "buckets": BUCKETS}
    sampled = "Of a stage of a sampled call: encode, step, decode, postprocess."
    return (
        Counter("diffprof_requests", "Calls of the pipeline.", ["pipeline", "outcome"], registry=registry),
        Histogram("diffprof_request_seconds", "Of a call.", ["pipeline"], **known),
        Histogram("diffprof_stage_seconds", sampled, ["pipeline", "stage"], **known),
    )


def opentelemetry(tracer: Tracer | None = None) -> Callable[[Request], None]:
    """A span for each sampled request, and one below it for each stage. tracer: of opentelemetry-api; None:
    the one of the global provider.

    Raises UsageError where opentelemetry-api is not installed.
    """
    try:
        from opentelemetry import trace
    except ImportError as error:
        raise UsageError("opentelemetry-api is not installed.", "pip install 'diffprof[otel]'") from error
    own = tracer or trace.get_tracer("diffprof")

    def sink(request: Request) -> None:
        if not request.stages:
            return
        began = round(request.began * 1e9)
        told = {"diffprof.number": request.number, "diffprof.slow": request.slow}
        span = own.start_span(request.pipeline, start_time=began, attributes=told)
        inside = trace.set_span_in_context(span)
        for stage in request.stages:
            start = began + round(stage.start * 1e9)
            name = stage.name if stage.step is None else f"{stage.name} {stage.step}"
            own.start_span(name, context=inside, start_time=start).end(start + round(stage.seconds * 1e9))
        span.end(began + round(request.seconds * 1e9))

    return sink
