"""Which step comes next for a failed amphora: the decision, as pure functions over one reading of the world.

Nothing is remembered between two steps but what the cloud and Octavia's database show. So whoever looks next, another
thread, another replica, or the same one after a kill -9, goes on where the last step ended; and where the last one cannot
be told from the one before, doing it again does no harm.

The steps of a failed amphora that is to be kept, each by one heal; for others they begin with ``failover``:

===================== =============================================================================================
fence                 Octavia's health manager is kept off it, by a heartbeat in the future that expires by itself
stop                  a server in ERROR is stopped and renamed, for Nova neither marks it nor detaches anything otherwise
mark                  its server is tagged and numbered; who is beyond the maximum takes its mark back (``unmark``)
image, seal           method snapshot: an image is made, and once Glance has all of it, it is protected
unplug                Nova is asked to detach all ports, the VIP's first
quarantine            the same by Neutron: ports are set down, where the host is dead or the deadline has passed
let-go                the row forgets the server, so that the failover leaves it alone
failover              Octavia replaces the amphora, or all of a load balancer's where that is in ERROR
label                 the server is renamed and locked, and its marks say that it is kept
trim                  scheme cycle: the oldest are deleted until no more than the maximum are left
detach                DELETED rows are taken off the load balancer, whose next update would fail because of them
shelve                a kept server that holds a place in a server group gives up its host for the next failover
===================== =============================================================================================
"""

from __future__ import annotations

from handlers.octavia import records
from handlers.octavia.cloud_objects import STATE
from handlers.octavia.failover.proof import Alive, Failed, Unclear, judge
from handlers.octavia.failover.steps import Decision, Hold, Nothing, Situation, Step, Wait
from handlers.octavia.preserved import pool
from handlers.octavia.settings import HousekeepingSettings
from handlers.withheld import Withheld, is_withheld, refusal

#: seconds that a load balancer has been in ERROR before it is failed over: the flow that failed still undoes its work
SETTLE = 15.0
#: seconds for which a server that is being numbered by another look is waited for
CHOOSING = 30.0

#: states of a server that can be kept; from those in the first set Nova detaches ports and makes images
_WILLING = frozenset({"ACTIVE", "SHUTOFF", "PAUSED"})
_KEEPABLE = _WILLING | {"ERROR", "SUSPENDED"}
#: those in which it changes tags and metadata, while it works on nothing
_DESCRIBABLE = _WILLING | {"SUSPENDED"}
#: states of an image that may become active
_COMING = frozenset({"queued", "saving", "uploading", "importing"})


def at_rest(amphora: records.Amphora, balancer: records.LoadBalancer | None) -> Wait | Nothing | None:
    """Say what follows from Octavia's rows alone, before anything else is read; None when the rest must be read."""
    forgotten = amphora.status == "DELETED" and amphora.compute_id is None
    if balancer is None:
        return None if forgotten else Nothing()
    if balancer.provider not in records.AMPHORA_PROVIDERS:
        return Nothing()
    if balancer.status == "DELETED":
        return None if amphora.status == "DELETED" else Nothing()
    if not balancer.idle:
        return Wait(f"Octavia is working on load balancer {balancer.id}: {balancer.status}")
    if amphora.status in {*records.SERVING, "ERROR", "DELETED"}:
        return None
    # BOOTING or PENDING_* beside a load balancer at rest: a flow that died, of which deactivated_amphorae takes care
    return Nothing()


def next_step(s: Situation, settings: HousekeepingSettings) -> Decision:
    """Decide what is to be done next, by the tables above."""
    if s.amphora.status == "DELETED":
        return _finish(s, settings)
    if s.amphora.status == "ERROR" and s.amphora.compute_id is None:
        return _recover_let_go(s)
    match judge(s.amphora, s.health, s.server, s.ports, settings.stale_after):
        case Unclear(reason=reason, after=after):
            return Wait(reason, after)
        case Alive():
            return _spare(s)
        case Failed() as failed:
            return _failed(s, settings, failed)


def _failed(s: Situation, settings: HousekeepingSettings, failed: Failed) -> Decision:
    if not s.marked and (held := _held(s, settings, failed)):
        return Hold(held, failed.why)
    taken = s.amphora.status in records.SERVING and s.health is not None and s.health.busy
    if taken and s.served.age < CHOOSING:
        return Wait(f"Octavia's health manager has taken amphora {s.amphora.id} for a failover")
    plain = "Octavia's health manager took it, and gave up" if taken else _not_kept(s, settings, failed)
    if plain:
        return _replace(s, f"{failed.why}; {plain}")
    assert s.server is not None
    if _needs_fence(s, settings):
        return Step("fence", "keep Octavia's health manager off it", failed.why)
    if not s.marked and s.server.task_state:
        return Wait(f"Nova is working on server {s.server.id}: {s.server.task_state}")
    if not s.marked and s.server.status == "ERROR":
        return Step("stop", "stop its server, of which Nova changes no marks in ERROR", failed.why, (s.server.id,))
    if not s.since or not s.marked:
        return Step("mark", "mark its server as being preserved", failed.why, (s.server.id,))
    if s.connected and s.server.metadata.get(STATE) != pool.DETACHING:
        match _place(s, settings):
            case Wait() as wait:
                return wait
            case False:
                return Step("unmark", "take back its mark: the pool is full", failed.why, (s.server.id,))
    late = _is_late(s, settings) or s.server.host_up is False
    if settings.preservation_method == "snapshot" and s.server.image is not None:
        step = _snapshot(s, settings, failed, late)
        if step is not None:
            return step
    return _cut_off(s, failed, late)


