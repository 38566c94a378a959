"""The Noop driver's world behaves as Octavia's does where the handlers depend on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from oslo_config import cfg

from handlers.access.service_files import ConfigError
from handlers.base import Resources
from handlers.octavia import options
from handlers.octavia.cloud_objects import Port
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.noop import NoopDriver
from handlers.octavia.housekeeping import DeleteFailed, NotFoundError, UnavailableException
from handlers.octavia.settings import HousekeepingSettings
from tests.functional.octavia.world import House

MISSING = "00000000-0000-0000-0000-000000000000"


def test_a_failover_replaces_an_amphora_and_leaves_its_row_behind(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    (old,) = house.serving(balancer)
    house.driver.failover_amphora(old.id)
    (new,) = house.serving(balancer)
    assert house.balancer(balancer).status == "ACTIVE"
    assert new.id != old.id
    assert [server.id for server in house.driver.servers()] == [new.compute_id]
    row = house.amphora(old.id)
    assert (row.status, row.load_balancer_id, row.compute_id) == ("DELETED", balancer, old.compute_id)
    assert {port.name.rpartition("-")[0] for port in house.driver.ports()} >= {f"octavia-lb-vrrp-{new.id[:-13]}"}
    assert not [port for port in house.driver.ports() if old.id in port.name]
    with pytest.raises(NotFoundError):
        house.driver.failover_amphora(old.id)


def test_the_server_of_a_row_without_one_is_left_alone(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    (old,) = house.serving(balancer)
    house.octavia.set_amphora(old.id, status="ERROR", compute_id=None)
    house.driver.failover_amphora(old.id)
    assert house.driver.server(old.compute_id or "") is not None
    assert len(house.driver.servers()) == 2
    assert house.amphora(old.id).status == "DELETED"


def test_a_pair_keeps_its_roles_and_its_hosts_apart(house: House) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    house.driver.failover_load_balancer(balancer)
    assert sorted(row.role or "" for row in house.serving(balancer)) == ["BACKUP", "MASTER"]
    hosts = [server.host for server in house.driver.servers()]
    assert len(hosts) == 2 == len(set(hosts))


def test_a_failover_without_a_host_ends_in_error(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    (old,) = house.serving(balancer)
    house.cloud.room = 0
    house.driver.failover_amphora(old.id)
    assert house.balancer(balancer).status == "ERROR"
    assert house.amphora(old.id).status == "ERROR"
    assert [server.id for server in house.driver.servers()] == [old.compute_id]
    with pytest.raises(UnavailableException):
        house.driver.failover_amphora(old.id)
    house.cloud.room = 9
    house.driver.failover_load_balancer(balancer)
    assert house.balancer(balancer).status == "ACTIVE"
    assert len(house.driver.servers()) == 1


def test_a_held_failover_leaves_the_load_balancer_immutable(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    (old,) = house.serving(balancer)
    house.octavia.pace.held = True
    house.driver.failover_amphora(old.id)
    assert house.balancer(balancer).status == "PENDING_UPDATE"
    with pytest.raises(UnavailableException):
        house.driver.failover_load_balancer(balancer)
    house.octavia.finish()
    assert house.balancer(balancer).status == "ACTIVE"


def test_only_an_amphora_in_error_is_deleted(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    (old,) = house.serving(balancer)
    with pytest.raises(UnavailableException):
        house.driver.delete_amphora(old.id)
    house.octavia.set_amphora(old.id, status="ERROR")
    house.driver.delete_amphora(old.id)
    assert house.amphora(old.id).status == "DELETED"
    assert house.driver.servers() == []
    house.driver.delete_amphora(old.id)


def test_what_nova_refuses_is_refused(house: House) -> None:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    server = row.compute_id or ""
    house.cloud.alter_server(server, status="ERROR")
    vrrp = row.vrrp_port_id or ""
    with pytest.raises(UnavailableException):
        house.driver.detach_port(server, vrrp)
    with pytest.raises(UnavailableException):
        house.driver.create_image(server, "image", {})
    house.driver.stop_server(server)
    assert (found := house.driver.server(server))
    assert found.status == "SHUTOFF"
    for port in house.driver.ports_of(server):
        house.driver.detach_port(server, port.id)
    assert house.driver.ports_of(server) == []
    assert (left := house.driver.port(vrrp))
    assert left.device_id == ""
    assert house.driver.server(MISSING) is None


def test_an_object_that_does_not_exist_is_none_removed_or_not_found(house: House) -> None:
    driver = house.driver
    port = Port(MISSING, "", "", "", "", "", "", True, 1)
    assert [driver.server(MISSING), driver.port(MISSING), driver.image(MISSING)] == [None, None, None]
    assert (list(driver.ports_of(MISSING)), driver.security_group(MISSING)) == ([], None)
    assert not driver.untag_server(MISSING, "tag")
    removals: list[Callable[[], object]] = [
        lambda: driver.delete_server(MISSING),
        lambda: driver.detach_port(MISSING, MISSING),
        lambda: driver.delete_port(port),
        lambda: driver.delete_image(MISSING),
        lambda: driver.delete_server_group(MISSING),
        lambda: driver.delete_security_group(MISSING),
        lambda: driver.untag_security_group(MISSING, "tag"),
        lambda: driver.delete_amphora(MISSING),
    ]
    for remove in removals:
        remove()
    others: list[Callable[[], object]] = [
        lambda: driver.stop_server(MISSING),
        lambda: driver.shelve_server(MISSING),
        lambda: driver.describe_server(MISSING, {"a": "b"}),
        lambda: driver.describe_server(MISSING, {}, "name"),
        lambda: driver.tag_server(MISSING, "tag"),
        lambda: driver.lock_server(MISSING, "why"),
        lambda: driver.unlock_server(MISSING),
        lambda: driver.console(MISSING, 1),
        lambda: driver.disable_port(port),
        lambda: driver.create_image(MISSING, "image", {}),
        lambda: driver.seal_image(MISSING),
        lambda: driver.release_image(MISSING),
        lambda: driver.unseal_image(MISSING),
        lambda: driver.tag_security_group(MISSING, "tag"),
        lambda: driver.require_failover(MISSING),
        lambda: driver.failover_amphora(MISSING),
        lambda: driver.failover_load_balancer(MISSING),
    ]
    for call in others:
        with pytest.raises(NotFoundError):
            call()


def test_a_protected_image_and_one_of_two_groups_stay(house: House) -> None:
    house.octavia.add_load_balancer()
    image = house.driver.create_image(house.cloud.servers()[0].id, "image", {})
    house.driver.seal_image(image)
    with pytest.raises(DeleteFailed):
        house.driver.delete_image(image)
    assert house.driver.image(image) is not None
    for _number in range(2):
        house.cloud.add_security_group("lb-x")
    assert house.driver.security_group("lb-x") is None, "nothing shows which of them is Octavia's"


def test_a_new_process_boots_the_servers_of_the_rows(house: House) -> None:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    before = {row.compute_id for row in house.serving(balancer)}
    again = NoopDriver(HousekeepingSettings(), house.database)
    assert {server.id for server in again.servers()} == before
    for row in house.serving(balancer):
        assert row.vrrp_port_id in {port.id for port in again.ports_of(row.compute_id or "")}
        assert (server := again.server(row.compute_id or ""))
        assert len(server.groups) == 1


def test_it_takes_no_database_that_may_be_a_real_one(tmp_path: Path) -> None:
    conf = cfg.ConfigOpts()
    options.register(conf)
    conf([], default_config_files=[])
    conf.set_override("database_connection", "mysql+pymysql://octavia:secret@db/octavia", "octavia")
    database = OctaviaDatabase(f"sqlite:///{tmp_path}/octavia.sqlite")
    with pytest.raises(ConfigError, match="SQLite"):
        NoopDriver.made(Resources(conf), HousekeepingSettings(), database)
    database.close()
