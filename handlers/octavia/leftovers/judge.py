from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from handlers.base import InFlight, Key
from handlers.octavia import concerns, names, queries, rebuild, records, removal
from handlers.octavia.cloud_objects import AMPHORA, Group, Port, Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.leftovers import queries as leftover_queries
from handlers.octavia.leftovers import reading, rules
from handlers.octavia.leftovers.preserving import next_preservation
from handlers.octavia.leftovers.rules import Leftover, Place, Problem, Scope
from handlers.octavia.pairing import mismatch, pairing
from handlers.octavia.preserved import pool as preserved
from handlers.octavia.work_queue import WorkQueue

#: a leftover with the evidence for it, and its concerns
Judged = tuple[Leftover, dict[str, Any], frozenset[str]]


class Judge:
    def __init__(self, driver: Driver, queue: WorkQueue, grace: float, without_rows: bool) -> None:
        self._driver = driver
        self._queue = queue
        self._database = driver.database
        self._grace = grace
        self._without_rows = without_rows

    def judge(self, key: Key) -> Iterable[Judged]:
        """Return the leftovers that a key names. For an amphora, one of them can be its heartbeat record.

        :raises InFlight: Octavia or Nova perhaps works on the object
        """
        judges: Mapping[str, Callable[[str], Iterable[Judged]]] = {
            "amphora": self._amphora,
            "server": self._server,
            "port": self._port,
            "security-group": self._security_group,
            "server-group": self._server_group,
            "image": self._image,
        }
        return judges[key.kind](key.id)

    def _scope(self, *balancers: records.LoadBalancer | None) -> Scope:
        """Return the facts for rules about objects of these load balancers. If all are DELETED, the ``grace`` is shorter."""
        ended = bool(balancers) and all(found is not None and found.status == "DELETED" for found in balancers)
        grace = min(rules.SETTLED, self._grace) if ended else self._grace
        live, deleted = self._database.run(
            lambda connection: (queries.amphorae(connection), queries.deleted_amphorae(connection))
        )
        compared = pairing(self._driver.servers(), live, deleted)
        return Scope(self._driver.project(), grace, self._without_rows, mismatch(compared))

    def _amphora(self, identity: str) -> Iterable[Judged]:
        row, beat = self._database.run(
            lambda connection: (queries.amphora(connection, identity), queries.health(connection, identity))
        )
        scope = self._scope()
        found = rules.health(scope, identity, row, beat)
        if found:
            yield found, {"amphora": identity}, concerns.named("amphora", identity)
        if row is None:
            return
        if names.in_flow(row, self._grace):
            raise InFlight(f"amphora {identity} is {row.status}, and Octavia may work on it", 60.0)
        server = self._driver.server(row.compute_id) if row.compute_id else None
        sharing = self._database.run(partial(queries.sharing_server, row=row)) if server is not None else None
        port = removal.port_of_others(self._driver, row)
        found = rules.row(scope, row, self._place(row.load_balancer_id), server, sharing, port)
        may_be_preserved = rules.may_be_preserved(scope, row, found, server, sharing)
        preservation = next_preservation(self._driver, row) if may_be_preserved else None
        if preservation is not None:
            _, step = preservation
            text = f"amphora {identity}: {step.why or 'it is preserved'}; the next step: {step.summary}"
            evidence = {**_of_row(row), "step": step.name.value, "objects": list(step.objects)}
            yield Leftover(Problem.ELIGIBLE, text), evidence, self._concerns([row], server)
        elif found:
            yield self._unless_queued(found, row), _of_row(row), self._concerns([row], server)

    def _place(self, balancer: str | None) -> Place | None:
        found = reading.balancer(self._driver, balancer)
        if found is None:
            return None
        rows = self._database.run(partial(queries.amphorae_of, load_balancer=found.id))
        serving = sum(row.status in records.SERVING for row in rows)
        if not found.idle:
            return Place(found, serving)
        remains = rebuild.read(self._driver, found, rows)
        return Place(
            found, serving, rebuild.obstacle(remains) if found.status == "ERROR" else rebuild.repetition(remains)
        )

    def _unless_queued(self, found: Leftover, row: records.Amphora) -> Leftover:
        """Return the leftover, with a refusal if a flow perhaps deletes the amphora.

        In PENDING_DELETE, the queue must prove that no request waits, and the jobboard must have no job of the amphora.
        Octavia's API sets this state before it sends the request. Only workers set other states.

        :raises InFlight: the request perhaps waits in the queue
        """
        if row.status != "PENDING_DELETE" or found.refusal:
            return found
        refusal = self._queue.refusal
        if not refusal:
            self._queue.prove_idle(
                *self._database.run(
                    lambda connection: (queries.open_requests(connection), queries.providers(connection))
                )
            )
            refusal = self._queue.job({row.id})
        if refusal:
            text = f"amphora {row.id} is PENDING_DELETE, unchanged for {self._grace:.0f} s"
            return Leftover(found.problem, text, refusal)
        return found

    def _server(self, identity: str) -> Iterable[Judged]:
        server = self._driver.server(identity)
        amphora = names.amphora_of_server(server.name) if server else None
        if server is None or amphora is None:
            return
        rows = reading.amphorae(self._driver, amphora, identity)
        rival = "" if rows else self._rival(identity)
        balancers = reading.balancers(self._driver, rows)
        found = rules.server(self._scope(*balancers), server, rows, _any_works(balancers), rival)
        if found:
            yield found, _of_server(server), self._concerns(rows, server) | concerns.named("amphora", amphora)

    def _rival(self, server: str) -> str:
        served = {
            (port.network_id, address) for port in self._driver.ports_of(server) for address in port.address_pairs
        }
        rivals = (port.id for network, address in sorted(served) for port in self._driver.ports_at(network, address))
        return next(rivals, "")

    def _port(self, identity: str) -> Iterable[Judged]:
        port = self._driver.port(identity)
        if port is None:
            return
        used = identity in self._database.run(queries.used_ports)
        amphora = names.amphora_of_port(port.name)
        if amphora is not None:
            row = self._database.run(partial(queries.amphora, identity=amphora))
            attached = bool(port.device_id) and self._driver.server(port.device_id) is not None
            balancers = reading.balancers(self._driver, [row] if row is not None else [])
            found = rules.amphora_port(self._scope(*balancers), port, row, _any_works(balancers), attached, used)
        else:
            balancer = reading.balancer(self._driver, names.balancer_of_port(port.name))
            found = rules.balancer_port(self._scope(balancer), port, balancer, used)
        if found:
            yield found, _of_port(port), self._concerns_of_port(port)

    def _security_group(self, identity: str) -> Iterable[Judged]:
        group = _by_id(self._driver.security_groups(), identity)
        if group is None:
            return
        balancer = reading.balancer(self._driver, names.balancer_of_security_group(group.name))
        used = any(identity in port.security_groups for port in self._driver.ports())
        found = rules.security_group(self._scope(balancer), group, balancer, used)
        if found:
            yield found, {"name": group.name}, _of_group(group, names.balancer_of_security_group(group.name), balancer)

    def _server_group(self, identity: str) -> Iterable[Judged]:
        group = _by_id(self._driver.server_groups(), identity)
        if group is None:
            return
        balancer = reading.balancer(self._driver, names.balancer_of_server_group(group.name))
        used = identity in self._database.run(leftover_queries.used_groups)
        found = rules.server_group(self._scope(balancer), group, balancer, used)
        if found:
            yield found, {"name": group.name}, _of_group(group, names.balancer_of_server_group(group.name), balancer)

    def _image(self, identity: str) -> Iterable[Judged]:
        image = next((found for found in self._driver.images() if found.id == identity), None)
        amphora = image.properties.get(AMPHORA) if image is not None else None
        if (
            image is None
            or amphora is None
            or not preserved.is_ours(image.properties, self._driver.settings.spare_owner)
        ):
            return
        row = self._database.run(partial(queries.amphora, identity=amphora))
        preserving = any(preserved.is_about(server, amphora) for server in self._driver.servers())
        found = rules.image(self._scope(), image, row, preserving)
        if found:
            about = concerns.named("amphora", amphora) | concerns.named("project", image.owner)
            yield found, {"name": image.name, "status": image.status}, about

    def _concerns(self, rows: Sequence[records.Amphora], server: Server | None) -> frozenset[str]:
        balancers = map(concerns.of_balancer, reading.balancers(self._driver, rows))
        return concerns.of_amphorae(rows).union(concerns.of_server(server), *balancers)

    def _concerns_of_port(self, port: Port) -> frozenset[str]:
        amphora, balancer = names.amphora_of_port(port.name), names.balancer_of_port(port.name)
        rows = reading.amphorae(self._driver, amphora) if amphora is not None else ()
        server = self._driver.server(port.device_id) if port.device_id else None
        about = concerns.named("project", port.project_id) | concerns.named("amphora", amphora)
        about |= concerns.named("load-balancer", balancer) | concerns.of_balancer(
            reading.balancer(self._driver, balancer)
        )
        return about | self._concerns(rows, server)


def _by_id(groups: Iterable[Group], identity: str) -> Group | None:
    return next((group for group in groups if group.id == identity), None)


def _any_works(balancers: Iterable[records.LoadBalancer | None]) -> bool:
    return any(found is not None and found.status.startswith("PENDING") for found in balancers)


def _of_group(group: Group, identity: str | None, balancer: records.LoadBalancer | None) -> frozenset[str]:
    own = concerns.named("project", group.project_id) | concerns.named("load-balancer", identity)
    return own | concerns.of_balancer(balancer)


def _of_row(row: records.Amphora) -> dict[str, Any]:
    return {
        "status": row.status,
        "compute_id": row.compute_id,
        "load_balancer": row.load_balancer_id,
        "vrrp_port_id": row.vrrp_port_id,
        "updated_at": str(row.updated_at),
    }


def _of_server(server: Server) -> dict[str, Any]:
    return {"name": server.name, "status": server.status, "host": server.host, "flavor": server.flavor}


def _of_port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "project": port.project_id,
        "network": port.network_id,
        "mac": port.mac,
        "device_owner": port.device_owner,
        "device_id": port.device_id,
        "revision": port.revision,
    }
