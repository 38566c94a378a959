"""What stops nova-manage, and what it does when it should stop: shown on its copy, and right on ours.

The others of its wrong results are in ``test_nova_parity.py``, where a whole run is compared: 1, 2, 5, 7, 8, 9 and 10.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable

import pymysql
import pytest
from oslo_config import cfg
from sqlalchemy.engine import make_url

from handlers.base import Conflict, Key, Resources
from handlers.nova.allocations.heal_allocations import HealAllocations
from tests.cloud import drift
from tests.cloud.control_plane import ControlPlane, wait_until
from tests.cloud.parity import Copy, Pair
from tests.cloud.seed import together
from tests.cloud.wreckage import Wreckage
from tests.servers.server import HOST, free_port


def held(copy: Copy, wreckage: Wreckage, name: str) -> dict[str, dict[str, int]]:
    """Return what a server holds, by the node's uuid."""
    found = drift.allocation(copy.placement, wreckage.servers[name])["allocations"]
    return {node: dict(amounts["resources"]) for node, amounts in found.items()}


def test_a_cell_that_does_not_answer_loses_nothing(pair: Pair, wreckage: Wreckage) -> None:
    """(3) ``placement audit --delete`` takes all instances of a cell that it cannot reach for deleted."""
    pair.load(wreckage.at_rest)
    node = wreckage.nodes["compute-3"]
    gone = f"mysql+pymysql://nova:secret@{HOST}:{free_port()}/nova_cell2"
    pair.theirs.lead("cell2", gone)
    pair.ours.lead("cell2", gone)
    assert held(pair.theirs, wreckage, "neighbour").keys() == {node}
    outcome = pair.heal([f"placement audit --delete --resource_provider {node}"], ["audit_allocations"])
    assert outcome.nova_manage[0].returncode == 4, "Nova mended it: say so here"
    assert held(pair.theirs, wreckage, "neighbour") == {}
    assert outcome.ours == outcome.before
    assert outcome.stackmend[0].returncode == 1
    assert {line["action"] for line in outcome.found()} == {"unavailable"}


def unknown_node(copy: Copy, wreckage: Wreckage, name: str) -> None:
    """Its node was renamed."""
    server = wreckage.servers[name]
    drift.allocate(copy.placement, server, {})
    copy.execute(f"UPDATE instances SET node = 'renamed' WHERE uuid = '{server}'", "nova_cell1")


def full_node(copy: Copy, wreckage: Wreckage, name: str) -> None:
    """Somebody took what it had of compute-2, and all the rest of the disk there; then the disk shrank.

    It shrank by as much as "elsewhere" gives back when it is healed: first or last, there is no room for this one.
    """
    drift.allocate(copy.placement, wreckage.servers[name], {})
    path = f"/resource_providers/{wreckage.nodes['compute-2']}"
    used = copy.placement.get(f"{path}/usages", microversion="1.9").json()["usages"]["DISK_GB"]
    disk = copy.placement.get(f"{path}/inventories/DISK_GB").json()
    rest = {"DISK_GB": disk["total"] - used}
    drift.allocate(copy.placement, str(uuid.uuid4()), {wreckage.nodes["compute-2"]: rest}, project="somebody")
    generation = copy.placement.get(path).json()["generation"]
    smaller = {**disk, "total": disk["total"] - 1, "resource_provider_generation": generation}
    shrunk = copy.placement.put(f"{path}/inventories/DISK_GB", json=smaller)
    assert shrunk.status_code == 200, shrunk.text


def encrypted_memory(copy: Copy, wreckage: Wreckage, name: str) -> None:
    """Its flavor wants what its image has to allow: the fake hypervisor has nothing of the kind, so that it is written in."""
    drift.allocate(copy.placement, wreckage.servers[name], {})
    _specify(copy, wreckage.servers[name], "hw:mem_encryption", "true")


