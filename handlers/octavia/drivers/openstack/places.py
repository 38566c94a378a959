"""The regions and endpoints of services in Octavia's configuration files.

Octavia boots amphorae in the region of ``[nova] region_name``. In another region, servers with names of amphorae belong to
another Octavia. So Octavia's options override ``[openstack] region_name``.

Sources: ``octavia/common/clients.py``, ``octavia/compute/drivers/nova_driver.py``, ``octavia/image/drivers/glance_driver.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from handlers.access.cloud import Place
from handlers.access.service_files import ServiceFiles

#: type of service: the section of ``octavia.conf``, and the version in an endpoint that paths here already have
_SECTIONS = {"compute": ("nova", ""), "network": ("neutron", "/v2.0"), "image": ("glance", "/v2")}


def places(files: ServiceFiles) -> Mapping[str, Place]:
    return {service: _place(files, section, version) for service, (section, version) in _SECTIONS.items()}


def _place(files: ServiceFiles, section: str, version: str) -> Place:
    region = files.get(section, "region_name")
    if region is None and section == "neutron":
        # Octavia's Neutron client takes the missing options of this section from there.
        region = files.get("service_auth", "region_name")
    interfaces = files.get(section, "valid_interfaces") or files.get(section, "endpoint_type") or ""
    url = files.get(section, "endpoint_override") or files.get(section, "endpoint") or ""
    return Place(
        region,
        tuple(name.strip() for name in interfaces.split(",") if name.strip()),
        url.rstrip("/").removesuffix(version),
    )
