"""What is shipped: wheel and source distribution hold all files, and the files for other systems are well formed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from consumer.cli import main

ROOT = Path(__file__).parents[3]


def tracked() -> list[str]:
    """Return the files of the repository; no test of packaging makes sense outside of it."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    ran = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in ran.stdout.splitlines() if (ROOT / name).exists()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sdist and wheel, built from a copy of what git knows."""
    pytest.importorskip("setuptools", minversion="77")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    build = (
        "import sys; out = sys.argv[1]; from setuptools import build_meta as b; b.build_sdist(out); b.build_wheel(out)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", build, str(out)], cwd=copy, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return out


def test_the_source_distribution_has_everything(built: Path) -> None:
    [archive] = built.glob("stackmend-*.tar.gz")
    with tarfile.open(archive) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    # What git and the builders of this repository need begins with a dot.
    missing = {name for name in tracked() if name not in inside and not name.startswith(".")}
    assert missing == set()


def test_the_wheel_has_every_file_of_the_packages_and_what_goes_beside(built: Path) -> None:
    [wheel] = built.glob("stackmend-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in tracked() if name.startswith(("consumer/", "handlers/")) and name not in inside} == set()
    assert not [name for name in inside if name.startswith(("tests/", "bench/", "doc/"))]
    shared = {name.partition("/share/stackmend/")[2] for name in inside} - {""}
    assert {"stackmend.service", "stackmend.conf.sample", "prometheus/alerts.yml", "grafana/stackmend.json"} <= shared


def test_the_unit_is_valid(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze")
    text = (ROOT / "etc" / "systemd" / "stackmend.service").read_text()
    unit = tmp_path / "stackmend.service"
    # Program, user and man page of this unit are not installed here.
    unit.write_text(
        re.sub(r"^(User|Group|Documentation)=.*\n", "", text, flags=re.M).replace("/opt/stackmend/bin/", "/bin/")
    )
    unit.write_text(unit.read_text().replace("/bin/stackmend run", "/bin/true"))
    ran = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "Type=notify" in text
    assert "WatchdogSec=" in text


def test_the_devstack_plugin_is_bash() -> None:
    for name in ("plugin.sh", "settings"):
        subprocess.run(["bash", "-n", str(ROOT / "devstack" / name)], check=True, timeout=30)


def test_kolla_starts_the_daemon() -> None:
    loaded = json.loads((ROOT / "etc" / "kolla" / "config.json").read_text())
    assert loaded["command"] == "stackmend run"
    assert all(file["perm"] == "0600" for file in loaded["config_files"])


def test_completion_knows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.stackmend(["complete"]) == 0
    said = capsys.readouterr().out
    assert "complete -F _stackmend stackmend" in said
    assert "cmds_history='show'" in said or "cmds_history_show" in said
    subprocess.run(["bash", "-n"], input=said, text=True, check=True, timeout=30)
