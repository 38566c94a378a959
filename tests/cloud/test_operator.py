"""A new operator follows the documentation: the check, a first audit, a first heal, a second replica, an alert and its runbook.

What is typed, and what is run as SQL, is what stands there.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from consumer import plugins
from handlers.base import Mode
from tests.cloud import drift
from tests.cloud.account import DOCUMENTS, Account
from tests.cloud.configuration import merge
from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.operator import journal_of_replicas, said
from tests.program import Program
from tests.servers import packages
from tests.servers.server import HOST, Process, clean_environment, free_port

ROOT = DOCUMENTS.parents[1]
PATIENCE = 300
ALERTS = ROOT / "etc" / "prometheus" / "alerts.yml"


def checks(program: Program) -> dict[str, tuple[str, str]]:
    """What ``stackmend check`` says, by subject."""
    return {line["check"]: (line["result"], line["details"]) for line in program.json("check")}


def metrics(port: int) -> str:
    """What a daemon exposes; nothing yet while it starts."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=60) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


class Prometheus:
    """The real one, with the alerts as they are shipped; it looks every second.

    :param targets: ports of daemons
    """

    def __init__(self, folder: Path, *targets: int) -> None:
        folder.mkdir()
        places = ", ".join(f'"{HOST}:{port}"' for port in targets)
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
            f"rule_files: [{ALERTS}]\n"
            f"scrape_configs: [{{job_name: stackmend, static_configs: [{{targets: [{places}]}}]}}]\n"
        )
        self._port = free_port()
        self._process = Process(
            [
                packages.find("prometheus", "prometheus"),
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={HOST}:{self._port}",
            ],
            clean_environment(),
            folder / "prometheus.log",
        )

    def firing(self) -> set[tuple[str, str]]:
        """Alerts that fire, each with its handler."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self._port}/api/v1/alerts", timeout=30) as answer:
                alerts: list[dict[str, Any]] = json.load(answer)["data"]["alerts"]
        except OSError:
            return set()
        return {
            (alert["labels"]["alertname"], alert["labels"].get("handler", ""))
            for alert in alerts
            if alert["state"] == "firing"
        }

    def stop(self) -> None:
        self._process.kill()


@pytest.fixture
def auditor(cloud: ControlPlane) -> Account:
    """An account that may only read in the databases."""
    return cloud.add_account(Mode.AUDIT, "auditor")


@pytest.fixture(scope="module")
def newcomer(cloud: ControlPlane) -> Iterator[str]:
    """A host that was added."""
    host = "compute-new"
    cloud.add_compute(host, "cell2")
    cloud.wait_for_compute(host, timeout=PATIENCE)
    yield host
    forget(cloud, host)


@pytest.fixture
def unmapped(cloud: ControlPlane, newcomer: str) -> str:
    """It, while nobody has mapped it and no notification tells of it: only a sweep finds it."""
    cloud.mariadb.execute(f"DELETE FROM host_mappings WHERE host = '{newcomer}'", "nova_api")
    # nova-manage passes over nodes that it has marked once
    cloud.mariadb.execute(f"UPDATE compute_nodes SET mapped = 0 WHERE host = '{newcomer}'", "nova_cell2")
    drift.forget_notifications(cloud)
    return newcomer


def forget(cloud: ControlPlane, host: str) -> None:
    cloud.discover_hosts()  # Nova's API deletes no service of a host that it cannot find
    cloud.remove_compute(host)
    for service in cloud.admin.compute.services(binary="nova-compute", host=host):
        cloud.admin.compute.delete_service(service)


@pytest.mark.timeout(1200)
def test_an_account_that_may_only_read_is_enough_to_audit(
    cloud: ControlPlane, auditor: Account, unmapped: str, tmp_path: Path
) -> None:
    tasks = [handler.name for handler in plugins.handlers() if handler.group == "audit"]
    options = merge(auditor.options(), {"audit": {f"{task}_mode": "audit" for task in tasks}})
    with Program(tmp_path / "auditor", options) as program:
        found = checks(program)
        assert {name: line for name, line in found.items() if line[0] == "failure"} == {}
        for name in ("nova_api", "cell:cell0", "cell:cell1", "cell:cell2"):
            assert found[f"{name}: rights"] == (
                "ok",
                "the account has what the handlers need, and nothing that none needs",
            )
        before = drift.dump(cloud)
        audit = program.run("sweep", "-f", "json")
        assert audit.returncode == 2, audit.stdout + audit.stderr
        assert [(line["handler"], line["key"]) for line in json.loads(audit.stdout)] == [
            ("discover_hosts", f"host:{unmapped}")
        ]
        refused = program.run("heal", "discover_hosts", f"host:{unmapped}")
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "denied" in refused.stdout + refused.stderr
        assert drift.dump(cloud) == before


@pytest.mark.timeout(1200)
def test_from_the_check_to_the_first_heal(cloud: ControlPlane, unmapped: str, tmp_path: Path) -> None:
    with Program(tmp_path / "first", cloud.account.options()) as program:
        # install.rst
        found = checks(program)
        assert {name: line for name, line in found.items() if line[0] == "failure"} == {}
        for name in ("nova: roles", "nova_api: rights", "cell:cell1: rights", "cell:cell0: rights"):
            assert found[name][0] == "ok", found[name]

        # first-audit.rst
        audit = program.run(*said("first-audit.rst", "sweep --audit").split()[1:])
        assert audit.returncode == 2, audit.stdout + audit.stderr
        assert f"host:{unmapped}" in audit.stdout
        inspect, heal, show = (
            said("first-audit.rst", words).replace("compute-7", unmapped).split()[1:]
            for words in ("inspect discover_hosts", "heal discover_hosts", "history show")
        )
        assert "host-unmapped" in program.run(*inspect).stdout
        assert drift.mapped_hosts(cloud).get(unmapped) is None
        healed = program.run(*heal)
        assert healed.returncode == 0, healed.stdout + healed.stderr
        assert drift.mapped_hosts(cloud)[unmapped] == "cell2"
        assert "delete_host --cell_uuid" in program.run(*show).stdout


@pytest.fixture
def shared_journal(cloud: ControlPlane) -> Iterator[dict[str, object]]:
    """The journal of replicas.rst, and the options that lead there."""
    with journal_of_replicas(cloud) as options:
        yield options


@pytest.mark.timeout(1800)
def test_two_replicas_and_an_alert(
    cloud: ControlPlane, unmapped: str, shared_journal: dict[str, object], tmp_path: Path
) -> None:
    with ExitStack() as last:
        ports = (free_port(), free_port())
        replicas = []
        for name, port in zip("ab", ports, strict=True):
            # a breaker for which one host is too many
            engine: dict[str, object] = {"breaker_count": 0, "breaker_percent": 0, "lease_seconds": 5}
            ours: dict[str, dict[str, object]] = {"journal": shared_journal, "status": {"port": port}, "engine": engine}
            replicas.append(last.enter_context(Program(tmp_path / name, merge(cloud.account.options(), ours))))
        upgraded = replicas[0].run(*said("replicas.rst", "stackmend db upgrade").split()[1:])
        assert upgraded.returncode == 0, upgraded.stdout + upgraded.stderr
        for replica in replicas:
            replica.start()
        prometheus = Prometheus(tmp_path / "prometheus", *ports)
        last.callback(prometheus.stop)
        alert = ("StackmendBreaker", "discover_hosts")
        wait_until(lambda: alert in prometheus.firing(), PATIENCE, f"the alert; see {replicas[0].log}")
        wait_until(lambda: "stackmend_replicas 2.0" in metrics(ports[1]), PATIENCE, "the second replica")
        assert "2 daemons run" in checks(replicas[1])["journal"][1]

        # runbook.rst: "Not real: repair the cause"
        (line,) = (line for line in replicas[0].json("handler", "list") if line["name"] == "discover_hosts")
        assert line["state"].startswith("stopped: ")
        assert drift.mapped_hosts(cloud).get(unmapped) is None, "nothing was healed"
        cloud.discover_hosts()
        resumed = replicas[1].run("handler", "resume", "discover_hosts")
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        wait_until(lambda: alert not in prometheus.firing(), PATIENCE, "the end of the alert")

        # one replica dies, the other one goes on
        replicas[0].kill()
        cloud.add_compute("compute-newer", "cell1")
        wait_until(lambda: drift.mapped_hosts(cloud).get("compute-newer") == "cell1", PATIENCE, "the mapping")
        cloud.wait_for_compute("compute-newer", timeout=PATIENCE)
        forget(cloud, "compute-newer")
