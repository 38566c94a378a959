from __future__ import annotations

from collections.abc import Iterator

from handlers.access.service_files import ServiceFiles
from handlers.base import Bus, Checked, Verdict

#: drivers of oslo.messaging that publish to the broker
PUBLISHING = frozenset({"messaging", "messagingv2"})


def notifications(bus: Bus, files: ServiceFiles, group: str, option: str, common: str) -> Iterator[Checked]:
    """Check whether a service publishes to a topic that stackmend consumes.

    :param group, option: group and name of the service's option that lists topics
    :param common: the default of this option
    """
    subject = f"{files}: notifications"
    drivers = files.texts("oslo_messaging_notifications", "driver")
    if PUBLISHING.isdisjoint(drivers):
        state = f"driver is {', '.join(drivers)}" if any(drivers) else "no driver is set"
        yield Checked(
            subject,
            Verdict.WARNING,
            f"{state}, so the service publishes nothing and only sweeps find drift: write there "
            "[oslo_messaging_notifications] driver = messagingv2",
        )
        return
    topics = {topic.strip() for topic in (files.get(group, option) or common).split(",")}
    ours = set(bus.topics)
    if topics & ours:
        yield Checked(subject, Verdict.OK, f"published to {', '.join(sorted(topics & ours))}")
        return
    published, consumed = ",".join(sorted(topics)), ",".join(sorted(ours))
    yield Checked(
        subject,
        Verdict.WARNING,
        f"published to {published}, while stackmend consumes {consumed}: write there [{group}] {option} = "
        f"{','.join(sorted(topics))},{consumed}; or {bus.topics_option} = {published} in stackmend's configuration",
    )
