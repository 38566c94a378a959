"""Tags and metadata by which the owner of a server exempts it, where the operator permits that."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from handlers.base import Finding, Resources, Unavailable
from handlers.nova import options
from handlers.nova.instances.audit_stuck_instances import AuditStuckInstances
from handlers.nova.simulation import NovaSimulation
from tests.compute import Compute
from tests.functional.nova.world import instance_key

pytestmark = pytest.mark.hosts(a="cell1", c="cell2")

TAG = "stackmend:exempt"


@pytest.fixture(autouse=True)
def up(cloud: NovaSimulation) -> None:
    cloud.heartbeat("a")


def handler(resources: Resources, compute: Compute, permitted: bool) -> AuditStuckInstances:
    for group, opts in AuditStuckInstances.options().items():
        resources.conf.register_opts(opts, group)
    resources.conf.set_override("compute_endpoint_override", compute.url, "openstack")
    resources.conf.set_override("exempt_by_tag", permitted, options.GROUP)
    return AuditStuckInstances.from_resources(resources)


@pytest.fixture
def stuck(resources: Resources, compute: Compute) -> AuditStuckInstances:
    return handler(resources, compute, permitted=True)


def drifted(cloud: NovaSimulation) -> str:
    """A server whose state no one will change."""
    with cloud.ago(hours=3):
        server = cloud.boot("a")
        cloud.set_instance(server, task_state="deleting")
    return server


def finding(stuck: AuditStuckInstances, server: str) -> Finding:
    [found] = stuck.inspect(instance_key(server))
    return found


def test_a_tag_exempts_the_server(cloud: NovaSimulation, stuck: AuditStuckInstances) -> None:
    server, other = drifted(cloud), drifted(cloud)
    cloud.tag_server(server, TAG)
    cloud.tag_server(other, "stackmend")
    assert stuck.exempting_tag(finding(stuck, server)) == f"instance:{server} has the tag {TAG}"
    assert stuck.exempting_tag(finding(stuck, other)) == ""


@pytest.mark.parametrize("value", ["true", "until Friday", ""])
def test_metadata_exempt_the_server_whatever_their_value(
    cloud: NovaSimulation, stuck: AuditStuckInstances, value: str
) -> None:
    server, other = drifted(cloud), drifted(cloud)
    cloud.set_metadata(server, TAG, value)
    cloud.set_metadata(other, "owner", TAG)
    assert stuck.exempting_tag(finding(stuck, server)) == f"instance:{server} has the metadata {TAG}"
    assert stuck.exempting_tag(finding(stuck, other)) == ""


def test_metadata_that_the_owner_removed_exempt_nothing(cloud: NovaSimulation, stuck: AuditStuckInstances) -> None:
    server = drifted(cloud)
    cloud.set_metadata(server, TAG, "true", deleted=1)
    assert stuck.exempting_tag(finding(stuck, server)) == ""


def test_without_the_option_a_tag_exempts_nothing(
    cloud: NovaSimulation, resources: Resources, compute: Compute
) -> None:
    stuck = handler(resources, compute, permitted=False)
    server = drifted(cloud)
    cloud.tag_server(server, TAG)
    assert stuck.exempting_tag(finding(stuck, server)) == ""


def test_a_silent_cell_is_no_answer(
    cloud: NovaSimulation, stuck: AuditStuckInstances, cut: Callable[[str], None]
) -> None:
    found = finding(stuck, drifted(cloud))
    cut("cell2")
    assert stuck.exempting_tag(found) == "", "the finding names cell1 alone"
    cut("cell1")
    with pytest.raises(Unavailable):
        stuck.exempting_tag(found)


def test_a_finding_that_names_no_cell_is_looked_up_in_all(cloud: NovaSimulation, stuck: AuditStuckInstances) -> None:
    server = cloud.boot("c")
    cloud.tag_server(server, TAG)
    found = Finding(instance_key(server), "unmapped", "a server")
    assert stuck.exempting_tag(found) == f"instance:{server} has the tag {TAG}"
