"""What each task needs of Keystone's roles, and nothing where it calls no API."""

from __future__ import annotations

from pathlib import Path

import pytest
from oslo_config import cfg

from consumer import plugins
from handlers.access import cloud_options
from handlers.base import Mode, Resources
from handlers.checks import roles
from tests.keystone import Keystone


def judged(folder: Path, held: list[str], **modes: str) -> list[tuple[str, str]]:
    """Verdicts and texts for a user with these roles."""
    with Keystone("token", held) as keystone:
        file = folder / "stackmend.conf"
        file.write_text(
            f"[openstack]\nauth_type = v3password\nauth_url = {keystone.url}\nusername = mender\npassword = m\n"
            "user_domain_name = Default\nproject_name = service\nproject_domain_name = Default\n"
        )
        conf = cfg.ConfigOpts()
        conf.register_opts(cloud_options.OPTIONS, cloud_options.GROUP)
        conf([], default_config_files=[str(file)], default_config_dirs=[])
        by_name = {handler.name: handler for handler in plugins.handlers()}
        found = roles.check("nova", Resources(conf), {by_name[name]: Mode(mode) for name, mode in modes.items()})
        return [(one.verdict, one.text) for one in found]


@pytest.mark.parametrize(
    ("held", "modes", "verdict"),
    [
        ([], {"purge": "heal", "discover_hosts": "heal"}, None),
        (["service"], {"map_instances": "heal", "sync_aggregates": "heal"}, "ok"),
        (["service"], {"audit_allocations": "heal"}, "failure"),
        (["service"], {"release_devices": "heal"}, "ok"),
        (["reader"], {"release_devices": "audit"}, "failure"),
        (["admin"], {"audit_allocations": "heal"}, "ok"),
        (["reader", "member"], {"audit_allocations": "audit"}, "failure"),
        (["service"], {"audit_ports": "audit"}, "failure"),
        (["admin"], {"audit_ports": "audit"}, "ok"),
        (["admin"], {"audit_ports": "heal"}, "warning"),
        (["admin", "service"], {"audit_ports": "heal", "heal_allocations": "heal"}, "ok"),
        (["admin"], {"audit_bindings": "heal"}, "warning"),
        (["service"], {"audit_attachments": "audit"}, "failure"),
        (["admin"], {"audit_attachments": "heal"}, "ok"),
        (["admin"], {"heal_info_cache": "heal"}, "warning"),
        (["service"], {"audit_stuck_instances": "audit"}, None),
        (["service"], {"audit_stuck_instances": "heal"}, "failure"),
        (["load-balancer_admin"], {"failed_amphora": "audit"}, "failure"),
    ],
)
def test_roles_are_measured_by_what_is_on(
    tmp_path: Path, held: list[str], modes: dict[str, str], verdict: str | None
) -> None:
    assert [one for one, _ in judged(tmp_path, held, **modes)] == ([verdict] if verdict else [])


def test_the_command_for_each_role_that_is_missing(tmp_path: Path) -> None:
    [(_, text)] = judged(tmp_path, [], heal_allocations="heal")
    command = "openstack role add --user mender --user-domain Default --project service --project-domain Default"
    assert text.endswith(f"{command} service; {command} admin")
