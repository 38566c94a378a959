"""The options ``[openstack]``: with which credentials, where, and how the cloud's APIs are called.

Exactly one source of credentials is used, the first of these: ``cloud`` (a name in ``clouds.yaml``); ``auth_type`` with
the options of that plugin, as in every OpenStack service; ``[placement]`` or ``[keystone_authtoken]`` of Nova's files;
``[service_auth]`` or ``[keystone_authtoken]`` of Octavia's.

A Placement without Keystone (``auth_strategy = noauth2``, for tests) is reached with ``auth_type = admin_token``,
``endpoint = http://...``, ``token = admin``.
"""

from __future__ import annotations

from keystoneauth1 import loading
from oslo_config import cfg

GROUP = "openstack"

OPTIONS: list[cfg.Opt] = [
    cfg.StrOpt("cloud", help="Name of a cloud in clouds.yaml whose credentials are used. Unset: see auth_type."),
    cfg.StrOpt("region_name", help="Region whose endpoints are used; unset: that of the source of credentials."),
    cfg.ListOpt(
        "interface",
        default=[],
        help="Interfaces of the endpoints, in order of preference; unset: those of the source of credentials, or "
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
    *loading.get_auth_common_conf_options(),
    *loading.get_session_conf_options(),
]
