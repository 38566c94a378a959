"""What an instance is entitled to, asked on the database servers that Nova runs on."""

from __future__ import annotations

import sqlalchemy as sa

from handlers.access.database import Database
from handlers.nova import queries as nova_queries
from handlers.nova import tables
from handlers.nova.allocations import queries
from handlers.nova.records import ComputeNode
from tests.services.nova import add, database, engine, url

__all__ = ["database", "engine", "url"]


def test_what_an_instance_carries_with_it(engine: sa.Engine, database: Database) -> None:
    add(engine, tables.instances, uuid="i", image_ref="x")
    add(engine, tables.instances, uuid="v", image_ref="")
    add(engine, tables.instance_extra, instance_uuid="i", flavor="{}")
    add(engine, tables.instance_info_caches, instance_uuid="i", network_info="[]")
    for name, value, deleted in (
        ("image_hw_cpu_policy", "dedicated", 0),
        ("image_hw_gone", "x", 1),
        ("imageXhwXother", "x", 0),
        ("image_base_image_ref", "x", 0),
    ):
        add(engine, tables.instance_system_metadata, instance_uuid="i", key=name, value=value, deleted=deleted)
    add(engine, tables.block_device_mapping, instance_uuid="i", boot_index=0, destination_type="volume", deleted=3)
    add(engine, tables.block_device_mapping, instance_uuid="i", boot_index=1, destination_type="volume", deleted=0)
    found = database.run(lambda connection: queries.descriptions(connection, ["i"])["i"])
    assert found == queries.Description("{}", {"hw_cpu_policy": "dedicated"}, False, "[]")
    add(engine, tables.block_device_mapping, instance_uuid="i", boot_index=0, destination_type="volume", deleted=0)
    found = database.run(lambda connection: queries.descriptions(connection, ["i"])["i"])
    assert found.boot_from_volume
    bare = database.run(lambda connection: queries.descriptions(connection, ["v"])["v"])
    assert bare == queries.Description(None, {}, True, None)


def test_who_lives_on_a_node_at_rest(engine: sa.Engine, database: Database) -> None:
    here = {"host": "a", "node": "a.x"}
    rows: dict[str, dict[str, object]] = {
        "active": {"vm_state": "active", "hidden": False},
        "stateless": {"vm_state": None, "hidden": None},
        "soft": {"vm_state": "soft-delete", "hidden": False},
        "busy": {"vm_state": "active", "task_state": "rebooting"},
        "resized": {"vm_state": "resized"},
        "building": {"vm_state": "building"},
        "hidden": {"vm_state": "active", "hidden": True},
        "deleted": {"vm_state": "active", "deleted": 1},
        "elsewhere": {"vm_state": "active", "node": "b.x"},
    }
    for name, values in rows.items():
        add(engine, tables.instances, uuid=name, **{**here, **values})
    node = ComputeNode(1, "n", "a", "a.x", True, False, 0.0)
    found = database.run(lambda connection: queries.residents(connection, [node]))
    assert {one.uuid for one in found if one.at_rest} == {"active", "stateless", "soft"}
    assert {one.uuid for one in found if not one.at_rest} == {"busy", "resized", "building", "hidden"}


