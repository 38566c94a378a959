"""Each task on the same drift beside nova-manage: all rows of nova_api, of the cells and of Placement are the same after it.

Where they are not, the test says which rows differ, all of them, and why ours are right. ``test_nova_parity_defects.py``
has the rest of what nova-manage does wrong.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.cloud import drift
from tests.cloud.parity import Content, Difference, Outcome, Pair, differences
from tests.cloud.wreckage import IRONIC, NODES, UNMAPPED, Wreckage

CELL0 = "00000000-0000-0000-0000-000000000000"
#: What an allocation's rows are compared by, besides all their columns.
WHO = {"allocations": ("consumer_id",), "consumers": ("uuid",)}


@pytest.fixture(scope="module")
def audited(pair: Pair, wreckage: Wreckage) -> Outcome:
    """Orphans are taken while a build and an evacuation are under way."""
    pair.load(wreckage.busy)
    return pair.heal(["placement audit --delete --verbose"], ["audit_allocations"])


@pytest.fixture(scope="module")
def healed(pair: Pair, wreckage: Wreckage, bindings: None) -> Outcome:
    """Allocations are healed in a cloud at rest."""
    pair.load(wreckage.at_rest)
    return pair.heal(["placement heal_allocations --verbose"], ["heal_allocations"])


def values(content: Content, table: str, *columns: str, **where: str) -> set[tuple[str, ...]]:
    """Return some columns of the rows that have these values."""
    rows = [dict(row) for row in content[table]]
    return {tuple(row[column] for column in columns) for row in rows if where.items() <= row.items()}


def holders(content: Content) -> set[str]:
    """Return who holds anything."""
    return {consumer for (consumer,) in values(content, "placement.allocations", "consumer_id")}


def held(content: Content, wreckage: Wreckage, server: str) -> dict[str, dict[str, int]]:
    """Return what a server holds, by host and the number of the class."""
    names = {number: name for name, number in wreckage.numbers.items()}
    found: dict[str, dict[str, int]] = {}
    columns = ("resource_provider_id", "resource_class_id", "used")
    for provider, name, used in values(
        content, "placement.allocations", *columns, consumer_id=wreckage.servers[server]
    ):
        found.setdefault(names[provider], {})[name] = int(used)
    return found


def rows(*values: str) -> frozenset[tuple[str, ...]]:
    """Write down expected rows of one column."""
    return frozenset((value,) for value in values)


def test_discover_hosts(pair: Pair, wreckage: Wreckage) -> None:
    """nova-manage looks at ``compute_nodes.mapped`` only: what is marked as mapped and is not, it does not find (9)."""
    pair.load(wreckage.at_rest)
    pair.execute("DELETE FROM host_mappings WHERE host = 'compute-3'")
    outcome = pair.heal(["cell_v2 discover_hosts"], ["discover_hosts"])
    assert [done.returncode for done in (*outcome.nova_manage, *outcome.stackmend)] == [0, 0]
    assert differences(outcome.theirs, outcome.ours, host_mappings=["host"]) == {
        "nova_api.host_mappings": Difference(ours=rows("compute-3"))
    }
    before, after = (values(content, "nova_api.host_mappings", "host") for content in (outcome.before, outcome.ours))
    assert after - before == {("compute-3",), (UNMAPPED,)}
    assert values(outcome.ours, "nova_cell2.compute_nodes", "mapped", host=UNMAPPED) == {("1",)}


def test_map_instances(pair: Pair, wreckage: Wreckage) -> None:
    """nova-manage marks deleted instances as not deleted, and skips mappings without cell (8)."""
    pair.load(wreckage.at_rest)
    lost = [wreckage.servers[name] for name in ("first", "deleted", "other-cell", "buried")]
    without_cell = wreckage.servers["owner"]
    pair.execute(f"DELETE FROM instance_mappings WHERE instance_uuid IN {tuple(lost)}")
    pair.execute(f"UPDATE instance_mappings SET cell_id = NULL WHERE instance_uuid = '{without_cell}'")
    cells = pair.ours.execute("SELECT uuid FROM cell_mappings ORDER BY id").split()
    assert cells[0] == CELL0
    outcome = pair.heal([f"cell_v2 map_instances --cell_uuid {cell}" for cell in cells], ["map_instances"])
    assert [done.returncode for done in (*outcome.nova_manage, *outcome.stackmend)] == [0] * 4
    found = differences(outcome.theirs, outcome.ours, instance_mappings=["instance_uuid", "queued_for_delete"])
    assert found == {
        "nova_api.instance_mappings": Difference(
            theirs=frozenset({(wreckage.servers["deleted"], "0")}), ours=frozenset({(wreckage.servers["deleted"], "1")})
        )
    }
    mapped = values(outcome.ours, "nova_api.instance_mappings", "instance_uuid")
    assert {(server,) for server in lost} <= mapped

    cell = ("nova_api.instance_mappings", "cell_id")
    assert values(outcome.theirs, *cell, instance_uuid=without_cell) == {("None",)}, "Nova mended it: say so here"
    done = pair.ours.stackmend("sweep", "heal_instance_mappings", "-f", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert values(pair.ours.content(), *cell, instance_uuid=without_cell) == {("2",)}


def test_heal_allocations(wreckage: Wreckage, healed: Outcome) -> None:
    """What nova-manage heals is healed; what it takes for right (7) is the other test's.

    nova-manage asks Placement for each instance of the cloud; our sweep asks for each node and owner, and finds the wrong owner
    all the same. It also tells of the server that holds twice what it should, which nova-manage passes by.
    """
    owner, soft = wreckage.servers["owner"], wreckage.servers["soft-deleted"]
    assert [done.returncode for done in (*healed.nova_manage, *healed.stackmend)] == [0, 2]
    found = {row["key"]: row["problem"] for row in healed.found() if row["action"] != "healed"}
    assert found == {f"instance:{wreckage.servers['twice']}": "wrong-amounts"}
    right, wrong = (
        values(content, "placement.consumers", "project", "user", uuid=owner)
        for content in (healed.theirs, healed.before)
    )
    assert right != wrong
    assert values(healed.ours, "placement.consumers", "project", "user", uuid=owner) == right

    others = {wreckage.servers[name] for name in ("elsewhere", "soft-deleted")}
    differ = differences(healed.theirs, healed.ours, **WHO)
    assert differ.keys() == {"placement.allocations", "placement.consumers"}
    assert differ["placement.allocations"].theirs | differ["placement.allocations"].ours == rows(*others)
    assert differ["placement.consumers"] == Difference(ours=rows(soft))
    given = holders(healed.theirs) - holders(healed.before)
    assert given == {wreckage.servers[name] for name in ("missing", "other-cell")}


def test_audit_allocations(wreckage: Wreckage, audited: Outcome) -> None:
    """Both take what a deleted and an evacuated server left.

    Besides what is being built (1) and evacuated (2), nova-manage also takes the only allocation of a server that lives,
    because it is on another node than the server. We leave it to heal_allocations, which moves it.
    """
    assert [done.returncode for done in audited.nova_manage] == [4]
    ours = [wreckage.servers[name] for name in ("building", "evacuating", "elsewhere")]
    assert differences(audited.theirs, audited.ours, **WHO) == {
        "placement.allocations": Difference(ours=rows(*ours)),
        "placement.consumers": Difference(ours=rows(ours[0], ours[2])),  # the other one still holds its source
    }
    taken = differences(audited.before, audited.ours, **WHO)
    left = [wreckage.servers[name] for name in ("leaked", "evacuated")]
    assert taken == {
        "placement.allocations": Difference(theirs=rows(*left)),
        "placement.consumers": Difference(theirs=rows(left[0])),
    }
    said = {line["key"]: line["action"] for line in audited.found()}
    assert said == {
        f"consumer:{wreckage.servers[name]}": action
        for name, action in {
            "leaked": "healed",
            "evacuated": "healed",
            "building": "in flight",
            "evacuating": "in flight",
        }.items()
    }


def test_audit_takes_nothing_of_what_is_being_built(wreckage: Wreckage, audited: Outcome) -> None:
    """(1) ``placement audit --delete``: an instance without a host is on no host, so that its claim is an orphan."""
    server = wreckage.servers["building"]
    assert server in holders(audited.before) - holders(audited.theirs), "Nova mended it: say so here"
    assert held(audited.ours, wreckage, "building") == held(audited.before, wreckage, "building") != {}


def test_audit_takes_nothing_of_an_evacuation_under_way(wreckage: Wreckage, audited: Outcome) -> None:
    """(2) ``placement audit --delete``: the instance itself holds both hosts, and is not on the new one yet."""
    assert held(audited.before, wreckage, "evacuating").keys() == {"compute-1", "compute-2"}
    assert held(audited.theirs, wreckage, "evacuating").keys() == {"compute-1"}, "Nova mended it: say so here"
    assert held(audited.ours, wreckage, "evacuating").keys() == {"compute-1", "compute-2"}


def test_heal_looks_at_more_than_whether_something_is_held(pair: Pair, wreckage: Wreckage, healed: Outcome) -> None:
    """(7) ``heal_allocations`` takes every allocation for a right one, and passes soft-deleted instances by."""
    for name in ("elsewhere", "twice", "soft-deleted"):
        assert held(healed.theirs, wreckage, name) == held(healed.before, wreckage, name), "Nova mended it: say so here"
    first = held(healed.before, wreckage, "first")
    assert held(healed.before, wreckage, "elsewhere").keys() == {"compute-2"}
    assert held(healed.ours, wreckage, "elsewhere") == first
    assert held(healed.before, wreckage, "soft-deleted") == {}
    assert held(healed.ours, wreckage, "soft-deleted") == first
    # Which of two amounts is right is not for a program to say; but it says that they differ.
    assert held(healed.before, wreckage, "twice")["compute-2"].items() - first["compute-1"].items()
    pair.ours.load(wreckage.at_rest)
    done = pair.ours.program().json("inspect", "heal_allocations", f"instance:{wreckage.servers['twice']}")
    assert [line["problem"] for line in done] == ["wrong-amounts"]


def test_sync_aggregates(pair: Pair, wreckage: Wreckage) -> None:
    """Both add, and neither removes a member that Nova's aggregate does not have (10); stackmend reports it, with code 2."""
    pair.load(wreckage.at_rest)
    outcome = pair.heal(["placement sync_aggregates"], ["sync_aggregates"])
    assert [done.returncode for done in (*outcome.nova_manage, *outcome.stackmend)] == [0, 2]
    membership = ["resource_provider_id", "uuid"]
    comes = frozenset({(wreckage.numbers["compute-1"], wreckage.rack.uuid)})
    assert differences(outcome.theirs, outcome.ours, resource_provider_aggregates=membership) == {}
    assert differences(outcome.before, outcome.ours, resource_provider_aggregates=membership) == {
        "placement.resource_provider_aggregates": Difference(ours=comes)
    }


