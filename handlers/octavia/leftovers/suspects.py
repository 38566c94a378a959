"""Lists the objects that look like leftovers, for the sweep."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

from handlers.base import Key, Unavailable
from handlers.octavia import names, queries, records
from handlers.octavia.cloud_objects import AMPHORA, Group, Port, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.leftovers import queries as leftover_queries
from handlers.octavia.leftovers import rules
from handlers.octavia.preserved import pool as preserved


class Suspects:
    def __init__(self, driver: Driver, grace: float) -> None:
        self._driver = driver
        self._database = driver.database
        self._grace = grace

    def sweep(self) -> Iterator[Key]:
        """:raises Unavailable: Nova lists no server although amphora rows name servers"""
        rows, deleted, beats, used, used_groups, providers = self._database.run(
            lambda connection: (
                {row.id: row for row in queries.amphorae(connection)},
                {row.id: row for row in queries.deleted_amphorae(connection)},
                queries.healths(connection),
                queries.used_ports(connection),
                leftover_queries.used_groups(connection),
                {balancer.id: balancer.provider for balancer in queries.load_balancers(connection)},
            )
        )
        servers = self._driver.servers()
        if not servers and any(row.compute_id for row in rows.values()):
            raise Unavailable("compute", "lists no server of Octavia's project, while Octavia has amphorae")
        for row in rows.values():
            device = rules.may_be_device(row, providers.get(row.load_balancer_id or ""))
            if names.may_be_stuck(row) and row.age >= self._grace and not device:
                yield Key("amphora", row.id)
        on_none = {identity for identity, row in deleted.items() if row.load_balancer_id is None}
        for identity in self._unfinished(servers, on_none):
            yield Key("amphora", identity)
        for identity, beat in beats.items():
            if identity not in rows and beat.silent >= self._grace:
                yield Key("amphora", identity)
        if not rows and not deleted:
            return  # a database without any amphora proves nothing
        yield from self._sweep_compute(servers, rows, used_groups)
        yield from self._sweep_network(rows, used)
        for image in self._driver.images():
            ours = preserved.is_ours(image.properties, self._driver.settings.spare_owner)
            left = ours and not image.protected and image.age >= self._grace
            if left and image.properties.get(AMPHORA) not in rows:
                yield Key("image", image.id)

    def _unfinished(self, servers: Sequence[Server], rows: Collection[str]) -> list[str]:
        """Return the ids of marked amphorae whose preservation is incomplete.

        With ``preservation_scheme = cycle``, if too many amphorae are preserved, add the newest amphora with a row, whose heal
        deletes the oldest. Octavia's housekeeping purges rows after a time.

        :param rows: the amphorae whose DELETED rows are on no load balancer; only these are returned
        """
        kept, settings = preserved.assemble(servers, (), self._driver.settings.spare_owner), self._driver.settings
        complete = [one.amphora for one in kept if one.complete]
        over = settings.preservation_scheme == "cycle" and len(complete) > settings.maximum_preserved_amphora_count > 0
        heals = [amphora for amphora in complete if amphora in rows]
        incomplete = [one.amphora for one in kept if not one.complete and one.amphora in rows]
        return [*incomplete, *(heals[-1:] if over else [])]

    def _sweep_compute(
        self, servers: Sequence[Server], rows: Mapping[str, records.Amphora], used_groups: frozenset[str]
    ) -> Iterator[Key]:
        owned = {row.compute_id for row in rows.values()}
        for server in servers:
            amphora = names.amphora_of_server(server.name)
            strange = amphora is not None and amphora not in rows and server.id not in owned
            if strange and not names.is_kept(server) and server.age >= self._grace:
                yield Key("server", server.id)
        groups = [group for group in self._driver.server_groups() if not group.members and group.id not in used_groups]
        yield from self._without_balancer("server-group", groups, names.balancer_of_server_group)

    def _sweep_network(self, rows: Mapping[str, records.Amphora], used: frozenset[str]) -> Iterator[Key]:
        ports = self._driver.ports()
        unused = [port for port in ports if port.id not in used and port.age >= self._grace]
        for port in unused:
            amphora = names.amphora_of_port(port.name)
            if amphora is not None and amphora not in rows:
                yield Key("port", port.id)
        yield from self._without_balancer("port", unused, names.balancer_of_port)
        in_use = {group for port in ports for group in port.security_groups}
        unused_groups = (group for group in self._driver.security_groups() if group.id not in in_use)
        groups = [group for group in unused_groups if group.age >= self._grace]
        yield from self._without_balancer("security-group", groups, names.balancer_of_security_group)

    def _without_balancer(
        self, kind: str, things: Sequence[Port | Group], balancer_of: Callable[[str], str | None]
    ) -> Iterator[Key]:
        named = {thing.id: balancer for thing in things if (balancer := balancer_of(thing.name)) is not None}
        known = self._database.run(partial(queries.known_load_balancers, identities=set(named.values())))
        for identity, balancer in named.items():
            if known.get(balancer, "DELETED") == "DELETED":
                yield Key(kind, identity)
