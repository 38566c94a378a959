from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from handlers.nova.allocations.entitlement import Flavor, Unbuildable, parse, resources

PLAIN = {"VCPU": 4, "MEMORY_MB": 2048, "DISK_GB": 20}
CPUS = {"MEMORY_MB": 2048, "DISK_GB": 20}


def flavor(specs: Mapping[str, str] | None = None, **values: int) -> Flavor:
    numbers = {"vcpus": 4, "memory_mb": 2048, "root_gb": 20} | values
    return Flavor(**numbers, extra_specs=specs or {})


def wanted(specs: Mapping[str, str], image: Mapping[str, str] | None = None) -> Mapping[str, int] | Unbuildable:
    return resources(flavor(specs), image or {}, False)


# what the flavor names


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ({}, PLAIN),
        ({"trait:HW_CPU_X86_AVX": "required", "hw:numa_nodes": "2"}, PLAIN),
        ({"resources:VCPU": "2"}, PLAIN | {"VCPU": 2}),
        ({"resources:VCPU": "0"}, CPUS),
        ({"resources:PCPU": "4"}, CPUS | {"PCPU": 4}),
        ({"resources:MEMORY_MB": "0", "resources:DISK_GB": "7"}, {"VCPU": 4, "DISK_GB": 7}),
        ({"resources:CUSTOM_MAGIC": "3"}, PLAIN | {"CUSTOM_MAGIC": 3}),
        ({"resources:CUSTOM_MAGIC": "0"}, PLAIN),
        ({"resources:CUSTOM_MAGIC": "many"}, PLAIN),
        ({"resources:CUSTOM_MAGIC": "1.5"}, PLAIN),
        ({"resources:CUSTOM_MAGIC": "-1"}, PLAIN),
        ({"resources:MAGIC": "3"}, PLAIN),
        ({"resources1:MAGIC": "3"}, PLAIN),
        ({"resources:VGPU": "0"}, PLAIN),
        ({"hw:mem_encryption": "false", "hw:pmem": " , "}, PLAIN),
        (
            {
                "resources:VCPU": "0",
                "resources:MEMORY_MB": "0",
                "resources:DISK_GB": "0",
                "resources:CUSTOM_BAREMETAL_GOLD": "1",
            },
            {"CUSTOM_BAREMETAL_GOLD": 1},
        ),
    ],
)
def test_extra_specs_name_amounts(specs: Mapping[str, str], expected: Mapping[str, int]) -> None:
    assert wanted(specs) == expected


# disks


@pytest.mark.parametrize(
    ("disks", "volume", "expected"),
    [
        ({"root_gb": 20}, False, 20),
        ({"root_gb": 20}, True, None),
        ({"root_gb": 0}, False, None),
        ({"root_gb": 20, "ephemeral_gb": 5}, False, 25),
        ({"root_gb": 20, "ephemeral_gb": 5}, True, 5),
        ({"root_gb": 20, "swap": 1}, False, 21),
        ({"root_gb": 20, "swap": 1024}, False, 21),
        ({"root_gb": 20, "swap": 1025}, False, 22),
        ({"root_gb": 20, "swap": 512}, True, 1),
    ],
)
def test_disks(disks: dict[str, int], volume: bool, expected: int | None) -> None:
    found = resources(flavor(None, **disks), {}, volume)
    assert not isinstance(found, Unbuildable)
    assert found.get("DISK_GB") == expected


# pinned CPUs: flavor, image, vcpus, pcpus

DEDICATED = {"hw:cpu_policy": "dedicated"}
MIXED = {"hw:cpu_policy": "mixed"}
ISOLATE = {"hw:emulator_threads_policy": "isolate"}
REALTIME = {"hw:cpu_realtime": "yes"}


@pytest.mark.parametrize(
    ("specs", "image", "vcpus", "pcpus"),
    [
        ({"hw:cpu_policy": "shared"}, {}, 4, 0),
        ({"hw:cpu_policy": "shared"}, {"hw_cpu_policy": "shared"}, 4, 0),
        (DEDICATED, {}, 0, 4),
        (DEDICATED, {"hw_cpu_policy": "shared"}, 0, 4),
        ({}, {"hw_cpu_policy": "dedicated"}, 0, 4),
        ({}, {"hw_cpu_policy": "shared"}, 4, 0),
        (ISOLATE, {"hw_cpu_policy": "dedicated"}, 0, 5),
        (DEDICATED | ISOLATE, {}, 0, 5),
        (DEDICATED | {"hw:emulator_threads_policy": "share"}, {}, 0, 4),
        (DEDICATED | {"resources:VCPU": "0"}, {}, 0, 4),
        (MIXED | {"hw:cpu_dedicated_mask": "0-1"}, {}, 2, 2),
        (MIXED | {"hw:cpu_dedicated_mask": "^0"}, {}, 1, 3),
        (MIXED | {"hw:cpu_dedicated_mask": " ^0-1"}, {}, 2, 2),
        (MIXED | {"hw:cpu_dedicated_mask": "0-2, ^1,"}, {}, 2, 2),
        (MIXED | {"hw:cpu_dedicated_mask": "3"} | ISOLATE, {}, 3, 2),
        (MIXED | REALTIME | {"hw:cpu_realtime_mask": "2-3"}, {}, 2, 2),
        (MIXED | REALTIME | {"hw:cpu_realtime_mask": "^0"}, {}, 1, 3),
        (MIXED | REALTIME | {"hw:cpu_realtime_mask": "^0"}, {"hw_cpu_realtime_mask": "^0-1"}, 2, 2),
        (MIXED | REALTIME, {"hw_cpu_realtime_mask": "3"}, 3, 1),
        (MIXED | REALTIME | ISOLATE, {}, 0, 5),
        (REALTIME | {"hw:cpu_realtime_mask": "^0"} | DEDICATED, {}, 0, 4),
        ({"hw:cpu_dedicated_mask": "0"}, {"hw_cpu_policy": "mixed"}, 3, 1),
    ],
)
def test_pinned_cpus(specs: Mapping[str, str], image: Mapping[str, str], vcpus: int, pcpus: int) -> None:
    expected = CPUS | {"VCPU": vcpus, "PCPU": pcpus}
    assert wanted(specs, image) == {name: amount for name, amount in expected.items() if amount}


