"""The files in ``deploy`` agree with the program: rights, user, commands, options, probes."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer import conf, plugins
from consumer.cli import main
from handlers.base import Mode
from handlers.checks import grants
from release import packages
from tests.functional.texts.tools import tool

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
ROLE = DEPLOY / "ansible" / "roles" / "stackmend"
CONTAINERFILE = (DEPLOY / "container" / "Containerfile").read_text()
MANIFESTS = ("deployment.yaml", "network.yaml")


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


# Ansible


@pytest.mark.parametrize("mode", [Mode.AUDIT, Mode.HEAL])
@pytest.mark.parametrize("database", ["nova_api", "cell", "octavia"])
def test_the_role_grants_what_the_handlers_need_and_no_more(mode: Mode, database: str) -> None:
    [loaded] = documents(ROLE / "vars" / "main.yml")
    healing = plugins.handlers() if mode is Mode.HEAL else []
    needed = grants.merged(grants.rights_of(healing, database))
    granted = {table: privileges for privileges, table in loaded["stackmend_grants"][mode][database]}
    assert granted == {table: ", ".join(sorted(privileges)) for table, privileges in needed.items()}


def test_the_role_s_files_are_yaml_and_every_variable_has_a_default() -> None:
    [defaults], [facts] = documents(ROLE / "defaults" / "main.yml"), documents(ROLE / "vars" / "main.yml")
    registered = set()
    used = set()
    for file in (*ROLE.glob("tasks/*.yml"), *ROLE.glob("handlers/*.yml"), *ROLE.glob("templates/*")):
        text = file.read_text()
        if file.suffix == ".yml":
            assert documents(file)
        registered |= set(re.findall(r"register: (\w+)", text))
        used |= set(re.findall(r"\b(stackmend_\w+)", text))
    assert used - registered - defaults.keys() - facts.keys() == set()


def test_the_role_gives_rabbitmq_s_user_the_documented_permissions() -> None:
    [defaults] = documents(ROLE / "defaults" / "main.yml")
    page = (ROOT / "doc" / "source" / "rabbitmq.rst").read_text()
    documented = re.search(r"topic:\n +# rabbitmqctl set_permissions -p / stackmend '(.*)' '(.*)' '(.*)'", page)
    assert documented is not None
    assert defaults["stackmend_rabbitmq_permissions"] == list(documented.groups())


def test_the_role_s_units_are_in_the_wheel() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    shipped = {Path(name).name for name in setup["options.data_files"]["share/stackmend"].split()}
    [units] = [task["loop"] for task in documents(ROLE / "tasks" / "run.yml")[0] if task["name"] == "Install the units"]
    assert set(units) <= shipped


def test_the_role_asks_nothing_of_a_systemd_that_does_not_run() -> None:
    tasks = [*documents(ROLE / "tasks" / "run.yml")[0], *documents(ROLE / "handlers" / "main.yml")[0]]
    asking = [task for task in tasks if "ansible.builtin.systemd_service" in task]
    assert len(asking) == 2
    for task in asking:
        # The fact service_mgr is "systemd" wherever its packages are installed, also in a chroot.
        assert "stackmend_systemd.stat.exists" in task["when"]
        assert "service_mgr" not in task["when"]


# containers


def test_the_container_runs_as_a_user_without_rights_and_writes_in_one_place() -> None:
    assert re.findall(r"^USER (.+)$", CONTAINERFILE, re.MULTILINE) == ["42490:42490"]
    assert re.findall(r"^VOLUME (.+)$", CONTAINERFILE, re.MULTILINE) == ["/var/lib/stackmend"]


@pytest.mark.parametrize("script", ["container/build", "ansible/try"])
def test_a_script_is_good_bash(script: str) -> None:
    shellcheck = tool("shellcheck", "shellcheck")
    ran = subprocess.run([shellcheck, DEPLOY / script], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout


def test_kolla_starts_the_daemon_that_its_image_has() -> None:
    loaded = json.loads((DEPLOY / "kolla" / "config.json").read_text())
    image = (DEPLOY / "kolla" / "Containerfile").read_text()
    program, command, *_options = loaded["command"].split()
    assert f"/opt/stackmend/bin/{program}" in image
    assert command in main.COMMANDS
    assert "/etc/stackmend/stackmend.conf" in {file["dest"] for file in loaded["config_files"]}
    for file in loaded["config_files"]:
        assert file["source"] == f"/var/lib/kolla/config_files/{Path(file['dest']).name}"
        assert (file["owner"], file["perm"]) == ("stackmend", "0600")
    for permission in loaded["permissions"]:
        assert permission["path"] in image
    [play] = documents(DEPLOY / "kolla" / "stackmend.yml")[0]
    assert {task["name"] for task in play["handlers"]} == {task["notify"] for task in play["tasks"] if "notify" in task}


@pytest.mark.parametrize("status", [0, 3])
def test_the_build_leaves_no_folder_of_debootstrap(tmp_path: Path, status: int) -> None:
    """Both builders are doubles: debootstrap fills the folder, and buildah knows no image."""
    made = tmp_path / "made"
    programs = {
        "debootstrap": f'mkdir "$4/etc" && echo "$4" > {made}',
        "buildah": f"case $1 in inspect) exit 1 ;; from) echo base ;; build) exit {status} ;; esac",
    }
    for name, lines in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    ran = subprocess.run([DEPLOY / "container" / "build", "--debootstrap"], env=environment, check=False)
    assert ran.returncode == status
    assert not Path(made.read_text().strip()).exists()


# Kubernetes


def pods() -> Iterator[dict[str, Any]]:
    for manifest in MANIFESTS:
        for loaded in documents(DEPLOY / "kubernetes" / manifest):
            match loaded:
                case {"kind": "Deployment", "spec": {"template": {"spec": pod}}}:
                    yield pod
                case {"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": {"spec": pod}}}}}:
                    yield pod


def test_every_pod_runs_as_the_image_s_user_on_a_filesystem_that_it_cannot_change() -> None:
    found = list(pods())
    assert len(found) == 2
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert f"USER {pod['securityContext']['runAsUser']}:" in CONTAINERFILE
        assert pod["automountServiceAccountToken"] is False
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
            assert writable == {"/var/lib/stackmend", "/tmp"}


def test_the_commands_and_probes_of_the_pods_exist() -> None:
    deployment, job = pods()
    [init], [daemon] = deployment["initContainers"], deployment["containers"]
    assert " ".join(init["args"]) in main.COMMANDS
    assert " ".join(daemon["args"]) in main.COMMANDS
    served = (ROOT / "consumer" / "status" / "serving.py").read_text()
    for probe in ("readinessProbe", "livenessProbe"):
        assert f'"{daemon[probe]["httpGet"]["path"]}"' in served
    assert "nova-audit sweep" in job["containers"][0]["command"][-1]


def test_the_image_has_the_version_of_the_tag_or_names_the_commit(tmp_path: Path) -> None:
    script = tmp_path / "tree" / "deploy" / "container" / "build"
    script.parent.mkdir(parents=True)
    shutil.copy(DEPLOY / "container" / "build", script)
    buildah = tmp_path / "buildah"
    buildah.write_text('#!/bin/sh\necho "$@"\n')
    buildah.chmod(0o755)

    def version() -> str:
        path = f"{tmp_path}:{os.environ['PATH']}"
        printed = packages.run(script, environment={"PATH": path, "GIT_CEILING_DIRECTORIES": str(tmp_path)})
        return printed.partition("--build-arg VERSION=")[2].split()[0]

    assert version() == "0.0"
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
    for command in (("init", "--quiet"), ("add", "."), (*who, "commit", "--quiet", "--message", "all")):
        packages.run("git", "-C", tmp_path / "tree", *command)
    assert re.fullmatch(r"0\.0\+g[0-9a-f]{7,}", version())
    packages.run("git", "-C", tmp_path / "tree", "tag", "7.8.9")
    assert version() == "7.8.9"
    assert "ARG VERSION=0.0\nENV SETUPTOOLS_SCM_PRETEND_VERSION_FOR_STACKMEND=${VERSION}\n" in CONTAINERFILE


# configurations


@pytest.mark.parametrize("file", ["kubernetes/stackmend.conf", "compose/stackmend.conf"])
def test_a_configuration_has_only_options_that_exist(file: str) -> None:
    loaded = conf.load(plugins.handlers(), [str(DEPLOY / file)], [])
    assert conf.misspelt(loaded) == []


def test_compose_and_quadlet_run_the_image_that_the_script_builds() -> None:
    [compose] = documents(DEPLOY / "compose" / "compose.yaml")
    tag = re.search(r"--tag (\S+)", (DEPLOY / "container" / "build").read_text())
    assert tag is not None
    service = compose["services"]["stackmend"]
    assert service["image"] == tag[1]
    assert (DEPLOY / "compose" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "quadlet" / "stackmend.container")
    assert unit["Container"]["Image"].removesuffix(":latest") == tag[1]
