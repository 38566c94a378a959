from __future__ import annotations

import os
import re
import stat
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from consumer.bus.envelope import decode
from consumer.engine.router import Router
from consumer.journal import history
from handlers.access.service_files import ConfigError
from handlers.base import Conflict, InFlight, Key, Resources, Unavailable
from handlers.nova import tables
from handlers.nova.devices.hook import Hook, HookFailed
from handlers.nova.devices.release_devices import ReleaseDevices
from handlers.nova.holds import disabled_hosts
from handlers.nova.simulation import NovaSimulation
from handlers.nova.verdicts import DELETED_SETTLE
from tests.functional.nova.world import (
    archive,
    dump,
    heal_only,
    instance_key,
    make_provider,
    only_refused,
    refused,
    restore,
    swept,
)
from tests.sweeping import journal
from tests.sweeping import swept as sweep_and_heal

LONG = {"hours": 3}
ADDRESS = "0000:81:00.0"


@pytest.fixture(autouse=True)
def hosts(cloud: NovaSimulation) -> None:
    with cloud.ago(days=1):
        for host, cell in (("a", "cell1"), ("b", "cell1"), ("c", "cell2")):
            cloud.add_compute(host, cell)
            cloud.map_host(host)
    for host in ("a", "b", "c"):
        cloud.heartbeat(host)


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    """A hook that notes its arguments and environment."""
    return program(tmp_path, 'echo "$@" >> ran; env >> environment')


def program(folder: Path, lines: str) -> Path:
    file = folder / "clean-device"
    file.write_text(f"#!/bin/sh\ncd {folder}\n{lines}\n")
    file.chmod(0o755)
    return file


def make(resources: Resources, hook: Path | None, timeout: int = 60) -> ReleaseDevices:
    for group, options in ReleaseDevices.options().items():
        resources.conf.register_opts(options, group)
    resources.conf.set_override("release_devices_hook", None if hook is None else str(hook), "audit")
    resources.conf.set_override("release_devices_hook_timeout", timeout, "audit")
    return ReleaseDevices.from_resources(resources)


@pytest.fixture
def release(resources: Resources, hook: Path) -> ReleaseDevices:
    return make(resources, hook)


def used(cloud: NovaSimulation, host: str = "a", address: str = ADDRESS) -> tuple[str, str]:
    """Let an instance use a new device; return instance and provider."""
    with cloud.ago(**LONG):
        provider = cloud.add_device(host, address)
        instance = cloud.boot(host)
        cloud.use_device(instance, provider)
    return instance, provider


def left(cloud: NovaSimulation, host: str = "a", address: str = ADDRESS) -> tuple[str, str]:
    """Let a deleted instance leave a reserved device."""
    instance, provider = used(cloud, host, address)
    with cloud.ago(hours=2):
        cloud.delete(instance)
    return instance, provider


def ran(tmp_path: Path) -> list[str]:
    file = tmp_path / "ran"
    return file.read_text().splitlines() if file.exists() else []


