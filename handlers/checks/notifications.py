"""Whether a service tells what happens: its notification options, as far as its own files say.

Shared by the checks of Nova and Octavia; reads files, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

from oslo_config import cfg

from handlers.access.service_files import ServiceFiles
from handlers.base import Checked

#: drivers of oslo.messaging that publish to the broker
PUBLISHING = frozenset({"messaging", "messagingv2"})


def notifications(conf: cfg.ConfigOpts, files: ServiceFiles, group: str, option: str, common: str) -> Iterator[Checked]:
    """Judge whether the notifications of a service are published, and to a topic that is read.

    :param group: the group of the service's option that lists topics
    :param option: that option
    :param common: the topic that others read, which the advice keeps
    """
    subject = f"{files}: notifications"
    driver = files.get("oslo_messaging_notifications", "driver")
    if driver not in PUBLISHING:
        said = f"driver is {driver}" if driver else "no driver is set"
        yield Checked(
            subject,
            "warning",
            f"{said}, so nothing is told and only sweeps find drift: write there [oslo_messaging_notifications] "
            "driver = messagingv2",
        )
        return
    topics = {topic.strip() for topic in (files.get(group, option) or common).split(",")}
    binds = conf.bus.queue_mode == "bind"
    wanted = set(conf.bus.bind_topics if binds else conf.bus.topics)
    if topics & wanted:
        yield Checked(subject, "ok", f"told on {', '.join(sorted(topics & wanted))}")
        return
    ours = ",".join(sorted(wanted))
    cure = (
        f"[bus] bind_topics = {','.join(sorted(topics))} in stackmend's configuration"
        if binds
        else f"there [{group}] {option} = {','.join(dict.fromkeys([*sorted(topics), *sorted(wanted)]))}"
    )
    yield Checked(subject, "warning", f"told on {', '.join(sorted(topics))}, but {ours} is read: write {cure}")
