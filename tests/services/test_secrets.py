"""Passwords are planted wherever one can stand, everything is made to fail, and all that is written is searched for them."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.program import Options, Program, only
from tests.servers.mariadb import MariaDB
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.server import HOST, free_port
from tests.waiting import eventually

#: what each planted password begins with; the rest tells where it was planted
MARK = "Hemlig"

COMMANDS = (
    ("check",),
    ("--debug", "check", "-f", "json"),
    ("--debug", "sweep", "discover_hosts"),
    ("--debug", "inspect", "discover_hosts", "host:compute-1"),
    ("--debug", "heal", "sync_aggregates", "aggregate:9f1c2f4e-7f0e-4b64-9c64-0a0b1f0a7a11"),
    ("--debug", "amphora", "preserved", "list"),
    ("--debug", "handler", "list"),
    ("--debug", "work", "list", "-f", "json"),
    ("--debug", "history", "-f", "json"),
    ("--debug", "db", "version"),
)


def secret(place: str) -> str:
    return f"{MARK}{place}Pw"


def configuration(folder: Path, broker: str, database: str, api: str) -> dict[str, dict[str, object]]:
    """Return options of stackmend, and write nova.conf, with a password of its own in each place.

    :param broker: hosts and virtual host of a transport URL, with ``{}`` for each user's password
    :param database: host and database of a URL
    :param api: where Keystone and Placement are said to be
    """
    nova, octavia = folder / "nova.conf", folder / "octavia.conf"
    words = iter(f"BrokerNova{number}" for number in range(9))
    hosts = broker
    while "{}" in hosts:
        hosts = hosts.replace("{}", secret(next(words)), 1)
    nova.write_text(
        f"[DEFAULT]\ntransport_url = rabbit://{hosts}\n"
        f"[api_database]\nconnection = mysql+pymysql://nova:{secret('Api')}@{database}\n"
        f"[database]\nconnection = mysql+pymysql://nova:{secret('Cell')}@{database}\n"
        "[oslo_messaging_notifications]\ndriver = messagingv2\n"
        f"[placement]\nauth_type = password\nauth_url = {api}\nusername = placement\npassword = {secret('Placement')}\n"
        "project_name = service\nuser_domain_name = Default\nproject_domain_name = Default\n"
    )
    octavia.write_text(
        f"[DEFAULT]\ntransport_url = rabbit://{hosts.replace('Nova', 'Octavia')}\n"
        f"[database]\nconnection = mysql+pymysql://octavia:{secret('Octavia')}@{database}\n"
        f"[service_auth]\nauth_type = password\nauth_url = {api}\nusername = octavia\npassword = {secret('Service')}\n"
        "project_name = service\nuser_domain_name = Default\nproject_domain_name = Default\n"
    )
    return {
        "DEFAULT": {"debug": True},
        "nova": {"config_file": nova},
        "octavia": {"config_file": octavia},
        "engine": {"poll_seconds": 0.2},
        "audit": only("discover_hosts", "sync_aggregates"),
        "status": {"port": free_port(), "page": True},
    }


def fetch(port: object, path: str) -> str:
    """Return the body of the daemon's answer with any code; empty while it does not listen."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=30) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return str(error.read().decode())
    except OSError:
        return ""


def everything_written(folder: Path, options: Options, ready: Callable[[str], bool]) -> dict[str, str]:
    """Run every command and the daemon; return all texts, by what they are from.

    :param ready: whether the daemon has failed often enough, by its log
    """
    with Program(folder / "stackmend", options) as program:
        program.start("--debug")
        port, log = options["status"]["port"], program.log
        eventually(lambda: bool(fetch(port, "/healthz")) or not program.running, 120, "listening, or the end")
        eventually(lambda: ready(log.read_text()) or not program.running, 120, f"failures in {log}")
        found = {path: fetch(port, path) for path in ("/metrics", "/", "/healthz", "/readyz")}
        assert all(found.values()) or not program.running
        for command in COMMANDS:
            done = program.run(*command)
            found[" ".join(command)] = done.stdout + done.stderr
        program.stop()
        found["the log"] = program.log.read_text()
        for file in (program.folder).glob("journal.sqlite*"):
            found[file.name] = file.read_bytes().decode("latin-1")
    return found