def vgpu(copy: Copy, wreckage: Wreckage, name: str) -> None:
    """It has a vGPU, and all that it should hold."""
    _specify(copy, wreckage.servers[name], "resources:VGPU", "1")


def _specify(copy: Copy, server: str, name: str, value: str) -> None:
    path = f'$.cur."nova_object.data".extra_specs."{name}"'
    copy.execute(
        f"UPDATE instance_extra SET flavor = JSON_SET(flavor, '{path}', '{value}') WHERE instance_uuid = '{server}'",
        "nova_cell1",
    )


#: A bad object, which server gets it beside the three others in our run, and nova-manage's exit code.
Poison = Callable[[Copy, Wreckage, str], None]
POISONS: dict[Poison, tuple[str, int]] = {
    unknown_node: ("first", 2),
    full_node: ("twice", 3),
    encrypted_memory: ("evacuating", 255),
    vgpu: ("owner", 8),
}


@pytest.mark.usefixtures("bindings")
def test_one_bad_instance_does_not_keep_others_from_being_healed(pair: Pair, wreckage: Wreckage) -> None:
    """(4) ``heal_allocations`` ends at the first instance that it cannot heal, whose turn comes first in every later run.

    All in one go for us; one by one for nova-manage, as it never gets to a second one.
    """

    def theirs() -> dict[Poison, int]:
        codes = {}
        for poison, (name, _code) in POISONS.items():
            pair.theirs.load(wreckage.at_rest)
            poison(pair.theirs, wreckage, name)
            done = pair.theirs.nova_manage("placement", "heal_allocations")
            print(poison.__name__, done.returncode, done.stdout, done.stderr[-2000:])
            codes[poison] = done.returncode
            assert held(pair.theirs, wreckage, "other-cell") == {}, "Nova mended it: say so here"
        return codes

    def ours() -> subprocess.CompletedProcess[str]:
        pair.ours.load(wreckage.at_rest)
        for poison, (name, _code) in POISONS.items():
            poison(pair.ours, wreckage, name)
        return pair.ours.stackmend("sweep", "heal_allocations", "-f", "json")

    codes, said = together(theirs, ours)
    print(said.stdout, said.stderr)
    assert codes == {poison: code for poison, (_name, code) in POISONS.items()}
    assert said.returncode == 2, "what cannot be healed is told"
    for name in ("first", "evacuating", "twice"):
        assert wreckage.servers[name] in said.stdout
    found = {row["key"]: row["problem"] for row in json.loads(said.stdout)}
    owner = f"instance:{wreckage.servers['owner']}"
    assert found[owner] == "wrong-owner", "what it should hold cannot be told, for whom it is held can"
    tiny = {"VCPU": 1, "MEMORY_MB": 128, "DISK_GB": 1}
    for name in ("missing", "soft-deleted", "elsewhere"):
        assert held(pair.ours, wreckage, name) == {wreckage.nodes["compute-1"]: tiny}
    assert held(pair.ours, wreckage, "other-cell") == {wreckage.nodes["compute-3"]: tiny}
    assert held(pair.ours, wreckage, "owner") == {wreckage.nodes["compute-2"]: tiny}
    for name in ("first", "evacuating", "twice"):
        assert held(pair.ours, wreckage, name) == {}


