"""The documented rights are those that the check asks for; the sample of the configuration is one that validates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from consumer import plugins
from handlers.access import roles
from handlers.base import EVERY_TABLE, Role
from handlers.checks import grants

ROOT = Path(__file__).parents[3]
RIGHTS = (ROOT / "doc" / "source" / "rights.rst").read_text()
KINDS = {
    schema: {handler.name: handler.rights[kind] for handler in plugins.handlers() if kind in handler.rights}
    for schema, kind in (("nova_api", "nova_api"), ("nova_cell1", "cell"), ("octavia", "octavia"))
}


def section(title: str) -> str:
    """Return the statements of a section."""
    text = RIGHTS.partition(f"\n{title}\n---")[2]
    return text[: text.index("\n---", 1)] if "\n---" in text else text


@pytest.mark.parametrize("healing", [False, True])
def test_the_statements_are_those_that_the_check_names(healing: bool) -> None:
    wanted = [
        line
        for schema, needs in KINDS.items()
        for line in grants.statements(schema, grants.ACCOUNT, grants.merged(needs.values() if healing else []))
    ]
    lines = (line.strip() for line in section("To heal" if healing else "To look").splitlines())
    assert [line for line in lines if line.startswith("GRANT ")] == wanted


def test_each_handler_is_listed_with_what_it_writes() -> None:
    listed = " ".join(RIGHTS.split())
    for needs in KINDS.values():
        for handler, tables in needs.items():
            row = listed.partition(f"* - ``{handler}`` - ")[2].partition("* -")[0]
            for table, privileges in tables.items():
                place = "every table of" if table == EVERY_TABLE else f"``{table}``"
                assert f"{', '.join(sorted(privileges))} on {place}" in row


def test_the_roles_are_those_that_the_check_asks_for() -> None:
    """Each need has a line, with the handlers that have it."""
    listed = " ".join(RIGHTS.partition("\nKeystone\n===")[2].split())
    for part in ("inspect", "heal"):
        needs: dict[Role, list[str]] = {}
        for handler in plugins.handlers():
            for need in getattr(handler.roles, part):
                needs.setdefault(need, []).append(handler.name)
        for need, handlers in needs.items():
            names = ", ".join(f"``{handler}``" for handler in handlers)
            mode = " in the mode ``heal``" if part == "heal" else ""
            asked = " or ".join(f"``{role}``" for role in need.any_of)
            assert f"* - {names}{mode} - {asked} - {need.purpose} " in listed
    for handler in plugins.handlers():
        assert (roles.PLACEMENT in handler.roles.inspect) is ("placement" in handler.requires)


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
