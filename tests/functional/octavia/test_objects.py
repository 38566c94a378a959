"""The objects that an exemption names, in Octavia's database."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from oslo_config import cfg

from handlers.base import Resources
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.objects import OBJECTS
from tests.functional.octavia.world import House

NOBODY = str(uuid.uuid4())


@pytest.fixture
def knows(house: House) -> Callable[[str, str], bool]:
    class Opened(Resources):
        def get(self, make: object) -> object:  # type: ignore[override]
            assert make == OctaviaDatabase.from_resources
            return house.database

    resources = Opened(cfg.ConfigOpts())

    def look(kind: str, identity: str) -> bool:
        [exists] = [one.exists for one in OBJECTS if one.kind == kind]
        assert exists is not None
        return exists(resources, identity)

    return look


def test_octavia_knows_its_load_balancers_amphorae_and_their_projects(
    house: House, knows: Callable[[str, str], bool]
) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    assert knows("load-balancer", balancer)
    assert knows("amphora", house.rows(balancer)[0].id)
    project = house.balancer(balancer).project_id
    assert project
    assert knows("project", project)
    for kind in ("load-balancer", "amphora", "project"):
        assert not knows(kind, NOBODY)
