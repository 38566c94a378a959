from __future__ import annotations

from oslo_context.context import RequestContext


class InspectionContext(RequestContext):
    """The context of the inspection or sweep that a thread runs, for log lines and calls of APIs. ``consumer`` sets it.

    :param traceparent: the open span, as the header ``traceparent`` of W3C Trace Context; empty without a trace
    """

    traceparent: str = ""
