from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Self

from handlers.base import Healed, Inventory, Json, Refused, Resources, Unavailable
from handlers.octavia import polling, queries
from handlers.octavia.base import OctaviaPlugin
from handlers.octavia.cloud_objects import PRESERVED, STATE, Image, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.preserved import pool
from handlers.octavia.preserved.pool import Preserved, State

#: lines of the console log that are shown
_LINES = 40
#: seconds to wait for a deletion
_PATIENCE = 60.0


class PreservedAmphorae(OctaviaPlugin, Inventory):
    name = "amphora preserved"
    title = "Failed amphorae that are preserved for examination"
    columns = ("amphora", "load_balancer", "since", "state", "server", "image", "reason")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(resources.get(chosen_driver))

    def items(self) -> Sequence[Json]:
        return [_item(one) for one in pool.read(self._driver)]

    def show(self, identity: str) -> Json:
        one = self._find(identity)
        shown = {
            **_item(one),
            "method": one.method,
            "host": one.server.host or "" if one.server is not None else "",
            "status": one.server.status if one.server is not None else "deleted; its image is preserved",
            "how_to_look_inside": _how_to_examine(one),
        }
        if one.server is not None:
            shown["console_log"] = self._driver.console(one.server.id, _LINES)
        return shown

    def release(self, identity: str) -> Healed:
        """Give a preserved amphora to the operator: remove the server's lock and tag, and the image's protection."""
        one = self._not_in_use(identity)
        undo = []
        if one.image is not None:
            mark = f"--property {STATE}={State.PRESERVED}"
            undo.append(f"openstack image set --protected {mark} {one.image.id}")
        if one.server is not None:
            self._release_server(one.server)
            undo.append(pool.restoring(one.server))
            if one.server.locked:
                undo.append(f"openstack server lock {one.server.id}")
        if one.image is not None:
            self._driver.release_image(one.image.id)
        return Healed(
            f"released preserved amphora {identity}: {_where(one)} is yours", before=_item(one), undo="; ".join(undo)
        )

    def _release_server(self, server: Server) -> None:
        if server.status.startswith("SHELVED"):
            raise Refused(
                f"server {server.id} is shelved, and Nova changes no marks of a shelved server: "
                f"run openstack server unshelve {server.id}, then try again"
            )
        self._driver.unlock_server(server.id)
        self._driver.describe_server(server.id, {STATE: State.RELEASED})
        self._driver.untag_server(server.id, PRESERVED)

    def delete(self, identity: str) -> Healed:
        """Delete a preserved amphora's server, image and ports; return when server and image are gone.

        :raises Unavailable: server or image still exists after a minute
        """
        one = self._not_in_use(identity)
        pool.discard(self._driver, one)
        if not polling.until(lambda: self._is_gone(one), _PATIENCE):
            raise Unavailable(f"amphora:{identity}", f"{_where(one)} still exists after its deletion: try again")
        return Healed(f"deleted preserved amphora {identity}: {_where(one)}", before=_item(one))

    def _find(self, identity: str) -> Preserved:
        for one in pool.read(self._driver):
            if one.amphora == identity:
                return one
        raise LookupError(identity)

    def _not_in_use(self, identity: str) -> Preserved:
        one = self._find(identity)
        row = self._driver.database.run(partial(queries.amphora, identity=identity))
        if not one.complete and row is not None and row.status != "DELETED":
            raise Refused(f"amphora {identity} is being preserved: its load balancer has no replacement yet")
        return one

    def _is_gone(self, one: Preserved) -> bool:
        server = one.server is None or self._driver.server(one.server.id) is None
        return server and (one.image is None or self._driver.image(one.image.id) is None)


def _item(one: Preserved) -> dict[str, str]:
    return {
        "amphora": one.amphora,
        "load_balancer": one.load_balancer,
        "since": one.since,
        "state": State.PRESERVED if one.complete else State.PRESERVING,
        "server": one.server.id if one.server is not None else "",
        "image": one.image.id if one.image is not None else "",
        "reason": one.reason,
    }


def _where(one: Preserved) -> str:
    parts: list[tuple[str, Server | Image | None]] = [("server", one.server), ("image", one.image)]
    return " with ".join(f"{word} {thing.id}" for word, thing in parts if thing is not None)


def _how_to_examine(one: Preserved) -> str:
    """No command boots the server with a network, because the amphora would send heartbeats."""
    match one:
        case Preserved(image=Image(id=image)):
            return (
                f"openstack image save --file amphora.img {image}, then mount it read-only: "
                "guestmount -a amphora.img -i --ro /mnt. It contains keys and certificates"
            )
        case Preserved(server=Server(host=None, name=name)):
            return (
                f"it is shelved; its disk is the image '{name}-shelved': openstack image save, then mount it read-only"
            )
        case Preserved(server=Server(id=server, host=host)):
            return (
                f"openstack console url show {server}; or, on host {host}, virsh console, or guestmount its disk "
                "read-only. It has no network. It contains keys and certificates"
            )
        case _:
            return ""