def test_what_residents_are_entitled_to(engine: sa.Engine, database: Database) -> None:
    here = {"host": "a", "node": "a.x", "vm_state": "active"}
    for name, image in (("plain", "x"), ("volume", "x"), ("imageless", "")):
        add(engine, tables.instances, uuid=name, image_ref=image, project_id="p", user_id="u", **here)
        add(engine, tables.instance_extra, instance_uuid=name, flavor=f"{{{name}}}")
        add(engine, tables.instance_extra, instance_uuid=name, flavor="former", deleted=9)
    add(engine, tables.block_device_mapping, instance_uuid="volume", boot_index=0, destination_type="volume", deleted=0)
    for key, deleted in (("image_hw_cpu_policy", 0), ("image_hw_gone", 1), ("imageXhwXother", 0)):
        add(engine, tables.instance_system_metadata, instance_uuid="plain", key=key, value="v", deleted=deleted)
    node = ComputeNode(1, "n", "a", "a.x", True, False, 0.0)
    found = {one.uuid: one for one in database.run(lambda connection: queries.residents(connection, [node]))}
    assert {one.flavor for one in found.values()} == {"{plain}", "{volume}", "{imageless}"}
    assert {name: one.boot_from_volume for name, one in found.items()} == {
        "plain": False,
        "volume": True,
        "imageless": True,
    }
    assert found["plain"].image_properties == {"hw_cpu_policy": "v"}
    assert {(one.project_id, one.user_id) for one in found.values()} == {("p", "u")}


def test_whose_consumers_are(engine: sa.Engine, database: Database) -> None:
    here = {"host": "a", "vm_state": "active", "project_id": "p"}
    add(engine, tables.instances, uuid="live", user_id="u", **here)
    add(engine, tables.instances, uuid="gone", user_id="u", deleted=7, **here)
    add(engine, tables.instances, uuid="other", user_id="v", **here)
    add(engine, tables.migrations, uuid="move", instance_uuid="other", deleted=0)
    asked = ["live", "gone", "move", "unknown"]
    found = database.run(lambda connection: queries.owners(connection, asked))
    assert found == {"live": ("p", "u"), "gone": ("p", "u"), "move": ("p", "v")}
    assert database.run(lambda connection: queries.owned(connection, ("p", "u"))) == {"live"}


def test_homes_and_rightful_consumers_of_ironic_nodes(engine: sa.Engine, database: Database) -> None:
    """The hash ring moved the node to another nova-compute; its instance keeps the former host."""
    node = {"hypervisor_hostname": "machine-1", "hypervisor_type": "ironic"}
    add(engine, tables.compute_nodes, uuid="n", host="conductor-2", **node)
    add(engine, tables.compute_nodes, uuid="k", host="kvm-2", hypervisor_hostname="kvm-2", hypervisor_type="QEMU")
    add(engine, tables.instances, uuid="i", host="conductor-1", node="machine-1", vm_state="active")
    add(engine, tables.instances, uuid="j", host="kvm-1", node="kvm-2", vm_state="active")
    [home] = database.run(lambda connection: queries.homes(connection, "conductor-1", "machine-1"))
    assert home.uuid == "n"
    assert database.run(lambda connection: queries.homes(connection, "kvm-1", "kvm-2")) == []
    nodes = database.run(nova_queries.compute_nodes)
    found = database.run(lambda connection: queries.rightful(connection, nodes, ["i", "j"]))
    assert found == {"n": {"i"}, "k": set()}
    assert database.run(queries.homeless) == {"j"}


def test_consumers_that_live_or_move(engine: sa.Engine, database: Database) -> None:
    add(engine, tables.instances, uuid="live", host="a", vm_state="active")
    add(engine, tables.instances, uuid="offloaded", vm_state="shelved_offloaded")
    add(engine, tables.instances, uuid="gone", host="a", deleted=7)
    add(engine, tables.migrations, uuid="running", instance_uuid="live", status="running", deleted=0)
    add(engine, tables.migrations, uuid="done", instance_uuid="live", status="done", deleted=0)
    asked = ["live", "offloaded", "gone", "running", "done", "unknown"]
    assert database.run(lambda connection: queries.living(connection, asked)) == {"live", "running"}


def test_instances_at_rest(engine: sa.Engine, database: Database) -> None:
    for name, task in (("rest", None), ("busy", "rebooting"), ("other", None)):
        add(engine, tables.instances, uuid=name, host="a", vm_state="active", task_state=task, hidden=False)
    assert database.run(lambda connection: queries.those_at_rest(connection, ["rest", "busy", "gone"])) == {"rest"}
