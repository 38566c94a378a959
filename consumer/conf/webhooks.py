"""``[webhooks]``, and one group ``[webhook_NAME]`` for each sink (receiver) that it names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from oslo_config import cfg, types

GROUP = cfg.OptGroup("webhooks", title="Messages about findings and heals, over HTTP")
#: how the name of a sink's group begins
PREFIX = "webhook_"

#: the outcomes of the history, and those that a sink gets by default
OUTCOMES = (
    "found", "refused", "parked", "stopped", "asked", "denied", "exempt", "healing", "healed", "failed", "conflict",
    "act",
)  # fmt: skip
EVENTS = ("found", "refused", "asked", "healed", "failed", "parked", "stopped")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")

OPTS = [
    cfg.ListOpt(
        "enabled",
        default=[],
        help="Names of the sinks, for example slack, alertmanager. The group [webhook_NAME] configures each. All replicas need "
        "the same sinks.",
    ),
    cfg.FloatOpt(
        "keep_hours", default=72, min=0.1, help="Hours after which stackmend gives up a message that it cannot deliver."
    ),
    cfg.IntOpt(
        "keep", default=10_000, min=1, help="Messages that can wait for one sink; beyond it, the oldest are deleted."
    ),
]

#: the group of a sink, for the sample configuration
EXAMPLE = cfg.OptGroup(f"{PREFIX}slack", title="A sink with the name slack")

SINK_OPTS = [
    cfg.MultiStrOpt(
        "url",
        default=[],
        secret=True,
        help="Where to POST; may be repeated, then each URL gets each message. It is never logged.",
    ),
    cfg.StrOpt(
        "secret",
        secret=True,
        help="Key of the signature (HMAC-SHA256), as in https://www.standardwebhooks.com: text, or ``whsec_`` and base64. "
        "Without it, messages are not signed.",
    ),
    cfg.StrOpt(
        "template",
        help="File with a Jinja template for the body. Without it, the body is JSON with all values. Examples: "
        "etc/webhooks in stackmend's sources.",
    ),
    cfg.StrOpt("content_type", default="application/json", help="Content type of the body."),
    cfg.ListOpt(
        "events",
        default=list(EVENTS),
        item_type=types.String(choices=list(OUTCOMES)),
        help="Outcomes of the history to send.",
    ),
    cfg.FloatOpt("timeout", default=10, min=0.5, max=60, help="Seconds to wait for an answer."),
]


class WrongTemplate(Exception):
    """A webhook's template cannot be read or rendered. The message names the file and the fault."""


@dataclass(frozen=True, slots=True)
class Sink:
    """One URL of the group ``[webhook_NAME]``, with the group's values.

    :param name: NAME, such as ``slack``; for several URLs ``slack-1``, ``slack-2``
    """

    name: str
    url: str = field(repr=False)
    secret: str = field(default="", repr=False)
    template: str = ""
    content_type: str = "application/json"
    events: tuple[str, ...] = EVENTS
    timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    sinks: tuple[Sink, ...] = ()
    keep_seconds: float = 72 * 3600.0
    keep: int = 10_000


def register(conf: cfg.ConfigOpts) -> None:
    conf.register_group(GROUP)
    conf.register_opts(OPTS, group=GROUP)


def register_sinks(conf: cfg.ConfigOpts) -> None:
    """Register the option group of each sink. Call this after the files were read.

    :raises ValueError: a sink's name is wrong
    """
    for name in conf.webhooks.enabled:
        if not _NAME.fullmatch(name):
            raise ValueError(f"[webhooks] enabled: {name!r} is not a name; write lower-case letters, digits and _")
        conf.register_opts(SINK_OPTS, group=PREFIX + name)


def settings(conf: cfg.ConfigOpts) -> WebhookSettings:
    """:raises ValueError: a sink has no usable URL"""
    sinks = tuple(sink for name in dict.fromkeys(conf.webhooks.enabled) for sink in _sinks(conf, name))
    return WebhookSettings(sinks, conf.webhooks.keep_hours * 3600.0, conf.webhooks.keep)


def _is_usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text may contain the URL's password
        return False


def _sinks(conf: cfg.ConfigOpts, name: str) -> list[Sink]:
    group = conf[PREFIX + name]
    if not group.url:
        raise ValueError(f"[{PREFIX}{name}] url is not set; write for example https://hooks.example.org/...")
    for url in group.url:
        if not _is_usable(url):
            raise ValueError(
                f"[{PREFIX}{name}] url must begin with https:// or http:// and a host; a port is a number up to 65535"
            )
    names = [name] if len(group.url) == 1 else [f"{name}-{number}" for number in range(1, len(group.url) + 1)]
    events = tuple(dict.fromkeys(group.events))
    return [
        Sink(one, url, group.secret or "", group.template or "", group.content_type, events, group.timeout)
        for one, url in zip(names, group.url, strict=True)
    ]
