"""Computes the entitlement of an instance, the resources that it should have, from flavor and image, without its ports.

The rules are those of Nova's scheduler (``ResourceRequest`` in ``nova/scheduler/utils.py``, with ``nova/virt/hardware.py``).

- ``resources:<class>`` sets the amount of a class, even to 0. Nova ignores a class that is neither standard nor ``CUSTOM_``,
  and an amount that is negative or no integer.
- ``hw:cpu_policy``, or ``hw_cpu_policy`` of the image: ``dedicated`` makes every vCPU a PCPU. ``mixed`` does so only for
  the vCPUs in ``hw:cpu_dedicated_mask`` or in the realtime mask. The image's realtime mask overrides the flavor's. With
  ``dedicated`` or ``mixed``, ``hw:emulator_threads_policy=isolate`` adds a PCPU.
- DISK_GB is ephemeral disk, swap rounded up to whole GB, and the root disk unless it is a volume. Amounts of zero are left out.

The result is :class:`Unbuildable` in two cases:

- The flavor is unreadable, asks for nothing, or contradicts itself or the image.
- A provider other than the node's root provider can give a resource.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

#: the classes of os-resource-classes; Nova ignores others unless they are custom
STANDARD = frozenset(
    {
        "VCPU",
        "MEMORY_MB",
        "DISK_GB",
        "PCI_DEVICE",
        "SRIOV_NET_VF",
        "NUMA_SOCKET",
        "NUMA_CORE",
        "NUMA_THREAD",
        "NUMA_MEMORY_MB",
        "IPV4_ADDRESS",
        "VGPU",
        "VGPU_DISPLAY_HEAD",
        "NET_BW_EGR_KILOBIT_PER_SEC",
        "NET_BW_IGR_KILOBIT_PER_SEC",
        "PCPU",
        "MEM_ENCRYPTION_CONTEXT",
        "FPGA",
        "PGPU",
        "NET_PACKET_RATE_KILOPACKET_PER_SEC",
        "NET_PACKET_RATE_EGR_KILOPACKET_PER_SEC",
        "NET_PACKET_RATE_IGR_KILOPACKET_PER_SEC",
    }
)
POLICIES = frozenset({"dedicated", "mixed", "shared"})
#: classes to which no device and no port adds, so that an amount which the flavor does not explain is wrong
PLAIN = frozenset({"VCPU", "PCPU", "MEMORY_MB", "DISK_GB"})

_RESOURCES = re.compile(r"^resources([a-zA-Z0-9_-]{1,64})?:(.*)$")
_TRUE = frozenset({"1", "t", "true", "on", "y", "yes"})


@dataclass(frozen=True, slots=True)
class Flavor:
    """An instance's flavor, as of its build or last resize.

    :param swap: size of the swap disk in MB; all other disks are in GB
    """

    vcpus: int
    memory_mb: int
    root_gb: int = 0
    ephemeral_gb: int = 0
    swap: int = 0
    extra_specs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unbuildable:
    """The reason why an entitlement, or the provider that gives it, cannot be determined."""

    reason: str


class _Contradiction(Exception):
    """Flavor and image contradict themselves or each other, so Nova's API refuses them."""


def parse(text: str | None) -> Flavor | Unbuildable:
    try:
        data = json.loads(text or "")["cur"]["nova_object.data"]
        numbers = {name: int(data.get(name) or 0) for name in ("vcpus", "root_gb", "ephemeral_gb", "swap")}
        specs = {str(key): str(value) for key, value in (data.get("extra_specs") or {}).items()}
        return Flavor(memory_mb=int(data["memory_mb"]), extra_specs=specs, **numbers)
    except (ValueError, LookupError, TypeError, AttributeError):
        return Unbuildable("the instance's flavor cannot be read")


def of(
    flavor: str | None, image_properties: Mapping[str, str], boot_from_volume: bool
) -> Mapping[str, int] | Unbuildable:
    parsed = parse(flavor)
    return parsed if isinstance(parsed, Unbuildable) else resources(parsed, image_properties, boot_from_volume)


def resources(
    flavor: Flavor, image_properties: Mapping[str, str], boot_from_volume: bool
) -> Mapping[str, int] | Unbuildable:
    """Return the resources that flavor and image need from the node's root provider.

    :param image_properties: values by the property's name in Glance, such as ``hw_cpu_policy``
    """
    elsewhere = _elsewhere(flavor.extra_specs, image_properties)
    if elsewhere:
        return Unbuildable(elsewhere)
    amounts = _named(flavor.extra_specs)
    try:
        amounts |= _cpus(flavor, image_properties, amounts)
    except _Contradiction as error:
        return Unbuildable(f"flavor and image contradict themselves: {error}")
    if "VCPU" not in amounts and "PCPU" not in amounts:
        amounts["VCPU"] = flavor.vcpus
    amounts.setdefault("MEMORY_MB", flavor.memory_mb)
    root = 0 if boot_from_volume else flavor.root_gb
    amounts.setdefault("DISK_GB", flavor.ephemeral_gb + math.ceil(flavor.swap / 1024) + root)
    wanted = {name: amount for name, amount in amounts.items() if amount}
    return wanted or Unbuildable("the flavor asks for nothing")


