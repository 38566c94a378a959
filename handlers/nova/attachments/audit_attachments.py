"""Delete attachments in Cinder that deleted instances left.

**What drifts.** An attachment names a deleted instance, so its volume stays ``in-use`` or ``reserved``. The owner can neither
attach nor delete the volume.

**Why Nova lets it.** When Cinder does not answer or refuses, Nova logs the error and deletes the instance. Since 2023, Cinder
answers 409 to the deletion of an attachment that Nova still uses, unless the request has a service token. Without
``[service_user] send_service_user_token`` in ``nova.conf``, every deletion of a server leaves its attachments.

**What is read.** The attachments in Cinder. The instance's build request and mapping, and in every cell its rows and
migrations, or its archived rows. The service of its last host. If one cell does not answer, the handler decides nothing. If the
service catalogue has no Cinder in this region, the handler finds nothing, and ``stackmend check`` gives the reason.

**What is changed.** One attachment: ``DELETE /attachments/{id}``. The request has no service token. So Cinder asks Nova about a
connected attachment, and refuses with 409 while Nova uses the attachment. The volume stays, even with
``delete_on_termination``.

**What is not changed.** Attachments that name no instance, and attachments of live, shelved or moving instances. A connected
attachment is reported, not deleted, until nova-compute on the instance's last host is up and has removed the guest
(``instances.cleaned``). The same applies if a migration or evacuation did not end: a guest may run on another host. The handler
also reports, but never changes:

- attachments of an instance that no cell knows: another Nova or another service may have it;
- attachments of a volume that another live instance uses by an attachment that Cinder lacks: Cinder may have been restored;
- block device mappings of live instances to volumes that Cinder lacks. If the instance does not boot from the volume, the
  finding has the statement that deletes the mapping.

**Why a race does no harm.** The uuid of a deleted instance never returns, and an attachment never changes its instance.
``[audit] audit_attachments_after`` gives Nova time: nova-compute removes the guests of deleted instances every 1800 s. Two
inspections must agree, because a database server can answer with old rows.

**Undo.** None: an attachment cannot return with its id. The history has its data, and the commands for a new attachment.

Sources: ``cinder/volume/api.py`` (attachment_deletion_allowed), ``nova/compute/manager.py`` (_shutdown_instance,
_run_pending_deletes, _cleanup_running_deleted_instances), ``nova/compute/api.py`` (_local_cleanup_bdm_volumes,
_provision_instances), ``nova/cmd/manage.py`` (VolumeAttachmentCommands).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self
from uuid import UUID

from oslo_config import cfg

from handlers.access.cinder import Attachment, Storage, deleting_attachment
from handlers.access.roles import ATTACHMENTS
from handlers.base import (
    Conflict,
    Finding,
    Healed,
    Incomplete,
    Key,
    Mode,
    Resources,
    Roles,
    Trigger,
    Unavailable,
    keys_of,
)
from handlers.nova import concerns, keys, options
from handlers.nova.archived_consumers import Archive
from handlers.nova.attachments import facts
from handlers.nova.attachments import notifications as cinder
from handlers.nova.attachments.facts import Known
from handlers.nova.attachments.own import require_own_cinder
from handlers.nova.attachments.queries import disks, mapped_volumes, unmapping
from handlers.nova.attachments.rules import Case, Delete, Disk, Problem, decide, judge, state
from handlers.nova.base import NovaHandler
from handlers.nova.cells import Cell
from handlers.nova.database import NovaDatabases
from handlers.nova.lifeless import lifeless
from handlers.nova.nodes import live_instances
from handlers.nova.verdicts import Keep, Report, Wait, findings_or_wait

#: seconds from a notification to the first inspection, which finds nothing for most instances
_ENDED = 10.0
_HINTS = ("instance.delete.end", "instance.create.error", "instance.volume_attach.error")

OPTIONS: list[cfg.Opt] = [
    cfg.IntOpt(
        "audit_attachments_after",
        default=3600,
        min=600,
        help="Seconds from the last change of a deleted instance until an attachment that names it counts as left behind. Set "
        "it to more than [DEFAULT] running_deleted_instance_poll_interval of nova.conf. Heal only where "
        "running_deleted_instance_action is reap, its default: otherwise a guest may still use the volume.",
    ),
]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The proof about one attachment.

    :param place: the volume's place on its storage, without passwords
    :param hosts: the hosts that the instance's deleted rows name
    :param archived: whether all rows of the instance are archived
    """

    attachment: str
    volume: str
    instance: str
    status: str
    mode: str
    attached_at: str
    connected: bool
    place: Mapping[str, Any]
    hosts: str
    archived: bool


