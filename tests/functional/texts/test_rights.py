"""The page about rights takes them from the handlers; the sample of the configuration validates."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from consumer import plugins
from handlers.access import roles
from handlers.base import Mode

ROOT = Path(__file__).parents[3]
RIGHTS = (ROOT / "doc" / "source" / "rights.rst").read_text()
HANDLERS = plugins.handlers()


@pytest.mark.parametrize(
    "line", ["handler-grants:: audit", "handler-grants:: heal", "handler-rights::", "handler-roles::"]
)
def test_the_page_takes_rights_and_roles_from_the_handlers(line: str) -> None:
    assert f"\n.. {line}\n" in RIGHTS


def test_the_roles_that_the_page_adds_are_enough_for_every_handler() -> None:
    added = set(re.findall(r"openstack role add .* (\w+)$", RIGHTS, re.MULTILINE))
    assert len(added) == 2
    for handler in HANDLERS:
        for role in handler.roles.needed(Mode.HEAL):
            assert added.intersection(role.any_of), handler.name


def test_a_handler_that_requires_placement_has_the_role_for_it() -> None:
    for handler in HANDLERS:
        assert roles.PLACEMENT in handler.roles.inspect or "placement" not in handler.requires


def validate(file: Path) -> subprocess.CompletedProcess[str]:
    """Run oslo.config's validator, as an operator does before a restart."""
    program = Path(sys.executable).parent / "oslo-config-validator"
    generator = ROOT / "etc" / "stackmend-config-generator.conf"
    return subprocess.run(
        [program, "--config-file", generator, "--input-file", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_sample_validates() -> None:
    done = validate(ROOT / "etc" / "stackmend.conf.sample")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_typo_does_not_validate(tmp_path: Path) -> None:
    file = tmp_path / "stackmend.conf"
    file.write_text("[audit]\ndiscover_hosts_mode = heal\n[housekeeping]\nspare_amphora_pool_size = 2\n")
    done = validate(file)
    assert done.returncode == 0, done.stdout + done.stderr
    file.write_text("[audit]\ndiscover_host_mode = heal\n")
    done = validate(file)
    assert done.returncode != 0
    assert "discover_host_mode" in done.stdout + done.stderr
