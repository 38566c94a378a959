"""Amphorae that serve nothing, and the objects that Octavia left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from uuid import UUID

import sqlalchemy as sa

from handlers.base import Key
from handlers.octavia import tables
from handlers.octavia.cloud_objects import AMPHORA, PRESERVED, SPARE, STATE, Port
from handlers.octavia.leftovers.deactivated_amphorae import DeactivatedAmphorae
from tests.functional.octavia.mending import grow_older
from tests.functional.octavia.proofs.balancers import (
    attempted,
    depth,
    job_of_nothing,
    jobboard,
    requests_inside,
    security_group_gone,
    unreadable_board,
)
from tests.functional.octavia.proofs.drift import Act, Drift, Scene
from tests.functional.octavia.work_queue import Postings, Queue, job
from tests.functional.octavia.world import House

NAME = DeactivatedAmphorae.name


def _job_of_it(scene: Scene) -> None:
    """Post a job of the amphora."""
    scene.queue.board = Postings(job("get_failover_amphora_flow-1", scene.key.id))


GRACE = 3600.0
OTHERS = "other-project"


def _id(number: int) -> str:
    return str(UUID(int=number + (4 << 76) + (8 << 60)))


#: amphorae and objects of every state; no cloud has two of them
STRANGER, OBJECT = _id(1), _id(2)


def _scene(house: House, key: Key, balancer: str = "", without_rows: bool = False) -> Scene:
    """Return a scene beside a load balancer that works; everything in it is old."""
    house.octavia.add_load_balancer()
    grow_older(house)
    queue = Queue()
    return Scene(house, DeactivatedAmphorae(house.driver, queue, GRACE, without_rows), key, queue, balancer)


def _row(**values: object) -> Act:
    """Write the row of the amphora in the key, long ago."""

    def act(scene: Scene) -> None:
        scene.house.octavia.set_amphora(scene.key.id, **values)
        grow_older(scene.house)

    return act


def _row_of(find: Callable[[Scene], str], **values: object) -> Act:
    def act(scene: Scene) -> None:
        scene.house.octavia.set_amphora(find(scene), **values)
        grow_older(scene.house)

    return act


def _row_touched(scene: Scene) -> None:
    scene.house.octavia.set_amphora(scene.key.id, status=scene.house.amphora(scene.key.id).status)


def _on_a_balancer(scene: Scene) -> None:
    scene.house.octavia.set_amphora(scene.key.id, load_balancer_id=scene.house.octavia.add_load_balancer())
    grow_older(scene.house)


def _server(**changes: object) -> Act:
    """Alter the server that has the name of an amphora of the drift."""

    def act(scene: Scene) -> None:
        scene.house.cloud.alter_server(_server_id(scene), **changes)

    return act


def _server_id(scene: Scene) -> str:
    if scene.key.kind == "server":
        return scene.key.id
    return scene.house.amphora(scene.key.id).compute_id or ""


KEPT: Mapping[str, Act] = {
    "preserved": _server(tags=frozenset({PRESERVED})),
    "being preserved": _server(metadata={AMPHORA: "x"}),
    "a spare": _server(tags=frozenset({SPARE})),
    "released": _server(metadata={STATE: "released"}),
}
NOT_OURS: Mapping[str, Act] = {"another name": _server(name="web-1"), "another project": _server(project_id=OTHERS)}


def _unreachable(service: str) -> Act:
    return lambda scene: scene.house.cloud.weather.unreachable.add(service)


# amphorae


def _deactivated(house: House) -> Scene:
    (row,) = house.serving(house.octavia.add_load_balancer())
    house.octavia.set_amphora(row.id, status="READY", load_balancer_id=None)
    return _scene(house, Key("amphora", row.id))


def _eligible(house: House) -> Scene:
    (row,) = house.serving(house.octavia.add_load_balancer())
    house.octavia.set_amphora(row.id, status="ERROR", load_balancer_id=None)
    return _scene(house, Key("amphora", row.id))


def _without_server(house: House) -> Scene:
    found = _deactivated(house)
    house.cloud.delete_server(house.amphora(found.key.id).compute_id or "")
    return found


def _server_again(scene: Scene) -> None:
    row = scene.house.amphora(scene.key.id)
    scene.house.cloud.boot(f"amphora-{row.id}", identity=row.compute_id or "")


def _stuck(house: House) -> Scene:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.octavia.set_amphora(row.id, status="PENDING_DELETE")
    return _scene(house, Key("amphora", row.id), balancer)


def _pending(value: str) -> Act:
    def act(scene: Scene) -> None:
        scene.house.octavia.set_balancer(scene.balancer, value)
        grow_older(scene.house)

    return act


def _is_replaced(scene: Scene) -> bool:
    return [row.status for row in scene.house.serving(scene.balancer)] == ["ALLOCATED"]


# servers


def _strange_server(house: House) -> Scene:
    server = house.cloud.boot(f"amphora-{STRANGER}")
    house.cloud.plug(server.id, "vip-net", f"octavia-lb-vrrp-{STRANGER}", ("198.18.200.200",))
    return _scene(house, Key("server", server.id), without_rows=True)


def _without_permission(scene: Scene) -> None:
    scene.handler = DeactivatedAmphorae(scene.house.driver, scene.queue, GRACE)


def _our_server_unseen(scene: Scene) -> None:
    for server in scene.house.cloud.servers():
        if server.id != scene.key.id:
            scene.house.cloud.delete_server(server.id)


def _many_strangers(scene: Scene) -> None:
    for number in range(3):
        scene.house.cloud.boot(f"amphora-{_id(100 + number)}")


def _named_by_a_row(scene: Scene) -> None:
    (row,) = scene.house.serving(scene.house.octavia.add_load_balancer())
    scene.house.octavia.set_amphora(row.id, compute_id=scene.key.id)
    grow_older(scene.house)


def _rival(scene: Scene) -> None:
    scene.house.cloud.add_port(replace(_port("web"), network_id="vip-net", addresses=("198.18.200.200",)))


def _gone_server(scene: Scene) -> bool:
    return scene.house.cloud.server(scene.key.id) is None


def _zombie(house: House) -> Scene:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.octavia.delete_load_balancer(balancer)
    server = house.cloud.boot(f"amphora-{row.id}", identity=row.compute_id or "")
    return _scene(house, Key("server", server.id), balancer)


def _deleted_row(scene: Scene) -> str:
    return next(row.id for row in scene.house.rows(scene.balancer))


# ports, groups, images


def _port(name: str, device: str = "", owner: str = "", project: str = "octavia-project") -> Port:
    return Port(OBJECT, name, project, "vip-net", device, owner, "fa:16:3e:00:00:01", True, 1)


def _alter_port(**changes: object) -> Act:
    """Alter the port, without a new revision."""

    def act(scene: Scene) -> None:
        port = scene.house.cloud.port(scene.key.id)
        assert port is not None
        scene.house.cloud.add_port(replace(port, **changes))  # type: ignore[arg-type]
        grow_older(scene.house)

    return act


def _leaked_port(house: House) -> Scene:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.octavia.delete_load_balancer(balancer)
    house.cloud.add_port(_port(f"octavia-lb-vrrp-{row.id}"))
    return _scene(house, Key("port", OBJECT), balancer)


def _gone_port(scene: Scene) -> bool:
    return scene.house.cloud.port(scene.key.id) is None


def _with_a_server(scene: Scene) -> None:
    server = scene.house.cloud.servers()[0]
    _alter_port(device_id=server.id)(scene)


def _named_port(scene: Scene) -> None:
    (row,) = scene.house.serving(scene.house.octavia.add_load_balancer())
    scene.house.octavia.set_amphora(row.id, vrrp_port_id=scene.key.id)
    grow_older(scene.house)


def _named_vip_port(scene: Scene) -> None:
    balancer = scene.house.octavia.add_load_balancer()
    change = sa.update(tables.vip).where(tables.vip.c.load_balancer_id == balancer).values(port_id=scene.key.id)
    scene.house.database.run(lambda connection: connection.execute(change))
    grow_older(scene.house)


def _leaked_vip(house: House) -> Scene:
    balancer = house.octavia.add_load_balancer()
    house.octavia.delete_load_balancer(balancer)
    house.cloud.add_port(_port(f"octavia-lb-{balancer}", f"lb-{balancer}", "Octavia"))
    return _scene(house, Key("port", OBJECT), balancer)


def _leaked_security_group(house: House) -> Scene:
    balancer = house.octavia.add_load_balancer()
    house.octavia.delete_load_balancer(balancer)
    group = house.cloud.add_security_group(f"lb-{balancer}")
    return _scene(house, Key("security-group", group.id), balancer)


def _leaked_server_group(house: House) -> Scene:
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    house.octavia.delete_load_balancer(balancer)
    group = house.cloud.add_server_group(f"octavia-lb-{balancer}")
    return _scene(house, Key("server-group", group.id), balancer)


def _alter_group(**changes: object) -> Act:
    """Alter the group of the key."""

    def act(scene: Scene) -> None:
        cloud = scene.house.cloud
        groups = cloud._groups if scene.key.kind == "server-group" else cloud._security_groups
        groups[scene.key.id] = replace(groups[scene.key.id], **changes)  # type: ignore[arg-type]

    return act


def _gone_group(scene: Scene) -> bool:
    cloud = scene.house.cloud
    return scene.key.id not in {group.id for group in (*cloud.server_groups(), *cloud.security_groups())}


def _port_with_the_group(scene: Scene) -> None:
    port = replace(_port(f"octavia-lb-{STRANGER}", "x", "Octavia", OTHERS), security_groups=(scene.key.id,))
    scene.house.cloud.add_port(port)


def _named_group(scene: Scene) -> None:
    balancer = scene.house.octavia.add_load_balancer()
    change = sa.update(tables.load_balancer).where(tables.load_balancer.c.id == balancer)
    scene.house.database.run(lambda connection: connection.execute(change.values(server_group_id=scene.key.id)))
    grow_older(scene.house)


def _leaked_image(house: House) -> Scene:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    image = house.cloud.snapshot(row.compute_id or "", f"preserved-amphora-{row.id}", {AMPHORA: row.id})
    house.octavia.delete_load_balancer(balancer)
    return _scene(house, Key("image", image), balancer)


def _image(**changes: object) -> Act:
    return lambda scene: scene.house.cloud.alter_image(scene.key.id, **changes)


def _marked_server(scene: Scene) -> None:
    amphora = _deleted_row(scene)
    scene.house.cloud.boot("preserved", tags=frozenset({PRESERVED}), metadata={AMPHORA: amphora})


def _orphan(house: House) -> Scene:
    (row,) = house.serving(balancer := house.octavia.add_load_balancer())
    house.octavia.delete_load_balancer(balancer)
    house.octavia.heartbeat(row.id)
    return _scene(house, Key("amphora", row.id), balancer)


def _has_no_heartbeat(scene: Scene) -> bool:
    health = tables.amphora_health
    query = sa.select(health.c.amphora_id).where(health.c.amphora_id == scene.key.id)
    return scene.house.database.run(lambda connection: connection.execute(query).first()) is None


def _beats(scene: Scene) -> None:
    scene.house.octavia.heartbeat(scene.key.id, silent=1)


def _left_balancer(house: House) -> Scene:
    balancer = house.octavia.add_load_balancer()
    (row,) = house.serving(balancer)
    house.octavia.delete_load_balancer(balancer)
    house.cloud.boot(f"amphora-{row.id}", identity=row.compute_id or "")
    return _scene(house, Key("load-balancer", balancer), balancer)


def _left_server(scene: Scene) -> str:
    return next(row.compute_id or "" for row in scene.house.rows(scene.balancer))


def _alter_left(**changes: object) -> Act:
    return lambda scene: scene.house.cloud.alter_server(_left_server(scene), **changes)


NOT_DELETED: Mapping[str, Act] = {
    value: _row_of(_deleted_row, status=value) for value in ("ALLOCATED", "ERROR", "PENDING_DELETE")
}
BALANCER_LIVES: Mapping[str, Act] = {value: _pending(value) for value in ("ACTIVE", "ERROR", "PENDING_DELETE")}
ROW_WITHOUT_BALANCER = "the row without a load balancer, unchanged for ``deactivated_amphorae_after``"
BALANCER_DELETED = "the row of the load balancer in its name, DELETED"
NEWER = "a newer one"
MARK = "a mark as preserved, spare or released"

DRIFTS = (
    Drift(
        NAME,
        "amphora-deactivated",
        _deactivated,
        lambda scene: scene.house.amphora(scene.key.id).status == "DELETED",
        proof={
            ROW_WITHOUT_BALANCER: {"the row has changed": _row_touched, "the row is DELETED": _row(status="DELETED")},
            "its server in Octavia's project": {**NOT_OURS, "Nova does not answer": _unreachable("compute")},
        },
        contradiction={"a load balancer in the row": {"one": _on_a_balancer}, MARK: KEPT},
    ),
    Drift(
        NAME,
        "amphora-eligible",
        _eligible,
        lambda scene: PRESERVED in scene.house.cloud.present(_server_id(scene)).tags,
        proof={
            "the row in ERROR without a load balancer, unchanged for ``deactivated_amphorae_after``": {
                "the row has changed": _row_touched,
                "the row is READY": _row(status="READY"),
                "the row is DELETED": _row(status="DELETED"),
            },
            "its server in Octavia's project": {
                "another project": NOT_OURS["another project"],
                "Nova does not answer": _unreachable("compute"),
            },
        },
        contradiction={
            "a load balancer in the row": {"one": _on_a_balancer},
            "a mark as spare or released": {name: KEPT[name] for name in ("a spare", "released")},
            "a server that Octavia did not create": {"another name": NOT_OURS["another name"]},
        },
        settings={"maximum_preserved_amphora_count": 1},
    ),
    Drift(
        NAME,
        "amphora-without-server",
        _without_server,
        lambda scene: scene.house.amphora(scene.key.id).status == "DELETED",
        proof={
            ROW_WITHOUT_BALANCER: {"the row has changed": _row_touched, "the row is DELETED": _row(status="DELETED")},
            "Nova's answer 404 for its server": {"no answer": _unreachable("compute")},
        },
        contradiction={
            "a server of the row": {"it exists": _server_again},
            "a load balancer in the row": {"one": _on_a_balancer},
        },
    ),
    Drift(
        NAME,
        "amphora-stuck",
        _stuck,
        _is_replaced,
        proof={
            "a state that only a flow sets, unchanged for ``deactivated_amphorae_after``": {
                "the row has changed": _row_touched,
                "ALLOCATED": _row(status="ALLOCATED"),
                "ERROR": _row(status="ERROR"),
            },
            "Octavia's queue, empty, with a consumer": {
                "no consumer": depth(0, 0),
                "the broker does not answer": lambda scene: setattr(scene.queue, "error", ConnectionError("away")),
            },
        },
        contradiction={
            "a load balancer in PENDING_*": {
                value: _pending(value) for value in ("PENDING_CREATE", "PENDING_UPDATE", "PENDING_DELETE")
            },
            "a job of it on Octavia's jobboard": {"of it": _job_of_it, "of an unknown object": job_of_nothing},
            "a jobboard that stackmend cannot read, or none known": {
                "it proves nothing": unreadable_board,
                "none known": jobboard("it is unknown whether Octavia has a jobboard"),
            },
            "a request in the queue or inside a worker": {
                "in the queue": depth(1, 1),
                "inside a worker": requests_inside,
            },
            "three failovers of its load balancer within a week, or no security group that counts them": {
                "three": attempted,
                "no security group": security_group_gone,
            },
        },
    ),
    Drift(
        NAME,
        "server-without-row",
        _strange_server,
        _gone_server,
        proof={
            "the name of the server in Octavia's project": {**NOT_OURS, **KEPT},
            "the operator's word that no other Octavia uses the project (``deactivated_amphorae_without_rows``)": {
                "withdrawn": _without_permission
            },
            "at least 90 % of our servers in Nova, and few without a row": {
                "none of ours": _our_server_unseen,
                "many without a row": _many_strangers,
            },
        },
        contradiction={
            "a row that names the server or its amphora": {"the server": _named_by_a_row},
            "a port with the address that the server answers for": {"one": _rival},
        },
    ),
    Drift(
        NAME,
        "zombie-server",
        _zombie,
        _gone_server,
        proof={
            "the row of its amphora, DELETED": NOT_DELETED,
            "the server with that amphora's name in Octavia's project": NOT_OURS,
        },
        contradiction={
            "another row with that server that is not DELETED": {"one": _named_by_a_row},
            MARK: KEPT,
            "a task of the server": {"deleting": _server(task_state="deleting"), "BUILD": _server(status="BUILD")},
        },
    ),
    Drift(
        NAME,
        "leaked-port",
        _leaked_port,
        _gone_port,
        proof={
            "the row of the amphora in its name, DELETED": {**NOT_DELETED, "another name": _alter_port(name="web")},
            "the port in Octavia's project without a server": {
                "another project": _alter_port(project_id=OTHERS),
                "Neutron does not answer": _unreachable("network"),
            },
        },
        contradiction={
            "a row that names the port": {"of an amphora": _named_port, "of a VIP": _named_vip_port},
            "a server with the port": {"one": _with_a_server},
            "another revision of the port": {NEWER: _alter_port(revision=2)},
        },
        between_only=frozenset({NEWER}),
    ),
    Drift(
        NAME,
        "leaked-vip-port",
        _leaked_vip,
        _gone_port,
        proof={
            BALANCER_DELETED: {**BALANCER_LIVES, "another name": _alter_port(name=f"octavia-lb-{STRANGER}")},
            "the port with Octavia's ``device_id`` and owner in its project": {
                "another device": _alter_port(device_id="x"),
                "another owner": _alter_port(device_owner="compute:nova"),
            },
        },
        contradiction={
            "a row that names the port": {"of an amphora": _named_port, "of a VIP": _named_vip_port},
            "another project": {"of the tenant": _alter_port(project_id=OTHERS)},
            "another revision of the port": {NEWER: _alter_port(revision=2)},
        },
        between_only=frozenset({NEWER}),
    ),
    Drift(
        NAME,
        "leaked-security-group",
        _leaked_security_group,
        _gone_group,
        proof={
            BALANCER_DELETED: {**BALANCER_LIVES, "another name": _alter_group(name="web")},
            "the group in Octavia's project": {"another project": _alter_group(project_id=OTHERS)},
        },
        contradiction={"a port with the group": {"one": _port_with_the_group}},
    ),
    Drift(
        NAME,
        "leaked-server-group",
        _leaked_server_group,
        _gone_group,
        proof={
            BALANCER_DELETED: {**BALANCER_LIVES, "another name": _alter_group(name="web")},
            "the group without members in Octavia's project": {"another project": _alter_group(project_id=OTHERS)},
        },
        contradiction={
            "a row that names the group": {"of a load balancer": _named_group},
            "a member": {"one": _alter_group(members=("x",))},
        },
    ),
    Drift(
        NAME,
        "leaked-image",
        _leaked_image,
        lambda scene: scene.house.cloud.image(scene.key.id) is None,
        proof={
            "the row of the amphora in its marks, DELETED": {
                **NOT_DELETED,
                "no mark": _image(properties={}),
                "another amphora": _image(properties={AMPHORA: STRANGER}),
            },
            "the name of the image, and Octavia's project as its owner": {
                "another name": _image(name="mine"),
                "another owner": _image(owner=OTHERS),
            },
        },
        contradiction={
            "a protected image": {"protected": _image(protected=True)},
            "a tag of the image": {"one": _image(tags=frozenset({"amphora"}))},
            "a server that is marked as this amphora's": {"one": _marked_server},
        },
    ),
    Drift(
        NAME,
        "orphan-health",
        _orphan,
        _has_no_heartbeat,
        proof={
            "the row of the amphora, DELETED": {value: _row(status=value) for value in ("ALLOCATED", "ERROR")},
            "no heartbeat for ``deactivated_amphorae_after``": {"a young one": _beats},
        },
        contradiction={
            "a heartbeat": {"one": _beats},
            "a row that is not DELETED": {"READY": _row(status="READY")},
        },
    ),
    Drift(
        NAME,
        "load-balancer-leftovers",
        _left_balancer,
        lambda scene: scene.house.cloud.server(_left_server(scene)) is None,
        proof={
            "the row of the load balancer, DELETED for half a minute": {
                **BALANCER_LIVES,
                "just now": lambda scene: scene.house.octavia.set_balancer(scene.balancer, "DELETED"),
            },
            "for each object the proof above": {
                "the row of the amphora is not DELETED": _row_of(_deleted_row, status="ALLOCATED"),
                "another name of the server": _alter_left(name="web-1"),
            },
        },
        contradiction={
            "as above, for each object": {"preserved": _alter_left(tags=frozenset({PRESERVED}))},
            "a server that Nova deletes": {"deleting": _alter_left(task_state="deleting")},
        },
        swept=False,
    ),
)