def assert_no_secret(found: dict[str, str]) -> None:
    assert {place: text[max(0, text.index(MARK) - 300) :][:400] for place, text in found.items() if MARK in text} == {}


@pytest.mark.slow
def test_where_everybody_refuses_us(tmp_path: Path, rabbitmq: RabbitMQ, mariadb: MariaDB) -> None:
    rabbitmq.start()
    mariadb.start()
    brokers = f"one:{{}}@{HOST}:{rabbitmq.port},two:{{}}@{HOST}:{rabbitmq.port}/"
    options = configuration(tmp_path, brokers, f"{HOST}:{mariadb.port}/nova_api", f"http://{HOST}:1/v3")
    found = everything_written(tmp_path, options, lambda log: "Access denied" in log)
    assert "Access denied" in found["check"]
    assert "broker nova" in found["check"]
    assert_no_secret(found)


@pytest.mark.slow
def test_a_service_that_does_not_answer(tmp_path: Path) -> None:
    away = f"{HOST}:{free_port()}"
    options = configuration(tmp_path, f"one:{{}}@{away},two:{{}}@{away}/", f"{away}/nova_api", f"http://{away}/v3")
    found = everything_written(tmp_path, options, lambda log: "refused" in log)
    assert_no_secret(found)


@pytest.mark.parametrize("spoil", ["a port that is none", "no scheme", "a password with signs"])
def test_where_urls_are_wrong(tmp_path: Path, spoil: str) -> None:
    away = f"{HOST}:{free_port()}"
    options = configuration(tmp_path, f"one:{{}}@{away},two:{{}}@{away}/", f"{away}/nova_api", f"http://{away}/v3")
    for name in ("nova.conf", "octavia.conf"):
        file = tmp_path / name
        text = file.read_text()
        file.write_text(
            {
                "a port that is none": text.replace(away, f"{HOST}:port"),
                "no scheme": text.replace("rabbit://", "").replace("mysql+pymysql://", ""),
                "a password with signs": text.replace("Pw@", "Pw#/:?@"),
            }[spoil]
        )
    options["journal"] = {"connection": f"mysql+pymysql://stackmend:{secret('Journal')}#/?@{away}/journal"}
    assert_no_secret(everything_written(tmp_path, options, bool))


def test_where_files_are_wrong(tmp_path: Path) -> None:
    away = f"{HOST}:{free_port()}"
    options = configuration(tmp_path, f"one:{{}}@{away}/", f"{away}/nova_api", f"http://{away}/v3")
    nova = tmp_path / "nova.conf"
    nova.write_text(nova.read_text() + f"\n{secret('Alone')}\n")
    options["openstack"] = {"auth_type": "admin_token", "endpoint": f"http://{away}", "token": secret("Token")}
    found = everything_written(tmp_path, options, bool)
    assert f"{nova}, whose line" in found["--debug check -f json"]
    assert_no_secret(found)


def test_where_the_options_are_our_own(tmp_path: Path) -> None:
    away = f"{HOST}:{free_port()}"
    options = configuration(tmp_path, f"one:{{}}@{away}/", f"{away}/nova_api", f"http://{away}/v3")
    options["nova"]["api_database_connection"] = f"mysql+pymysql://nova:{secret('Option')}@{away}/nova_api"
    options["nova"]["transport_url"] = f"rabbit://one:{secret('OptionBroker')}@{away}/"
    options["openstack"] = {
        "auth_type": "password",
        "auth_url": f"http://{away}/v3",
        "username": "stackmend",
        "password": secret("Keystone"),
    }
    found = everything_written(tmp_path, options, lambda log: "refused" in log)
    assert_no_secret(found)
