"""``[tracing]``: traces of events, sent to a collector of OpenTelemetry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from oslo_config import cfg

from handlers.base import irregular

GROUP = cfg.OptGroup("tracing", title="Traces of events, for OpenTelemetry")
#: the path of OTLP over HTTP for traces
_PATH = "/v1/traces"

OPTS = [
    cfg.StrOpt(
        "endpoint",
        secret=True,
        help="URL of a collector that takes OTLP over HTTP, for example http://collector:4318. Without a path, /v1/traces is "
        "added. If unset, the daemon records no traces. Traces need: pip install 'stackmend[otel]'.",
    ),
    cfg.DictOpt(
        "headers",
        default={},
        secret=True,
        help="HTTP headers of each request to the collector, for example X-Scope-OrgID:cloud1.",
    ),
    cfg.StrOpt(
        "cafile",
        help="File of certificate authorities that sign the collector's certificate. If unset, those of the system.",
    ),
    cfg.FloatOpt(
        "ratio",
        default=1.0,
        min=0.0,
        max=1.0,
        help="The part of all traces to record. A trace is recorded whole or not at all, by every replica.",
    ),
    cfg.StrOpt("service_name", help="Name of the service in traces. If unset, OTEL_SERVICE_NAME or stackmend."),
    cfg.DictOpt(
        "attributes",
        default={},
        help="Further resource attributes of each span, for example deployment.environment.name:production.",
    ),
]


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """:param endpoint: the whole URL; empty for no traces
    :param ratio: the part of all traces to record, from 0 to 1
    """

    endpoint: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    cafile: str | None = None
    ratio: float = 1.0
    service_name: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


def register(conf: cfg.ConfigOpts) -> None:
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def settings(conf: cfg.ConfigOpts) -> TracingSettings:
    """:raises ValueError: ``endpoint`` is no URL of HTTP, or ``cafile`` is no regular file"""
    group = conf.tracing
    if group.cafile and (reason := irregular(group.cafile)):
        raise ValueError(f"[tracing] cafile = {group.cafile} is {reason}")
    return TracingSettings(
        _whole(group.endpoint or ""), group.headers, group.cafile, group.ratio, group.service_name, group.attributes
    )


def _whole(url: str) -> str:
    if not url:
        return ""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("[tracing] endpoint must begin with https:// or http:// and a host")
    return parts._replace(path=_PATH).geturl() if parts.path in ("", "/") else url
