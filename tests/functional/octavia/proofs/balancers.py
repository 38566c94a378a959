"""Load balancers: stuck, in ERROR, with a wrong number of amphorae, with rows of deleted amphorae."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial

import sqlalchemy as sa

from handlers.base import Key, QueueDepth
from handlers.octavia import children, rebuild, tables
from handlers.octavia.children import Kind
from handlers.octavia.simulation.controller import CHILDREN
from handlers.octavia.stuck.freeing import FREED
from handlers.octavia.stuck.problems import NONE, Permissions
from handlers.octavia.stuck.stuck_load_balancers import StuckLoadBalancers
from tests.functional.octavia.mending import grow_older
from tests.functional.octavia.proofs.drift import Act, Drift, Scene
from tests.functional.octavia.work_queue import Postings, Queue, job
from tests.functional.octavia.world import House

AFTER = 3600.0


def scene(house: House, balancer: str, permissions: Permissions = NONE) -> Scene:
    """Return a scene whose rows are old."""
    grow_older(house)
    queue = Queue()
    handler = StuckLoadBalancers(house.driver, queue, AFTER, permissions)
    return Scene(house, handler, Key("load-balancer", balancer), queue, balancer)


# changes


def status(value: str) -> Act:
    """Set the load balancer's status, long ago."""

    def act(scene: Scene) -> None:
        scene.house.octavia.set_balancer(scene.balancer, value)
        grow_older(scene.house)

    return act


def touched(scene: Scene) -> None:
    """Write the load balancer's row now, with its status."""
    scene.house.octavia.set_balancer(scene.balancer, scene.house.balancer(scene.balancer).status)


def amphora_touched(scene: Scene) -> None:
    """Write an amphora's row now, with its status."""
    row = scene.house.serving(scene.balancer)[0]
    scene.house.octavia.set_amphora(row.id, status=row.status)


def vip_port_gone(scene: Scene) -> None:
    """Delete the VIP port."""
    for port in scene.house.cloud.ports():
        if port.device_id == f"lb-{scene.balancer}":
            scene.house.cloud.remove_port(port.id)


def server_group_gone(scene: Scene) -> None:
    """Delete the server group."""
    for group in scene.house.cloud.server_groups():
        scene.house.cloud.delete_server_group(group.id)


def security_group_gone(scene: Scene) -> None:
    """Delete the security group."""
    for group in scene.house.cloud.security_groups():
        if group.name == f"lb-{scene.balancer}":
            scene.house.cloud.delete_security_group(group.id)


def rows_gone(scene: Scene) -> None:
    """Let all its amphora rows become DELETED."""
    for row in scene.house.serving(scene.balancer):
        scene.house.octavia.set_amphora(row.id, status="DELETED", load_balancer_id=None)