# what cannot be rebuilt


@pytest.mark.parametrize(
    ("specs", "image", "reason"),
    [
        ({"resources:VGPU": "1"}, {}, "vGPU"),
        ({"resources1:VGPU": "1"}, {}, "vGPU"),
        ({"resources_a-B:VGPU": "1"}, {}, "vGPU"),
        ({"resources1:CUSTOM_MAGIC": "1"}, {}, "group of their own"),
        ({"resources1:VCPU": "0"}, {}, "group of their own"),
        ({"accel:device_profile": "fpga"}, {}, "device profile"),
        ({"hw:mem_encryption": "True"}, {}, "encrypted"),
        ({}, {"hw_mem_encryption": "true"}, "encrypted"),
        ({"hw:pmem": "2GB, 4GB"}, {}, "persistent memory"),
        ({"hw:cpu_policy": "wild"}, {}, "no CPU policy wild"),
        ({}, {"hw_cpu_policy": "wild"}, "no CPU policy wild"),
        (MIXED | {"hw:cpu_dedicated_mask": "0"}, {"hw_cpu_policy": "dedicated"}, "mixed, the image's dedicated"),
        ({"hw:cpu_policy": "shared"}, {"hw_cpu_policy": "dedicated"}, "shared, the image's dedicated"),
        ({"hw:cpu_policy": "shared"}, {"hw_cpu_policy": "mixed"}, "shared, the image's mixed"),
        (DEDICATED | {"resources:PCPU": "4"}, {}, "besides"),
        (DEDICATED | {"hw:emulator_threads_policy": "wild"}, {}, "emulator threads policy"),
        (MIXED, {}, "either"),
        (MIXED | REALTIME | {"hw:cpu_realtime_mask": "3", "hw:cpu_dedicated_mask": "3"}, {}, "either"),
        (MIXED | {"hw:cpu_dedicated_mask": "0-3"}, {}, "not a part"),
        (MIXED | {"hw:cpu_dedicated_mask": "3-4"}, {}, "not a part"),
        (MIXED | {"hw:cpu_dedicated_mask": "^0-3"}, {}, "not a part"),
        (MIXED | {"hw:cpu_dedicated_mask": "3-1"}, {}, "not a set of CPUs"),
        (MIXED | {"hw:cpu_dedicated_mask": "0-9999999999"}, {}, "not a set of CPUs"),
        (MIXED | {"hw:cpu_dedicated_mask": "a"}, {}, "not a set of CPUs"),
        (MIXED | REALTIME, {}, "realtime mask"),
        (MIXED | REALTIME | {"hw:cpu_realtime_mask": "7"}, {}, "realtime mask"),
        (
            {"resources:VCPU": "0", "resources:MEMORY_MB": "0", "resources:DISK_GB": "0"},
            {},
            "asks for nothing",
        ),
    ],
)
def test_an_entitlement_that_nothing_determines(
    specs: Mapping[str, str], image: Mapping[str, str], reason: str
) -> None:
    found = wanted(specs, image)
    assert isinstance(found, Unbuildable)
    assert reason in found.reason


# as Nova stores it


def stored(**data: object) -> str:
    flavor = {"nova_object.name": "Flavor", "nova_object.data": data}
    return json.dumps({"cur": flavor, "old": None, "new": None})


def test_the_flavor_in_force_is_read() -> None:
    text = stored(vcpus=2, memory_mb=512, root_gb=1, ephemeral_gb=3, swap=10, extra_specs={"a": "b"}, name="x")
    assert parse(text) == Flavor(2, 512, 1, 3, 10, {"a": "b"})


def test_an_old_row_without_extra_specs() -> None:
    assert parse(stored(vcpus=2, memory_mb=512, root_gb=1)) == Flavor(2, 512, 1)
    assert parse(stored(vcpus=2, memory_mb=512, swap=None, extra_specs=None)) == Flavor(2, 512)


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"cur": null}', stored(vcpus=2), stored(memory_mb="much")])
def test_a_text_that_is_not_a_flavor(text: str | None) -> None:
    assert isinstance(parse(text), Unbuildable)
