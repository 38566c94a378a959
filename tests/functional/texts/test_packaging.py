"""What is shipped: wheel and source distribution hold all files, and the files for other systems are well formed."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from consumer import plugins
from consumer.cli import main
from consumer.cli.errors import DRIFT
from release import packages
from tests.functional.texts.tools import tool

ROOT = Path(__file__).parents[3]


def tracked() -> list[str]:
    """Return the files of the repository; no test of packaging makes sense outside of it."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    ran = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in ran.stdout.splitlines() if (ROOT / name).exists()]


# The time of all files in the packages: 2026-01-02 03:04:06 UTC, in seconds since 1970.
EPOCH = 1767323046
TAG = "7.8.9"


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
    packages.run("git", "-C", folder, *who, *arguments)


def committed(folder: Path, names: list[str]) -> Path:
    """Make a repository of these files of ours, with one commit and no tag."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of what git knows, whose only commit has a tag."""
    folder = committed(tmp_path_factory.mktemp("repository"), tracked())
    git(folder, "tag", TAG)
    return folder


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sdist and wheel, as a release has them."""
    for name, least in (("setuptools", "77"), ("setuptools_scm", None), ("build", None)):
        pytest.importorskip(name, minversion=least)
    out = tmp_path_factory.mktemp("dist")
    packages.build(repository, out, EPOCH)
    return out


def members(built: Path) -> dict[str, tarfile.TarInfo]:
    """Return what the source distribution holds, by the path below its folder."""
    with tarfile.open(built / f"stackmend-{TAG}.tar.gz") as tar:
        return {member.name.partition("/")[2]: member for member in tar.getmembers()}


def test_the_tag_is_the_version_of_both_packages(built: Path) -> None:
    assert {file.name for file in built.iterdir()} == {f"stackmend-{TAG}.tar.gz", f"stackmend-{TAG}-py3-none-any.whl"}


def test_folder_times_and_umask_change_no_byte(repository: Path, built: Path, tmp_path: Path) -> None:
    other = packages.clone(repository, tmp_path / "other", umask=0o077)
    for file in (path for path in other.rglob("*") if ".git" not in path.parts):
        os.utime(file, (1_000_000_000, 1_000_000_000))
    assert stat.S_IMODE((other / "setup.cfg").stat().st_mode) == 0o600
    again = packages.build(other, tmp_path / "dist", EPOCH)
    assert packages.digests(again) == packages.digests(list(built.iterdir()))


def test_the_packages_name_no_owner_and_one_time_and_keep_what_can_be_run(built: Path) -> None:
    inside = members(built)
    assert {(one.uid, one.gid, one.uname, one.gname, one.mtime) for one in inside.values()} == {(0, 0, "", "", EPOCH)}
    assert {one.mode for one in inside.values() if one.isdir()} == {0o755}
    runnable = {name for name, one in inside.items() if one.isfile() and one.mode == 0o755}
    assert runnable == {name for name in inside if os.access(ROOT / name, os.X_OK) and (ROOT / name).is_file()}
    assert "deploy/container/build" in runnable
    assert {one.mode for name, one in inside.items() if one.isfile() and name not in runnable} == {0o644}
    assert list(inside) == sorted(inside)
    files = zipfile.ZipFile(built / f"stackmend-{TAG}-py3-none-any.whl").infolist()
    assert {file.date_time for file in files} == {time.gmtime(EPOCH)[:6]}
    assert {stat.S_IMODE(file.external_attr >> 16) for file in files} <= {0o644, 0o664}


def version(folder: Path) -> str:
    """Return the version that a build in this folder would have."""
    pytest.importorskip("setuptools_scm")
    command = [sys.executable, "-m", "setuptools_scm"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_a_source_tree_knows_its_version_with_and_without_git_and_tags(tmp_path: Path) -> None:
    tracked()
    tree = committed(tmp_path / "tree", ["pyproject.toml", "setup.cfg", "tempest_plugin/pyproject.toml"])
    untagged = r"0\.1\.dev1\+g[0-9a-f]+"
    assert re.fullmatch(untagged, version(tree))
    packages.run("git", "clone", "--quiet", "--depth=1", f"file://{tree}", tmp_path / "shallow")
    assert re.fullmatch(untagged, version(tmp_path / "shallow"))
    git(tree, "tag", TAG)
    assert (version(tree), version(tree / "tempest_plugin")) == (TAG, TAG)
    shutil.rmtree(tree / ".git")
    assert (version(tree), version(tree / "tempest_plugin")) == ("0.0", "0.0")


def test_the_unpacked_source_distribution_has_the_version_of_the_tag(built: Path, tmp_path: Path) -> None:
    with tarfile.open(built / f"stackmend-{TAG}.tar.gz") as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(tmp_path)
    assert version(tmp_path / f"stackmend-{TAG}") == TAG


def test_the_source_distribution_has_everything_but_what_begins_with_a_dot(built: Path) -> None:
    inside = {name for name, one in members(built).items() if one.isfile()}
    generated = {"PKG-INFO"} | {name for name in inside if name.startswith("stackmend.egg-info/")}
    shipped = {name for name in tracked() if not name.startswith(".")}
    assert inside - generated == shipped


def test_the_wheel_has_every_file_of_the_packages_and_what_goes_beside(built: Path) -> None:
    [wheel] = built.glob("stackmend-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in tracked() if name.startswith(("consumer/", "handlers/")) and name not in inside} == set()
    assert not [name for name in inside if name.startswith(("tests/", "bench/", "doc/"))]
    shared = {name.partition("/share/stackmend/")[2] for name in inside} - {""}
    assert {"stackmend.service", "stackmend.conf.sample", "prometheus/alerts.yml", "grafana/stackmend.json"} <= shared


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; what it needs is borrowed from the one of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300, capture_output=True)
    [wheel] = built.glob("stackmend-*.whl")
    install: list[str | Path] = [folder / "bin" / "python", "-m", "pip", "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, timeout=300, capture_output=True)
    [own] = folder.glob("lib/python*/site-packages")
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def ran(folder: Path, *command: str) -> str:
    """Run an installed program from another folder; return its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = [str(folder / "bin" / command[0]), *command[1:]]
    done = subprocess.run(
        program, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_runs_where_nothing_else_is(installed: Path) -> None:
    conf = installed / "stackmend.conf"
    conf.write_text(f"[journal]\nconnection = sqlite:///{installed}/journal.sqlite\n")
    files = "import consumer, handlers; print(consumer.__file__, handlers.__file__)"
    assert ran(installed, "python", "-c", files).count(str(installed)) == 2
    assert ran(installed, "stackmend", "--version") == f"stackmend {TAG}\n"
    assert "nova-audit" in ran(installed, "nova-audit", "--help")
    # With the migrations of the journal, and every handler.
    ran(installed, "stackmend", "--config-file", str(conf), "db", "upgrade")
    listed = json.loads(ran(installed, "stackmend", "--config-file", str(conf), "handler", "list", "-f", "json"))
    assert {line["name"] for line in listed} <= {handler.name for handler in plugins.handlers()}
    assert len(listed) > 5
    for name in (
        "man/man8/stackmend.8",
        "man/man8/nova-audit.8",
        "bash-completion/completions/stackmend",
        "stackmend/stackmend.service",
    ):
        assert (installed / "share" / name).is_file()


@pytest.mark.parametrize("name", ["stackmend.service", "nova-audit.service", "nova-audit.timer"])
def test_the_unit_is_valid_and_exposes_little(name: str, tmp_path: Path) -> None:
    analyze = tool("systemd-analyze", "systemd")
    for unit in (ROOT / "etc" / "systemd").iterdir():
        # The programs of these units are not installed here, nor their man pages.
        (tmp_path / unit.name).write_text(re.sub(r"/opt/stackmend/bin/.*", "/bin/true", unit.read_text()))
    security = [] if name.endswith(".timer") else [["security", "--offline=true", "--threshold=20"]]
    for judge in (["verify", "--man=no"], *security):
        command = [analyze, *judge, str(tmp_path / name)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout


def test_the_daemon_s_unit_has_a_watchdog_and_the_sweep_s_unit_expects_drift() -> None:
    daemon, sweep = (
        (ROOT / "etc" / "systemd" / f"{name}.service").read_text().splitlines() for name in ("stackmend", "nova-audit")
    )
    assert {"Type=notify", "WatchdogSec=60"} <= set(daemon)
    assert {"Type=oneshot", f"SuccessExitStatus={DRIFT}"} <= set(sweep)
    assert "OnCalendar=hourly" in (ROOT / "etc" / "systemd" / "nova-audit.timer").read_text()


@pytest.mark.parametrize(
    ("unit", "page", "limits"),
    [
        ("stackmend", "install", {"MemoryMax": "1G", "LimitNOFILE": "8192"}),
        ("nova-audit", "nova-audit", {"MemoryMax": "1G"}),
    ],
)
def test_the_units_bound_memory_and_files_as_documented(unit: str, page: str, limits: dict[str, str]) -> None:
    text = (ROOT / "etc" / "systemd" / f"{unit}.service").read_text()
    documented = (ROOT / "doc" / "source" / f"{page}.rst").read_text()
    service = re.search(r"^\[Service\]\n(.*?)(?=^\[|\Z)", text, re.DOTALL | re.MULTILINE)
    assert service
    for name, value in limits.items():
        assert re.findall(rf"^{name}=(.*)$", service[1], re.MULTILINE) == [value]
        assert f"``{name}={value}``" in documented


def test_the_line_for_cron_starts_no_second_sweep(tmp_path: Path) -> None:
    text = (ROOT / "etc" / "cron" / "nova-audit").read_text()
    [line] = [one for one in text.splitlines() if one and one[0] not in "#P"]
    assert line.split()[5] == "stackmend"
    begun, lock = tmp_path / "begun", tmp_path / "lock"
    program = tmp_path / "nova-audit"
    program.write_text(f"#!/bin/sh\necho $* >> {begun}\nsleep 3\necho table\nexit 2\n")
    program.chmod(0o755)
    command = line.split(maxsplit=6)[6].replace("/var/lib/stackmend/nova-audit.lock", str(lock))
    command = command.replace("/opt/stackmend/bin/nova-audit", str(program))
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as first:
        while not begun.exists():
            time.sleep(0.05)
        second = subprocess.run(["sh", "-c", command], capture_output=True, timeout=30, check=False)
        mail, _ = first.communicate(timeout=30)
    assert begun.read_text() == "--quiet sweep\n"
    assert (mail, second.stdout, second.stderr) == (b"", b"", b"")


def test_the_devstack_plugin_is_good_bash() -> None:
    names = [str(ROOT / "devstack" / name) for name in ("plugin.sh", "settings")]
    for name in names:
        subprocess.run(["bash", "-n", name], check=True, timeout=30)
    said = subprocess.run(
        [tool("shellcheck", "shellcheck"), *names], capture_output=True, text=True, timeout=120, check=False
    )
    assert said.returncode == 0, said.stdout


def commands_in(completion: str) -> dict[str, set[str]]:
    """Return what a script for bash offers, by the words before."""
    return {name: set(words.split()) for name, words in re.findall(r"^  (cmds\w*)='(.*)'$", completion, re.MULTILINE)}


@pytest.mark.parametrize(("program", "run"), [("stackmend", main.stackmend), ("nova-audit", main.nova_audit)])
def test_the_completion_that_is_shipped_is_up_to_date(
    program: str, run: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["complete"]) == 0
    printed = capsys.readouterr().out
    shipped = (ROOT / "etc" / "completion" / program).read_text()
    assert commands_in(shipped) == commands_in(printed), f"{program} complete > etc/completion/{program}"
    assert {"run", "history", "sweep"} <= commands_in(shipped)["cmds"]
    assert ("amphora" in commands_in(shipped)["cmds"]) is (program == "stackmend")
    assert f"complete -F _{program.replace('-', '_')} {program}" in shipped
    subprocess.run(["bash", "-n"], input=shipped, text=True, check=True, timeout=30)


def test_the_man_page_that_is_shipped_names_every_command_and_global_option() -> None:
    page = re.sub(r"\\f[A-Z]|\\(?=-)", "", (ROOT / "etc" / "man" / "stackmend.8").read_text())
    words = {word for command in main.COMMANDS for word in command.split()}
    assert {word for word in words if not re.search(rf"\b{word}\b", page)} == set()
    for option in ("--config-file", "--config-dir", "--log-file", "--debug"):
        assert option in page


def test_the_man_page_of_nova_audit_names_the_options_of_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    page = re.sub(r"\\f[A-Z]|\\(?=-)", "", (ROOT / "etc" / "man" / "nova-audit.8").read_text())
    assert main.nova_audit(["help", "sweep"]) == 0
    own = re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out.partition("output formatters:")[0], re.MULTILINE)
    assert {"--audit", "--cell", "--key", "--max-count"} <= set(own)
    assert [option for option in own if option not in page] == []
