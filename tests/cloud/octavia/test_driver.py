"""Each call of the real driver, and the state of the cloud after it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handlers.octavia.cloud_objects import AMPHORA, RELEASED, STATE, Port, Server
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.drivers.openstack import OpenStackDriver
from handlers.octavia.housekeeping import (
    DeleteFailed,
    NotFoundError,
    UnauthorizedException,
    UnavailableException,
)
from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.octavia import installation
from tests.cloud.octavia.balancers import PATIENCE, Balancers
from tests.program import Program

MISSING = str(uuid.UUID(int=0))


@pytest.fixture(scope="module")
def driver(octavia_cloud: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenStackDriver]:
    program = Program(tmp_path_factory.mktemp("driver"), installation.options(octavia_cloud))
    resources = installation.resources(program)
    made = resources.get(chosen_driver)
    assert isinstance(made, OpenStackDriver)
    yield made
    resources.close()


@pytest.fixture(scope="module")
def balancers(octavia_cloud: ControlPlane, bystanders: None) -> Iterator[Balancers]:
    """One load balancer serves all tests here."""
    with Balancers(octavia_cloud) as balancers:
        yield balancers


@pytest.fixture(scope="module")
def balancer(balancers: Balancers) -> str:
    return balancers.create()


@pytest.fixture
def spare(driver: OpenStackDriver) -> Iterator[str]:
    """A placeholder server, running, deleted after the test."""
    made = driver.create_server("octavia-spare-1", "nova", "waits", {"role": "spare"})
    wait_for(driver, made, "ACTIVE")
    yield made
    driver.delete_server(made)
    wait_until(lambda: driver.server(made) is None, PATIENCE, "the deletion")


def wait_for(driver: OpenStackDriver, server: str, status: str) -> Server:
    """Until a server has a status and no task."""

    def reached() -> Server | None:
        found = driver.server(server)
        assert found is not None
        return found if found.status == status and not found.task_state else None

    found = wait_until(reached, PATIENCE, f"server {server} in {status}")
    assert found is not None
    return found


def test_a_spare_belongs_to_octavia_and_has_no_network(
    driver: OpenStackDriver, spare: str, octavia_cloud: ControlPlane
) -> None:
    identity: Any = octavia_cloud.admin.identity
    service = identity.find_project("service").id
    assert driver.project() == service
    (found,) = [server for server in driver.servers() if server.id == spare]
    assert found == replace(driver.server(spare) or found, groups=(), age=found.age, quiet=found.quiet)
    assert (found.name, found.project_id, found.status, found.zone) == ("octavia-spare-1", service, "ACTIVE", "nova")
    assert found.tags == {"waits"}
    assert found.metadata == {"role": "spare"}
    assert found.flavor == "amphora"
    assert found.host in ("compute-1", "compute-2", "compute-3")
    assert found.host_up
    assert found.image == driver.amphora_image()
    assert 0 <= found.age < PATIENCE
    assert driver.ports_of(spare) == []
    assert "FAKE CONSOLE" in driver.console(spare, 5)


def test_a_tag_is_taken_by_one_caller(driver: OpenStackDriver, spare: str) -> None:
    driver.tag_server(spare, "also")
    assert [driver.untag_server(spare, "waits"), driver.untag_server(spare, "waits")] == [True, False]
    found = driver.server(spare)
    assert found is not None
    assert found.tags == {"also"}


def test_a_server_is_described_stopped_and_locked(
    driver: OpenStackDriver, spare: str, octavia_cloud: ControlPlane
) -> None:
    driver.describe_server(spare, {"stackmend_state": "preserved"}, "preserved-amphora-1")
    driver.lock_server(spare, "kept for examination")
    driver.stop_server(spare)
    found = wait_for(driver, spare, "SHUTOFF")
    assert found.metadata == {"role": "spare", "stackmend_state": "preserved"}
    assert found.name == "preserved-amphora-1"
    assert found.locked
    assert octavia_cloud.admin.compute.get_server(spare).locked_reason == "kept for examination"
    with pytest.raises(UnavailableException) as again:
        driver.stop_server(spare)
    assert again.value.dependency == f"server:{spare}"
    driver.unlock_server(spare)
    unlocked = driver.server(spare)
    assert unlocked is not None
    assert not unlocked.locked


def test_a_server_in_error_is_stopped_by_stopping_it(
    driver: OpenStackDriver, spare: str, octavia_cloud: ControlPlane
) -> None:
    octavia_cloud.admin.compute.reset_server_state(spare, "error")
    with pytest.raises(UnavailableException):
        driver.create_image(spare, "refused", {})
    driver.stop_server(spare)
    wait_for(driver, spare, "SHUTOFF")


def test_shelving_frees_the_host(driver: OpenStackDriver, spare: str, octavia_cloud: ControlPlane) -> None:
    driver.shelve_server(spare)
    wait_for(driver, spare, "SHELVED_OFFLOADED")
    wait_until(lambda: (found := driver.server(spare)) and found.host is None, PATIENCE, "a free host")
    held = octavia_cloud.mariadb.execute(f"SELECT 1 FROM allocations WHERE consumer_id = '{spare}'", "placement")
    assert not held
    assert driver.console(spare, 5) == ""


def test_ports_are_changed_only_as_they_were_read(
    driver: OpenStackDriver, spare: str, octavia_cloud: ControlPlane
) -> None:
    theirs: Any = octavia_cloud.connection(username="octavia", project_name="service")
    network = theirs.network
    made = network.create_port(network_id=network.find_network("tenant").id, name="octavia-lb-vrrp-x")
    theirs.compute.create_server_interface(spare, port_id=made.id)
    (port,) = wait_until(lambda: driver.ports_of(spare), PATIENCE, "the interface")
    assert (port.id, port.name, port.mac, port.admin_up) == (made.id, "octavia-lb-vrrp-x", made.mac_address, True)
    driver.detach_port(spare, port.id)
    wait_until(lambda: not driver.ports_of(spare), PATIENCE, "the end of the interface")
    driver.detach_port(spare, port.id)

    stale = port
    fresh = driver.port(port.id)
    assert fresh is not None
    assert fresh.revision > stale.revision
    assert fresh.device_id == ""
    for change in (driver.disable_port, driver.delete_port):
        with pytest.raises(UnavailableException) as refused:
            change(stale)
        assert refused.value.dependency == f"port:{port.id}"
    assert network.get_port(port.id).is_admin_state_up
    driver.disable_port(fresh)
    assert not network.get_port(port.id).is_admin_state_up
    fresh = driver.port(port.id)
    assert fresh is not None
    driver.delete_port(fresh)
    assert driver.port(port.id) is None
    driver.delete_port(fresh)
    with pytest.raises(ValueError, match="every port"):
        driver.ports_of("")


def test_exactly_octavia_s_ports_are_listed(driver: OpenStackDriver, balancers: Balancers, balancer: str) -> None:
    (amphora,) = balancers.serving(balancer)
    names = {port.name: port for port in driver.ports()}
    assert {f"octavia-lb-{balancer}", f"octavia-lb-vrrp-{amphora.id}"} <= set(names)
    assert "bystander" not in names
    vip = balancers.api.get_load_balancer(balancer).vip_address
    vrrp = names[f"octavia-lb-vrrp-{amphora.id}"]
    assert vrrp.address_pairs == (vip,)
    assert vrrp.device_id == amphora.server
    assert len(driver.ports_of(amphora.server)) == 2
    (group,) = [group for group in driver.security_groups() if group.name == f"lb-{balancer}"]
    assert group.id in vrrp.security_groups
    with pytest.raises(UnavailableException) as used:
        driver.delete_security_group(group.id)
    assert used.value.dependency == f"security-group:{group.id}"


def test_an_image_is_kept_sealed_and_given_up(driver: OpenStackDriver, spare: str) -> None:
    made = driver.create_image(spare, "kept", {AMPHORA: "a"})
    image = wait_until(
        lambda: (found := driver.image(made)) and found.status == "active" and found, PATIENCE, "the image"
    )
    assert image
    assert image.properties[AMPHORA] == "a"
    assert image.tags == frozenset()
    assert [found.id for found in driver.images()] == [made]
    assert driver.amphora_image() != made
    driver.seal_image(made)
    sealed = driver.image(made)
    assert sealed is not None
    assert (sealed.protected, sealed.visibility) == (True, "private")
    with pytest.raises(DeleteFailed, match="protected"):
        driver.delete_image(made)
    driver.release_image(made)
    released = driver.image(made)
    assert released
    assert not released.protected
    assert released.properties[STATE] == RELEASED
    assert released.properties[AMPHORA] == "a"
    assert list(driver.images()) == []
    driver.unseal_image(made)
    driver.delete_image(made)
    assert driver.image(made) is None
    driver.delete_image(made)
    assert list(driver.images()) == []
    wait_for(driver, spare, "ACTIVE")


def test_groups_of_octavia_s_project(driver: OpenStackDriver, octavia_cloud: ControlPlane) -> None:
    theirs: Any = octavia_cloud.connection(username="octavia", project_name="service")
    mine = octavia_cloud.admin.compute.create_server_group(name="octavia-lb-mine", policy="anti-affinity")
    made = theirs.compute.create_server_group(name="octavia-lb-x", policy="anti-affinity")
    security = theirs.network.create_security_group(name="lb-x")
    assert [(group.id, group.name, group.members) for group in driver.server_groups()] == [
        (made.id, "octavia-lb-x", ())
    ]
    assert security.id in {group.id for group in driver.security_groups()}
    driver.delete_server_group(made.id)
    driver.delete_security_group(security.id)
    assert list(driver.server_groups()) == []
    assert security.id not in {group.id for group in driver.security_groups()}
    driver.delete_server_group(made.id)
    driver.delete_security_group(security.id)
    octavia_cloud.admin.compute.delete_server_group(mine)


def test_failovers(driver: OpenStackDriver, balancers: Balancers, balancer: str) -> None:
    (first,) = balancers.serving(balancer)
    with pytest.raises(UnavailableException) as serves:
        driver.delete_amphora(first.id)
    assert serves.value.dependency == f"amphora:{first.id}"
    driver.failover_amphora(first.id)
    with pytest.raises(UnavailableException) as works:
        driver.failover_load_balancer(balancer)
    assert works.value.dependency == f"load-balancer:{balancer}"
    balancers.wait_replaced(balancer, first.id)
    with pytest.raises(NotFoundError):
        driver.failover_amphora(first.id)
    driver.delete_amphora(first.id)
    balancers.break_failover(balancer)
    (second,) = [amphora for amphora in balancers.amphorae(balancer) if amphora.status == "ERROR"]
    with pytest.raises(UnavailableException):
        driver.failover_amphora(second.id)
    driver.failover_load_balancer(balancer)
    balancers.wait_replaced(balancer, first.id, second.id)


def test_what_is_not_there(driver: OpenStackDriver) -> None:
    assert driver.server(MISSING) is None
    assert driver.port(MISSING) is None
    assert driver.image(MISSING) is None
    assert list(driver.ports_of(MISSING)) == []
    assert not driver.untag_server(MISSING, "waits")
    driver.delete_server(MISSING)
    driver.detach_port(MISSING, MISSING)
    driver.delete_image(MISSING)
    driver.delete_port(Port(MISSING, "", "", "", "", "", "", True, 1))
    driver.delete_server_group(MISSING)
    driver.delete_security_group(MISSING)
    driver.delete_amphora(MISSING)
    calls: list[Any] = [
        lambda: driver.stop_server(MISSING),
        lambda: driver.shelve_server(MISSING),
        lambda: driver.describe_server(MISSING, {"a": "b"}),
        lambda: driver.describe_server(MISSING, {}, "name"),
        lambda: driver.tag_server(MISSING, "tag"),
        lambda: driver.lock_server(MISSING, "why"),
        lambda: driver.unlock_server(MISSING),
        lambda: driver.console(MISSING, 1),
        lambda: driver.create_image(MISSING, "image", {}),
        lambda: driver.disable_port(Port(MISSING, "", "", "", "", "", "", True, 1)),
        lambda: driver.release_image(MISSING),
        lambda: driver.require_failover(MISSING),
        lambda: driver.seal_image(MISSING),
        lambda: driver.unseal_image(MISSING),
        lambda: driver.failover_amphora(MISSING),
        lambda: driver.failover_load_balancer(MISSING),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            call()


def test_a_tag_of_a_security_group_that_is_not_there_proves_nothing(driver: OpenStackDriver) -> None:
    """Neutron 29 answers 500: a KeyError in ``neutron/extensions/tagging.py``."""
    for call in (driver.tag_security_group, driver.untag_security_group):
        with pytest.raises(UnavailableException):
            call(MISSING, "tag")


def test_a_service_that_does_not_answer(driver: OpenStackDriver, octavia_cloud: ControlPlane) -> None:
    octavia_cloud.stop_service("octavia-api")
    try:
        with pytest.raises(UnavailableException) as down:
            driver.failover_amphora(MISSING)
        with pytest.raises(UnavailableException):
            driver.delete_amphora(MISSING)
        assert down.value.dependency == "load-balancer"
        assert driver.server(MISSING) is None
    finally:
        octavia_cloud.start_service("octavia-api")


def test_who_is_not_let_in(octavia_cloud: ControlPlane, tmp_path: Path, balancers: Balancers, balancer: str) -> None:
    """With a member's rights Nova hides what is not ours; nothing is taken for absent."""
    _create_member(octavia_cloud)
    login = {
        "auth_type": "password",
        "auth_url": octavia_cloud.auth_url,
        "username": "member",
        "project_name": "service",
        "user_domain_id": "default",
        "project_domain_id": "default",
    }
    options = installation.options(octavia_cloud)
    (amphora,) = balancers.serving(balancer)
    for password, expected in (("wrong", UnauthorizedException), ("secret", UnauthorizedException)):
        program = Program(tmp_path / password, {**options, "openstack": {**login, "password": password}})
        resources = installation.resources(program)
        driver = resources.get(chosen_driver)
        with pytest.raises(expected):
            driver.servers()
        with pytest.raises(expected):
            driver.failover_amphora(amphora.id)
        resources.close()
    assert [found.id for found in balancers.serving(balancer)] == [amphora.id]


def _create_member(cloud: ControlPlane) -> None:
    identity: Any = cloud.admin.identity
    user = identity.create_user(name="member", password="secret", domain_id="default")
    identity.assign_project_role_to_user(identity.find_project("service"), user, identity.find_role("member"))
