"""Failed amphorae: every step of a replacement and of a preservation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial

from handlers.base import Key
from handlers.octavia import queries, rebuild, records
from handlers.octavia.cloud_objects import AMPHORA, PRESERVED, PRESERVED_PREFIX, SINCE, STATE, Server
from handlers.octavia.failover.failed_amphora import FailedAmphora
from handlers.octavia.failover.heartbeats import Listener
from handlers.octavia.housekeeping import UnavailableException
from handlers.octavia.preserved.inventory import PreservedAmphorae
from handlers.octavia.preserved.pool import State
from tests.functional.octavia.proofs.balancers import PENDING, REMAINS, attempted, touched
from tests.functional.octavia.proofs.drift import Act, Drift, Scene
from tests.functional.octavia.world import House

NAME = FailedAmphora.name
PRESERVING = {"maximum_preserved_amphora_count": 1}
SNAPSHOT = {**PRESERVING, "preservation_method": "snapshot"}


def _scene(house: House, amphora: records.Amphora) -> Scene:
    return Scene(house, house.handler(), Key("amphora", amphora.id), balancer=amphora.load_balancer_id or "")


def _until(scene: Scene, problem: str) -> Scene:
    """Heal step by step until this step is the next one."""
    for _turn in range(20):
        (finding,) = scene.handler.inspect(scene.key)
        if finding.problem == problem:
            return scene
        scene.handler.heal(finding)
    raise AssertionError(f"{problem} does not come")


# facts


def _amphora(scene: Scene) -> records.Amphora:
    return scene.house.amphora(scene.key.id)


def _server(scene: Scene) -> Server:
    """Return the server of the amphora, also when the row has forgotten it."""
    row = _amphora(scene)
    found = [
        server
        for server in scene.house.cloud.servers()
        if server.id == row.compute_id or server.metadata.get(AMPHORA) == row.id
    ]
    return found[0]


def _silence(scene: Scene) -> float:
    health = scene.house.database.run(partial(queries.health, amphora=scene.key.id))
    assert health is not None
    return health.silent


def _is_replaced(scene: Scene) -> bool:
    rows = scene.house.serving(scene.balancer)
    return _amphora(scene).status == "DELETED" and {row.status for row in rows} == {"ALLOCATED"}


def _is_disconnected(scene: Scene) -> bool:
    ports = scene.house.driver.ports_of(_server(scene).id)
    return not [port for port in ports if port.admin_up]


# changes


def _alter(**changes: object) -> Act:
    """Alter the server of the amphora."""
    return lambda scene: scene.house.cloud.alter_server(_server(scene).id, **changes)


def _row(**values: object) -> Act:
    """Alter the row of the amphora."""
    return lambda scene: scene.house.octavia.set_amphora(scene.key.id, **values)


def _row_with_server(scene: Scene) -> None:
    """Write the server into the row again."""
    scene.house.octavia.set_amphora(scene.key.id, compute_id=_server(scene).id)


def _heartbeat(scene: Scene) -> None:
    scene.house.octavia.heartbeat(scene.key.id, silent=1)


def _without_lease(scene: Scene) -> None:
    scene.house.octavia.heartbeat(scene.key.id, silent=55)


def _unreachable(service: str) -> Act:
    return lambda scene: scene.house.cloud.weather.unreachable.add(service)


def _without_metadata(name: str) -> Act:
    def act(scene: Scene) -> None:
        server = _server(scene)
        scene.house.cloud.alter_server(server.id, metadata={**server.metadata, name: ""})

    return act


def _refuses(call: str) -> Act:
    """Let Octavia refuse this request."""

    def act(scene: Scene) -> None:
        def before(name: str) -> None:
            if name == call:
                raise UnavailableException("load-balancer", "403")

        scene.house.cloud.weather.before = before

    return act


def _others_in_error(scene: Scene) -> None:
    for _number in range(scene.house.driver.settings.failover_threshold):
        (row,) = scene.house.serving(scene.house.octavia.add_load_balancer())
        scene.house.octavia.set_amphora(row.id, status="ERROR")


def _silent_alone(scene: Scene) -> None:
    """Let silence be the only sign, in a cloud of few amphorae, on a host that is up."""
    _alter(status="ACTIVE")(scene)
    scene.house.octavia.heartbeat(scene.key.id, silent=55)


def _silent_with_most(scene: Scene) -> None:
    """Let silence be the only sign, while most others are silent too."""
    _alter(status="ACTIVE")(scene)
    scene.house.silence(scene.key.id)
    for row in scene.house.database.run(queries.amphorae):
        scene.house.octavia.heartbeat(row.id, silent=55)


def _silent_too_early(scene: Scene) -> None:
    """Let silence be the only sign, while others are heard since a moment."""
    _alter(status="ACTIVE")(scene)
    scene.house.silence(scene.key.id)
    scene.handler = FailedAmphora(scene.house.driver, Listener(60.0))


def _attempts(*seconds: float) -> Act:
    """Record failovers of the amphora so many seconds ago; the load balancer is in ERROR since the last one."""

    def act(scene: Scene) -> None:
        house, last = scene.house, min(seconds)
        scene.house.octavia.set_balancer(scene.balancer, "ERROR")
        house.pass_time(last)
        version = rebuild.version(house.balancer(scene.balancer))
        (group,) = (one for one in house.cloud.security_groups() if one.name == f"lb-{scene.balancer}")
        for ago in seconds:
            attempt = rebuild.Attempt(scene.key.id, version - timedelta(seconds=ago) // timedelta(microseconds=1))
            house.cloud.tag_security_group(group.id, attempt.tag)

    return act


def _full_pool(scene: Scene) -> None:
    """Preserve another amphora."""
    metadata = {AMPHORA: "another", STATE: State.PRESERVED, SINCE: "2030-01-01T00:00:00+00:00"}
    scene.house.cloud.boot(f"{PRESERVED_PREFIX}another", tags=frozenset({PRESERVED}), metadata=metadata)


def _image(**changes: object) -> Act:
    def act(scene: Scene) -> None:
        for image in scene.house.cloud.images():
            scene.house.cloud.alter_image(image.id, **changes)

    return act


def _image_gone(scene: Scene) -> None:
    for image in scene.house.cloud.images():
        scene.house.cloud.alter_image(image.id, protected=False)
        scene.house.cloud.delete_image(image.id)


def _image_exists(scene: Scene) -> None:
    server = _server(scene)
    scene.house.cloud.snapshot(server.id, f"{PRESERVED_PREFIX}{scene.key.id}", {AMPHORA: scene.key.id})


def _reconfigured(**settings: object) -> Act:
    def act(scene: Scene) -> None:
        scene.house.reconfigure(**settings)
        scene.handler = scene.house.handler()

    return act


def _server_exists(scene: Scene) -> None:
    row = _amphora(scene)
    scene.house.cloud.boot(f"amphora-{row.id}", identity=row.compute_id or "")


def _port_exists(scene: Scene) -> None:
    row = _amphora(scene)
    scene.house.cloud.plug("", "vip-net", f"octavia-lb-vrrp-{row.id}", identity=row.vrrp_port_id or "")


def _port_up(scene: Scene) -> None:
    scene.house.cloud.plug(_server(scene).id, "vip-net")


def _oldest(act: Callable[[Scene, Server], object]) -> Act:
    """Change the server of the oldest preserved amphora."""

    def change(scene: Scene) -> None:
        (server,) = (one.server for one in scene.house.preserved() if one.amphora != scene.key.id)
        assert server is not None
        act(scene, server)

    return change


def _release(scene: Scene, server: Server) -> None:
    PreservedAmphorae(scene.house.driver).release(server.metadata[AMPHORA])


def _groups_gone(scene: Scene) -> None:
    for group in scene.house.cloud.server_groups():
        scene.house.cloud.delete_server_group(group.id)


NO_FAILURE: Mapping[str, Act] = {
    "the server runs": _alter(status="ACTIVE"),
    "Nova does not answer": _unreachable("compute"),
}
#: the rows of a load balancer that is not at rest
RESTLESS: Mapping[str, Act] = {f"the load balancer is {name}": act for name, act in PENDING.items()}
BEATS: Mapping[str, Act] = {"one second ago": _heartbeat}
#: Octavia's API answers no question, or refuses the amphora
SILENT: Mapping[str, Act] = {
    "it does not answer": _unreachable("load-balancer"),
    "its broker does not answer": _unreachable("broker"),
}
REFUSES: Mapping[str, Act] = {**SILENT, "it refuses": _refuses("require_failover")}
AT_WORK: Mapping[str, Act] = {"powering on": _alter(task_state="powering-on")}
FORGOTTEN: Mapping[str, Act] = {
    "the row has its server": _row_with_server,
    "the row is ALLOCATED": _row(status="ALLOCATED"),
}
UNMARKED: Mapping[str, Act] = {"no tag": _alter(tags=frozenset())}
MARKED_AND_LEASED: Mapping[str, Act] = {**UNMARKED, "no number": _without_metadata(SINCE), "no lease": _without_lease}
#: Of a heal that cuts an amphora off before its failover.
CUT_OFF = {
    "the failure, proved as for ``failover``": NO_FAILURE,
    "the mark and the lease": MARKED_AND_LEASED,
    "an API that accepts the failover": REFUSES,
}
CUT_OFF_CONTRADICTED = {"a heartbeat": BEATS, "an API that would refuse the failover": REFUSES}


# states


def _stopped(house: House) -> Scene:
    """Return a pair with an amphora whose server is stopped."""
    balancer = house.octavia.add_load_balancer("ACTIVE_STANDBY", anti_affinity=True)
    house.cloud.hosts["compute-4"] = "nova"
    return _scene(house, house.fail(balancer))


def _stopped_and_silent(house: House) -> Scene:
    found = _stopped(house)
    _without_lease(found)
    return found


def _in_error(house: House) -> Scene:
    found = _stopped(house)
    house.octavia.set_balancer(found.balancer, "ERROR")
    house.pass_time(3600)
    return found


def _alive_again(house: House) -> Scene:
    found = _until(_stopped_and_silent(house), "lease")
    _alter(status="ACTIVE")(found)
    _heartbeat(found)
    return found


def _server_in_error(house: House) -> Scene:
    found = _stopped(house)
    _alter(status="ERROR")(found)
    return found


def _on_a_dead_host(house: House) -> Scene:
    found = _stopped_and_silent(house)
    house.cloud.weather.dead_hosts.add(_server(found).host or "")
    return _until(found, "quarantine")


def _failed_image(house: House) -> Scene:
    found = _until(_stopped(house), "seal")
    _image(status="killed")(found)
    return found


def _second_preserved(house: House) -> Scene:
    first = _until(_stopped(house), "shelve")
    first.handler.heal(*first.handler.inspect(first.key))
    other = house.octavia.add_load_balancer()
    return _until(_scene(house, house.fail(other)), "trim")


def _replaced(house: House) -> Scene:
    return _until(_stopped(house), "detach")


DRIFTS = (
    Drift(
        NAME,
        "failover",
        _stopped,
        _is_replaced,
        swept=False,
        proof={
            "the amphora's row on a load balancer at rest": {
                "on none": _row(load_balancer_id=None),
                "the row is DELETED": _row(status="DELETED"),
                **RESTLESS,
            },
            "a server that Nova reports as down, deleted or unknown, or ERROR in the row": NO_FAILURE,
            "for silence, most other amphorae are heard for a whole ``heartbeat_timeout``, or its host is down": {
                "few amphorae": _silent_alone,
                "most are silent": _silent_with_most,
                "heard for a moment": _silent_too_early,
            },
        },
        contradiction={
            "a heartbeat": BEATS,
            "a load balancer in PENDING_*": PENDING,
            "as many failures at once as ``failover_threshold``": {"in ERROR": _others_in_error},
            "a task of the server": AT_WORK,
            "an API or broker of Octavia that does not answer": SILENT,
        },
    ),
    Drift(
        NAME,
        "failover-load-balancer",
        _in_error,
        lambda scene: _is_replaced(scene) and scene.house.balancer(scene.balancer).status == "ACTIVE",
        swept=False,
        proof={
            "the load balancer in ERROR": {
                "ACTIVE": lambda scene: scene.house.octavia.set_balancer(scene.balancer, "ACTIVE"),
                **RESTLESS,
            },
            "the amphora, failed as for ``failover``": NO_FAILURE,
            "its VIP port, its security group and its server group": {
                name: act for name, act in REMAINS.items() if name != "amphora rows"
            },
        },
        contradiction={
            "a VIP port, a server group, a security group or an amphora row that is gone": REMAINS,
            "three failovers within a week that did not help": {"three": attempted},
            "a pause of 15 s, 5 min or 30 min": {
                "of 15 s": touched,
                "of 5 min": _attempts(280),
                "of 30 min": _attempts(2400, 1700),
            },
            "a heartbeat": BEATS,
            "an API or broker of Octavia that does not answer": SILENT,
        },
    ),
    Drift(
        NAME,
        "lease",
        lambda house: _until(_stopped_and_silent(house), "lease"),
        lambda scene: _silence(scene) < -records.SKEW,
        settings=PRESERVING,
        proof={"the failure, proved as for ``failover``": NO_FAILURE, "the mark on its server": UNMARKED},
        contradiction={
            "a heartbeat": BEATS,
            "a load balancer in PENDING_*": PENDING,
            "an API that would refuse the failover": REFUSES,
        },
    ),
    Drift(
        NAME,
        "mark",
        _stopped,
        lambda scene: PRESERVED in _server(scene).tags and bool(_server(scene).metadata[SINCE]),
        settings=PRESERVING,
        swept=False,
        proof={"the failure, proved as for ``failover``": NO_FAILURE},
        contradiction={"a full pool": {"another is preserved": _full_pool}, "a task of the server": AT_WORK},
    ),
    Drift(
        NAME,
        "unmark",
        _alive_again,
        lambda scene: PRESERVED not in scene.house.cloud.present(_amphora(scene).compute_id or "").tags,
        settings=PRESERVING,
        swept=False,
        proof={
            "the tag": UNMARKED,
            "the amphora lives, or the pool is full": {
                "the server is stopped": lambda scene: (_alter(status="SHUTOFF")(scene), _without_lease(scene)),
            },
        },
        contradiction={"a load balancer in PENDING_*": PENDING},
    ),
    Drift(
        NAME,
        "stop",
        _server_in_error,
        lambda scene: _server(scene).status == "SHUTOFF",
        settings=PRESERVING,
        swept=False,
        proof={"the failure, proved as for ``failover``": NO_FAILURE},
        contradiction={
            "a heartbeat": BEATS,
            "a task of the server": AT_WORK,
            "an API that would refuse the failover": REFUSES,
        },
    ),
    Drift(
        NAME,
        "image",
        lambda house: _until(_stopped(house), "image"),
        lambda scene: [image.properties[AMPHORA] for image in scene.house.driver.images()] == [scene.key.id],
        settings=SNAPSHOT,
        swept=False,
        proof={"the row, DELETED and without the server": FORGOTTEN, "the mark on the server": UNMARKED},
        contradiction={"a task of the server": AT_WORK, "an image of it": {"complete": _image_exists}},
    ),
    Drift(
        NAME,
        "seal",
        lambda house: _until(_stopped(house), "seal"),
        lambda scene: all(image.protected for image in scene.house.driver.images()),
        settings=SNAPSHOT,
        swept=False,
        proof={
            "the image, active": {
                "saving": _image(status="saving"),
                "killed": _image(status="killed"),
                "gone": _image_gone,
                "Glance does not answer": _unreachable("image"),
            },
            "its name": {"renamed": _image(name="an operator's")},
        },
        contradiction={"tags of the image": {"amphora": _image(tags=frozenset({"amphora"}))}},
    ),
    Drift(
        NAME,
        "drop-image",
        _failed_image,
        lambda scene: scene.house.driver.images() == [],
        settings=SNAPSHOT,
        swept=False,
        proof={
            "the name of the image": {"renamed": _image(name="an operator's")},
            "its status, or the second image of the server": {
                "active": _image(status="active"),
                "saving": _image(status="saving"),
            },
        },
        contradiction={"a protected image": {"protected": _image(protected=True)}},
    ),
    Drift(
        NAME,
        "drop-server",
        lambda house: _until(_stopped(house), "drop-server"),
        lambda scene: all(server.metadata.get(AMPHORA) != scene.key.id for server in scene.house.cloud.servers()),
        settings=SNAPSHOT,
        swept=False,
        proof={
            "the row, DELETED and without the server": FORGOTTEN,
            "the mark on the server": UNMARKED,
            "its image, active and protected": {
                "saving": _image(status="saving"),
                "killed": _image(status="killed"),
                "gone": _image_gone,
                "released": _image(protected=False, properties={STATE: State.RELEASED}),
                "Glance does not answer": _unreachable("image"),
            },
        },
        contradiction={
            "an image that is not protected": {"not protected": _image(protected=False)},
            "``preservation_keeps = server``": {"server": _reconfigured(preservation_keeps="server")},
        },
    ),
    Drift(
        NAME,
        "unplug",
        lambda house: _until(_stopped_and_silent(house), "unplug"),
        _is_disconnected,
        settings=PRESERVING,
        swept=False,
        gives_back=frozenset(REFUSES),
        proof=CUT_OFF,
        contradiction=CUT_OFF_CONTRADICTED,
    ),
    Drift(
        NAME,
        "quarantine",
        _on_a_dead_host,
        _is_disconnected,
        settings=PRESERVING,
        swept=False,
        gives_back=frozenset(REFUSES),
        proof=CUT_OFF,
        contradiction=CUT_OFF_CONTRADICTED,
    ),
    Drift(
        NAME,
        "let-go",
        lambda house: _until(_stopped_and_silent(house), "let-go"),
        lambda scene: _amphora(scene).compute_id is None and _is_replaced(scene),
        settings=PRESERVING,
        swept=False,
        gives_back=frozenset({*REFUSES, "after the row is changed"}),
        proof={
            "the mark on the server": {**UNMARKED, "no number": _without_metadata(SINCE)},
            "no port of the server that is up": {"a port": _port_up},
            "the lease, or ERROR in the row": {"no lease": _without_lease},
        },
        contradiction={
            "a heartbeat": BEATS,
            "a refusal of the failover, after which the row is restored": {
                **REFUSES,
                "after the row is changed": _refuses("failover_amphora"),
            },
        },
    ),
    Drift(
        NAME,
        "label",
        lambda house: _until(_stopped(house), "label"),
        lambda scene: _server(scene).locked and _server(scene).name == f"{PRESERVED_PREFIX}{scene.key.id}",
        settings=PRESERVING,
        proof={"its tag": UNMARKED, "the row of the amphora without the server": FORGOTTEN},
        contradiction={"a task of the server": AT_WORK},
    ),
    Drift(
        NAME,
        "trim",
        _second_preserved,
        lambda scene: [one.amphora for one in scene.house.preserved()] == [scene.key.id],
        settings={**PRESERVING, "preservation_scheme": "cycle", "failover_threshold": 0},
        proof={
            "its tag and number": {
                "no tag": _oldest(lambda scene, server: scene.house.cloud.alter_server(server.id, tags=frozenset())),
                "no number": _oldest(
                    lambda scene, server: scene.house.cloud.alter_server(
                        server.id, metadata={**server.metadata, SINCE: ""}
                    )
                ),
            },
            "a newer preserved amphora and the maximum in the configuration": {
                "no newer one": UNMARKED["no tag"],
                "a larger maximum": _reconfigured(maximum_preserved_amphora_count=2),
            },
        },
        contradiction={
            "a release by an operator": {
                "released": _oldest(
                    lambda scene, server: (
                        scene.house.cloud.alter_server(server.id, status="SHUTOFF"),
                        _release(scene, server),
                    )
                )
            }
        },
    ),
    Drift(
        NAME,
        "detach",
        _replaced,
        lambda scene: _amphora(scene).load_balancer_id is None,
        swept=False,
        proof={
            "the row, DELETED": {"the row is detached": _row(load_balancer_id=None)},
            "the load balancer at rest": RESTLESS,
            "Nova's and Neutron's answer 404 for server and port, or a row without the server": {
                "the server exists": _server_exists,
                "the port exists": _port_exists,
                "Nova does not answer": _unreachable("compute"),
                "Neutron does not answer": _unreachable("network"),
            },
        },
        contradiction={
            "a row that is no longer DELETED": {
                "ALLOCATED": _row(status="ALLOCATED"),
                "ERROR": _row(status="ERROR"),
            }
        },
    ),
    Drift(
        NAME,
        "shelve",
        lambda house: _until(_stopped(house), "shelve"),
        lambda scene: _server(scene).host is None,
        settings=PRESERVING,
        swept=False,
        proof={"its tag": UNMARKED, "its server group": {"gone": _groups_gone}},
        contradiction={"a task of the server": AT_WORK},
    ),
)