def total(held: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    amounts: dict[str, int] = {}
    for resources_of_one in held.values():
        for name, amount in resources_of_one.items():
            amounts[name] = amounts.get(name, 0) + amount
    return amounts


def differences(wanted: Mapping[str, int], held: Mapping[str, Mapping[str, int]]) -> str:
    """Return, as text, how allocated resources differ from the wanted resources; empty if both agree.

    Compare only the wanted classes and :data:`PLAIN` (CPUs, memory, disk). If PCPU is wanted but not allocated, ignore VCPU and
    PCPU: Nova's scheduler allocates VCPU on a host without PCPU.

    :param held: the allocated resources by provider
    """
    amounts = total(held)
    names = set(wanted) | (set(amounts) & PLAIN)
    if "PCPU" in wanted and "PCPU" not in amounts:
        names -= {"VCPU", "PCPU"}
    wrong = sorted(name for name in names if amounts.get(name, 0) != wanted.get(name, 0))
    return ", ".join(f"{name} {amounts.get(name, 0)} instead of {wanted.get(name, 0)}" for name in wrong)


def _elsewhere(specs: Mapping[str, str], image: Mapping[str, str]) -> str:
    for key, value in sorted(specs.items()):
        match = _RESOURCES.match(key)
        if match is None or _amount(match[2], value) is None:
            continue
        if match[2] == "VGPU" and _amount(match[2], value):
            return f"the flavor has a vGPU ({key}), and nothing shows which provider gives it"
        if match[1]:
            return (
                f"the flavor has resources in a group of their own ({key}), and nothing shows which provider gives them"
            )
    if specs.get("accel:device_profile"):
        return "the flavor has a device profile (accel:device_profile): Cyborg decides what it holds"
    if _true(specs.get("hw:mem_encryption")) or _true(image.get("hw_mem_encryption")):
        return "the memory is encrypted, and which provider gives the context depends on the release"
    if specs.get("hw:pmem", "").replace(",", " ").strip():
        return "the flavor has persistent memory (hw:pmem), whose namespaces the node has assigned"
    return ""


def _named(specs: Mapping[str, str]) -> dict[str, int]:
    named: dict[str, int] = {}
    for key, value in specs.items():
        match = _RESOURCES.match(key)
        amount = None if match is None else _amount(match[2], value)
        if match is not None and amount is not None:
            named[match[2]] = amount
    return named


def _amount(name: str, value: str) -> int | None:
    if name not in STANDARD and not name.startswith("CUSTOM_"):
        return None
    try:
        amount = int(value)
    except ValueError:
        return None
    return amount if amount >= 0 else None


def _cpus(flavor: Flavor, image: Mapping[str, str], named: Mapping[str, int]) -> dict[str, int]:
    policy = _policy(flavor.extra_specs.get("hw:cpu_policy"), image.get("hw_cpu_policy"))
    if policy not in {"dedicated", "mixed"}:
        return {}
    if named.get("VCPU") or named.get("PCPU"):
        raise _Contradiction("a CPU policy besides resources:VCPU or resources:PCPU")
    emulator = 1 if _emulator(flavor) == "isolate" else 0
    if policy == "dedicated":
        return {"PCPU": flavor.vcpus + emulator}
    dedicated, realtime = _dedicated(flavor), _realtime(flavor, image)
    if bool(dedicated) == bool(realtime):
        raise _Contradiction("a mixed CPU policy needs either a dedicated or a realtime mask")
    pinned = len(dedicated or realtime)
    return {"VCPU": flavor.vcpus - pinned, "PCPU": pinned + emulator}


def _policy(flavor: str | None, image: str | None) -> str | None:
    for policy in (flavor, image):
        if policy and policy not in POLICIES:
            raise _Contradiction(f"there is no CPU policy {policy}")
    if (flavor, image) in {("mixed", "dedicated"), ("shared", "dedicated"), ("shared", "mixed")}:
        raise _Contradiction(f"the flavor's CPU policy is {flavor}, the image's {image}")
    return flavor or image


def _emulator(flavor: Flavor) -> str | None:
    policy = flavor.extra_specs.get("hw:emulator_threads_policy")
    if policy and policy not in {"isolate", "share"}:
        raise _Contradiction(f"there is no emulator threads policy {policy}")
    return policy or None


def _dedicated(flavor: Flavor) -> set[int]:
    mask = flavor.extra_specs.get("hw:cpu_dedicated_mask")
    if not mask:
        return set()
    pinned, everything = _mask(mask, flavor.vcpus), set(range(flavor.vcpus))
    if not pinned or not pinned < everything:
        raise _Contradiction("hw:cpu_dedicated_mask is not a part of the vCPUs")
    return pinned


def _realtime(flavor: Flavor, image: Mapping[str, str]) -> set[int]:
    if not _true(flavor.extra_specs.get("hw:cpu_realtime")):
        return set()
    mask = image.get("hw_cpu_realtime_mask") or flavor.extra_specs.get("hw:cpu_realtime_mask")
    everything = set(range(flavor.vcpus))
    pinned = _mask(mask, flavor.vcpus) if mask else everything
    if not pinned or not pinned <= everything or (pinned == everything and not _emulator(flavor)):
        raise _Contradiction("the realtime mask is not a part of the vCPUs")
    return pinned


def _mask(text: str, vcpus: int) -> set[int]:
    """Return the vCPUs of a mask such as ``0-3,^1``. A mask that begins with ``^`` means all other vCPUs."""
    if text.strip().startswith("^"):
        text = f"0-{vcpus - 1},{text}"
    chosen: set[int] = set()
    excluded: set[int] = set()
    for rule in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = rule.removeprefix("^").partition("-")
        try:
            start = int(first)
            end = int(last) if dash else start
        except ValueError:
            raise _Contradiction(f"{rule} is not a set of CPUs") from None
        if start > end or end >= start + 65536:
            raise _Contradiction(f"{rule} is not a set of CPUs")
        (excluded if rule.startswith("^") else chosen).update(range(start, end + 1))
    return chosen - excluded


def _true(value: str | None) -> bool:
    return (value or "").strip().lower() in _TRUE
