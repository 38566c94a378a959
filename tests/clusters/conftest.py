"""A Galera cluster of three nodes for the session."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.fixtures import serve
from tests.servers.galera import Galera


@pytest.fixture(scope="session")
def cluster(servers_folder: Path) -> Iterator[Galera]:
    """Yield a cluster; tests may kill its nodes."""
    yield from serve(Galera, servers_folder / "galera")


@pytest.fixture
def galera(cluster: Galera) -> Galera:
    """Return the cluster, with all nodes up."""
    cluster.start()
    return cluster


@pytest.fixture
def database_name(galera: Galera) -> str:
    """Return the name of a new, empty database that every node has."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    galera.nodes[0].create_database(name)
    galera.settle()
    return name
