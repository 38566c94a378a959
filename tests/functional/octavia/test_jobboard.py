"""A jobboard that cannot be read proves nothing, and no default value stands in for a missing one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Self

import pytest

from handlers.access.service_files import ConfigError, ServiceFiles
from handlers.octavia.jobboard import chosen
from handlers.octavia.jobboard.board import UnreadableBoard
from handlers.octavia.jobboard.chosen import board_of
from handlers.octavia.jobboard.in_redis import RedisBoard

HOSTS = "jobboard_backend_hosts = redis-1, redis-2\n"


def files(folder: Path, *lines: str) -> ServiceFiles:
    (folder / "octavia.conf").write_text("\n".join(("[task_flow]", *lines)) + "\n")
    return ServiceFiles("[octavia] config_file", [str(folder / "octavia.conf")])


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ((), "host of Octavia's jobboard is unknown"),
        (("jobboard_backend_hosts = ,",), "host of Octavia's jobboard is unknown"),
        (("jobboard_backend_driver = zookeeper_taskflow_driver",), "host of Octavia's jobboard is unknown"),
        (("jobboard_backend_driver = etcd_taskflow_driver",), "host of Octavia's jobboard is unknown"),
        ((HOSTS, "jobboard_backend_driver = a_later_driver"), "of the driver a_later_driver"),
    ],
)
def test_a_board_that_stackmend_cannot_read_is_refused(tmp_path: Path, lines: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UnreadableBoard, match=reason):
        board_of(files(tmp_path, *lines))


@pytest.mark.parametrize(
    ("package", "driver"), [("redis", "redis"), ("msgpack", "redis"), ("kazoo", "zookeeper"), ("etcd3gw", "etcd")]
)
def test_without_the_extra_the_board_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, driver: str
) -> None:
    monkeypatch.setattr(chosen, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(UnreadableBoard, match=r"install stackmend\[jobboard\]"):
        board_of(files(tmp_path, HOSTS, f"jobboard_backend_driver = {driver}_taskflow_driver"))


@pytest.mark.parametrize("driver", ["redis", "zookeeper", "etcd"])
def test_the_packages_are_imported_only_where_a_board_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    for package in ("redis", "msgpack", "kazoo", "etcd3gw"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(chosen, "find_spec", lambda _name: object())
    board_of(files(tmp_path, HOSTS, f"jobboard_backend_driver = {driver}_taskflow_driver"))


@pytest.mark.parametrize(
    "line",
    [
        "jobboard_backend_port = 63x9",
        "jobboard_redis_backend_db = one",
        "jobboard_redis_backend_ssl_options = ssl",
        "jobboard_redis_backend_ssl_options = ssl:ture",
        "jobboard_zookeeper_ssl_options = use_ssl:true,verify_certs:ture\njobboard_backend_driver = zookeeper_taskflow_driver",
        "jobboard_etcd_timeout = long\njobboard_backend_driver = etcd_taskflow_driver",
    ],
)
def test_a_malformed_value_is_an_error_without_the_password(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=line.split(maxsplit=1)[0]) as raised:
        board_of(files(tmp_path, HOSTS, "jobboard_backend_password = secret", line))
    assert "secret" not in str(raised.value)


class Server:
    """A client of Redis with these keys."""

    def __init__(self, role: str = "master", **keys: Any) -> None:
        self._role = role
        self._keys = keys

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def info(self, _section: str) -> dict[str, str]:
        return {"role": self._role}

    def get(self, name: str) -> Any:
        return self._keys.get(name.partition(":")[2])

    def hgetall(self, name: str) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = self._keys.get(name.partition(":")[2], {})
        return found


def board(*arguments: Any, **keys: Any) -> RedisBoard:
    return RedisBoard(lambda: Server(*arguments, **keys), "octavia_jobboard")


def test_an_empty_board_proves_something_only_if_jobs_were_posted_there() -> None:
    assert board(sequence=b"7").job_of({"lb"}) == ""
    assert "no job was ever posted" in board().job_of({"lb"})
    assert "is a slave" in board("slave", sequence=b"7").job_of({"lb"})


@pytest.mark.parametrize("posting", [b"", b"\xc1", b"\x80", b"\x93\x01\x02\x03", b"{}"])
def test_a_posting_of_another_form_counts_for_every_object(posting: bytes) -> None:
    assert "cannot decode" in board(sequence=b"7", listings={b"key": posting}).job_of({"lb"})


def test_a_posting_of_another_form_that_names_the_object_is_its_job() -> None:
    assert "its job" in board(sequence=b"7", listings={b"key": b"\xc1 lb"}).job_of({"lb"})


def test_the_text_of_a_job_shows_no_details() -> None:
    (job,) = board(sequence=b"7", listings={b"key": b"secret"}).jobs()
    assert "secret" not in f"{job} {job!r}"