def test_archive_and_purge(pair: Pair, wreckage: Wreckage) -> None:
    """Nothing differs, ids and dates included."""
    pair.load(wreckage.at_rest)
    for copy in (pair.theirs, pair.ours):
        drift.allocate(copy.placement, wreckage.servers["leaked"], {})  # or else we would not archive it
    archived = pair.heal(["db archive_deleted_rows --until-complete --all-cells"], ["archive_deleted_rows"])
    assert [done.returncode for done in (*archived.nova_manage, *archived.stackmend)] == [1, 0]
    assert differences(archived.theirs, archived.ours) == {}
    moved = {uuid for cell in (1, 2) for (uuid,) in values(archived.ours, f"nova_cell{cell}.shadow_instances", "uuid")}
    assert moved == {wreckage.servers["deleted"], wreckage.servers["leaked"]}
    for table in ("instance_mappings", "request_specs"):
        known = {uuid for (uuid,) in values(archived.ours, f"nova_api.{table}", "instance_uuid")}
        assert not known & moved
        assert wreckage.servers["first"] in known
    assert values(archived.before, "nova_cell1.instance_metadata", "key", instance_uuid=wreckage.servers["deleted"])
    assert values(archived.ours, "nova_cell1.shadow_instance_metadata", "key") == {("a",)}

    day = (datetime.now(UTC) - timedelta(days=2)).date().isoformat()
    purged = pair.heal([f"db purge --before {day} --all-cells"], ["purge"])
    assert [done.returncode for done in (*purged.nova_manage, *purged.stackmend)] == [0, 0]
    assert differences(purged.theirs, purged.ours) == {}
    for cell in (1, 2):
        assert purged.ours[f"nova_cell{cell}.shadow_instances"].total() == 0


