"""Finds amphora certificates that Octavia does not rotate.

**What drifts.**

====================  ==================================================================================================
certificate-busy      the amphora's row has ``cert_busy``, and no rotation works on it: Octavia never rotates it again
certificate-overdue   the certificate ends within ``cert_expiry_buffer``, and no rotation has begun: reported
certificate-expired   the certificate has ended: reported; only a failover helps
====================  ==================================================================================================

**Why Octavia lets it.** octavia-housekeeping sets ``cert_busy`` before it rotates a certificate, and later selects only
amphorae without ``cert_busy``. When the process dies, ``cert_busy`` stays. After the certificate's end, Octavia's worker
refuses to talk to the amphora. Then every change of the load balancer takes hours and fails, although traffic passes.

**What is read.** The rows of amphorae and load balancers, the heartbeat record, and the server. ``cert_busy`` counts if the row
is unchanged for ``amphora_certificates_after``. A round of rotations can take longer, because few threads share the work. But
each rotation ends with a write. So the round has ended if no row shows a rotation within that time. Octavia's jobboard, if it
has one, must have no job of the amphora.

**What is changed.** ``cert_busy`` of one row, from 1 to 0. Octavia's next round then rotates the certificate.

**What is not changed.** An amphora in ERROR, one without heartbeats, and one whose certificate ends soon. Their rotation would
fail, and Octavia would set them to ERROR. No certificate is written, and no failover is requested.

**Why a race does no harm.** The write compares the row with the proof. If a rotation did run, Octavia would rotate the
certificate twice, and keep the second certificate.

**Undo.** The history has the SQL statement that sets ``cert_busy`` again.

Sources: those of :mod:`handlers.octavia.certificates.rotation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Self

from oslo_config import cfg

from handlers.access.database import utcnow
from handlers.access.roles import AMPHORAE
from handlers.base import Conflict, Finding, Healed, Key, Mode, Privilege, Resources, Roles
from handlers.octavia import concerns, options, settings
from handlers.octavia import queries as octavia_queries
from handlers.octavia.base import OctaviaHandler
from handlers.octavia.certificates import queries, rules
from handlers.octavia.certificates.rotation import Rotation, rotation
from handlers.octavia.certificates.rules import Certificate, Facts, Problem
from handlers.octavia.cloud_objects import Server
from handlers.octavia.drivers.base import Driver
from handlers.octavia.drivers.chosen import chosen_driver
from handlers.octavia.flow_times import age_or_default, flow_times
from handlers.octavia.rehearsal import plan
from handlers.octavia.work_queue import WorkQueue

OPTIONS: list[cfg.Opt] = [
    cfg.IntOpt(
        "amphora_certificates_after",
        help="Seconds without a change to an amphora's row after which no rotation of its certificate works. Unset: twice the "
        "time for which a flow can work without a change, by the retries and timeouts in octavia.conf; a time below that is "
        "refused.",
    ),
]


class AmphoraCertificates(OctaviaHandler):
    """:param rotation: when Octavia rotates certificates"""

    name = "amphora_certificates"
    title = "Let Octavia rotate amphora certificates whose rotation died"
    group = settings.GROUP
    kinds = ("amphora",)
    healable_problems = frozenset({Problem.BUSY})
    concerned_kinds = concerns.KINDS
    default_mode = Mode.AUDIT
    default_interval = 3600
    confirm_after = 10.0
    requires = ("octavia_database",)
    cost = "One query of Octavia's database; an hour suits any number of amphorae."
    rights = {"octavia": {"amphora": frozenset({Privilege.UPDATE})}}
    roles = Roles((AMPHORAE,))
    own_options = OPTIONS

    def __init__(self, driver: Driver, queue: WorkQueue, rotation: Rotation) -> None:
        self._driver = driver
        self._database = driver.database
        self._queue = queue
        self._rotation = rotation

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        """:raises ConfigError: octavia.conf is malformed, or ``amphora_certificates_after`` is shorter than a flow can take"""
        files = options.files(resources.conf)
        option = "amphora_certificates_after"
        longest = age_or_default(
            resources.conf[settings.GROUP][option], flow_times(files), f"[{settings.GROUP}] {option}"
        )
        return cls(resources.get(chosen_driver), resources.get(WorkQueue.from_resources), rotation(files, longest))

    def inspect(self, key: Key) -> Iterable[Finding]:
        certificate = self._database.run(partial(queries.certificate, amphora=key.id))
        found = None if certificate is None else rules.problem(certificate, self._rotation)
        if certificate is None or found is None:
            return []
        server = self._driver.server(certificate.server) if certificate.server else None
        if server is None and found is not Problem.BUSY:
            return []  # failed_amphora replaces an amphora without a server
        finding = Finding(
            key,
            found,
            rules.summary(certificate, found, self._rotation),
            _evidence(certificate),
            healable=False,
            refusal=rules.advice(certificate, found),
            concerns=self._concerns(certificate, server),
        )
        return [self._judged(finding, certificate, server) if found is Problem.BUSY else finding]

    def _judged(self, finding: Finding, certificate: Certificate, server: Server | None) -> Finding:
        if refusal := rules.obstacle(self._facts(certificate, server)):
            return replace(finding, refusal=refusal)
        return replace(
            finding,
            healable=True,
            refusal="",
            plan=plan(self._driver, lambda driver: _release(driver, certificate)),
            undo=self._database.typed(queries.taking_back(certificate)),
        )

    def _facts(self, certificate: Certificate, server: Server | None) -> Facts:
        amphora, rotation = certificate.amphora, self._rotation
        health, lately = self._database.run(
            lambda connection: (
                octavia_queries.health(connection, amphora),
                queries.rotated_lately(connection, amphora, rotation.longest, rotation.buffer),
            )
        )
        flow = self._queue.refusal or self._queue.job({amphora, certificate.load_balancer})
        return Facts(certificate, rotation, flow, lately, health, server, self._driver.settings.heard_within)

    def _concerns(self, certificate: Certificate, server: Server | None) -> frozenset[str]:
        balancer = self._database.run(partial(octavia_queries.load_balancer, identity=certificate.load_balancer))
        names = concerns.named("amphora", certificate.amphora) | concerns.named("server", certificate.server)
        return names | concerns.of_balancer(balancer) | concerns.of_server(server)

    def sweep(self) -> Iterator[Key]:
        for certificate in self._database.run(queries.certificates):
            if rules.problem(certificate, self._rotation):
                yield Key("amphora", certificate.amphora)

    def population(self) -> int:
        return len(self._database.run(queries.certificates))

    def heal(self, finding: Finding) -> Healed:
        self._database.require_known_schema()
        # The write compares with a row that was read before the proof, so that it never takes a later state for proved.
        certificate = self._database.run(partial(queries.certificate, amphora=finding.key.id))
        self.prove_again(finding)
        if certificate is None:
            raise Conflict(f"{finding.key} is gone")
        return _release(self._driver, certificate)


def _release(driver: Driver, certificate: Certificate) -> Healed:
    driver.database.run(partial(queries.release, certificate=certificate, at=utcnow()))
    return Healed(
        f"reset cert_busy of amphora {certificate.amphora}, so that Octavia rotates its certificate",
        before=_evidence(certificate),
        after={"cert_busy": False},
        undo=driver.database.typed(queries.taking_back(certificate)),
    )


def _evidence(certificate: Certificate) -> dict[str, object]:
    return {
        "status": certificate.status,
        "cert_busy": certificate.busy,
        "cert_expiration": str(certificate.end),
        "updated_at": str(certificate.updated_at),
        "load_balancer": certificate.load_balancer,
        "load_balancer_status": certificate.load_balancer_status,
    }
