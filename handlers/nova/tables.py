"""The columns of Nova's tables that handlers read or write: of ``nova_api`` (:data:`api`) and a cell (:data:`cell`).

Every release since Yoga has each of these columns, so that a SELECT works during an upgrade. All NOT NULL columns are here,
because an INSERT needs them. Sources: ``nova/db/api/models.py`` and ``nova/db/main/models.py``.

All times are naive UTC. In a cell, a column ``deleted`` is 0 in a live row, and the row's ``id`` in a deleted row. ``nova_api``
has no soft delete. ``migrations.migration_type`` is an ENUM in Nova, but text here, to read values of later releases.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

api = MetaData()
cell = MetaData()


def _timestamps() -> list[Column[Any]]:
    return [Column("created_at", DateTime), Column("updated_at", DateTime)]


def _soft_delete() -> list[Column[Any]]:
    return [*_timestamps(), Column("deleted_at", DateTime), Column("deleted", Integer, default=0)]


# nova_api

cell_mappings = Table(
    "cell_mappings",
    api,
    *_timestamps(),
    Column("id", Integer, primary_key=True),
    Column("uuid", String(36), nullable=False),
    Column("name", String(255)),
    Column("transport_url", Text),
    Column("database_connection", Text),
    Column("disabled", Boolean, default=False),
    UniqueConstraint("uuid", name="uniq_cell_mappings0uuid"),
)

host_mappings = Table(
    "host_mappings",
    api,
    *_timestamps(),
    Column("id", Integer, primary_key=True),
    Column("cell_id", Integer, ForeignKey("cell_mappings.id"), nullable=False),
    Column("host", String(255), nullable=False),
    UniqueConstraint("host", name="uniq_host_mappings0host"),
)

instance_mappings = Table(
    "instance_mappings",
    api,
    *_timestamps(),
    Column("id", Integer, primary_key=True),
    Column("instance_uuid", String(36), nullable=False),
    Column("cell_id", Integer, ForeignKey("cell_mappings.id")),
    Column("project_id", String(255), nullable=False),
    Column("user_id", String(255)),
    Column("queued_for_delete", Boolean, default=False),
    UniqueConstraint("instance_uuid", name="uniq_instance_mappings0instance_uuid"),
)

build_requests = Table(
    "build_requests",
    api,
    *_timestamps(),
    Column("id", Integer, primary_key=True),
    Column("instance_uuid", String(36)),
    Column("project_id", String(255), nullable=False),
    Column("instance", Text),
    UniqueConstraint("instance_uuid", name="uniq_build_requests0instance_uuid"),
)

request_specs = Table(
    "request_specs",
    api,
    *_timestamps(),
    Column("id", Integer, primary_key=True),
    Column("instance_uuid", String(36), nullable=False),
    Column("spec", Text, nullable=False),
    UniqueConstraint("instance_uuid", name="uniq_request_specs0instance_uuid"),
)

instance_group_member = Table(
    "instance_group_member",
    api,
    *_timestamps(),
    Column("id", Integer, primary_key=True),
    Column("instance_uuid", String(255)),
    Column("group_id", Integer, nullable=False),
    Index("instance_group_member_instance_idx", "instance_uuid"),
)

aggregates = Table(
    "aggregates",
    api,
    *_timestamps(),
    Column("id", Integer, primary_key=True),
    Column("uuid", String(36)),
    Column("name", String(255)),
    UniqueConstraint("name", name="uniq_aggregate0name"),
    Index("aggregate_uuid_idx", "uuid"),
)

aggregate_hosts = Table(
    "aggregate_hosts",
    api,
    *_timestamps(),
    Column("id", Integer, primary_key=True),
    Column("host", String(255)),
    Column("aggregate_id", Integer, ForeignKey("aggregates.id"), nullable=False),
    UniqueConstraint("host", "aggregate_id", name="uniq_aggregate_hosts0host0aggregate_id"),
)


# a cell

instances = Table(
    "instances",
    cell,
    *_soft_delete(),
    Column("id", Integer, primary_key=True),
    Column("uuid", String(36), nullable=False),
    Column("project_id", String(255)),
    Column("user_id", String(255)),
    Column("display_name", String(255)),
    Column("image_ref", String(255)),
    Column("host", String(255)),
    Column("node", String(255)),
    Column("vm_state", String(255)),
    Column("task_state", String(255)),
    Column("instance_type_id", Integer),
    Column("launched_at", DateTime),
    Column("terminated_at", DateTime),
    Column("cleaned", Integer, default=0),
    Column("hidden", Boolean, default=False),
    UniqueConstraint("uuid", name="uniq_instances0uuid"),
    Index("instances_uuid_deleted_idx", "uuid", "deleted"),
    Index("instances_host_node_deleted_idx", "host", "node", "deleted"),
)

compute_nodes = Table(
    "compute_nodes",
    cell,
    *_soft_delete(),
    Column("id", Integer, primary_key=True),
    Column("uuid", String(36)),
    Column("service_id", Integer),
    Column("host", String(255)),
    Column("hypervisor_hostname", String(255)),
    Column("mapped", Integer, default=0),
    Column("vcpus", Integer, nullable=False, default=0),
    Column("memory_mb", Integer, nullable=False, default=0),
    Column("local_gb", Integer, nullable=False, default=0),
    Column("vcpus_used", Integer, nullable=False, default=0),
    Column("memory_mb_used", Integer, nullable=False, default=0),
    Column("local_gb_used", Integer, nullable=False, default=0),
    Column("hypervisor_type", Text, nullable=False, default=""),
    Column("hypervisor_version", Integer, nullable=False, default=0),
    Column("cpu_info", Text, nullable=False, default=""),
    UniqueConstraint(
        "host", "hypervisor_hostname", "deleted", name="uniq_compute_nodes0host0hypervisor_hostname0deleted"
    ),
    Index("compute_nodes_uuid_idx", "uuid", unique=True),
)

services = Table(
    "services",
    cell,
    *_soft_delete(),
    Column("id", Integer, primary_key=True),
    Column("uuid", String(36)),
    Column("host", String(255)),
    Column("binary", String(255)),
    Column("topic", String(255)),
    Column("report_count", Integer, nullable=False, default=0),
    Column("disabled", Boolean, default=False),
    Column("disabled_reason", String(255)),
    Column("last_seen_up", DateTime),
    Column("forced_down", Boolean, default=False),
    Column("version", Integer, default=0),
    UniqueConstraint("host", "topic", "deleted", name="uniq_services0host0topic0deleted"),
    UniqueConstraint("host", "binary", "deleted", name="uniq_services0host0binary0deleted"),
    Index("services_uuid_idx", "uuid", unique=True),
)

migrations = Table(
    "migrations",
    cell,
    *_soft_delete(),
    Column("id", Integer, primary_key=True),
    Column("uuid", String(36)),
    Column("instance_uuid", String(36), ForeignKey("instances.uuid")),
    Column("source_compute", String(255)),
    Column("source_node", String(255)),
    Column("dest_compute", String(255)),
    Column("dest_node", String(255)),
    Column("status", String(255)),
    Column("migration_type", String(255)),
    Column("hidden", Boolean, default=False),
    Column("cross_cell_move", Boolean, default=False),
    Column("project_id", String(255)),
    Column("user_id", String(255)),
    Index("migrations_instance_uuid_and_status_idx", "deleted", "instance_uuid", "status"),
    # Nova has these two since 2026.2. Older releases have one that serves ``source_compute`` only.
    Index("migrations_by_src_host_nodes_and_status_idx", "deleted", "source_compute", "source_node", "status"),
    Index("migrations_by_dest_host_nodes_and_status_idx", "deleted", "dest_compute", "dest_node", "status"),
    Index("migrations_uuid", "uuid", unique=True),
)

instance_extra = Table(
    "instance_extra",
    cell,
    *_soft_delete(),
    Column("id", Integer, primary_key=True),
    Column("instance_uuid", String(36), ForeignKey("instances.uuid"), nullable=False),
    Column("flavor", Text),
    Column("pci_requests", Text),
    Index("instance_extra_idx", "instance_uuid"),
)

pci_devices = Table(
    "pci_devices",
    cell,
    *_soft_delete(),
    Column("id", Integer, primary_key=True),
    Column("compute_node_id", Integer, ForeignKey("compute_nodes.id"), nullable=False),
    Column("address", String(12), nullable=False),
    Column("vendor_id", String(4), nullable=False),
    Column("product_id", String(4), nullable=False),
    Column("dev_type", String(8), nullable=False),
    Column("label", String(255), nullable=False),
    Column("status", String(36), nullable=False),
    Column("instance_uuid", String(36)),
    Index("ix_pci_devices_compute_node_id_deleted", "compute_node_id", "deleted"),
    UniqueConstraint("compute_node_id", "address", "deleted", name="uniq_pci_devices0compute_node_id0address0deleted"),
)

instance_system_metadata = Table(
    "instance_system_metadata",
    cell,
    *_soft_delete(),
    Column("id", Integer, primary_key=True),
    Column("instance_uuid", String(36), ForeignKey("instances.uuid"), nullable=False),
    Column("key", String(255), nullable=False),
    Column("value", String(255)),
    Index("instance_uuid", "instance_uuid"),
)

#: Not a child of ``instances``: nova-api adds tags and metadata at any time.
instance_metadata = Table(
    "instance_metadata",
    cell,
    *_soft_delete(),
    Column("id", Integer, primary_key=True),
    Column("key", String(255)),
    Column("value", String(255)),
    Column("instance_uuid", String(36)),
    Index("instance_metadata_instance_uuid_idx", "instance_uuid"),
)

tags = Table(
    "tags",
    cell,
    Column("resource_id", String(36), primary_key=True),
    Column("tag", String(80), primary_key=True),
)

instance_info_caches = Table(
    "instance_info_caches",
    cell,
    *_soft_delete(),
    Column("id", Integer, primary_key=True),
    Column("instance_uuid", String(36), ForeignKey("instances.uuid"), nullable=False),
    Column("network_info", Text),
    UniqueConstraint("instance_uuid", name="uniq_instance_info_caches0instance_uuid"),
)

block_device_mapping = Table(
    "block_device_mapping",
    cell,
    *_soft_delete(),
    Column("id", Integer, primary_key=True),
    Column("instance_uuid", String(36), ForeignKey("instances.uuid")),
    Column("source_type", String(255)),
    Column("destination_type", String(255)),
    Column("boot_index", Integer),
    Column("volume_id", String(36)),
    Column("attachment_id", String(36)),
    Index("volume_id", "volume_id"),
    Index("block_device_mapping_instance_uuid_idx", "instance_uuid"),
)


def _shadow(table: Table) -> Table:
    columns = [Column(column.name, column.type, primary_key=column.primary_key) for column in table.columns]
    return Table(f"shadow_{table.name}", cell, *columns)


shadow_instances = _shadow(instances)
shadow_instance_extra = _shadow(instance_extra)
shadow_migrations = _shadow(migrations)
shadow_compute_nodes = _shadow(compute_nodes)
shadow_services = _shadow(services)

# every table with soft deletion has a shadow table; handlers query those above
for _table in list(cell.tables.values()):
    if "deleted" in _table.c and not _table.name.startswith("shadow_") and f"shadow_{_table.name}" not in cell.tables:
        _shadow(_table)

# the revision of the schema: the same table in nova_api and in a cell

api_version = Table("alembic_version", api, Column("version_num", String(32), primary_key=True))
cell_version = Table("alembic_version", cell, Column("version_num", String(32), primary_key=True))
