"""The amphorae that are kept, for the operator: listed, shown, handed over, deleted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Self

from handlers.base import Healed, Inventory, Json, Refused, Resources, Unavailable
from handlers.octavia import polling, queries
from handlers.octavia.base import OctaviaPlugin
from handlers.octavia.cloud_objects import PRESERVED, STATE
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.preserved import pool

#: lines of the console log that are shown
_LINES = 40
#: seconds for which a deletion is watched
_PATIENCE = 60.0


class PreservedAmphorae(OctaviaPlugin, Inventory):
    """Failed amphorae that are kept for examination."""

    name = "amphora preserved"
    title = "Failed amphorae that are kept for examination"
    columns = ("amphora", "load_balancer", "since", "state", "server", "image", "reason")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """Make it on the shared driver."""
        return cls(resources.get(chosen_driver))

    def items(self) -> Sequence[Json]:
        """Return the pool, oldest first, with those that are about to be kept."""
        return [_item(one) for one in pool.read(self._driver)]

    def show(self, identity: str) -> Json:
        """Return one of the pool, and how to look inside it."""
        one = self._find(identity)
        shown = {
            **_item(one),
            "method": one.method,
            "host": one.server.host or "" if one.server is not None else "",
            "status": one.server.status if one.server is not None else "deleted, only its image is kept",
            "how_to_look_inside": _how_to_look_inside(one),
        }
        if one.server is not None:
            shown["console_log"] = self._driver.console(one.server.id, _LINES)
        return shown

    def release(self, identity: str) -> Healed:
        """Hand one over: it is unmarked, unlocked and unprotected, and keeps its name."""
        one = self._not_in_use(identity)
        if one.server is not None and one.server.status.startswith("SHELVED"):
            raise Refused(
                f"server {one.server.id} is shelved, and Nova changes no marks of a shelved one: "
                f"openstack server unshelve {one.server.id}, and try again"
            )
        if one.server is not None:
            self._driver.unlock_server(one.server.id)
            self._driver.describe_server(one.server.id, {STATE: pool.RELEASED})
            self._driver.untag_server(one.server.id, PRESERVED)
        if one.image is not None:
            self._driver.unseal_image(one.image.id)
        return Healed(
            f"released preserved amphora {identity}: {_where(one)} is yours",
            before=_item(one),
            undo=f"openstack server set --tag {PRESERVED} {one.server.id}"
            if one.server is not None
            else f"openstack image set --protected {one.image.id if one.image is not None else ''}",
        )

    def delete(self, identity: str) -> Healed:
        """Delete one: its server, its image and its ports; returns when they are gone.

        :raises Unavailable: when it was asked for and is still there
        """
        one = self._not_in_use(identity)
        pool.discard(self._driver, one)
        if not polling.until(lambda: self._is_gone(one), _PATIENCE):
            raise Unavailable(f"amphora:{identity}", f"{_where(one)} was to be deleted and is still there: try again")
        return Healed(f"deleted preserved amphora {identity}: {_where(one)}", before=_item(one))

    def _find(self, identity: str) -> pool.Kept:
        for one in pool.read(self._driver):
            if one.amphora == identity:
                return one
        raise LookupError(identity)

    def _not_in_use(self, identity: str) -> pool.Kept:
        one = self._find(identity)
        row = self._driver.database.run(partial(queries.amphora, identity=identity))
        if not one.complete and row is not None and row.status != "DELETED":
            raise Refused(f"amphora {identity} is about to be preserved: its load balancer is not whole yet")
        return one

    def _is_gone(self, one: pool.Kept) -> bool:
        server = one.server is None or self._driver.server(one.server.id) is None
        return server and (one.image is None or self._driver.image(one.image.id) is None)


def _item(one: pool.Kept) -> dict[str, str]:
    return {
        "amphora": one.amphora,
        "load_balancer": one.load_balancer,
        "since": one.since,
        "state": pool.KEPT if one.complete else pool.PRESERVING,
        "server": one.server.id if one.server is not None else "",
        "image": one.image.id if one.image is not None else "",
        "reason": one.reason,
    }


def _where(one: pool.Kept) -> str:
    parts = [
        f"{word} {thing.id}" for word, thing in (("server", one.server), ("image", one.image)) if thing is not None
    ]
    return " with ".join(parts)


def _how_to_look_inside(one: pool.Kept) -> str:
    """Say how; never by booting it with a network, where it would send heartbeats under its old name."""
    if one.image is not None:
        return (
            f"openstack image save --file amphora.img {one.image.id}, and mount it read-only (guestmount -a amphora.img -i "
            "--ro /mnt). It holds keys and certificates"
        )
    assert one.server is not None
    if one.server.host is None:
        return f"it is shelved; its disk is the image '{one.server.name}-shelved': openstack image save, and mount it"
    return (
        f"openstack console url show {one.server.id}; or on host {one.server.host} virsh console, or guestmount its disk "
        "read-only. It has no network. It holds keys and certificates"
    )
