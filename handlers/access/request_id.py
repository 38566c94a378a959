"""The request id of the current inspection or sweep, which ``consumer`` stores for each thread in oslo.context."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from oslo_context.context import RequestContext, get_current

HEADER = "X-Openstack-Request-Id"


def headers() -> dict[str, str]:
    """Return the HTTP header with this thread's request id; empty without one."""
    context = get_current()
    return {HEADER: str(context.request_id)} if context else {}


def pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Return a thread pool with this thread's request id."""
    context: RequestContext | None = get_current()
    adopt: Callable[[], None] | None = context.update_store if context else None
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=adopt)
