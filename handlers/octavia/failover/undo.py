"""Builds the undo of a step, from facts that were read before the step.

An undo has commands or SQL statements. An operator can run a statement at any later time: it changes a row only while the row
is as the step left it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import sqlalchemy as sa

from handlers.access.database import utcnow
from handlers.octavia import records, tables
from handlers.octavia.cloud_objects import AMPHORA, PRESERVED, SINCE, STATE, Port
from handlers.octavia.failover.steps import THEN, AnyReading, Step, StepName
from handlers.octavia.preserved import pool
from handlers.octavia.preserved.pool import State
from handlers.octavia.reversal import NO_RETURN, Typed, attaching

_Undo = Callable[[AnyReading, Step, Typed], str]


def undo_of(s: AnyReading, step: Step, typed: Typed) -> str:
    return _UNDO[step.name](s, step, typed)


def undo_of_heal(s: AnyReading, step: Step, typed: Typed) -> str:
    """Return the undo of a step and of the further steps that the same heal can take, the last step first."""
    ports = tuple(port.id for port in s.connected)
    further = [Step(name, "", objects=ports) for name in reversed(THEN.get(step.name, ()))]
    if not further:
        return undo_of(s, step, typed)
    return "; ".join(f"after {each.name}: {undo_of(s, each, typed)}" for each in [*further, step])


def _server(s: AnyReading) -> str:
    return s.server.id if s.server is not None else ""


def _mark(s: AnyReading, _step: Step, _typed: Typed) -> str:
    """Return the commands that remove the mark. Each part of a mark would protect a leftover server from removal."""
    server = _server(s)
    without_tag = f"openstack --os-compute-api-version 2.26 server unset --tag {PRESERVED} {server}"
    return f"{_properties(server, {AMPHORA: '', SINCE: '', STATE: ''})}; {without_tag}"


def _properties(server: str, marks: Mapping[str, str]) -> str:
    return " ".join(["openstack server set", *(f"--property {name}={value}" for name, value in marks.items()), server])


def _stop(s: AnyReading, _step: Step, _typed: Typed) -> str:
    """Return the commands that start the server. Without a mark, they restore its name too, because the step renames it."""
    start = f"openstack server start {_server(s)}"
    return (
        start if s.marked or s.server is None else f"{start}; openstack server set --name {s.server.name} {s.server.id}"
    )


def _seal(s: AnyReading, step: Step, _typed: Typed) -> str:
    visibility = {image.id: f"--{image.visibility} " for image in s.images}
    return "; ".join(f"openstack image set --unprotected {visibility.get(one, '')}{one}" for one in step.objects)


def _label(s: AnyReading, _step: Step, _typed: Typed) -> str:
    if s.server is None:
        return "none: its server is gone"
    state = f"--property {STATE}={s.server.metadata.get(STATE, '')}"
    return f"openstack server set --name {s.server.name} {state} {s.server.id}; openstack server unlock {s.server.id}"


def _lease(s: AnyReading, _step: Step, typed: Typed) -> str:
    """Return the SQL statement that ends a running lease now.

    If it wrote an earlier time, Octavia's health manager could replace an amphora that lives, before its next heartbeat.
    """
    c = tables.amphora_health.c
    ending = sa.update(tables.amphora_health).where(c.amphora_id == s.amphora.id, c.last_update > utcnow())
    return f"the lease ends by itself, or: {typed(ending.values(last_update=utcnow()))}"


def _let_go(s: AnyReading, _step: Step, _typed: Typed) -> str:
    """Return the SQL statements that give the amphora's row its status and its server's id again.

    For an amphora that served, ``amphora_health.busy`` becomes false too, so that Octavia watches it again.
    """
    amphora = s.amphora
    restored = (
        f"UPDATE amphora SET status='{amphora.status}', compute_id='{amphora.compute_id}' "
        f"WHERE id='{amphora.id}' AND status='ERROR' AND compute_id IS NULL"
    )
    if amphora.status not in records.SERVING:
        return restored
    return (
        f"{restored}; UPDATE amphora_health SET busy=FALSE WHERE amphora_id='{amphora.id}' AND EXISTS (SELECT 1 FROM amphora "
        f"WHERE id='{amphora.id}' AND status='{amphora.status}' AND compute_id='{amphora.compute_id}')"
    )


def _forget(s: AnyReading, _step: Step, _typed: Typed) -> str:
    amphora = s.amphora
    return (
        f"UPDATE amphora SET status='{amphora.status}', compute_id='{amphora.compute_id}' WHERE id='{amphora.id}' "
        "AND status='DELETED' AND compute_id IS NULL AND load_balancer_id IS NULL"
    )


def _unplug(s: AnyReading, step: Step, _typed: Typed) -> str:
    """Nova deletes a detached port that it created. For such a port, a command creates another port in the same network."""
    server, ports = _server(s), {port.id: port for port in s.ports}
    plugs = [f"openstack server add {_plug(ports.get(port), server, port)}" for port in step.objects]
    return "; ".join([*plugs, _properties(server, {STATE: State.PRESERVING})])


def _plug(port: Port | None, server: str, identity: str) -> str:
    return f"port {server} {identity}" if port is None or port.name else f"network {server} {port.network_id}"


def _detach(s: AnyReading, step: Step, typed: Typed) -> str:
    return attaching(step.objects, s.balancer.id if s.balancer is not None else "", typed)


def _drop_image(_s: AnyReading, step: Step, _typed: Typed) -> str:
    return f"none: nothing returns {_listed('image', step.objects)}, which no preserved amphora needs"


def _drop_server(s: AnyReading, _step: Step, _typed: Typed) -> str:
    image = s.sealed.id if s.sealed is not None else ""
    return f"none: nothing returns server {_server(s)}, whose disk is preserved as image {image}"


def _trim(s: AnyReading, step: Step, _typed: Typed) -> str:
    oldest = [one for one in s.others if one.amphora in step.objects]
    servers = _listed("server", [one.server.id for one in oldest if one.server is not None])
    images = _listed("image", [one.image.id for one in oldest if one.image is not None])
    what = " and ".join(part for part in (servers, images) if part)
    return f"none: nothing returns {what} of preserved amphora {', '.join(step.objects)}"


def _listed(word: str, identities: Sequence[str]) -> str:
    return f"{word} {', '.join(identities)}" if identities else ""


_UNDO: Mapping[StepName, _Undo] = {
    StepName.MARK: _mark,
    StepName.UNMARK: lambda s, *_: pool.restoring(s.server) if s.server is not None else "none: its server is gone",
    StepName.STOP: _stop,
    StepName.LEASE: _lease,
    StepName.IMAGE: lambda s, *_: (
        f"openstack image list --property {AMPHORA}={s.amphora.id}, then openstack image delete IMAGE"
    ),
    StepName.SEAL: _seal,
    StepName.DROP_IMAGE: _drop_image,
    StepName.DROP_SERVER: _drop_server,
    StepName.UNPLUG: _unplug,
    StepName.QUARANTINE: lambda _s, step, _typed: "; ".join(
        f"openstack port set --enable {port}" for port in step.objects
    ),
    StepName.LET_GO: _let_go,
    StepName.FORGET: _forget,
    StepName.FAILOVER: lambda *_: NO_RETURN,
    StepName.REBUILD: lambda *_: NO_RETURN,
    StepName.LABEL: _label,
    StepName.TRIM: _trim,
    StepName.DETACH: _detach,
    StepName.SHELVE: lambda s, *_: f"openstack server unshelve {_server(s)}",
}
