"""Traces of events, from the broker to the heal, for OpenTelemetry.

``tracer``  the interface that the engine calls; its base class records nothing
``places``  the ids of traces, derived from what the journal stores
``otel``    the tracer that records spans; only this module imports packages of OpenTelemetry
``quiet``   the log of these packages, at most one line a minute
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from consumer.conf import WrongConfiguration
from consumer.conf.tracing import TracingSettings
from consumer.tracing.tracer import Span, Step, Tracer

__all__ = ["Span", "Step", "Tracer", "chosen", "refusal"]


def chosen(settings: TracingSettings, replica: str) -> Tracer:
    """Return the tracer for these settings. Without an endpoint it records nothing, and ``opentelemetry`` is not imported.

    :raises WrongConfiguration: the packages that ``[tracing] endpoint`` needs are not installed
    """
    if not settings.endpoint:
        return Tracer()
    with _advised():
        from consumer.tracing import otel
    return otel.sending(settings, replica)


def refusal(settings: TracingSettings) -> str:
    """Return why the collector takes no traces now; empty if it takes them.

    :param settings: their endpoint must be set
    :raises WrongConfiguration: as :func:`chosen`
    """
    with _advised():
        from consumer.tracing import otel
    return otel.refusal(settings)


@contextmanager
def _advised() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise WrongConfiguration(
            f"[tracing] endpoint is set, but the packages for traces cannot be imported ({error}): "
            "pip install 'stackmend[otel]', or remove the option"
        ) from error