class AuditAttachments(NovaHandler):
    name = "audit_attachments"
    title = "Delete attachments in Cinder that deleted instances left"
    kinds = ("instance", "volume")
    healable_problems = frozenset({Problem.DELETED})
    triggers = (
        *(Trigger(event, keys.instance, after=_ENDED) for event in _HINTS),
        *(Trigger(event, cinder.volume, after=_ENDED) for event in cinder.EVENTS),
    )
    concerned_kinds = concerns.KINDS | {"volume"}
    default_mode = Mode.AUDIT
    default_interval = 3600
    confirm_after = 5.0
    requires = ("block-storage", "nova_api")
    relies_on = ("nova_api", "cell")
    cost = (
        "One request to Cinder per thousand attachments and per thousand volumes, and two queries per five hundred instances "
        "in every cell. If no cell knows some of them, one scan of the shadow tables. An hour is fine."
    )
    roles = Roles((ATTACHMENTS,))

    def __init__(self, databases: NovaDatabases, storage: Storage, after: float) -> None:
        self._databases = databases
        self._storage = storage
        self._archive = Archive(databases)
        self._after = after

    @classmethod
    def options(cls) -> Mapping[str, Sequence[cfg.Opt]]:
        return {**super().options(), options.AUDIT: OPTIONS, cinder.GROUP: cinder.OPTIONS}

    @classmethod
    def from_resources(cls, resources: Resources) -> Self:
        return cls(
            resources.get(NovaDatabases.from_resources),
            resources.get(Storage.from_resources),
            resources.conf[options.AUDIT].audit_attachments_after,
        )

    def inspect(self, key: Key) -> Iterable[Finding]:
        if not self._storage.exists():
            return []
        judged = [*self._of_attachments(key), *self._of_disks(key)]
        findings = [one for one in judged if isinstance(one, Finding)]
        return findings_or_wait(findings, [one for one in judged if isinstance(one, Wait)])

    def _of_attachments(self, key: Key) -> Iterator[Finding | Wait]:
        by_instance: dict[str, list[Attachment]] = {}
        for one in self._storage.attachments_of(**{f"{key.kind}_id": key.id}):
            if _is_uuid(one.instance):
                by_instance.setdefault(one.instance, []).append(one)
        for instance, some in by_instance.items():
            yield from self._judge(key, instance, some)

    def _of_disks(self, key: Key) -> Iterator[Finding | Wait]:
        found = self._databases.run_in_all(self._databases.host_cells(), lambda connection: disks(connection, key))
        mapped = [(cell, disk) for cell, some in found.items() for disk in some]
        present = {volume: self._storage.has_volume(volume) for volume in sorted({disk.volume for _, disk in mapped})}
        if not all(present.values()):
            require_own_cinder(self._databases, self._storage)
        for cell, disk in mapped:
            if not present[disk.volume]:
                verdict = judge(disk)
                yield verdict if isinstance(verdict, Wait) else self._dangling(key, cell, disk, verdict)

    def sweep(self) -> Iterator[Key]:
        if not self._storage.exists():
            return
        silent = None
        for listing in (self._sweep_attachments, self._sweep_disks):
            try:
                yield from listing()
            except Incomplete as error:
                silent = Incomplete(error, silent)
        if silent is not None:
            raise silent

    def _sweep_attachments(self) -> Iterator[Key]:
        instances = (one.instance for one in self._storage.attachments() if _is_uuid(one.instance))
        yield from lifeless(self._databases, self._archive, instances)

    def _sweep_disks(self) -> Iterator[Key]:
        """Yield the live instances that have a block device mapping to a volume that Cinder lacks.

        Read the mappings before the volumes: otherwise a new volume would seem to be missing.
        """
        found, down = self._databases.run_in_available(self._databases.host_cells(), mapped_volumes)
        mapped = [(volume.lower(), instance) for some in found.values() for volume, instance in some]
        present = set(self._storage.volumes()) if mapped else set()
        if mapped and present.isdisjoint(volume for volume, _ in mapped):
            raise Unavailable(
                "block-storage",
                f"has none of the volumes of Nova's {len(mapped)} mappings, so that it may be another cloud's or region's: "
                "set [openstack] region_name, or block_storage_endpoint_override",
            )
        yield from keys_of("instance", sorted({instance for volume, instance in mapped if volume not in present}))
        if down is not None:
            raise down

    def population(self) -> int:
        return live_instances(self._databases)

    def heal(self, finding: Finding) -> Healed:
        self._databases.require_known_schema()
        evidence = Evidence(**self.prove_again(finding).evidence)
        now = self._storage.attachment(evidence.attachment)
        if now is None or _fields(now) != {name: getattr(evidence, name) for name in _fields(now)}:
            raise Conflict(f"attachment {evidence.attachment} has changed")
        self._storage.delete_attachment(now)
        return Healed(
            f"deleted attachment {now.id} of volume {now.volume} to the deleted instance {now.instance}",
            before=_fields(now),
            after={"attachment": None},
            undo=finding.undo,
        )

    def _judge(self, key: Key, instance: str, attachments: Sequence[Attachment]) -> Iterator[Finding | Wait]:
        known = facts.read(
            self._databases, self._archive, instance, {one.volume for one in attachments}, float(self._after)
        )
        match state(known.facts):
            case Wait() as wait:
                yield wait
            case Keep():
                pass
            case None:
                there = {one.id for user in known.users for one in self._storage.attachments_of(volume_id=user.volume)}
                for one in attachments:
                    verdict = decide(self._case(one, known, there))
                    yield verdict if isinstance(verdict, Wait) else _finding(key, one, known, verdict)

    def _case(self, one: Attachment, known: Known, there: Collection[str]) -> Case:
        """:param there: ids of all attachments that Cinder has for the volumes in ``known.users``"""
        return Case(
            known.facts,
            one.connected,
            shared=any(user.attachment == one.id for user in known.users),
            lost=any(user.attachment not in there for user in known.users if user.volume == one.volume),
            unchanged=float("inf") if known.facts.deleted else self._storage.unchanged_for(one.volume),
        )

    def _dangling(self, key: Key, cell: Cell, disk: Disk, verdict: Report) -> Finding:
        one = disk.instance
        statement = self._databases.database(cell).typed(unmapping(disk))
        return Finding(
            key,
            verdict.problem,
            f"instance {one.uuid} has a block device mapping to volume {disk.volume}, {verdict.summary}",
            {"mapping": disk.id, "volume": disk.volume, "instance": one.uuid, "attachment": disk.attachment},
            False,
            verdict.refusal if disk.root else f"{verdict.refusal} in the database of {cell.label}:\n{statement}",
            concerns=concerns.of_instance(one) | concerns.of_cell(cell) | concerns.named("volume", disk.volume),
        )