def test_the_hook_cleans_the_device_of_a_deleted_instance_and_it_is_released(
    cloud: NovaSimulation, release: ReleaseDevices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OS_PASSWORD", "verysecret")
    instance, provider = left(cloud, address="0000:d8:00.1")
    assert swept(release) == {instance_key(instance)}
    finding = heal_only(release, instance_key(instance))
    assert finding.problem == "reservation-left"
    assert cloud.reserved(provider) == 0
    assert ran(tmp_path) == [f"0000:d8:00.1 {provider} a"]
    environment = (tmp_path / "environment").read_text()
    assert f"STACKMEND_INSTANCE={instance}" in environment
    assert f"STACKMEND_RESOURCE_CLASS={cloud.DEVICE}" in environment
    assert "verysecret" not in environment
    assert swept(release) == set()


def test_the_released_device_can_be_used_again(cloud: NovaSimulation, release: ReleaseDevices) -> None:
    instance, provider = left(cloud)
    heal_only(release, instance_key(instance))
    with cloud.ago(hours=1):
        second = cloud.boot("a")
        cloud.use_device(second, provider)
    assert swept(release) == set()
    assert not list(release.inspect(instance_key(instance)))
    with cloud.ago(minutes=30):
        cloud.delete(second)
    assert swept(release) == {instance_key(second)}
    assert not list(release.inspect(instance_key(instance)))
    heal_only(release, instance_key(second))
    assert cloud.reserved(provider) == 0


def test_every_device_of_an_instance_has_a_finding(cloud: NovaSimulation, release: ReleaseDevices) -> None:
    instance, first = used(cloud)
    second = cloud.add_device("a", "0000:82:00.0")
    cloud.use_device(instance, second)
    with cloud.ago(hours=2):
        cloud.delete(instance)
    findings = list(release.inspect(instance_key(instance)))
    assert {finding.evidence["provider"] for finding in findings} == {first, second}
    release.heal(findings[0])
    assert sorted([cloud.reserved(first), cloud.reserved(second)]) == [0, 1]


def test_an_archived_instance_still_explains_the_device(cloud: NovaSimulation, release: ReleaseDevices) -> None:
    instance, provider = left(cloud)
    archive_with_extra(cloud, instance)
    assert swept(release) == {instance_key(instance)}
    heal_only(release, instance_key(instance))
    assert cloud.reserved(provider) == 0


def archive_with_extra(cloud: NovaSimulation, instance: str) -> None:
    extra, shadow = tables.instance_extra, tables.shadow_instance_extra
    names = [column.name for column in extra.columns]
    with cloud.cells["cell1"].begin() as connection:
        rows = sa.select(*extra.columns).where(extra.c.instance_uuid == instance)
        connection.execute(sa.insert(shadow).from_select(names, rows))
    archive(cloud, instance)


def test_the_finding_names_hook_write_undo_and_objects(
    cloud: NovaSimulation, release: ReleaseDevices, hook: Path
) -> None:
    instance, provider = left(cloud)
    [finding] = release.inspect(instance_key(instance))
    first, second = finding.plan.splitlines()
    assert first == f"hook: {hook} {ADDRESS} {provider} a"
    assert second.startswith(f"placement: PUT /resource_providers/{provider}/inventories/{cloud.DEVICE} ")
    assert '"reserved": 0' in second
    command = "openstack --os-placement-api-version 1.28 resource provider inventory set"
    assert finding.undo == f"{command} --resource {cloud.DEVICE}:reserved=1 --amend {provider}"
    objects = {"host:a", f"project:{cloud.PROJECT}", "cell:cell1", f"instance:{instance}", f"provider:{provider}"}
    assert objects <= finding.concerns
    assert finding.weight == 1


def test_the_event_of_the_deletion_leads_to_the_finding(cloud: NovaSimulation, release: ReleaseDevices) -> None:
    instance, provider = used(cloud)
    cloud.take()
    with cloud.ago(seconds=DELETED_SETTLE):
        cloud.delete(instance)
    [sent] = cloud.take()
    [hint] = Router([release]).route(decode(sent.body, "nova"))
    assert hint.key == instance_key(instance)
    assert hint.after == DELETED_SETTLE
    assert heal_only(release, hint.key).problem == "reservation-left"
    assert cloud.reserved(provider) == 0


def test_a_hold_of_the_host_holds_the_heal(
    cloud: NovaSimulation, resources: Resources, release: ReleaseDevices
) -> None:
    instance, _ = left(cloud)
    services = tables.services
    with cloud.cells["cell1"].begin() as connection:
        disabled = {"disabled": True, "disabled_reason": "maintenance"}
        connection.execute(sa.update(services).where(services.c.host == "a").values(disabled))
    [hold] = disabled_hosts(resources, re.compile("maintenance"))
    [finding] = release.inspect(instance_key(instance))
    assert hold.scope in finding.concerns


# the hook


def failing(cloud: NovaSimulation, resources: Resources, folder: Path, lines: str, timeout: int = 60) -> str:
    """Heal with this hook, check that the device stays reserved, and return the error."""
    release = make(resources, program(folder, lines), timeout)
    instance, provider = left(cloud)
    [finding] = release.inspect(instance_key(instance))
    with pytest.raises(HookFailed) as caught:
        release.heal(finding)
    assert cloud.reserved(provider) == 1
    assert finding.same_as(next(iter(release.inspect(instance_key(instance)))))
    return str(caught.value)


def test_the_device_of_a_hook_that_fails_stays_reserved(
    cloud: NovaSimulation, resources: Resources, tmp_path: Path
) -> None:
    text = failing(cloud, resources, tmp_path, "echo wiping; echo 'no such\tdevice' >&2; exit 3")
    assert text.endswith("failed with status 3: wiping no such device")


def test_only_the_end_of_a_long_output_is_kept(cloud: NovaSimulation, resources: Resources, tmp_path: Path) -> None:
    text = failing(cloud, resources, tmp_path, "yes line | head -c 1000000; echo; echo the cause; exit 1")
    assert text.endswith("the cause")
    assert len(text) < 3000


def test_a_hook_that_hangs_is_killed_with_its_children(
    cloud: NovaSimulation, resources: Resources, tmp_path: Path
) -> None:
    text = failing(cloud, resources, tmp_path, "sleep 1000 & echo $! > child; echo begun; wait", timeout=1)
    assert text.endswith("did not end within 1 s and was killed: begun")
    child = int((tmp_path / "child").read_text())
    for _ in range(1000):
        if not alive(child):
            break
        time.sleep(0.01)
    assert not alive(child)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_hook_that_leaves_a_child_with_its_output_open_ends(
    cloud: NovaSimulation, resources: Resources, tmp_path: Path
) -> None:
    release = make(resources, program(tmp_path, "sleep 1000 & exit 0"))
    instance, provider = left(cloud)
    heal_only(release, instance_key(instance))
    assert cloud.reserved(provider) == 0


def test_a_device_that_cannot_be_cleaned_does_not_block_the_others_of_its_instance(
    cloud: NovaSimulation, resources: Resources, tmp_path: Path
) -> None:
    instance, first = used(cloud)
    second = cloud.add_device("a", "0000:82:00.0")
    cloud.use_device(instance, second)
    with cloud.ago(hours=2):
        cloud.delete(instance)
    broken, good = sorted([first, second])
    release = make(resources, program(tmp_path, f'if [ "$2" = {broken} ]; then echo worn out; exit 1; fi'))
    with journal(tmp_path) as database:
        results = sweep_and_heal(release, instance_key(instance), database)
        lines = history.listing(database, handler=release.name)
    assert (cloud.reserved(broken), cloud.reserved(good)) == (1, 0)
    assert {result.action for result in results} == {"healed", "failed"}
    failed = [line.error for line in lines if line.outcome == "failed"]
    assert failed
    assert all(error.endswith("failed with status 1: worn out") for error in failed)


def test_a_hook_that_is_gone_is_named(cloud: NovaSimulation, release: ReleaseDevices, hook: Path) -> None:
    instance, provider = left(cloud)
    [finding] = release.inspect(instance_key(instance))
    hook.unlink()
    with pytest.raises(HookFailed, match="cannot be run: No such file"):
        release.heal(finding)
    assert cloud.reserved(provider) == 1


def test_the_hook_gets_no_argument_that_looks_like_an_option(tmp_path: Path) -> None:
    hook = Hook(str(program(tmp_path, 'echo "$@" >> ran')), 60.0)
    with pytest.raises(HookFailed, match="looks like an option"):
        hook.run([ADDRESS, "uuid", "-oProxyCommand=reboot"], {})
    assert not ran(tmp_path)


@pytest.mark.parametrize("address", ["$(reboot)", "0000:81:00.9"])
def test_an_address_that_is_none_reaches_no_hook(cloud: NovaSimulation, release: ReleaseDevices, address: str) -> None:
    instance, _ = left(cloud, address=address)
    assert only_refused(release, instance_key(instance)).problem == "reservation-unexplained"


@pytest.mark.parametrize("fault", ["relative", "missing", "not executable", "a folder"])
def test_a_wrong_hook_is_named_at_the_start(resources: Resources, tmp_path: Path, fault: str) -> None:
    file = program(tmp_path, "")
    file.chmod(stat.S_IRUSR if fault == "not executable" else 0o755)
    wrong = {"relative": Path(os.path.relpath(file)), "missing": tmp_path / "no", "a folder": tmp_path}.get(fault, file)
    if fault == "not executable" and os.access(file, os.X_OK):
        pytest.skip("this user may run every file")
    with pytest.raises(ConfigError, match="release_devices_hook"):
        make(resources, wrong)


def test_after_a_crash_between_hook_and_write_the_hook_runs_again(
    cloud: NovaSimulation, release: ReleaseDevices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, provider = left(cloud)
    [finding] = release.inspect(instance_key(instance))
    with monkeypatch.context() as patch:
        patch.setattr(release._placement, "reserve", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            release.heal(finding)
    assert cloud.reserved(provider) == 1
    heal_only(release, instance_key(instance))
    assert cloud.reserved(provider) == 0
    assert len(ran(tmp_path)) == 2


@pytest.mark.parametrize("lines", ["reserve", "allocate", "occupy"])
def test_a_change_while_the_hook_runs_prevents_the_write(
    cloud: NovaSimulation, release: ReleaseDevices, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    instance, provider = left(cloud)
    [finding] = release.inspect(instance_key(instance))

    def meanwhile(*_: object) -> None:
        if lines == "reserve":
            cloud.reserve_device(provider, 0)
            cloud.reserve_device(provider, 1)
        elif lines == "allocate":
            cloud.reserve_device(provider, 0)
            cloud.use_device(cloud.boot("a"), provider)
        else:
            set_device(cloud, status="claimed", instance_uuid=instance)

    monkeypatch.setattr(type(release._hook), "run", meanwhile)
    with pytest.raises(Conflict):
        release.heal(finding)
    assert cloud.reserved(provider) == 1


def test_a_change_between_the_last_look_and_the_write_prevents_the_write(
    cloud: NovaSimulation, release: ReleaseDevices, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, provider = left(cloud)
    [finding] = release.inspect(instance_key(instance))
    reserve = release._placement.reserve

    def late(*given: object) -> None:
        cloud.reserve_device(provider, 0)
        cloud.reserve_device(provider, 1)
        reserve(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(release._placement, "reserve", late)
    with pytest.raises(Conflict):
        release.heal(finding)
    assert cloud.reserved(provider) == 1


# without a hook


def test_without_a_hook_the_finding_has_the_command(cloud: NovaSimulation, resources: Resources) -> None:
    release = make(resources, None)
    instance, provider = left(cloud)
    finding = only_refused(release, instance_key(instance))
    assert finding.problem == "reservation-left"
    assert f"inventory set --resource {cloud.DEVICE}:reserved=0 --amend {provider}" in finding.refusal
    assert cloud.reserved(provider) == 1


# no heals


def set_device(cloud: NovaSimulation, **values: object) -> None:
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(tables.pci_devices).values(values))


def in_use(cloud: NovaSimulation) -> str:
    return used(cloud)[1]


def free(cloud: NovaSimulation) -> str:
    return cloud.add_device("a", ADDRESS)


def of_many_uses(cloud: NovaSimulation) -> str:
    """A device without the trait, reserved by hand after an instance used it."""
    with cloud.ago(**LONG):
        provider = cloud.add_device("a", ADDRESS, one_time_use=False)
        instance = cloud.boot("a")
        cloud.use_device(instance, provider)
        cloud.delete(instance)
    return provider


def partly(cloud: NovaSimulation) -> str:
    _, provider = left(cloud)
    url = f"/resource_providers/{provider}/inventories/{cloud.DEVICE}"
    inventory = cloud.placement.request("GET", url).body
    assert cloud.placement.request("PUT", url, {**inventory, "total": 2}).status == 200
    return provider


def not_released(cloud: NovaSimulation) -> str:
    """The row of the device still has the deleted instance."""
    instance, provider = left(cloud)
    set_device(cloud, status="allocated", instance_uuid=instance)
    return provider


def claimed(cloud: NovaSimulation) -> str:
    """An instance is being built with the device, and nova-compute has claimed the device."""
    _, provider = left(cloud)
    set_device(cloud, status="claimed", instance_uuid=cloud.request())
    return provider


def scheduled(cloud: NovaSimulation) -> str:
    """An instance is being built, and has the allocation; the device was reserved again afterwards."""
    _, provider = left(cloud)
    cloud.reserve_device(provider, 0)
    cloud.claim_device(cloud.request(), provider)
    cloud.reserve_device(provider, 1)
    return provider


def of_another_nova(cloud: NovaSimulation) -> str:
    other, provider = make_provider(cloud, "z", {"VCPU": 1}), str(uuid.uuid4())
    traits = ["COMPUTE_MANAGED_PCI_DEVICE", "HW_PCI_ONE_TIME_USE"]
    cloud._report.create_child(provider, f"z_{ADDRESS}", other, {cloud.DEVICE: 1}, traits)
    cloud.reserve_device(provider, 1)
    return provider


def lives_elsewhere(cloud: NovaSimulation) -> str:
    """The row in cell1 is marked as deleted, and cell2 has the live instance."""
    instance, provider = left(cloud)
    with cloud.cells["cell2"].begin() as connection:
        connection.execute(sa.insert(tables.instances).values(uuid=instance, deleted=0, hidden=False))
    return provider


def shelved(cloud: NovaSimulation) -> str:
    """The instance has the device still."""
    instance, provider = used(cloud)
    cloud.set_instance(instance, vm_state="shelved")
    return provider


def restored(cloud: NovaSimulation) -> str:
    """The cell is a copy from the time before another instance got the device."""
    _, provider = left(cloud)
    backup = dump(cloud, "cell1")
    cloud.reserve_device(provider, 0)
    cloud.use_device(cloud.boot("a"), provider)
    restore(cloud, "cell1", backup)
    return provider


@pytest.mark.parametrize(
    "make_state",
    [
        in_use,
        free,
        of_many_uses,
        partly,
        not_released,
        claimed,
        scheduled,
        of_another_nova,
        lives_elsewhere,
        shelved,
        restored,
    ],
)
def test_a_device_in_another_state_is_left_alone(
    cloud: NovaSimulation, release: ReleaseDevices, tmp_path: Path, make_state: Callable[[NovaSimulation], str]
) -> None:
    provider = make_state(cloud)
    before = cloud.placement.request("GET", f"/resource_providers/{provider}").body["generation"]
    rows = [row for engine in cloud.cells.values() for row in cloud._store.rows(engine, tables.instances)]
    assert not swept(release) - {instance_key(row.uuid) for row in rows}
    for key in {Key("provider", provider), *(instance_key(row.uuid) for row in rows)}:
        assert not list(release.inspect(key))
    assert cloud.placement.request("GET", f"/resource_providers/{provider}").body["generation"] == before
    assert not ran(tmp_path)


def by_hand(cloud: NovaSimulation) -> str:
    provider = cloud.add_device("a", ADDRESS)
    cloud.reserve_device(provider, 1)
    return provider


def offloaded(cloud: NovaSimulation) -> str:
    instance, provider = used(cloud)
    cloud.shelve_offload(instance)
    return provider


def moved_away(cloud: NovaSimulation) -> str:
    """The PCI requests of the deleted instance name the device of the host to which it moved."""
    instance, provider = used(cloud)
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(tables.pci_devices).values(status="available", instance_uuid=None))
    cloud.hold(instance, {})
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.update(tables.instance_extra).values(pci_requests="[]"))
    cloud.set_instance(instance, host="b", node="b")
    cloud.use_device(instance, cloud.add_device("b", "0000:99:00.0"))
    with cloud.ago(hours=2):
        cloud.delete(instance)
    return provider


@pytest.mark.parametrize("make_state", [by_hand, offloaded, moved_away])
def test_a_reservation_that_no_deleted_instance_explains_is_only_reported(
    cloud: NovaSimulation, release: ReleaseDevices, tmp_path: Path, make_state: Callable[[NovaSimulation], str]
) -> None:
    provider = make_state(cloud)
    key = Key("provider", provider)
    assert key in swept(release)
    finding = only_refused(release, key)
    assert finding.problem == "reservation-unexplained"
    assert cloud.reserved(provider) == 1
    assert not ran(tmp_path)


def test_a_device_that_nova_does_not_list_is_only_reported(cloud: NovaSimulation, release: ReleaseDevices) -> None:
    instance, provider = left(cloud)
    with cloud.cells["cell1"].begin() as connection:
        connection.execute(sa.delete(tables.pci_devices))
    assert only_refused(release, instance_key(instance)).problem == "reservation-unexplained"
    assert cloud.reserved(provider) == 1


def test_a_host_whose_compute_service_is_down_is_only_reported(
    cloud: NovaSimulation, release: ReleaseDevices, tmp_path: Path
) -> None:
    instance, provider = left(cloud)
    [finding] = release.inspect(instance_key(instance))
    cloud.force_down("a")
    refused(release, next(iter(release.inspect(instance_key(instance)))))
    with pytest.raises(Conflict):
        release.heal(finding)
    assert cloud.reserved(provider) == 1
    assert not ran(tmp_path)


def test_the_instance_was_deleted_this_moment(cloud: NovaSimulation, release: ReleaseDevices) -> None:
    instance, _ = used(cloud)
    cloud.delete(instance)
    with pytest.raises(InFlight):
        list(release.inspect(instance_key(instance)))


def test_a_silent_cell_stops_everything(
    cloud: NovaSimulation, release: ReleaseDevices, cut: Callable[[str], None]
) -> None:
    instance, provider = left(cloud)
    [finding] = release.inspect(instance_key(instance))
    cut("cell2")
    with pytest.raises(Unavailable):
        list(release.inspect(instance_key(instance)))
    with pytest.raises(Unavailable):
        release.heal(finding)
    assert cloud.reserved(provider) == 1


def test_a_placement_without_the_trait_has_no_device(
    cloud: NovaSimulation, release: ReleaseDevices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.nova.devices.facts.ONE_TIME_USE", "HW_PCI_UNKNOWN")
    instance, _ = left(cloud)
    assert swept(release) == set()
    assert not list(release.inspect(instance_key(instance)))