def _spare(s: Situation) -> Decision:
    """Leave an amphora that lives alone, and take back what was begun with it."""
    if s.marked and s.server is not None:
        return Step("unmark", "take back the mark of an amphora that lives", "it lives", (s.server.id,))
    if s.unfinished:
        return Step("drop-image", "delete the image of an amphora that lives", "it lives", s.unfinished)
    return Nothing()


def _held(s: Situation, settings: HousekeepingSettings, failed: Failed) -> str:
    """Say why no amphora at all should be touched now; empty when it may be."""
    if settings.failover_threshold and len(s.failing) >= settings.failover_threshold:
        return (
            f"{len(s.failing)} other amphorae have failed or were failed over within {settings.failover_window} s, which is "
            "[housekeeping] failover_threshold: look for what they have in common, the network or a host"
        )
    if settings.failover_threshold and len(s.neighbours) >= 2:
        return (
            f"{len(s.neighbours)} other amphorae on its host have failed as well: look at host "
            f"{s.server.host if s.server else '?'} first"
        )
    if failed.only_silent and is_withheld(Withheld.SILENT_FAILOVER):
        return refusal(Withheld.SILENT_FAILOVER)
    return ""


def _not_kept(s: Situation, settings: HousekeepingSettings, failed: Failed) -> str:
    """Say why an amphora is replaced without being kept; empty when it is to be kept."""
    if s.server is None:
        return "it has no server to keep"
    if settings.maximum_preserved_amphora_count == 0:
        return "none are kept"
    if is_withheld(Withheld.CUT_OFF) and (s.connected or not s.marked) and not settings.keeps_image_alone:
        return "stackmend does not yet unplug a failed amphora"
    if failed.lives:
        return "it still sends heartbeats: it is not cut off before its replacement stands"
    if s.server.status not in _KEEPABLE or s.server.task_state in pool.LEAVING:
        return f"its server is {s.server.status} and cannot be kept"
    if not s.marked and (obstacle := pool.obstacle(s.server, settings.preservation_deadline)):
        return obstacle
    others = s.others if settings.preservation_scheme == "keep" else [one for one in s.others if not one.complete]
    if not s.marked and s.sealed is None and len(others) >= settings.maximum_preserved_amphora_count:
        return "the pool is full"
    return ""


def _needs_fence(s: Situation, settings: HousekeepingSettings) -> bool:
    if s.amphora.status not in records.SERVING or s.health is None:
        return False
    return -s.health.silent < settings.preservation_lease / 2


def _place(s: Situation, settings: HousekeepingSettings) -> bool | Wait:
    """Tell whether its number is within the maximum; see :mod:`handlers.octavia.preserved.pool`."""
    mine = (s.since, s.amphora.id)
    cycles = settings.preservation_scheme == "cycle"
    rivals = [one for one in s.others if not (cycles and one.complete)]
    before = sum(one.complete or bool(one.since and (one.since, one.amphora) < mine) for one in rivals)
    choosing = sum(not one.complete and not one.since for one in rivals)
    if before >= settings.maximum_preserved_amphora_count:
        return False
    if before + choosing < settings.maximum_preserved_amphora_count:
        return True
    if _marked_for(s) < CHOOSING:
        return Wait("other amphorae are being marked for preservation", 1.0)
    return False


def _marked_for(s: Situation) -> float:
    since = pool.parsed(s.since)
    return (s.now - since).total_seconds() if since is not None else 0.0


def _is_late(s: Situation, settings: HousekeepingSettings) -> bool:
    return _marked_for(s) > settings.preservation_deadline


def _snapshot(s: Situation, settings: HousekeepingSettings, failed: Failed, late: bool) -> Decision | None:
    """Decide about the image; None when the server is to be cut off, because there is no image or both are kept."""
    server = s.server
    assert server is not None
    image = s.sealed or next(iter(sorted(s.images, key=lambda found: (found.status != "active", found.id))), None)
    extra = tuple(found.id for found in s.images if found is not image and not found.protected)
    if extra:
        return Step("drop-image", "delete an image that was made twice", failed.why, extra)
    if image is None:
        if late or server.status not in {*_WILLING, "ERROR"}:
            return None
        if server.task_state:
            return Wait(f"Nova is working on server {server.id}: {server.task_state}")
        if server.status == "ERROR":
            return Step("stop", "stop its server, which is in ERROR", failed.why, (server.id,))
        return Step("image", "make an image of its server", failed.why, (server.id,))
    if image.tags:
        return Hold(f"image {image.id} has tags: Octavia may boot amphorae from it; take them away", failed.why)
    if image.status != "active":
        if image.status in _COMING and not late:
            return Wait(f"image {image.id} is {image.status}", 3.0)
        return Step("drop-image", f"delete the image, which is {image.status}", failed.why, (image.id,))
    if not image.protected:
        return Step("seal", "protect the image, which is complete", failed.why, (image.id,))
    if settings.preservation_keeps == "server":
        return None
    if not late and server.task_state:
        return Wait(f"Nova is working on server {server.id}: {server.task_state}")
    if not late and server.status == "ACTIVE":
        return Step("stop", "stop its server, of which there is an image", failed.why, (server.id,))
    return _failover(s, f"{failed.why}; kept as image {image.id}")