def _finding(key: Key, one: Attachment, known: Known, verdict: Report | Delete) -> Finding:
    evidence = asdict(Evidence(**_fields(one), hosts=known.facts.hosts, archived=known.facts.archived))
    named = known.concerns | concerns.named("volume", one.volume)
    summary = f"attachment {one.id} of volume {one.volume} names instance {one.instance}"
    if isinstance(verdict, Report):
        text = f"{summary}, {verdict.summary}"
        return Finding(key, verdict.problem, text, evidence, False, verdict.refusal, concerns=named)
    return Finding(
        key,
        Problem.DELETED,
        f"{summary}, which is deleted",
        evidence,
        undo=_undo(one),
        plan=str(deleting_attachment(one)),
        concerns=named,
    )


def _fields(one: Attachment) -> dict[str, Any]:
    return {
        "attachment": one.id,
        "volume": one.volume,
        "instance": one.instance,
        "status": one.status,
        "mode": one.mode,
        "attached_at": one.attached_at,
        "connected": one.connected,
        "place": dict(one.place or {}),
    }


def _undo(one: Attachment) -> str:
    return (
        "none: the attachment cannot return with its id. If the instance lives after all, stop it, and run on its host: "
        "nova-manage volume_attachment get_connector --json; save the output as connector.json, and run: "
        f"nova-manage volume_attachment refresh {one.instance} {one.volume} connector.json; "
        f"the attachment was {json.dumps(_fields(one), sort_keys=True)}"
    )


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
