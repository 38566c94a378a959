"""The request id and the trace of the current inspection or sweep, which ``consumer`` stores in oslo.context."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from oslo_context.context import RequestContext, get_current

from handlers.base import InspectionContext

HEADER = "X-Openstack-Request-Id"
#: of W3C Trace Context
TRACE = "traceparent"


def headers() -> dict[str, str]:
    """Return the HTTP headers with this thread's request id and trace; empty outside of inspections and sweeps."""
    context = get_current()
    if context is None:
        return {}
    found = {HEADER: str(context.request_id)}
    if isinstance(context, InspectionContext) and context.traceparent:
        found[TRACE] = context.traceparent
    return found


def pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Return a thread pool whose threads have this thread's request id and trace."""
    context: RequestContext | None = get_current()
    adopt: Callable[[], None] | None = context.update_store if context else None
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=adopt)
