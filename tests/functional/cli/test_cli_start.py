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


def imported(script: str, *arguments: str) -> set[str]:
    """Run a script in a new process; return the names of its modules."""
    root = Path(__file__).parents[3]
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    return set(ran.stderr.splitlines()[-1].split())


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


def test_a_thread_that_asked_a_broker_ends(configuration: str) -> None:
    """The import of eventlet replaces the lock that tells of a thread's end."""
    assert "eventlet" in imported(ASKS_A_BROKER_IN_A_THREAD, configuration.removeprefix("--config-file="))


def test_the_library_of_rabbitmq_imports_no_resolver_of_eventlet() -> None:
    modules = imported(MESSAGING)
    assert "oslo_messaging" in modules
    assert "dns" not in modules
