"""Cinder's notifications: the options ``[cinder]``, the broker, the check.

Cinder sends notifications in the legacy format, by default to the exchange ``openstack``
(``cinder/volume/volume_utils.py``: notify_about_volume_usage, _usage_from_volume).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from oslo_config import cfg

from handlers.access.cinder import ABSENT, Storage
from handlers.access.rabbit_options import tls_options
from handlers.access.service_files import ConfigError, ServiceFiles
from handlers.base import Broker, Checked, Event, Handler, HandlerError, Key, Mode, Resources, Verdict
from handlers.checks.notifications import notifications
from handlers.nova.keys import uuid_of

GROUP = "cinder"
#: the exchange where cinder.conf has no ``[DEFAULT] control_exchange``
EXCHANGE = "openstack"
EVENTS = ("volume.attach.end", "volume.detach.end", "volume.delete.end")

OPTIONS: list[cfg.Opt] = [
    cfg.ListOpt(
        "config_file",
        default=[],
        help="Cinder's configuration files (or directories of ``*.conf``), in order; later ones win. stackmend reads [DEFAULT] "
        "transport_url and control_exchange, [oslo_messaging_notifications] and [oslo_messaging_rabbit] ssl and its files. "
        "Unset, and without transport_url: stackmend reads none of Cinder's notifications.",
    ),
    cfg.StrOpt(
        "transport_url",
        secret=True,
        help="URL of the broker on which Cinder publishes notifications, instead of [oslo_messaging_notifications] or "
        "[DEFAULT] transport_url of config_file.",
    ),
]


def volume(event: Event) -> Key:
    return Key("volume", uuid_of(event.payload["volume_id"]))


def cinder_brokers(resources: Resources) -> Iterable[Broker]:
    """Yield the broker of Cinder's notifications; nothing if the options ``[cinder]`` and ``cinder.conf`` name no broker.

    :raises ConfigError: a configuration file of Cinder is malformed
    """
    resources.conf.register_opts(OPTIONS, GROUP)
    files = _files(resources.conf)
    url = (
        resources.conf[GROUP].transport_url
        or files.get("oslo_messaging_notifications", "transport_url")
        or files.get("DEFAULT", "transport_url")
    )
    if url:
        exchange = files.get("DEFAULT", "control_exchange") or EXCHANGE
        yield Broker("cinder", str(url), (exchange,), tls_options(files))


def cinder_checks(resources: Resources, modes: Mapping[type[Handler], Mode]) -> Iterator[Checked]:
    resources.conf.register_opts(OPTIONS, GROUP)
    mode = next((mode for handler, mode in modes.items() if handler.name == "audit_attachments"), Mode.OFF)
    if mode is Mode.OFF:
        return
    yield _answers(resources, mode)
    files = _files(resources.conf)
    if files.files:
        yield from notifications(resources.bus, files, "oslo_messaging_notifications", "topics", "notifications")


def _answers(resources: Resources, mode: Mode) -> Checked:
    try:
        storage = resources.get(Storage.from_resources)
        if storage.exists():
            storage.require()
            return Checked(GROUP, Verdict.OK, "answers")
        elsewhere = storage.elsewhere()
    except (HandlerError, ConfigError) as error:
        return Checked(GROUP, Verdict.FAILURE, str(error))
    advice = "set [openstack] block_storage_endpoint_override, or [audit] audit_attachments_mode = off"
    if elsewhere:
        return Checked(GROUP, Verdict.WARNING, f"{elsewhere}. Correct it, or {advice}")
    verdict = Verdict.WARNING if mode.heals else Verdict.OK
    return Checked(GROUP, verdict, f"{ABSENT}; {advice}" if mode.heals else ABSENT)


def _files(conf: cfg.ConfigOpts) -> ServiceFiles:
    return ServiceFiles("[cinder] config_file", conf[GROUP].config_file)
