"""A command imports only the libraries that it needs, because imports take most of the CPU time of a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import sys
from consumer.cli.main import stackmend
code = stackmend(sys.argv[1:])
sys.stdout.flush()
sys.stderr.write("\\n" + " ".join(sys.modules))
sys.exit(code == 1)
"""
MESSAGING = "import sys, consumer.messaging; sys.stderr.write(' '.join(sys.modules))"

ASKS_A_BROKER_IN_A_THREAD = """
import sys
from concurrent.futures import ThreadPoolExecutor
from consumer import conf
from consumer.bus import probe
from handlers.base import Broker, Unavailable
read = probe.bus(conf.load_machine(sys.argv[1:], [])).queues(Broker("octavia", "rabbit://u:p@127.0.0.1:1/", ()))
with ThreadPoolExecutor(2) as threads:
    [asked] = [threads.submit(read, "requests")]
assert isinstance(asked.exception(), Unavailable), asked.exception()
sys.stderr.write("\\n" + " ".join(sys.modules))
"""

RABBITMQ = {"amqp", "eventlet", "kombu", "oslo_messaging", "oslo_service"}
APIS = {"keystoneauth1", "requests"}
OUTPUT = {"jinja2", "prometheus_client", "rich"}
HANDLERS = {"handlers.access", "handlers.nova", "handlers.octavia"}


def run(script: str, *arguments: str, check: bool = True) -> list[str]:
    """Run a script in a new process; return the lines on stderr."""
    root = Path(__file__).parents[3]
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=root, capture_output=True, text=True, check=check, timeout=60
    )
    return ran.stderr.splitlines()


def imported(script: str, *arguments: str, check: bool = True) -> set[str]:
    """Run a script in a new process; return the names of its modules."""
    return set(run(script, *arguments, check=check)[-1].split())


@pytest.fixture
def configuration(tmp_path: Path) -> str:
    conf = tmp_path / "stackmend.conf"
    conf.write_text(f"[journal]\nconnection = sqlite:///{tmp_path}/journal.sqlite\n")
    return f"--config-file={conf}"


@pytest.mark.parametrize(
    "command", ["history", "work list", "work asks", "dead list", "exempt list", "db upgrade", "db version"]
)
def test_a_command_for_the_journal_imports_no_library_of_the_cloud(configuration: str, command: str) -> None:
    modules = imported(COMMAND, configuration, *command.split())
    assert "sqlalchemy" in modules
    assert not modules & (RABBITMQ | APIS | OUTPUT | HANDLERS)


@pytest.mark.parametrize("command", ["handler list", "inspect discover_hosts --help"])
def test_a_command_for_handlers_imports_no_library_of_rabbitmq(configuration: str, command: str) -> None:
    assert not imported(COMMAND, configuration, *command.split()) & (RABBITMQ | OUTPUT)


def test_the_list_of_commands_imports_no_command(configuration: str) -> None:
    modules = imported(COMMAND, "--help")
    assert not modules & (RABBITMQ | APIS | OUTPUT | HANDLERS | {"sqlalchemy", "consumer.cli.sweep"})


#: The databases do not answer, so a sweep ends as it begins its work.
SERVICES = """
[nova]
api_database_connection = sqlite:////nowhere/nova_api.sqlite
[octavia]
database_connection = sqlite:////nowhere/octavia.sqlite
project_id = services
[openstack]
auth_type = none
endpoint = http://127.0.0.1:1
"""


@pytest.mark.parametrize("command", ["sweep --audit {}", "inspect {} x", "handler pause {}"])
@pytest.mark.parametrize(
    ("name", "module", "other"),
    [
        ("discover_hosts", "handlers.nova.hosts.discover_hosts", "handlers.octavia."),
        ("failed_amphora", "handlers.octavia.failover.failed_amphora", "handlers.nova."),
    ],
)
def test_a_command_for_one_handler_imports_no_handler_of_another_service(
    configuration: str, tmp_path: Path, command: str, name: str, module: str, other: str
) -> None:
    conf = tmp_path / "stackmend.conf"
    conf.write_text(conf.read_text() + SERVICES + "[audit]\naudit_ports_mode = off\n")
    modules = imported(COMMAND, configuration, *command.format(name).split(), check=False)
    assert module in modules
    shared = {"handlers.octavia.options"}
    assert [one for one in modules - shared if one.startswith((other, "handlers.nova.ports"))] == []


@pytest.mark.parametrize(
    ("line", "remarks"),
    [
        ("audit_ports_mode = off", []),
        ("discover_hosts_mod = off", ["[audit] discover_hosts_mod has no effect; did you mean discover_hosts_mode?"]),
        ("audit_prots_mode = off", ["[audit] audit_prots_mode has no effect; did you mean audit_ports_mode?"]),
    ],
)
def test_a_command_for_one_handler_knows_the_options_of_all(
    configuration: str, tmp_path: Path, line: str, remarks: list[str]
) -> None:
    conf = tmp_path / "stackmend.conf"
    conf.write_text(f"{conf.read_text()}{SERVICES}[audit]\n{line}\n")
    stderr = run(COMMAND, configuration, "sweep", "--audit", "discover_hosts", check=False)[:-1]
    found = [one.removeprefix("stackmend: ") for one in stderr if "has no effect" in one]
    found = [one.replace(f" in {conf}", "").replace(", because it is unknown", "") for one in found]
    assert found == remarks


def test_a_thread_that_asked_a_broker_ends(configuration: str) -> None:
    """The import of eventlet replaces the lock that tells of a thread's end."""
    assert "eventlet" in imported(ASKS_A_BROKER_IN_A_THREAD, configuration.removeprefix("--config-file="))


def test_the_library_of_rabbitmq_imports_no_resolver_of_eventlet() -> None:
    modules = imported(MESSAGING)
    assert "oslo_messaging" in modules
    assert "dns" not in modules
