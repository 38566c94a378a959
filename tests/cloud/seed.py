"""What a fresh cloud needs before it can be used: keys, users, endpoints, an image, flavors."""

from __future__ import annotations

import base64
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.cloud.configuration import API_SERVICES, Configuration
from tests.servers import packages
from tests.servers.server import PASSWORD


def write_keys(configuration: Configuration) -> None:
    """The key repositories of Keystone: a staged key (0) and the primary one (1)."""
    for name in ("fernet", "credential"):
        folder = configuration.state / name
        folder.mkdir(mode=0o700)
        for number in ("0", "1"):
            key = folder / number
            key.write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
            key.chmod(0o600)


def write_certificates(configuration: Configuration) -> None:
    """A certificate authority for Octavia, which also serves as its client certificate."""
    state = configuration.state
    openssl = packages.find("openssl", "openssl")
    subprocess.run(
        [
            *(str(openssl), "req", "-x509", "-newkey", "rsa:2048", "-days", "3650"),
            *("-passout", f"pass:{PASSWORD}", "-subj", "/CN=tests"),
            *("-keyout", str(state / "ca.key"), "-out", str(state / "ca.pem")),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    joined = (state / "ca.pem").read_bytes() + (state / "ca.key").read_bytes()
    (state / "client.pem").write_bytes(joined)


def create_identity(connection: Any, configuration: Configuration, services: list[str]) -> None:
    """A user, a catalog entry and an endpoint for each service."""
    identity = connection.identity
    project = identity.create_project(name="service", domain_id="default")
    # The bootstrap of Keystone makes the role "service" since 2023.2.
    roles = [identity.find_role(name) or identity.create_role(name=name) for name in ("admin", "service")]

    def create(service: str) -> None:
        user = identity.create_user(name=service, password=PASSWORD, default_project_id=project.id, domain_id="default")
        for role in roles:
            identity.assign_project_role_to_user(project, user, role)
        entry = identity.create_service(name=service, type=API_SERVICES[service])
        identity.create_endpoint(
            service_id=entry.id,
            interface="public",
            url=configuration.endpoint(service),
            region_id="RegionOne",
        )

    for service in services:
        create(service)


def create_image(connection: Any, content: Path) -> Any:
    """The image from which everything boots; nothing ever reads it."""
    image = connection.create_image(
        "tiny",
        filename=str(content),
        disk_format="raw",
        container_format="bare",
        visibility="public",
        wait=True,
    )
    connection.image.add_tag(image, "amphora")
    return image


def create_flavors(connection: Any) -> None:
    """``tiny``, ``small`` to resize to, and one for amphorae."""
    for name, size in (("tiny", 1), ("small", 2), ("amphora", 1)):
        connection.compute.create_flavor(id=name, name=name, ram=128 * size, vcpus=size, disk=size)


def create_amphora_network(connection: Any, image: Any) -> dict[str, object]:
    """The management network of amphorae, and Octavia's options for it."""
    network = connection.network
    service = connection.identity.find_project("service")
    management = network.create_network(name="lb-mgmt", project_id=service.id, shared=True)
    network.create_subnet(
        network_id=management.id,
        cidr="192.168.0.0/20",
        ip_version=4,
        name="lb-mgmt",
        project_id=service.id,
    )
    tenant = network.create_network(name="tenant", shared=True)
    network.create_subnet(network_id=tenant.id, cidr="10.0.0.0/20", ip_version=4, name="tenant")
    group = network.create_security_group(name="lb-mgmt", project_id=service.id)
    return {
        "amp_flavor_id": "amphora",
        "amp_boot_network_list": management.id,
        "amp_secgroup_list": group.id,
        "amp_image_owner_id": image.owner_id,
    }


def together(*steps: Any) -> list[Any]:
    """Run steps at the same time; the first error of any is raised when all have ended."""
    with ThreadPoolExecutor(len(steps)) as pool:
        return [future.result() for future in [pool.submit(step) for step in steps]]
