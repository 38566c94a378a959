"""``stackmend check`` of a nova.conf."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from handlers.base import Bus, Checked, Mode, Resources, Verdict
from handlers.nova.attachments.audit_attachments import AuditAttachments
from handlers.nova.attachments.notifications import GROUP, OPTIONS, cinder_checks
from handlers.nova.checks import nova_checks
from handlers.nova.simulation import NovaSimulation

PUBLISHES = "[oslo_messaging_notifications]\ndriver = messagingv2\ntopics = notifications,stackmend\n"
VERSIONED = "[notifications]\nnotification_format = versioned\nversioned_notifications_topics = stackmend\n"
PUBLISHES_BY_FORMER_NAMES = """
[DEFAULT]
notification_driver = messagingv2
notification_driver = log
notification_topics = notifications,stackmend
"""


def checked(resources: Resources, file: Path, text: str) -> dict[str, Checked]:
    """Return what the check finds in a nova.conf, by the last word of the subject."""
    file.write_text(text)
    resources.conf.set_override("config_file", [str(file)], "nova")
    checking = Resources(resources.conf, Bus(("stackmend",)))
    found = list(nova_checks(checking, {}))
    checking.close()
    return {one.subject.rpartition(" ")[2]: one for one in found if one.subject.startswith(str(file))}


@pytest.mark.parametrize("text", [PUBLISHES, PUBLISHES_BY_FORMER_NAMES])
def test_unversioned_notifications_are_published_but_incomplete(
    resources: Resources, tmp_path: Path, text: str
) -> None:
    found = checked(resources, tmp_path / "nova.conf", text)
    assert (found["notifications"].verdict, found["notifications"].text) == (Verdict.OK, "published to stackmend")
    assert found["format"].verdict is Verdict.WARNING


@pytest.mark.parametrize("text", [VERSIONED + PUBLISHES, VERSIONED + PUBLISHES_BY_FORMER_NAMES])
def test_versioned_notifications_are_right(resources: Resources, tmp_path: Path, text: str) -> None:
    found = checked(resources, tmp_path / "nova.conf", text)
    assert [(name, one.verdict) for name, one in found.items()] == [("notifications", Verdict.OK)]


def test_the_format_in_its_former_group_counts(resources: Resources, tmp_path: Path) -> None:
    text = "[DEFAULT]\nnotification_format = both\n[notifications]\nversioned_notifications_topics = stackmend\n"
    found = checked(resources, tmp_path / "nova.conf", text + PUBLISHES)
    assert [(name, one.verdict) for name, one in found.items()] == [("notifications", Verdict.OK)]


@pytest.mark.parametrize(
    ("driver", "state"), [("", "no driver is set"), ("driver = log\ndriver = noop\n", "driver is log, noop")]
)
def test_drivers_that_publish_nothing_are_named(resources: Resources, tmp_path: Path, driver: str, state: str) -> None:
    found = checked(resources, tmp_path / "nova.conf", f"{VERSIONED}[oslo_messaging_notifications]\n{driver}")
    assert found["notifications"].verdict is Verdict.WARNING
    assert found["notifications"].text.startswith(f"{state}, so the service publishes nothing")


@pytest.mark.parametrize(
    ("broken", "remedy"), [("nova_api", "[nova] api_database_connection"), ("cell:cell1", "cell_mappings")]
)
def test_a_database_that_does_not_answer_has_a_remedy(
    cloud: NovaSimulation, resources: Resources, broken: str, remedy: str
) -> None:
    engine = cloud.api if broken == "nova_api" else cloud.cells["cell1"]
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE alembic_version"))
    failed = [one for one in nova_checks(resources, {}) if one.subject == broken and one.verdict is Verdict.FAILURE]
    assert len(failed) == 1
    assert remedy in failed[0].text


@pytest.mark.parametrize(
    ("mode", "text", "verdicts"),
    [
        (Mode.AUDIT, PUBLISHES, [Verdict.OK, Verdict.OK]),
        (Mode.HEAL, "[DEFAULT]\ntransport_url = rabbit://c/\n", [Verdict.OK, Verdict.WARNING]),
        (Mode.OFF, "", []),
    ],
)
def test_cinder_and_its_notifications_are_checked_while_a_handler_uses_them(
    resources: Resources, tmp_path: Path, mode: Mode, text: str, verdicts: list[Verdict]
) -> None:
    file = tmp_path / "cinder.conf"
    file.write_text(text)
    resources.conf.register_opts(OPTIONS, GROUP)
    resources.conf.set_override("config_file", [str(file)], GROUP)
    found = cinder_checks(Resources(resources.conf, Bus(("stackmend",))), {AuditAttachments: mode})
    assert [one.verdict for one in found] == verdicts
