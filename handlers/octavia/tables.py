"""The tables and columns of Octavia that stackmend reads or writes.

All exist since Octavia 10 (Yoga), except ``amphora_member_port``, which exists since Octavia 16.

All times are naive UTC.

Sources: ``octavia/db/models.py``, ``octavia/db/migration``.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, DateTime, ForeignKey, MetaData, String, Table

octavia = MetaData()

alembic_version = Table("alembic_version", octavia, Column("version_num", String(32), primary_key=True))

load_balancer = Table(
    "load_balancer",
    octavia,
    Column("id", String(36), primary_key=True),
    Column("project_id", String(36)),
    Column("name", String(255)),
    Column("provisioning_status", String(16), nullable=False),
    Column("operating_status", String(16), nullable=False),
    Column("topology", String(36)),
    Column("server_group_id", String(36)),
    Column("provider", String(64)),
    Column("flavor_id", String(36)),
    Column("availability_zone", String(255)),
    Column("enabled", Boolean, nullable=False),
    Column("created_at", DateTime),
    Column("updated_at", DateTime),
)

amphora = Table(
    "amphora",
    octavia,
    Column("id", String(36), primary_key=True),
    Column("compute_id", String(36)),
    Column("status", String(36), nullable=False),
    Column("load_balancer_id", String(36), ForeignKey("load_balancer.id")),
    Column("lb_network_ip", String(64)),
    Column("vrrp_port_id", String(36)),
    Column("ha_port_id", String(36)),
    Column("role", String(36)),
    Column("cached_zone", String(255)),
    Column("image_id", String(36)),
    Column("compute_flavor", String(255)),
    Column("cert_expiration", DateTime),
    Column("cert_busy", Boolean, nullable=False, default=False),
    Column("created_at", DateTime),
    Column("updated_at", DateTime),
)

#: a row appears with an amphora's first heartbeat, and is set by each one
amphora_health = Table(
    "amphora_health",
    octavia,
    Column("amphora_id", String(36), primary_key=True),
    Column("last_update", DateTime, nullable=False),
    Column("busy", Boolean, nullable=False, default=False),
)

#: since Octavia 16; its rows keep an amphora's row from being purged
amphora_member_port = Table(
    "amphora_member_port",
    octavia,
    Column("port_id", String(36), primary_key=True),
    Column("amphora_id", String(36), ForeignKey("amphora.id"), nullable=False),
    Column("network_id", String(36)),
)

vip = Table(
    "vip",
    octavia,
    Column("load_balancer_id", String(36), ForeignKey("load_balancer.id"), primary_key=True),
    Column("ip_address", String(64)),
    Column("port_id", String(36)),
    Column("subnet_id", String(36)),
    Column("network_id", String(36)),
    Column("octavia_owned", Boolean),
)

tags = Table(
    "tags",
    octavia,
    Column("resource_id", String(36), primary_key=True),
    Column("tag", String(255), primary_key=True),
)

flavor = Table(
    "flavor",
    octavia,
    Column("id", String(36), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("flavor_profile_id", String(36), nullable=False),
)


def _child(name: str, parent: str) -> Table:
    return Table(
        name,
        octavia,
        Column("id", String(36), primary_key=True),
        Column(f"{parent}_id", String(36), ForeignKey(f"{parent}.id")),
        Column("provisioning_status", String(16), nullable=False),
        Column("created_at", DateTime),
        Column("updated_at", DateTime),
    )


listener = _child("listener", "load_balancer")
pool = _child("pool", "load_balancer")
member = _child("member", "pool")
health_monitor = _child("health_monitor", "pool")
l7policy = _child("l7policy", "listener")
l7rule = _child("l7rule", "l7policy")