def _cut_off(s: Situation, failed: Failed, late: bool) -> Decision:
    server = s.server
    assert server is not None
    connected = tuple(port.id for port in s.connected)
    if connected and is_withheld(Withheld.CUT_OFF):
        return _replace(s, f"{failed.why}; stackmend does not yet unplug it")
    if not connected:
        return Step("let-go", "let Octavia forget its server", failed.why, (server.id,))
    if late or server.status not in {*_WILLING, "ERROR"}:
        return Step("quarantine", "set its ports down", failed.why, connected)
    if server.task_state:
        return Wait(f"Nova is working on server {server.id}: {server.task_state}")
    if server.status == "ERROR":
        return Step("stop", "stop its server, which is in ERROR", failed.why, (server.id,))
    if server.metadata.get(STATE) != pool.DETACHING:
        return Step("unplug", "detach its ports", failed.why, connected)
    return Wait(f"Nova detaches {len(connected)} ports of server {server.id}", 1.5)


def _replace(s: Situation, why: str) -> Decision:
    """Recover without keeping it. A mark may stay: it says that the amphora was cut off, and goes with its server."""
    if s.unfinished:
        return Step("drop-image", "delete its image, which is not complete", why, s.unfinished)
    return _failover(s, why)


def _recover_let_go(s: Situation) -> Decision:
    if s.served.status == "ERROR" and (shelving := _shelving(s)):
        return _label(s) or shelving  # Nova changes no marks of a shelved server
    return _failover(s, "it is in ERROR without a server")


def _failover(s: Situation, why: str) -> Decision:
    if s.served.status == "ACTIVE":
        return Step("failover", "let Octavia replace it", why, (s.amphora.id,))
    if s.served.age < SETTLE:
        return Wait(f"load balancer {s.served.id} has just become ERROR", SETTLE - s.served.age)
    if is_withheld(Withheld.REBUILD_ERROR):
        return Hold(refusal(Withheld.REBUILD_ERROR), why)
    return Step("failover-load-balancer", "let Octavia replace all amphorae of the load balancer", why, (s.served.id,))


def _finish(s: Situation, settings: HousekeepingSettings) -> Decision:
    """See to the end of a failover: the row is DELETED and Octavia is done.

    The load balancer does not wait for a server of which Nova changes no marks now.
    """
    if s.unfinished:
        return Step("drop-image", "delete its image, which is not complete", objects=s.unfinished)
    closing = _closing(s)
    if isinstance(closing, Step):
        return closing
    if settings.preservation_scheme == "cycle" and (s.marked or s.sealed):
        complete = [one for one in s.others if one.complete]
        if complete and len(complete) >= settings.maximum_preserved_amphora_count > 0:
            return Step("trim", "delete the oldest of the pool", objects=(complete[0].amphora,))
    if s.balancer is not None and s.balancer.idle:
        rows = tuple(sorted({s.amphora.id, *s.replaced}))
        return Step("detach", "take rows of deleted amphorae off the load balancer", objects=rows)
    return closing or (s.amphora.compute_id is None and _shelving(s)) or Nothing()


def _closing(s: Situation) -> Step | Wait | None:
    """Make the marks of a server final: of one that is kept, or of one that Octavia failed to delete."""
    server = s.server
    if server is None or not s.marked:
        return None
    step = Step("unmark", "take back the mark of a server that is not kept", objects=(server.id,))
    if s.amphora.compute_id is None:
        label = _label(s)
        if label is None:
            return None
        step = label
    if server.task_state or server.status not in _DESCRIBABLE:
        return Wait(f"Nova changes no marks of server {server.id}: it is {server.status}, {server.task_state}", 30.0)
    return step


def _label(s: Situation) -> Step | None:
    if s.server is None or s.server.metadata.get(STATE) == pool.KEPT:
        return None
    return Step("label", "rename and lock the server that is kept", objects=(s.server.id,))


def _shelving(s: Situation) -> Step | Wait | None:
    """Free the place of a kept server in its server group, if it holds one and Nova can."""
    server = s.server
    if server is None or not s.marked or not server.groups or server.host is None or server.host_up is False:
        return None
    if server.task_state:
        return Wait(f"Nova is working on server {server.id}: {server.task_state}", 5.0)
    if server.status not in {*_DESCRIBABLE, "SHELVED"}:
        return None
    return Step("shelve", "shelve the server, which holds a place in a server group", objects=(server.id,))
