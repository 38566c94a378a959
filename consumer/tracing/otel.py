"""The tracer that records spans with OpenTelemetry's SDK, and sends them to a collector from a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode
from oslo_context.context import get_current

from consumer import __version__
from consumer.conf.tracing import TracingSettings
from consumer.journal.work import Claim, Hint
from consumer.text import one_line
from consumer.tracing import places
from consumer.tracing.places import Place
from consumer.tracing.quiet import heard, quiet
from consumer.tracing.tracer import Span, Step, Tracer
from handlers.base import Conflict, Finding, InFlight, InspectionContext

#: Seconds that :meth:`Tracer.close` waits for the collector.
_FLUSH = 2.0
#: Outcomes of a claim that are errors of the trace, beside errors that a step raised.
_FAILED = frozenset({"failed", "parked", "unavailable"})


def sending(settings: TracingSettings, replica: str) -> Tracer:
    """Spans wait in a queue of limited size. If the queue is full, spans are lost."""
    quiet()
    return OtelTracer(settings, replica, BatchSpanProcessor(_exporter(settings)))


def refusal(settings: TracingSettings) -> str:
    """Send the collector a request without spans; return why it did not take the request, or an empty text."""
    with heard() as lines:
        try:
            taken = _exporter(settings, _FLUSH).export(()) is SpanExportResult.SUCCESS
        except Exception as error:  # some releases let errors of requests through
            return one_line(f"{type(error).__name__}: {error}")
    return "" if taken else one_line(next(iter(lines), "no answer"))


def _exporter(settings: TracingSettings, timeout: float | None = None) -> OTLPSpanExporter:
    headers = dict(settings.headers) or None
    return OTLPSpanExporter(settings.endpoint, certificate_file=settings.cafile, headers=headers, timeout=timeout)


class OtelTracer(Tracer):
    def __init__(self, settings: TracingSettings, replica: str, processor: SpanProcessor) -> None:
        self._ids = _Ids()
        self._provider = TracerProvider(
            sampler=TraceIdRatioBased(settings.ratio),
            resource=_resource(settings, replica),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("stackmend", __version__)

    def stored(self, hints: Sequence[Hint], broker: str, arrived_at: float) -> None:
        events: dict[str, list[Hint]] = {}
        for hint in hints:
            if hint.source_id:
                events.setdefault(hint.source_id, []).append(hint)
        end = time.time_ns()
        for message_id, mine in events.items():
            self._event(message_id, mine, broker, min(_ns(arrived_at), end), end)

    def _event(self, message_id: str, hints: Sequence[Hint], broker: str, start: int, end: int) -> None:
        with self._ids.next(places.of_event(message_id)):
            span = self._tracer.start_span(
                f"receive {hints[0].source}",
                contexts.Context(),
                SpanKind.CONSUMER,
                {
                    "messaging.system": "rabbitmq",
                    "messaging.operation.type": "receive",
                    "messaging.message.id": message_id,
                    "stackmend.broker": broker,
                    "stackmend.event": hints[0].source,
                    "stackmend.handler": sorted({hint.handler for hint in hints}),
                    "stackmend.key": sorted({str(hint.key) for hint in hints}),
                },
                start_time=start,
            )
        if hints[0].sent_at is not None:
            span.set_attribute("stackmend.lag", max(0.0, start / 1e9 - hints[0].sent_at))
        span.end(end)

    def work(self, claim: Claim, request_id: str) -> Span:
        origin = places.of_claim(claim)
        # The wait by the journal's clock alone, so that no difference between clocks changes its length.
        now = time.time_ns()
        hinted = now - _ns(places.waited(claim))
        parent = _below(origin.place) if origin.follows else contexts.Context()
        with self._ids.next(origin.place, trace_only=True):
            span = self._tracer.start_span(
                f"work {claim.handler}",
                parent,
                attributes={
                    "stackmend.handler": claim.handler,
                    "stackmend.key": str(claim.key),
                    "stackmend.hint": claim.hint,
                    "stackmend.request_id": request_id,
                },
                links=[Link(_context(origin.link))] if origin.link else None,
                start_time=hinted,
            )
        inside = trace.set_span_in_context(span, contexts.Context())
        self._tracer.start_span("wait", inside, start_time=hinted).end(now)
        return _Open(span)

    def sweep(self, claim: Claim, request_id: str) -> Span:
        with self._ids.next(places.of_sweep(request_id)):
            span = self._tracer.start_span(
                f"sweep {claim.handler}",
                contexts.Context(),
                attributes={"stackmend.handler": claim.handler, "stackmend.request_id": request_id},
            )
        return _Open(span)

    def step(self, step: Step, problem: str = "") -> Span:
        return _Open(
            self._tracer.start_span(step.value, attributes={"stackmend.problem": problem} if problem else None)
        )

    def close(self) -> None:
        # In a thread, because neither the SDK nor its exporter keeps a time limit.
        thread = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        thread.start()
        thread.join(_FLUSH)


class _Open(Span):
    """A span that is open in this thread: steps begin below it, and calls of APIs carry it as ``traceparent``."""

    __slots__ = ("_before", "_span", "_token")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._before = ""

    def __enter__(self) -> Self:
        self._token = contexts.attach(trace.set_span_in_context(self._span))
        self._before = _carry(_traceparent(self._span.get_span_context()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._span.set_attribute("error.type", kind.__name__)
            if not issubclass(kind, InFlight | Conflict):
                self._span.set_status(Status(StatusCode.ERROR))
        _carry(self._before)
        contexts.detach(self._token)
        self._span.end()

    def ended(self, outcome: str, findings: Sequence[Finding] = ()) -> None:
        self._span.set_attribute("stackmend.outcome", str(outcome))
        if findings:
            self._span.set_attribute("stackmend.problem", sorted({finding.problem for finding in findings}))
        if outcome in _FAILED:
            self._span.set_status(Status(StatusCode.ERROR))

    def listed(self, suspects: int) -> None:
        self._span.set_attribute("stackmend.suspects", suspects)


class _Ids(IdGenerator):
    """Gives spans random ids. In a ``with`` block of :meth:`next`, the new span gets the ids of ``place``.

    With ``trace_only``, it gets only the trace's id from ``place``.
    """

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._planned = threading.local()

    @contextmanager
    def next(self, place: Place, trace_only: bool = False) -> Iterator[None]:
        self._planned.trace_id = place.trace_id
        self._planned.span_id = None if trace_only else place.span_id
        yield
        self._planned.trace_id = self._planned.span_id = None

    def generate_trace_id(self) -> int:
        return getattr(self._planned, "trace_id", None) or self._random.generate_trace_id()

    def generate_span_id(self) -> int:
        return getattr(self._planned, "span_id", None) or self._random.generate_span_id()


def _resource(settings: TracingSettings, replica: str) -> Resource:
    # Resource.create lets given attributes overrule OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
    environment = OTELResourceDetector().detect().attributes
    return Resource.create(
        {
            **settings.attributes,
            "service.name": settings.service_name or environment.get("service.name", "stackmend"),
            "service.version": __version__,
            "service.instance.id": replica,
        }
    )


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _context(place: Place) -> SpanContext:
    return SpanContext(place.trace_id, place.span_id, is_remote=True)


def _below(place: Place) -> contexts.Context:
    return trace.set_span_in_context(NonRecordingSpan(_context(place)), contexts.Context())


def _traceparent(span: SpanContext) -> str:
    if not span.is_valid:  # OTEL_SDK_DISABLED
        return ""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags & 1:02x}"


def _carry(traceparent: str) -> str:
    """Let this thread's calls of APIs carry the header ``traceparent``; return its former value."""
    context = get_current()
    if not isinstance(context, InspectionContext):
        return ""
    before, context.traceparent = context.traceparent, traceparent
    return before
