"""pytest plugin: the private servers as fixtures. Load it with ``-p tests.servers.fixtures``.

A server starts when the first test asks for it and ends with the session. A test that stops one
should start it again; one that is found down is started for the next test that asks for a fresh
virtual host or database.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from tests.servers.etcd import Etcd
from tests.servers.keeper import keeper
from tests.servers.mariadb import MariaDB
from tests.servers.packages import Missing
from tests.servers.postgresql import PostgreSQL
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.servers.zookeeper import ZooKeeper


class Startable(Protocol):
    """A server or a cluster."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


S = TypeVar("S", bound=Startable)


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """A folder with a short path (for sockets) that other users may enter (for PostgreSQL)."""
    folder = Path(tempfile.mkdtemp(prefix="stackmend-"))
    folder.chmod(0o711)
    keeper.watch_folder(folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
    keeper.keep_folder(folder)


def serve(make: Callable[[Path], S], folder: Path) -> Iterator[S]:
    """Start what ``make`` returns for a folder, and stop it afterwards."""
    try:
        server = make(folder)
    except Missing as missing:
        pytest.fail(str(missing), pytrace=False)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def rabbitmq(servers_folder: Path) -> Iterator[RabbitMQ]:
    """A broker for the whole session."""
    yield from serve(RabbitMQ, servers_folder / RabbitMQ.name)


@pytest.fixture(scope="session")
def mariadb(servers_folder: Path) -> Iterator[MariaDB]:
    """A MariaDB server for the whole session."""
    yield from serve(MariaDB, servers_folder / MariaDB.name)


@pytest.fixture(scope="session")
def postgresql(servers_folder: Path) -> Iterator[PostgreSQL]:
    """A PostgreSQL server for the whole session."""
    yield from serve(PostgreSQL, servers_folder / PostgreSQL.name)


@pytest.fixture(scope="session")
def redis(servers_folder: Path) -> Iterator[Redis]:
    """A Redis server for the whole session."""
    yield from serve(Redis, servers_folder / Redis.name)


@pytest.fixture(scope="session")
def zookeeper(servers_folder: Path) -> Iterator[ZooKeeper]:
    """A ZooKeeper server for the whole session."""
    yield from serve(ZooKeeper, servers_folder / ZooKeeper.name)


@pytest.fixture(scope="session")
def etcd(servers_folder: Path) -> Iterator[Etcd]:
    """An etcd server for the whole session."""
    yield from serve(Etcd, servers_folder / Etcd.name)


@pytest.fixture
def vhost(rabbitmq: RabbitMQ) -> str:
    """The address of a fresh virtual host."""
    rabbitmq.start()
    return rabbitmq.url(rabbitmq.fresh_vhost())


def _database(server: MariaDB | PostgreSQL) -> Iterator[str]:
    server.start()
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    yield server.url(name)
    server.start()
    server.drop_database(name)


@pytest.fixture
def mariadb_url(mariadb: MariaDB) -> Iterator[str]:
    """A fresh, empty MariaDB database, as an address for SQLAlchemy."""
    yield from _database(mariadb)


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> Iterator[str]:
    """A fresh, empty PostgreSQL database, as an address for SQLAlchemy."""
    yield from _database(postgresql)