def attempted(scene: Scene, number: int = 3) -> None:
    """Record failovers of the last days."""
    (group,) = (one for one in scene.house.cloud.security_groups() if one.name == f"lb-{scene.balancer}")
    version = rebuild.version(scene.house.balancer(scene.balancer))
    for days in range(1, number + 1):
        attempt = rebuild.Attempt("another-amphora", version - timedelta(days=days) // timedelta(microseconds=1))
        scene.house.cloud.tag_security_group(group.id, attempt.tag)


def freed_for_owner(scene: Scene) -> None:
    """Tag the security group as the heal of a stuck creation or deletion does."""
    rebuild.record_freed(scene.house.driver, scene.balancer, datetime(2026, 5, 1))


REMAINS = {
    "VIP port": vip_port_gone,
    "server group": server_group_gone,
    "security group": security_group_gone,
    "amphora rows": rows_gone,
}
ALL_REMAINS = {**REMAINS, "three failovers": attempted, "freed for its owner": freed_for_owner}


def while_active(act: Act, seconds: float = 86_400.0) -> Act:
    """Set the load balancer to ACTIVE, let time pass, then act."""

    def acts(scene: Scene) -> None:
        scene.house.octavia.set_balancer(scene.balancer, "ACTIVE")
        grow_older(scene.house, seconds)
        act(scene)

    return acts


def topology(value: str | None) -> Act:
    """Set the topology."""

    def act(scene: Scene) -> None:
        change = sa.update(tables.load_balancer).where(tables.load_balancer.c.id == scene.balancer)
        scene.house.database.run(lambda connection: connection.execute(change.values(topology=value)))

    return act


def depth(messages: int, consumers: int) -> Act:
    """Let the broker report this of Octavia's queue."""

    def act(scene: Scene) -> None:
        scene.queue._depth = lambda _queue: QueueDepth(messages, consumers)

    return act


def requests_inside(scene: Scene) -> None:
    """Let as many requests be open as one worker has threads."""
    scene.house.octavia.set_balancer(scene.house.octavia.add_load_balancer(), "PENDING_UPDATE")
    scene.queue._threads = 1


def job_of_it(scene: Scene) -> None:
    """Post a job of the load balancer."""
    scene.queue.board = Postings(job("get_create_load_balancer_flow-1", scene.balancer))


def job_of_its_amphora(scene: Scene) -> None:
    """Post a job of one of its amphorae."""
    scene.queue.board = Postings(job("get_failover_amphora_flow-1", scene.house.serving(scene.balancer)[0].id))


def job_of_nothing(scene: Scene) -> None:
    """Post a job that names no object, as the deletion of an amphora does."""
    scene.queue.board = Postings(job("get_delete_amphora_flow-1"))


def unreadable_board(scene: Scene) -> None:
    """Let the jobboard prove nothing."""
    scene.queue.board = board = Postings()
    board.reason = "no job was ever posted"


def jobboard(reason: str) -> Act:
    """Let the queue prove nothing."""

    def act(scene: Scene) -> None:
        scene.queue.refusal = reason

    return act


def building(scene: Scene) -> None:
    """Let Nova build a server of its amphorae."""
    scene.house.cloud.alter_server(scene.house.serving(scene.balancer)[0].compute_id or "", status="BUILD")


# states


def _deleted_row(house: House) -> Scene:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
    house.octavia.failover_load_balancer(balancer)
    return scene(house, balancer)


def _deleted(scene: Scene) -> str:
    return next(row.id for row in scene.house.rows(scene.balancer) if row.status == "DELETED")


def _all_deleted(**values: object) -> Act:
    def act(scene: Scene) -> None:
        for row in scene.house.rows(scene.balancer):
            if row.status == "DELETED":
                scene.house.octavia.set_amphora(row.id, **values)

    return act


def _server_exists(scene: Scene) -> None:
    for row in scene.house.rows(scene.balancer):
        if row.status == "DELETED":
            scene.house.cloud.boot(f"amphora-{row.id}", identity=row.compute_id or "")


def _port_exists(scene: Scene) -> None:
    for row in scene.house.rows(scene.balancer):
        if row.status == "DELETED":
            scene.house.cloud.plug("", "vip-net", f"octavia-lb-vrrp-{row.id}", identity=row.vrrp_port_id or "")


def _pending(house: House) -> Scene:
    balancer = house.octavia.add_load_balancer()
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    found = scene(house, balancer)
    found.queue.board = Postings(job("get_update_load_balancer_flow-1", house.octavia.add_load_balancer()))
    return found


def _of_the_owner(status: str) -> Callable[[House], Scene]:
    def build(house: House) -> Scene:
        balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY")
        house.octavia.set_balancer(balancer, status)
        return scene(house, balancer, Permissions(return_to_owner=True))

    return build


def _is_the_owners(scene: Scene) -> bool:
    """Whether it is in ERROR, and no heal fails it over later, although all failovers are permitted."""
    if scene.house.balancer(scene.balancer).status != "ERROR":
        return False
    handler = StuckLoadBalancers(scene.house.driver, scene.queue, AFTER, Permissions(failover_errors=True))
    later = [*handler.inspect(scene.key)]
    return not any(finding.healable for finding in later)


def _silent(scene: Scene) -> None:
    """Let an amphora send heartbeats no longer."""
    scene.house.octavia.heartbeat(scene.house.serving(scene.balancer)[0].id, silent=50)


def _ahead(scene: Scene) -> None:
    """Let an amphora have a heartbeat lease."""
    scene.house.octavia.heartbeat(scene.house.serving(scene.balancer)[0].id, silent=-60)


def _freed(house: House) -> Scene:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    house.cloud.hosts["compute-4"] = "nova"
    house.octavia.set_balancer(balancer, "PENDING_UPDATE")
    found = scene(house, balancer)
    (finding,) = found.handler.inspect(found.key)
    found.handler.heal(finding)
    return found


def _without_mark(scene: Scene) -> None:
    for row in scene.house.serving(scene.balancer):
        scene.house.cloud.alter_server(row.compute_id or "", metadata={})


def _with_another_time(scene: Scene) -> None:
    for row in scene.house.serving(scene.balancer):
        scene.house.cloud.alter_server(row.compute_id or "", metadata={FREED: "2020-01-01T00:00:00"})


def _miscounted(house: House) -> Scene:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    house.octavia._delete(house.serving(balancer)[0])
    house.octavia.set_balancer(balancer, "ERROR")
    return scene(house, balancer)


def _with_a_third(scene: Scene) -> None:
    """Complete the pair, and add an amphora that no flow finishes."""
    octavia = scene.house.octavia
    octavia._build(scene.balancer, "MASTER", None, 0)
    octavia.set_amphora(octavia._build(scene.balancer, "BACKUP", None, 0), status="BOOTING")
    grow_older(scene.house)


def _in_error(house: House) -> Scene:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    house.cloud.hosts["compute-4"] = "nova"
    house.octavia.set_balancer(balancer, "ERROR")
    return scene(house, balancer, permissions=Permissions(failover_errors=True))


def _unfinished(house: House) -> Scene:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    house.cloud.hosts["compute-4"] = "nova"
    house.octavia.set_child(Kind.POOL, house.octavia.add_children(balancer)[Kind.POOL], "PENDING_UPDATE")
    found = scene(house, balancer)
    found.handler = StuckLoadBalancers(
        house.driver, found.queue, AFTER, permissions=Permissions(failover_children=True)
    )
    return found


def _child(kind: Kind, status: str, long_ago: bool = True) -> Act:
    """Set one of its objects to a status."""

    def act(scene: Scene) -> None:
        c = CHILDREN[kind].c
        identity = scene.house.database.run(lambda connection: connection.execute(sa.select(c.id)).scalar_one())
        scene.house.octavia.set_child(kind, identity, status)
        if long_ago:
            grow_older(scene.house)

    return act


def _failed_over(scene: Scene) -> None:
    """Let a failover leave the pool in PENDING_UPDATE, as Octavia 12 does with a pool without a listener."""
    (found,) = scene.handler.inspect(scene.key)
    scene.handler.heal(found)
    _child(Kind.POOL, "PENDING_UPDATE")(scene)


def _is_finished(scene: Scene) -> bool:
    unfinished = scene.house.database.run(lambda connection: children.pending_of(connection, scene.balancer))
    return not unfinished and _is_rebuilt(scene)


def _is_rebuilt(scene: Scene) -> bool:
    return scene.house.balancer(scene.balancer).status == "ACTIVE" and len(scene.house.serving(scene.balancer)) == 2


def _without_permission(scene: Scene) -> None:
    scene.handler = StuckLoadBalancers(scene.house.driver, scene.queue, AFTER)


NAME = StuckLoadBalancers.name
QUEUE: Mapping[str, Mapping[str, Act]] = {
    "a request in the queue or inside a worker": {"in the queue": depth(1, 1), "inside a worker": requests_inside}
}
JOBBOARD: Mapping[str, Mapping[str, Act]] = {
    "a job of it on Octavia's jobboard": {
        "of it": job_of_it,
        "of its amphora": job_of_its_amphora,
        "of an unknown object": job_of_nothing,
    },
    "a jobboard that stackmend cannot read, or none known": {
        "it proves nothing": unreadable_board,
        "it cannot be read": jobboard("install stackmend[jobboard]"),
        "none known": jobboard("it is unknown whether Octavia has a jobboard"),
    },
}


def owners(problem: str, status_before: str) -> Drift:
    return Drift(
        NAME,
        problem,
        _of_the_owner(status_before),
        _is_the_owners,
        proof={
            "your permission, ``stuck_load_balancers_return_to_owner``": {"withdrawn": _without_permission},
            "rows unchanged for ``stuck_load_balancers_after``": {
                "the load balancer's row": touched,
                "an amphora's row": amphora_touched,
            },
            "Octavia's queue, empty, with a consumer": {
                "no consumer": depth(0, 0),
                "the broker does not answer": lambda scene: setattr(scene.queue, "error", ConnectionError("away")),
            },
        },
        contradiction={
            "a server that is being built": {"of an amphora": building},
            **QUEUE,
            **JOBBOARD,
            "a silent amphora: Octavia's health manager fails over a load balancer in ERROR": {
                "silent": _silent,
                "under lease": _ahead,
            },
        },
    )


PENDING = {value: status(value) for value in ("PENDING_CREATE", "PENDING_UPDATE", "PENDING_DELETE")}

DRIFTS = (
    Drift(
        NAME,
        "deleted-amphora",
        _deleted_row,
        lambda scene: all(row.status != "DELETED" for row in scene.house.rows(scene.balancer)),
        proof={
            "the row of the amphora, DELETED": {"the row is gone": _all_deleted(load_balancer_id=None)},
            "Nova's and Neutron's answer 404 for its server and port": {
                "the servers exist": _server_exists,
                "the ports exist": _port_exists,
                "Nova does not answer": lambda scene: scene.house.cloud.weather.unreachable.add("compute"),
                "Neutron does not answer": lambda scene: scene.house.cloud.weather.unreachable.add("network"),
            },
        },
        contradiction={
            "a row that is no longer DELETED": {"ALLOCATED": _all_deleted(status="ALLOCATED")},
            "a load balancer in PENDING_*": PENDING,
        },
    ),
    owners("stuck-pending-create", "PENDING_CREATE"),
    owners("stuck-pending-delete", "PENDING_DELETE"),
    Drift(
        NAME,
        "stuck-pending-update",
        _pending,
        lambda scene: scene.house.balancer(scene.balancer).status == "ERROR",
        proof={
            "rows unchanged for ``stuck_load_balancers_after``": {
                "the load balancer's row": touched,
                "an amphora's row": amphora_touched,
            },
            "Octavia's queue, empty, with a consumer": {
                "no consumer": depth(0, 0),
                "the broker does not answer": lambda scene: setattr(scene.queue, "error", ConnectionError("away")),
            },
        },
        contradiction={
            "a server that is being built": {"of an amphora": building},
            "a request in the queue or inside a worker": {
                "in the queue": depth(1, 1),
                "inside a worker": requests_inside,
            },
            **JOBBOARD,
        },
    ),
    Drift(
        NAME,
        "failover-due",
        _freed,
        _is_rebuilt,
        proof={
            "the load balancer in ERROR": {"ACTIVE": status("ACTIVE"), **PENDING},
            "the mark on its servers with the time of that write": {"no mark": _without_mark},
        },
        contradiction={
            "another time in the row: another program has written it": {
                "in the row": touched,
                "in the mark": _with_another_time,
            },
            "the same as for ``load-balancer-error``": ALL_REMAINS,
        },
    ),
    Drift(
        NAME,
        "amphora-count",
        _miscounted,
        _is_rebuilt,
        proof={
            "the topology in its row": {"another": topology("SINGLE"), "none": topology(None)},
            "the rows of its amphorae, unchanged for two minutes, or in ERROR for ``stuck_load_balancers_after``": {
                "the load balancer's row": touched,
                "an amphora's row": amphora_touched,
            },
        },
        contradiction={
            "a load balancer in PENDING_*": PENDING,
            "in ERROR the same as for ``load-balancer-error``": ALL_REMAINS,
            "in ACTIVE three failovers within a week, or no security group that counts them": {
                "three": while_active(attempted),
                "no security group": while_active(security_group_gone),
            },
            "in ACTIVE a failover within a week, and a row that changed within ``stuck_load_balancers_after``": {
                "ten minutes ago": while_active(partial(attempted, number=1), 600.0),
            },
            "in ACTIVE as many serving amphorae as the topology has, beside others": {
                "a third": while_active(_with_a_third)
            },
        },
    ),
    Drift(
        NAME,
        "load-balancer-error",
        _in_error,
        _is_rebuilt,
        proof={
            "your permission, ``stuck_load_balancers_failover_errors``": {"withdrawn": _without_permission},
            "the load balancer in ERROR, unchanged for ``stuck_load_balancers_after``": {
                "ACTIVE": status("ACTIVE"),
                "the row has changed": touched,
                **PENDING,
            },
        },
        contradiction={
            "a VIP port, a server group, a security group or an amphora row that is gone": REMAINS,
            "stackmend's tag on the security group: its creation or deletion was stuck": {"the tag": freed_for_owner},
            "three failovers within a week that did not help": {"three": attempted},
        },
    ),
    Drift(
        NAME,
        "stuck-children",
        _unfinished,
        _is_finished,
        proof={
            "your permission, ``stuck_load_balancers_failover_children``": {"withdrawn": _without_permission},
            "the load balancer ACTIVE, unchanged for two minutes": {
                "ERROR": status("ERROR"),
                "its row has changed": touched,
                "an amphora's row has changed": amphora_touched,
                **PENDING,
            },
            "the rows of its objects in PENDING_*, unchanged for ``stuck_load_balancers_after``": {
                "the pool is ACTIVE": _child(Kind.POOL, "ACTIVE"),
                "the pool is in ERROR": _child(Kind.POOL, "ERROR"),
                "the pool has just changed": _child(Kind.POOL, "PENDING_UPDATE", long_ago=False),
                "a member has just changed": _child(Kind.MEMBER, "PENDING_CREATE", long_ago=False),
            },
            "Octavia's queue, empty, with a consumer": {
                "no consumer": depth(0, 0),
                "the broker does not answer": lambda scene: setattr(scene.queue, "error", ConnectionError("away")),
            },
        },
        contradiction={
            "an object in PENDING_DELETE": {kind: _child(kind, "PENDING_DELETE") for kind in Kind},
            "a request in the queue or inside a worker": {
                "in the queue": depth(1, 1),
                "inside a worker": requests_inside,
            },
            **JOBBOARD,
            "a failover that left the object in PENDING_*": {"in PENDING_UPDATE": _failed_over},
            "the same as for ``load-balancer-error``": ALL_REMAINS,
        },
    ),
)
