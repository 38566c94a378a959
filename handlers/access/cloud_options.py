"""The options of ``[openstack]``: credentials and endpoints of the cloud's APIs.

The first place with credentials counts:

1. ``cloud``, in ``clouds.yaml``
2. ``auth_type`` or ``auth_section``
3. the files of Nova or Octavia (:data:`SERVICE_CREDENTIALS`)

Placement without Keystone needs ``auth_type = admin_token``, ``endpoint = http://...``, ``token = admin``.
"""

from __future__ import annotations

from dataclasses import dataclass

from keystoneauth1 import loading
from oslo_config import cfg

GROUP = "openstack"


@dataclass(frozen=True, slots=True)
class ServiceCredentials:
    """The place of credentials in the files of a service.

    :param group: the group of stackmend's option ``config_file``, which names the files
    :param sections: the files' sections with credentials, in order of preference
    """

    group: str
    sections: tuple[str, ...]


#: the services whose credentials serve where ``[openstack]`` has none, in this order
SERVICE_CREDENTIALS = (
    ServiceCredentials("nova", ("placement", "keystone_authtoken")),
    ServiceCredentials("octavia", ("service_auth", "keystone_authtoken")),
)

OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt("cloud", help="Name of a cloud in clouds.yaml, for its credentials. Unset: see auth_type."),
    cfg.StrOpt(
        "region_name",
        help="Region of the endpoints. Unset: that of the source of credentials. A catalogue with several regions needs one.",
    ),
    cfg.ListOpt(
        "interface",
        default=[],
        help="Interfaces of the endpoints, in order of preference. Unset: those of the source of credentials, or "
        "internal, public.",
    ),
    cfg.URIOpt(
        "placement_endpoint_override",
        schemes=["http", "https"],
        help="URL of Placement, instead of the service catalogue's.",
    ),
    cfg.URIOpt(
        "network_endpoint_override",
        schemes=["http", "https"],
        help="URL of Neutron, without /v2.0, instead of the service catalogue's.",
    ),
    cfg.URIOpt(
        "compute_endpoint_override",
        schemes=["http", "https"],
        help="URL of Nova, with /v2.1, instead of the service catalogue's.",
    ),
    cfg.URIOpt(
        "block_storage_endpoint_override",
        schemes=["http", "https"],
        help="URL of Cinder, with /v3, instead of the service catalogue's.",
    ),
    *loading.get_auth_common_conf_options(),
    *loading.get_session_conf_options(),
]
