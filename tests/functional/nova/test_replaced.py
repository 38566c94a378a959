"""``check`` sees the periodic tasks of Nova that a handler replaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumer import plugins
from handlers.access.service_files import ServiceFiles
from handlers.base import Checked, Mode, Verdict
from handlers.nova import replaced
from handlers.nova.hosts.discover_hosts import DiscoverHosts

MODES = {handler: Mode.HEAL for handler in plugins.handlers() if handler.group == "audit"}


def nova(folder: Path, text: str) -> ServiceFiles:
    file = folder / "nova.conf"
    file.write_text(text)
    return ServiceFiles("[nova] config_file", [str(file)])


def found(root: Path, text: str = "", modes: dict[type, Mode] = MODES) -> list[Checked]:
    return [one for one in replaced.check(nova(root, text), modes, root) if one.verdict is not Verdict.OK]


def write(root: Path, name: str, text: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("[scheduler]\ndiscover_hosts_in_cells_interval = 300\n", True),
        ("[scheduler]\ndiscover_hosts_in_cells_interval = -1\n", False),
        ("", False),
    ],
)
def test_the_scheduler_s_own_discovery_is_a_warning(tmp_path: Path, text: str, warned: bool) -> None:
    warnings = found(tmp_path, text)
    assert bool(warnings) is warned
    if warned:
        assert warnings[0].text == (
            "every 300 s nova-scheduler does the work of discover_hosts: write there "
            "[scheduler] discover_hosts_in_cells_interval = -1"
        )
        assert found(tmp_path, text, {**MODES, DiscoverHosts: Mode.AUDIT}) == []


@pytest.mark.parametrize(
    ("file", "line", "command"),
    [
        ("etc/cron.d/nova", "0 3 * * * nova nova-manage db archive_deleted_rows --until-complete", "db archive_deleted_rows"),
        ("etc/crontab", "* * * * * root nova-manage  cell_v2  discover_hosts --by-service", "cell_v2 discover_hosts"),
        ("var/spool/cron/crontabs/nova", "@hourly nova-manage placement heal_allocations", "placement heal_allocations"),
        ("etc/cron.daily/nova", "docker exec -u nova nova_api nova-manage --config-file x db purge --all", "db purge"),
        ("etc/systemd/system/x.service", "ExecStart=nova-manage placement sync_aggregates", "placement sync_aggregates"),
        ("etc/cron.d/map", "@daily nova nova-manage cell_v2 map_instances --cell_uuid $C", "cell_v2 map_instances"),
        ("etc/cron.d/audit", "@daily nova nova-manage placement audit --verbose", "placement audit"),
    ],
)  # fmt: skip
def test_a_job_beside_a_handler_that_heals_is_a_warning(tmp_path: Path, file: str, line: str, command: str) -> None:
    write(tmp_path, file, f"# nova-manage {command}\nPATH=/bin\n{line}\n")
    [warning] = found(tmp_path)
    assert warning.subject == f"cron: {tmp_path / file}:3"
    assert warning.text == f"nova-manage {command} does the work of {replaced.REPLACED[command]}: remove the line"
    assert found(tmp_path, modes=dict.fromkeys(MODES, Mode.AUDIT)) == []


def test_a_job_that_deletes_allocations_is_always_a_warning(tmp_path: Path) -> None:
    write(tmp_path, "etc/cron.d/audit", "@daily nova nova-manage placement audit --delete\n")
    [warning] = found(tmp_path, modes=dict.fromkeys(MODES, Mode.AUDIT))
    assert "also deletes allocations of operations in flight" in warning.text


def test_other_jobs_are_no_warning(tmp_path: Path) -> None:
    write(tmp_path, "etc/cron.d/nova", "@daily nova nova-manage db online_data_migrations; echo db purge\n")
    write(tmp_path, "etc/cron.d/other", "@daily nova nova-audit sweep heal_allocations\n")
    (tmp_path / "etc/cron.d/folder").mkdir()
    assert found(tmp_path) == []


def test_every_replaced_command_names_a_handler() -> None:
    assert set(replaced.REPLACED.values()) <= {handler.name for handler in MODES}
