"""The request id of an inspection or a sweep: in log, history, calls of APIs, and stackmend's own notifications.

oslo.context stores the id for the thread. oslo.log writes it, and :mod:`handlers.access.cloud` sends it as
X-Openstack-Request-Id.
"""

from __future__ import annotations

from oslo_context.context import get_current

from handlers.base import InspectionContext


def begin() -> str:
    return str(InspectionContext(overwrite=True).request_id)


def current() -> str:
    """Return the request id of this thread; empty without one."""
    context = get_current()
    return str(context.request_id) if context else ""