def test_one_row_that_cannot_be_archived_keeps_no_other(cloud: ControlPlane, pair: Pair, wreckage: Wreckage) -> None:
    """(6) ``archive_deleted_rows`` ends with a traceback at an instance with a share, and never gets to the next cell."""
    if "share_mapping" in cloud.release.absent_tables:
        pytest.skip("this Nova has no shares")
    pair.load(wreckage.at_rest)
    for copy in (pair.theirs, pair.ours):
        drift.allocate(copy.placement, wreckage.servers["leaked"], {})
    pair.execute(
        "INSERT INTO share_mapping (uuid, instance_uuid, share_id, status, tag, export_location, share_proto)"
        f" VALUES ('{uuid.uuid4()}', '{wreckage.servers['deleted']}', '{uuid.uuid4()}', 'active', 'tag', 'nowhere', 'NFS')",
        "nova_cell1",
    )
    outcome = pair.heal(["db archive_deleted_rows --until-complete --all-cells"], ["archive_deleted_rows"])
    assert outcome.nova_manage[0].returncode == 255, "Nova mended it: say so here"
    assert "IntegrityError" in outcome.nova_manage[0].stdout + outcome.nova_manage[0].stderr
    for cell in (1, 2):
        assert outcome.theirs[f"nova_cell{cell}.shadow_instances"].total() == 0
    assert outcome.ours["nova_cell2.shadow_instances"].total() == 1
    deleted = wreckage.servers["deleted"]
    assert pair.ours.execute(f"SELECT COUNT(*) FROM instances WHERE uuid = '{deleted}'", "nova_cell1").strip() == "1"
    assert pair.ours.execute("SELECT COUNT(*) FROM shadow_instances", "nova_cell1").strip() == "0"
    again = pair.ours.stackmend("sweep", "archive_deleted_rows", "-f", "json")
    assert again.returncode == 2, again.stdout + again.stderr
    assert "share_mapping" in again.stdout


@pytest.mark.usefixtures("bindings")
def test_heal_gives_nothing_back_to_what_is_deleted_meanwhile(pair: Pair, wreckage: Wreckage) -> None:
    """(11) ``heal_allocations`` reads a page of instances, and gives to each what it lacks, also to those that went since.

    nova-manage is held where it looks for the node of the first instance that lacks something: by then it has read its page.
    """
    pair.load(wreckage.at_rest)
    server = wreckage.servers["missing"]
    together(lambda: _theirs_meanwhile(pair.theirs, server), lambda: _ours_meanwhile(pair.ours, server))
    assert held(pair.theirs, wreckage, "missing").keys() == {wreckage.nodes["compute-1"]}, "Nova mended it: say so here"
    assert held(pair.ours, wreckage, "missing") == {}


def _delete(copy: Copy, server: str) -> None:
    """What nova-compute writes at the end of a deletion; it has nothing to release."""
    copy.execute(
        "UPDATE instances SET deleted = id, deleted_at = utc_timestamp(), vm_state = 'deleted'"
        f" WHERE uuid = '{server}' AND deleted = 0",
        "nova_cell1",
    )


def _theirs_meanwhile(copy: Copy, server: str) -> None:
    url = make_url(copy.url("nova_cell1"))
    waiting = (
        "SELECT COUNT(*) FROM information_schema.processlist"
        f" WHERE db = '{url.database}' AND state LIKE 'Waiting for table metadata lock%'"
    )
    with pymysql.connect(
        host=url.host, port=url.port or 3306, user=url.username, password=str(url.password), database=url.database
    ) as lock:
        lock.cursor().execute("LOCK TABLES compute_nodes WRITE")

        def meanwhile() -> None:
            try:
                wait_until(lambda: copy.execute(waiting).strip() == "1", 120, "nova-manage at the lock")
                _delete(copy, server)
            finally:
                lock.cursor().execute("UNLOCK TABLES")

        done, _ = together(lambda: copy.nova_manage("placement", "heal_allocations"), meanwhile)
    assert done.returncode == 0, done.stdout + done.stderr


def _ours_meanwhile(copy: Copy, server: str) -> None:
    conf = cfg.ConfigOpts()
    for group, options in HealAllocations.options().items():
        conf.register_opts(options, group)
    conf([], project="stackmend", default_config_files=[str(copy.program().conf)])
    resources = Resources(conf)
    try:
        handler = HealAllocations.from_resources(resources)
        [finding] = handler.inspect(Key("instance", server))
        _delete(copy, server)
        with pytest.raises(Conflict):
            handler.heal(finding)
    finally:
        resources.close()
