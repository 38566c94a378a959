"""A driver of another package is found by its entry point, and the handlers work with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.access.service_files import ConfigError
from handlers.base import Key, Resources
from handlers.octavia import queries
from handlers.octavia.drivers.chosen import ENTRY_POINTS, chosen_driver
from handlers.octavia.drivers.noop import NoopDriver
from handlers.octavia.drivers.openstack import OpenStackDriver
from handlers.octavia.failover.failed_amphora import FailedAmphora
from handlers.testing import configured, heal_all

MODULE = """
from handlers.octavia.drivers.noop import NoopDriver

class Driver(NoopDriver):
    def project(self):
        return "octavia-project"

NOT_A_DRIVER = dict
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package of three drivers, of which one can be used."""
    site = tmp_path / "site"
    info = site / "acme_amphorae-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "acme_amphorae.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-amphorae\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{ENTRY_POINTS}]\nacme = acme_amphorae:Driver\nwrong = acme_amphorae:NOT_A_DRIVER\nlost = acme_amphorae:LOST\n"
    )
    monkeypatch.syspath_prepend(str(site))


def resources(folder: Path, driver: str) -> Resources:
    url = f"sqlite:///{folder}/octavia.sqlite"
    options: dict[str, dict[str, object]] = {
        "octavia": {"database_connection": url},
        "housekeeping": {"driver": driver},
    }
    return configured(FailedAmphora, options, folder)


@pytest.mark.usefixtures("package")
def test_a_handler_works_with_the_driver_of_another_package(tmp_path: Path) -> None:
    made = resources(tmp_path, "acme")
    driver = made.get(chosen_driver)
    assert isinstance(driver, NoopDriver)
    assert type(driver).__module__ == "acme_amphorae"
    driver.octavia.add_load_balancer()
    failed = driver.cloud.servers()[0]
    driver.cloud.delete_server(failed.id)
    handler = FailedAmphora.from_resources(made)
    (amphora,) = [row.id for row in driver.database.run(queries.amphorae)]
    assert heal_all(handler, [Key("amphora", amphora)])
    assert [server.id for server in driver.cloud.servers()] != [failed.id]
    made.close()


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("driver", "words"),
    [
        ("none", "the installed drivers are acme, lost, noop, openstack, wrong"),
        ("wrong", "is not a subclass"),
        ("lost", "cannot be loaded"),
    ],
)
def test_a_driver_that_cannot_be_used_is_an_error_that_names_it(tmp_path: Path, driver: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        resources(tmp_path, driver).get(chosen_driver)
    assert f"driver = {driver}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "current"),
    [("spare_pool_size", "spare_amphora_pool_size"), ("preservation_count", "maximum_preserved_amphora_count")],
)
def test_the_other_names_of_the_specification_are_deprecated_names(tmp_path: Path, name: str, current: str) -> None:
    """The specification has two names for each; oslo.config logs a warning for the deprecated one."""
    url = f"sqlite:///{tmp_path}/octavia.sqlite"
    options: dict[str, dict[str, object]] = {"octavia": {"database_connection": url}, "housekeeping": {name: 3}}
    conf = configured(FailedAmphora, options, tmp_path).conf
    assert conf.housekeeping[current] == 3


def spares(folder: Path, **options: object) -> Resources:
    """Return a configuration with the driver for a real cloud and one spare in each pool."""
    groups: dict[str, dict[str, object]] = {
        "octavia": {
            "database_connection": f"sqlite:///{folder}/octavia.sqlite",
            "project_id": "octavia-project",
            "amp_image_tag": "amphora",
        },
        "openstack": {
            "auth_type": "password",
            "auth_url": "http://192.0.2.1:5000/v3",
            "username": "stackmend",
            "password": "secret",
            "project_name": "admin",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        },
        "housekeeping": {"driver": "openstack", "spare_amphora_pool_size": 1, **options},
    }
    return configured(FailedAmphora, groups, folder)


def test_the_flavors_of_the_pools_replace_octavias_own(tmp_path: Path) -> None:
    assert isinstance(spares(tmp_path, spare_amphora_flavors="small,large").get(chosen_driver), OpenStackDriver)


def test_spares_without_a_flavor_are_an_error_that_names_both_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"amp_flavor_id.*spare_amphora_flavors"):
        spares(tmp_path).get(chosen_driver)