def test_an_instance_that_holds_something_is_not_archived(pair: Pair, wreckage: Wreckage) -> None:
    """Nova's own release of an allocation needs the instance's row: archived, it can never be taken back by Nova."""
    pair.ours.load(wreckage.at_rest)
    done = pair.ours.stackmend("sweep", "archive_deleted_rows", "-f", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    left = pair.ours.content()
    assert values(left, "nova_cell2.instances", "uuid", uuid=wreckage.servers["leaked"])
    assert values(left, "nova_cell1.shadow_instances", "uuid") == {(wreckage.servers["deleted"],)}
    assert held(left, wreckage, "leaked").keys() == {"compute-3"}


def test_sync_passes_a_host_with_two_nodes(pair: Pair, wreckage: Wreckage) -> None:
    """(5) ``sync_aggregates`` gives up at a host with two nodes, and leaves the aggregates behind it as they were."""
    pair.load(wreckage.busy)
    outcome = pair.heal(["placement sync_aggregates"], ["sync_aggregates"])
    table = "placement.resource_provider_aggregates"
    assert outcome.nova_manage[0].returncode == 1, "Nova mended it: say so here"
    assert IRONIC in outcome.nova_manage[0].stdout
    assert outcome.stackmend[0].returncode == 2, "the stale member of the rack is reported"
    metal, last = (
        {(wreckage.numbers[name], it.uuid) for name in names}
        for it, names in ((wreckage.metal, NODES), (wreckage.last, ["compute-3"]))
    )
    theirs, ours = (
        values(content, table, "resource_provider_id", "uuid") for content in (outcome.theirs, outcome.ours)
    )
    assert len(theirs & metal) == 1
    assert not theirs & last
    assert ours == metal | last | {(wreckage.numbers[name], wreckage.rack.uuid) for name in ("compute-1", "compute-2")}
