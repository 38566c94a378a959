"""Files that options name: a FIFO, a device, a socket or a directory is refused. None of them blocks a reader."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oslo_config import cfg

from consumer import conf as configuration
from consumer.bus import connection
from consumer.conf.bus import BusSettings, UnusableURL
from consumer.conf.webhooks import WrongTemplate
from consumer.engine.holds import Board, Source
from consumer.engine.holds.files import hold_file, hosts_file
from consumer.engine.webhooks.message import Renderer
from consumer.journal.database import open_engine
from consumer.journal.errors import WrongJournal
from handlers.access import cloud_options
from handlers.access.cloud import Cloud
from handlers.access.database import Database
from handlers.access.service_files import ConfigError, ServiceFiles
from handlers.base import Hold, Resources, irregular, read_file
from handlers.checks import jobs

pytestmark = pytest.mark.timeout(60)

FIFO = "a FIFO, not a regular file"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS: dict[str, Callable[[Path], None]] = {
    "a FIFO": fifo,
    "a directory": directory,
    "a socket": listening,
    "a device": device,
}


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.fixture(params=KINDS)
def special(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    path = Path("special")
    KINDS[request.param](path)
    return path, f"{request.param}, not a regular file"


def test_only_regular_files_are_read(special: tuple[Path, str], tmp_path: Path) -> None:
    path, reason = special
    with pytest.raises(OSError, match=reason):
        read_file(path)
    assert irregular(path) == reason
    (tmp_path / "regular").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "regular")
    assert read_file(tmp_path / "link") == b"x"
    assert irregular(tmp_path / "link") == irregular(tmp_path / "none") == ""
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none")


@pytest.mark.parametrize("read", [hold_file, hosts_file])
def test_a_source_of_holds_that_is_no_regular_file_holds_everything(
    special: tuple[Path, str], read: Callable[[Path], Iterator[Hold]]
) -> None:
    path, reason = special
    board = Board([Source("[engine] hold_file", lambda: read(path))])
    board.refresh()
    [standing] = board.standing()
    assert (standing.hold.scope, standing.readable) == ("all", False)
    assert reason in standing.hold.reason


def test_a_template_of_a_webhook(pipe: Path) -> None:
    with pytest.raises(WrongTemplate, match=FIFO):
        Renderer(str(pipe))


def test_the_configuration_of_a_service(pipe: Path) -> None:
    with pytest.raises(ConfigError, match=rf"\[nova\] config_file names {pipe}: this is {FIFO}"):
        ServiceFiles("[nova] config_file", [str(pipe)])


def test_the_configuration_of_stackmend(pipe: Path, tmp_path: Path) -> None:
    with pytest.raises(configuration.WrongConfiguration, match=FIFO):
        configuration.load_machine([str(pipe)])
    folder = tmp_path / "conf.d"
    folder.mkdir()
    os.mkfifo(folder / "more.conf")
    with pytest.raises(configuration.WrongConfiguration, match=f"more.conf is {FIFO}"):
        configuration.load_machine([os.devnull], [str(folder)])
    (folder / "more.conf").unlink()
    assert configuration.load_machine([os.devnull], [str(folder)]).engine.hold_file is None


@pytest.mark.parametrize("option", ["ssl_ca", "ssl_key", "sslrootcert", "passfile"])
@pytest.mark.parametrize("scheme", ["mysql+pymysql", "postgresql+psycopg"])
def test_the_files_of_a_databases_url(pipe: Path, scheme: str, option: str) -> None:
    url = f"{scheme}://u:secret@127.0.0.1:1/x?{option}={pipe}"
    with pytest.raises(WrongJournal, match=rf"\[journal\] connection cannot be used: {option} = {pipe} is {FIFO}"):
        open_engine(url)
    with pytest.raises(ConfigError, match=f"the URL of nova_api cannot be used: {option} = {pipe} is {FIFO}"):
        Database("nova_api", url)


@pytest.mark.parametrize("option", ["ssl_ca_file", "ssl_cert_file", "ssl_key_file"])
def test_the_files_of_tls_to_rabbitmq(pipe: Path, option: str) -> None:
    url = f"rabbit://u:p@127.0.0.1:1/?ssl=true&{option}={pipe}"
    with pytest.raises(UnusableURL, match=re.escape(f"[oslo_messaging_rabbit] {option} = {pipe} is {FIFO}")):
        connection.plan(url, BusSettings())


def test_the_authorities_of_a_collector_of_traces(pipe: Path, tmp_path: Path) -> None:
    file = tmp_path / "stackmend.conf"
    file.write_text(f"[tracing]\nendpoint = https://collector:4318\ncafile = {pipe}\n")
    with pytest.raises(configuration.WrongConfiguration, match=re.escape(f"[tracing] cafile = {pipe} is {FIFO}")):
        configuration.load_machine([str(file)])


@pytest.mark.parametrize("option", ["cafile", "certfile", "keyfile"])
def test_the_certificates_for_apis(pipe: Path, tmp_path: Path, option: str) -> None:
    files = {"certfile": tmp_path / "regular", "keyfile": tmp_path / "regular", option: pipe}
    file = tmp_path / "stackmend.conf"
    file.write_text(
        "[openstack]\nauth_type = v3password\nauth_url = https://127.0.0.1:1\nusername = mender\npassword = m\n"
        "user_domain_name = Default\nproject_name = service\nproject_domain_name = Default\n"
        + "".join(f"{name} = {path}\n" for name, path in files.items())
    )
    conf = cfg.ConfigOpts()
    conf.register_opts(cloud_options.OPTIONS, cloud_options.GROUP)
    conf([], default_config_files=[str(file)], default_config_dirs=[])
    with pytest.raises(ConfigError, match=f"{pipe} is {FIFO}"):
        Cloud.from_resources(Resources(conf))


def test_a_job_of_cron_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "etc/cron.d").mkdir(parents=True)
    os.mkfifo(tmp_path / "etc/cron.d/pipe")
    (tmp_path / "etc/cron.d/nova").write_text("* * * * * nova nova-manage cell_v2 discover_hosts\n")
    assert [job.place.rpartition("/")[2] for job in jobs.jobs(re.compile("nova-manage"), tmp_path)] == ["nova:1"]
