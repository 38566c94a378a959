"""The releases of OpenStack from which a control plane can be made: what differs between them, as values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

#: the environment variable with the name of a release; without it, the newest
VARIABLE = "STACKMEND_CLOUD_RELEASE"


@dataclass(frozen=True)
class Api:
    """What uwsgi loads for an API, and how many requests that answers at a time.

    :param module: module and application; with ``()`` it is a function that returns the application, as in the scripts
        (``nova-api-wsgi``) of releases that have no such module
    """

    module: str
    processes: int = 1
    threads: int = 8


@dataclass(frozen=True)
class Release:
    """One release of OpenStack.

    :param python: the version of Python for which the requirements are pinned
    :param apis: by service
    :param environment: for every service and program
    :param microversion: of Nova's API, for the administrator's connection
    :param notification_format: of Nova's option of this name
    :param packages: the name of the file with the services' packages
    :param absent_tables: those that a later release of a service has
    """

    name: str
    python: tuple[int, int]
    apis: Mapping[str, Api]
    environment: Mapping[str, str]
    microversion: str
    notification_format: str
    packages: str
    absent_tables: frozenset[str] = frozenset()

    @property
    def announces_hosts(self) -> bool:
        """Whether Nova sends events of hosts: only the versioned format has them."""
        return self.notification_format != "unversioned"

    @property
    def trips_over_deleted_amphorae(self) -> bool:
        """Whether Octavia's updates fail with the row of a deleted amphora, so that stackmend detaches it: since release 16."""
        return "amphora_member_port" not in self.absent_tables

    @property
    def requirements(self) -> Path:
        """The packages of the services, pinned."""
        return Path(__file__).with_name(self.packages)


#: Nova and Neutron patch themselves with eventlet. In uwsgi such a program may have one thread only.
_patched = partial(Api, processes=2, threads=1)

_SCRIPTS = {
    "keystone": Api("keystone.server.wsgi:initialize_public_application()"),
    "placement": Api("placement.wsgi:init_application()"),
    "nova": _patched("nova.api.openstack.compute.wsgi:init_application()"),
    "neutron": _patched("neutron.cmd.eventlet.server:main_api_eventlet()"),
    "glance": Api("glance.common.wsgi_app:init_app()"),
    "cinder": Api("cinder.wsgi.wsgi:initialize_application()"),
    "octavia": Api("octavia.api.app:setup_app()"),
}

#: since Octavia 16 and Nova 31 (2025.1)
_ABSENT = frozenset({"amphora_member_port", "share_mapping"})

NEWEST = Release(
    name="2026.2",
    python=(3, 12),
    apis={
        name: Api(f"{name}.wsgi.api:application")
        for name in ("keystone", "placement", "neutron", "glance", "cinder", "octavia")
    }
    | {"nova": Api("nova.wsgi.osapi_compute:application")},
    # eventlet is on its way out of OpenStack
    environment={"OS_NOVA_DISABLE_EVENTLET_PATCHING": "true"},
    microversion="2.96",
    notification_format="both",
    packages="requirements.txt",
)


def _before_modules(name: str, microversion: str) -> Release:
    """Return a release whose APIs are scripts, on eventlet, with Nova's default format of notifications: the legacy one."""
    return Release(name, (3, 11), _SCRIPTS, {}, microversion, "unversioned", f"requirements-{name}.txt", _ABSENT)


RELEASES = {
    release.name: release
    for release in (
        NEWEST,
        _before_modules("2024.1", "2.96"),
        _before_modules("2023.2", "2.95"),
        _before_modules("2023.1", "2.95"),
    )
}


def chosen() -> Release:
    """Return the release that the environment names.

    :raises KeyError: when there is none of that name
    """
    return RELEASES[os.environ.get(VARIABLE) or NEWEST.name]
