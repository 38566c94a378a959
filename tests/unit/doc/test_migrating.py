"""``migrating.rst`` names every option and exit code of the nova-manage commands that stackmend replaces, and no others.

The facts are those of ``nova/cmd/manage.py`` of Nova 34.0.0: the decorators ``args`` and the values that a command returns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from handlers.nova.replaced import REPLACED

PAGE = (Path(__file__).parents[3] / "doc" / "source" / "migrating.rst").read_text()


@dataclass(frozen=True)
class Command:
    options: frozenset[str]
    exits: frozenset[int]


def command(options: str, *exits: int) -> Command:
    return Command(frozenset(options.split()), frozenset(exits))


NOVA_MANAGE: Mapping[str, Command] = {
    "placement heal_allocations": command(
        "--max-count --verbose --dry-run --instance --skip-port-allocations --cell --force",
        *(0, 1, 2, 3, 4, 5, 6, 7, 8, 127),
    ),
    "placement audit": command("--verbose --resource_provider --delete", 0, 1, 3, 4, 127),
    "placement sync_aggregates": command("--verbose", 0, 1, 2, 3, 4, 5, 6),
    "cell_v2 discover_hosts": command("--cell_uuid --verbose --strict --by-service", 0, 1, 2),
    "cell_v2 map_instances": command("--cell_uuid --max-count --reset", 0, 1, 127),
    "cell_v2 verify_instance": command("--uuid --quiet", 0, 1, 2, 3, 4),
    "db archive_deleted_rows": command(
        "--max_rows --before --verbose --until-complete --purge --all-cells --task-log --sleep", 0, 1, 2, 3, 4
    ),
    "db purge": command("--before --all --verbose --all-cells", 0, 1, 2, 3, 4),
}

#: the other commands, by category
OTHERS: Mapping[str, str] = {
    "api_db": "sync version",
    "db": "sync version online_data_migrations ironic_compute_node_move",
    "cell_v2": "simple_cell_setup map_cell0 map_cell_and_hosts create_cell list_cells delete_cell update_cell list_hosts "
    "delete_host",
    "libvirt": "get_machine_type update_machine_type list_unset_machine_type",
    "volume_attachment": "show get_connector refresh",
    "image_property": "show set",
    "limits": "migrate_to_unified_limits",
}


def sections() -> dict[str, str]:
    """Return the text of each section, by its title."""
    parts = re.split(r"^(.+)\n=+\n", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", NOVA_MANAGE)
def test_the_table_has_every_option_and_exit_code(name: str) -> None:
    text = sections()[f"nova-manage {name}"]
    rows = re.findall(r"^   \* - (.+)\n     - (.+)\n     - (.+)$", text, re.MULTILINE)[1:]
    options = [first.strip("`") for first, *_ in rows if first.startswith("``--")]
    exits = [int(first.removeprefix("exit ")) for first, *_ in rows if first.startswith("exit ")]
    assert len(options) + len(exits) == len(rows)
    assert (sorted(options), sorted(exits)) == (sorted(NOVA_MANAGE[name].options), sorted(NOVA_MANAGE[name].exits))


def test_the_page_has_every_command_once() -> None:
    replaced = {title.removeprefix("nova-manage ") for title in sections() if title.startswith("nova-manage ")}
    assert replaced == NOVA_MANAGE.keys()
    assert replaced >= REPLACED.keys()
    stay = sections()["Commands that stay"]
    listed = {
        category: re.findall(r"``(\w+)``", names)
        for category, names in re.findall(r"^``nova-manage (\w+)``: ((?:.|\n)+?)\.$", stay, re.MULTILINE)
    }
    assert listed == {category: names.split() for category, names in OTHERS.items()}
