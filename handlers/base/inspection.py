from __future__ import annotations

from oslo_context.context import RequestContext


class InspectionContext(RequestContext):
    """The context of one inspection or sweep, for the log and for calls of APIs; ``consumer`` sets it for the thread.

    :param traceparent: the open span, as the header ``traceparent`` of W3C Trace Context; empty without a trace
    """

    traceparent: str = ""
