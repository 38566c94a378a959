"""The spare pool: too few, too many, running, claimed and failed spares."""

from __future__ import annotations

from handlers.base import Key
from handlers.octavia.cloud_objects import SPARE, Server
from handlers.octavia.spares import pool
from handlers.octavia.spares.pool import ANY
from handlers.octavia.spares.spare_pool import SparePool
from tests.functional.octavia.mending import grow_older, mend
from tests.functional.octavia.proofs.drift import Act, Drift, Scene
from tests.functional.octavia.world import House

NAME = SparePool.name


def _scene(house: House) -> Scene:
    return Scene(house, SparePool(house.driver), Key("pool", ANY))


def _filled(house: House) -> Scene:
    found = _scene(house)
    mend(found.handler)
    return found


def _spares(scene: Scene) -> list[Server]:
    return [one for one in scene.house.cloud.servers() if one.name.startswith("octavia-spare-")]


def _alter(**changes: object) -> Act:
    """Alter every spare."""

    def act(scene: Scene) -> None:
        for spare in _spares(scene):
            scene.house.cloud.alter_server(spare.id, **changes)

    return act


def _size(number: int) -> Act:
    def act(scene: Scene) -> None:
        scene.house.reconfigure(spare_amphora_pool_size=number)
        scene.handler = SparePool(scene.house.driver)

    return act


def _replacing(scene: Scene) -> None:
    balancer = scene.house.octavia.add_load_balancer()
    scene.house.octavia.set_amphora(scene.house.serving(balancer)[0].id, status="PENDING_DELETE")
    scene.house.octavia.set_balancer(balancer, "PENDING_UPDATE")


def _left_in_error(scene: Scene) -> None:
    scene.house.octavia.set_balancer(scene.house.octavia.add_load_balancer(), "ERROR")


def _builds(scene: Scene) -> None:
    for number in range(scene.house.driver.settings.maximum_deploying_amphora_count):
        server = scene.house.cloud.boot(f"amphora-00000000-0000-4000-8000-00000000000{number}")
        scene.house.cloud.alter_server(server.id, status="BUILD")


def _running(house: House) -> Scene:
    found = _filled(house)
    _alter(status="ACTIVE")(found)
    return found


def _over(house: House) -> Scene:
    found = _filled(house)
    _size(0)(found)
    return found


def _claimed(house: House) -> Scene:
    found = _filled(house)
    _alter(tags=frozenset())(found)
    return found


def _quota(scene: Scene) -> None:
    scene.house.cloud.quota = len(scene.house.cloud.servers()) + 2


def _failed(house: House) -> Scene:
    found = _filled(house)
    _alter(status="ERROR")(found)
    grow_older(house)
    return found


def _stranger(scene: Scene) -> None:
    scene.house.cloud.boot("amphora-00000000-0000-4000-8000-000000000009")


def _strangers(scene: Scene) -> None:
    for number in range(3):
        scene.house.cloud.boot(f"amphora-00000000-0000-4000-8000-00000000000{number}")


NO_SPARE = {
    "another name": _alter(name="web-1"),
    "no tag": _alter(tags=frozenset()),
    "no pool in its metadata": _alter(metadata={}),
    "another owner": _alter(metadata={pool.ZONE: ANY, pool.OWNER: "another"}),
}
ONE = {"spare_amphora_pool_size": 1}
UNREACHABLE: Act = lambda scene: scene.house.cloud.weather.unreachable.add("compute")  # noqa: E731


def _gone(scene: Scene) -> bool:
    return _spares(scene) == []


DRIFTS = (
    Drift(
        NAME,
        "pool-short",
        _scene,
        lambda scene: len(_spares(scene)) == 1,
        proof={
            "the size of the pool in the configuration": {"none": _size(0)},
            "the servers of Octavia's project": {"Nova does not answer": UNREACHABLE},
        },
        contradiction={
            "an amphora that is being replaced": {"one": _replacing},
            "a load balancer that a failover left in ERROR": {"one": _left_in_error},
            "as many builds as ``maximum_deploying_amphora_count``": {"so many": _builds},
            "quotas that leave room for no more than two servers": {"two": _quota},
        },
        settings=ONE,
    ),
    Drift(
        NAME,
        "spare-not-stopped",
        _running,
        lambda scene: [one.status for one in _spares(scene)] == ["SHUTOFF"],
        proof={
            "its tag and name as a spare": {name: act for name, act in NO_SPARE.items() if name != "no tag"},
            "its status ACTIVE": {
                value: _alter(status=value) for value in ("SHUTOFF", "BUILD", "ERROR", "SHELVED_OFFLOADED")
            },
        },
        contradiction={"a missing tag": {"no tag": NO_SPARE["no tag"]}},
        settings=ONE,
    ),
    Drift(
        NAME,
        "pool-over",
        _over,
        _gone,
        proof={
            "its tag and name as a spare": {name: act for name, act in NO_SPARE.items() if name != "no tag"},
            "the size of the pool in the configuration, or quotas that leave room for fewer than two servers": {
                "one": _size(1)
            },
        },
        contradiction={
            "a missing tag: a failover claims the spare": {"no tag": NO_SPARE["no tag"]},
            "an amphora of another Octavia in the project, unless the quotas are used up": {
                "three": _strangers,
                "one": _stranger,
            },
        },
        settings=ONE,
    ),
    Drift(
        NAME,
        "spare-claimed",
        _claimed,
        _gone,
        proof={
            "its name and its pool in its metadata": {name: act for name, act in NO_SPARE.items() if name != "no tag"},
            "the tag of a spare, which its claim has removed": {"the tag": _alter(tags=frozenset({SPARE}))},
        },
        contradiction={"a server in the state deleting": {"deleting": _alter(task_state="deleting")}},
        settings=ONE,
    ),
    Drift(
        NAME,
        "spare-failed",
        _failed,
        _gone,
        proof={
            "its tag and name as a spare": NO_SPARE,
            "its status ERROR for ten minutes": {
                "young": lambda scene: scene.house.cloud.grow_older(-86_400.0),
            },
        },
        contradiction={
            "another status": {value: _alter(status=value) for value in ("ACTIVE", "SHUTOFF", "BUILD")},
        },
        settings=ONE,
    ),
)
