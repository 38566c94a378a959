from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flavor:
    name: str = "m1.tiny"
    vcpus: int = 1
    memory_mb: int = 512
    root_gb: int = 1

    def resources(self) -> dict[str, int]:
        """Return the resources that Nova's scheduler allocates (nova.scheduler.utils.ResourceRequest)."""
        wanted = {"VCPU": self.vcpus, "MEMORY_MB": self.memory_mb, "DISK_GB": self.root_gb}
        return {name: amount for name, amount in wanted.items() if amount}


@dataclass(frozen=True, slots=True)
class Node:
    uuid: str
    name: str
    host: str
    cell: str
