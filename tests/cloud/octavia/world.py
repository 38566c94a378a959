"""What there is in a cloud with load balancers, and what is wrong there: plain SQL over the services' databases.

Nothing here knows how stackmend reads them.
"""

from __future__ import annotations

from tests.cloud.control_plane import CELLS, ControlPlane, TimedOut, wait_until

_CELLS = [f"nova_{cell}" for cell in ("cell0", *CELLS)]
_SERVERS = " UNION ALL ".join(
    f"SELECT uuid, display_name, vm_state, task_state FROM {cell}.instances WHERE deleted = 0" for cell in _CELLS
)
_LIVE_LB = "SELECT * FROM octavia.load_balancer WHERE provisioning_status <> 'DELETED'"
_SERVING = "SELECT * FROM octavia.amphora WHERE status = 'ALLOCATED'"

_THINGS = {
    "server": f"SELECT uuid, display_name FROM ({_SERVERS}) s",
    "server group": "SELECT uuid, name FROM nova_api.instance_groups",
    "allocation": "SELECT DISTINCT consumer_id FROM placement.allocations",
    "port": "SELECT id, name, device_id, device_owner, mac_address, admin_state_up FROM neutron.ports",
    "address pair": "SELECT port_id, mac_address, ip_address FROM neutron.allowedaddresspairs",
    "security group": "SELECT id, name FROM neutron.securitygroups",
    "security group of a port": "SELECT port_id, security_group_id FROM neutron.securitygroupportbindings",
    "image": "SELECT id, name FROM glance.images WHERE deleted = 0",
    "load balancer": f"SELECT id FROM ({_LIVE_LB}) l",
    "amphora": "SELECT id FROM octavia.amphora WHERE status <> 'DELETED'",
    "health": "SELECT amphora_id FROM octavia.amphora_health",
    "member port": "SELECT port_id, amphora_id FROM octavia.amphora_member_port",
}

_DISORDERS = {
    "a load balancer is neither ACTIVE nor being worked on": f"""
        SELECT id, provisioning_status FROM ({_LIVE_LB}) l
        WHERE provisioning_status <> 'ACTIVE' AND provisioning_status NOT LIKE 'PENDING%'""",
    "a load balancer has too few or too many amphorae": f"""
        SELECT l.id, COUNT(a.id) FROM ({_LIVE_LB}) l
        LEFT JOIN octavia.amphora a ON a.load_balancer_id = l.id AND a.status = 'ALLOCATED'
        WHERE l.provisioning_status = 'ACTIVE' GROUP BY l.id, l.topology
        HAVING COUNT(a.id) <> IF(l.topology = 'SINGLE', 1, 2)""",
    "an amphora has no server": f"""
        SELECT a.id, a.compute_id FROM ({_SERVING}) a LEFT JOIN ({_SERVERS}) s ON s.uuid = a.compute_id
        WHERE s.uuid IS NULL""",
    "an amphora is in a state in which Octavia leaves it": """
        SELECT id, status FROM octavia.amphora
        WHERE status NOT IN ('ALLOCATED', 'DELETED') AND load_balancer_id IS NULL""",
    "an amphora's server is unknown to Octavia": f"""
        SELECT s.uuid, s.display_name FROM ({_SERVERS}) s
        LEFT JOIN octavia.amphora a ON a.compute_id = s.uuid AND a.status <> 'DELETED'
        WHERE s.display_name LIKE 'amphora-%' AND a.id IS NULL""",
    "a VRRP port belongs to no amphora": f"""
        SELECT p.id, p.name FROM neutron.ports p LEFT JOIN ({_SERVING}) a ON a.vrrp_port_id = p.id
        WHERE p.name LIKE 'octavia-lb-vrrp-%' AND a.id IS NULL""",
    "a member port belongs to no amphora": """
        SELECT p.id, p.name FROM neutron.ports p
        LEFT JOIN octavia.amphora a ON p.name = CONCAT('octavia-lb-member-', a.id) AND a.status <> 'DELETED'
        WHERE p.name LIKE 'octavia-lb-member-%' AND a.id IS NULL""",
    "a VIP's port belongs to no load balancer": f"""
        SELECT p.id, p.name FROM neutron.ports p
        LEFT JOIN ({_LIVE_LB}) l ON p.name = CONCAT('octavia-lb-', l.id)
        WHERE p.device_owner = 'Octavia' AND l.id IS NULL""",
    "an amphora's port does not carry the VIP": f"""
        SELECT a.id, v.ip_address FROM ({_SERVING}) a JOIN octavia.vip v ON v.load_balancer_id = a.load_balancer_id
        LEFT JOIN neutron.allowedaddresspairs p ON p.port_id = a.vrrp_port_id AND p.ip_address = v.ip_address
        WHERE p.port_id IS NULL""",
    "an amphora's port is not the server's": f"""
        SELECT a.id, a.vrrp_port_id FROM ({_SERVING}) a
        LEFT JOIN neutron.ports p ON p.id = a.vrrp_port_id AND p.device_id = a.compute_id WHERE p.id IS NULL""",
    "a security group belongs to no load balancer": f"""
        SELECT g.id, g.name FROM neutron.securitygroups g LEFT JOIN ({_LIVE_LB}) l ON g.name = CONCAT('lb-', l.id)
        WHERE g.name LIKE 'lb-%-%-%-%-%' AND l.id IS NULL""",
    "a server group belongs to no load balancer": f"""
        SELECT g.uuid, g.name FROM nova_api.instance_groups g
        LEFT JOIN ({_LIVE_LB}) l ON g.name = CONCAT('octavia-lb-', l.id)
        WHERE g.name LIKE 'octavia-lb-%' AND l.id IS NULL""",
    "a heartbeat of nobody is remembered": """
        SELECT h.amphora_id FROM octavia.amphora_health h
        LEFT JOIN octavia.amphora a ON a.id = h.amphora_id AND a.status <> 'DELETED' WHERE a.id IS NULL""",
}


def world(cloud: ControlPlane) -> set[str]:
    """Return everything that is there, one line each; two of these are compared."""
    absent = cloud.release.absent_tables
    there = {what: query for what, query in _THINGS.items() if not any(f"octavia.{table}" in query for table in absent)}
    return _lines(cloud, there)


def disorders(cloud: ControlPlane) -> set[str]:
    """Return everything that is wrong, one sentence each; nothing may be under way."""
    return _lines(cloud, _DISORDERS)


def wait_for_rest(cloud: ControlPlane, patience: float = 240) -> None:
    """Until nothing is under way, and whatever Nova deletes is gone; not longer than a while, for what stays so."""
    pending = f"SELECT id FROM ({_LIVE_LB}) l WHERE provisioning_status LIKE 'PENDING%'"
    busy = f"SELECT uuid FROM ({_SERVERS}) s WHERE task_state IS NOT NULL OR vm_state = 'building'"

    def rest() -> bool:
        return not cloud.mariadb.execute(pending) + cloud.mariadb.execute(busy) and not disorders(cloud)

    try:
        wait_until(rest, patience, "rest")
    except TimedOut:
        return  # the caller looks for itself


def _lines(cloud: ControlPlane, queries: dict[str, str]) -> set[str]:
    found = set()
    for what, query in queries.items():
        for row in cloud.mariadb.execute(query).splitlines():
            found.add(f"{what}: {' '.join(row.split(chr(9)))}")
    return found
