"""The configuration files of the services."""

from __future__ import annotations

import configparser
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.mariadb import MariaDB
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.server import HOST, PASSWORD, free_port

Options = Mapping[str, Mapping[str, object]]

API_SERVICES = {
    "keystone": "identity",
    "cinder": "block-storage",
    "glance": "image",
    "placement": "placement",
    "nova": "compute",
    "neutron": "network",
    "octavia": "load-balancer",
}
VHOST = "api"  # where Nova's API level, Neutron and Octavia meet; each cell has its own


@dataclass(frozen=True)
class Configuration:
    """Knows where everything is, and writes it down for each service."""

    folder: Path
    venv: Path
    rabbitmq: RabbitMQ
    mariadb: MariaDB
    nova_options: Options
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in (*API_SERVICES, "health")})

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def auth_url(self) -> str:
        return f"{self.endpoint('keystone')}/v3"

    def endpoint(self, service: str) -> str:
        path = {"nova": "/v2.1", "cinder": "/v3"}.get(service, "")
        return f"http://{HOST}:{self.ports[service]}{path}"

    def path(self, service: str, name: str) -> Path:
        return self.folder / "etc" / service / name

    @property
    def nova(self) -> Path:
        return self.path("nova", "nova.conf")

    @property
    def octavia(self) -> Path:
        return self.path("octavia", "octavia.conf")

    def cell(self, name: str) -> Path:
        return self.path("nova", f"{name}.conf")

    def compute(self, host: str) -> Path:
        return self.path("nova", f"{host}.conf")

    def write(self, cells: list[str]) -> None:
        """All files but those of computes and of Octavia, which come later."""
        for folder in (self.logs, self.state / "images", self.state / "cinder", self.state / "lock"):
            folder.mkdir(parents=True, exist_ok=True)
        self._write_keystone()
        self._write_glance()
        self._write_cinder()
        self._write_placement()
        _write(self.nova, self._nova_options(VHOST, "nova_cell0", self.state / "nova"))
        for cell in cells:
            options = self._nova_options(cell, f"nova_{cell}", self.state / cell)
            _write(self.cell(cell), options)
        self._copy("nova", "api-paste.ini")
        self._write_neutron()

    def write_compute(self, host: str, cell: str, nodes: list[str], options: Options) -> Path:
        """The file of one nova-compute."""
        state = self.state / host
        state.mkdir(exist_ok=True)
        merged = merge(
            self._nova_options(cell, f"nova_{cell}", state),
            {
                "DEFAULT": {
                    "host": host,
                    "compute_driver": "stackmend_fake.StackmendDriver",
                    "fake_nodes": ",".join(nodes),
                },
                # no agent of Neutron announces the port at the destination
                "compute": {"live_migration_wait_for_vif_plug": False},
            },
            options,
        )
        del merged["api_database"]  # a compute must not need it
        return _write(self.compute(host), merged)

    def derive(self, service: str, name: str, options: Options) -> Path:
        """Copy a service's files to a folder of another name; in the ``.conf`` file, ``options`` win. Return that file."""
        folder = self.folder / "etc" / name
        shutil.copytree(self.folder / "etc" / service, folder)
        path = folder / f"{service}.conf"
        parser = configparser.RawConfigParser(default_section="")  # [DEFAULT] is a section like others
        parser.read(path)
        return _write(path, merge({name: parser[name] for name in parser.sections()}, options))

    def write_octavia(self, amphora: Mapping[str, object]) -> Path:
        """``amphora``: the flavor, networks and image of amphorae (``amp_...``)."""
        state = self.state
        return _write(
            self.octavia,
            {
                "DEFAULT": self._common(VHOST),
                "database": {"connection": self.mariadb.url("octavia")},
                "api_settings": {
                    "auth_strategy": "keystone",
                    "enabled_provider_drivers": "amphora:amphora driver",
                },
                "oslo_messaging": {"topic": "octavia_prov"},
                "health_manager": {
                    "heartbeat_key": PASSWORD,
                    "bind_ip": HOST,
                    "bind_port": self.ports["health"],
                    "controller_ip_port_list": f"{HOST}:{self.ports['health']}",
                    "health_check_interval": 2,
                    # long enough for a busy machine to be faster than the health manager
                    "heartbeat_timeout": 90,
                    "health_update_threads": 1,
                    "stats_update_threads": 1,
                    "failover_threads": 2,
                },
                "certificates": {
                    "ca_certificate": state / "ca.pem",
                    "ca_private_key": state / "ca.key",
                    "ca_private_key_passphrase": PASSWORD,
                    "server_certs_key_passphrase": "insecure-key-do-not-use-this-key",
                },
                "task_flow": {"jobboard_enabled": False},
                "haproxy_amphora": {
                    "client_cert": state / "client.pem",
                    "server_ca": state / "ca.pem",
                },
                "controller_worker": {
                    "client_ca": state / "ca.pem",
                    "amphora_driver": "amphora_noop_driver",
                    "compute_driver": "compute_nova_driver",
                    "network_driver": "allowed_address_pairs_driver",
                    "image_driver": "image_glance_driver",
                    "volume_driver": "volume_noop_driver",
                    "amp_image_tag": "amphora",
                    "amp_active_retries": 240,
                    "amp_active_wait_sec": 1,
                    "loadbalancer_topology": "SINGLE",
                    "event_notifications": True,
                    "workers": 1,
                    **amphora,
                },
                "networking": {"max_retries": 5},
                "keystone_authtoken": self._authtoken("octavia"),
                **{section: self._client("octavia") for section in ("service_auth", "neutron", "glance")},
                "nova": self._client("octavia") | {"enable_anti_affinity": True},
                **self._bus(),
            },
        )

    def _nova_options(self, vhost: str, database: str, state: Path) -> dict[str, dict[str, object]]:
        state.mkdir(parents=True, exist_ok=True)
        options: Options = {
            "DEFAULT": {
                **self._common(vhost),
                "my_ip": HOST,
                "state_path": state,
                "instance_usage_audit": False,
                "allow_resize_to_same_host": False,
            },
            "api": {"auth_strategy": "keystone"},
            "api_database": {"connection": self.mariadb.url("nova_api")},
            "database": {"connection": self.mariadb.url(database)},
            "notifications": {
                "versioned_notifications_topics": "versioned_notifications,stackmend",
                "notify_on_state_change": "vm_and_task_state",
            },
            "quota": dict.fromkeys(("instances", "cores", "ram", "server_groups", "server_group_members"), -1),
            "scheduler": {"workers": 1, "discover_hosts_in_cells_interval": -1},
            "conductor": {"workers": 1},
            "glance": self._client("nova"),
            "placement": self._client("nova"),
            "neutron": self._client("nova"),
            "cinder": {**self._client("nova"), "endpoint_template": f"{self.endpoint('cinder')}/%(project_id)s"},
            "keystone_authtoken": self._authtoken("nova"),
            "service_user": {**self._client("nova"), "send_service_user_token": True},
            # The fake driver's CPU is older than what a destination would be compared with.
            "workarounds": {"skip_cpu_compare_on_dest": True},
            **self._bus(),
        }
        return merge(options, self.nova_options)

    def _write_keystone(self) -> None:
        _write(
            self.path("keystone", "keystone.conf"),
            {
                "database": {"connection": self.mariadb.url("keystone")},
                "token": {"provider": "fernet", "expiration": 86400},
                "fernet_tokens": {"key_repository": self.state / "fernet"},
                "fernet_receipts": {"key_repository": self.state / "fernet"},
                "credential": {"key_repository": self.state / "credential"},
            },
        )

    def _write_glance(self) -> None:
        _write(
            self.path("glance", "glance-api.conf"),
            {
                "database": {"connection": self.mariadb.url("glance")},
                "glance_store": {
                    "stores": "file",
                    "default_store": "file",
                    "filesystem_store_datadir": self.state / "images",
                },
                "paste_deploy": {"flavor": "keystone"},
                "keystone_authtoken": self._authtoken("glance"),
            },
        )
        self._copy("glance", "glance-api-paste.ini")

    def _write_cinder(self) -> None:
        """Cinder with a driver that pretends to have a storage."""
        for name in ("api-paste.ini", "resource_filters.json"):
            self._copy("cinder", name)
        _write(
            self.path("cinder", "cinder.conf"),
            {
                "DEFAULT": {
                    **self._common(VHOST),
                    "api_paste_config": self.path("cinder", "api-paste.ini"),
                    "resource_query_filters_file": self.path("cinder", "resource_filters.json"),
                    "auth_strategy": "keystone",
                    "enabled_backends": "fake",
                    "host": "volumes",
                    "my_ip": HOST,
                    "state_path": self.state / "cinder",
                    **dict.fromkeys(("quota_volumes", "quota_gigabytes", "per_volume_size_limit"), -1),
                },
                "fake": {"volume_driver": "cinder.tests.fake_driver.FakeLoggingVolumeDriver"},
                "database": {"connection": self.mariadb.url("cinder")},
                "coordination": {"backend_url": f"file://{self.state / 'lock'}"},
                "keystone_authtoken": self._authtoken("cinder"),
                "nova": self._client("cinder") | {"interface": "public"},
                **self._bus(),
            },
        )

    def _write_placement(self) -> None:
        _write(
            self.path("placement", "placement.conf"),
            {
                "placement_database": {"connection": self.mariadb.url("placement")},
                "api": {"auth_strategy": "keystone"},
                "keystone_authtoken": self._authtoken("placement"),
            },
        )

    def _write_neutron(self) -> None:
        self._copy("neutron", "api-paste.ini")
        _write(
            self.path("neutron", "neutron.conf"),
            {
                "DEFAULT": {
                    **self._common(VHOST),
                    "core_plugin": "ml2",
                    "service_plugins": "router,qos",
                    # Agents are rows that nobody refreshes: they must never look dead.
                    "agent_down_time": 2000000,
                    "notify_nova_on_port_status_changes": False,
                    "notify_nova_on_port_data_changes": False,
                    "api_paste_config": self.path("neutron", "api-paste.ini"),
                    "state_path": self.state / "neutron",
                },
                "database": {"connection": self.mariadb.url("neutron")},
                # ten load balancers are more than a project may have by default
                "quotas": dict.fromkeys(("quota_port", "quota_security_group", "quota_security_group_rule"), -1),
                "ml2": {
                    "type_drivers": "flat,vlan,local",
                    "tenant_network_types": "vlan",
                    "mechanism_drivers": "openvswitch",
                    "extension_drivers": "port_security,qos",
                },
                "ml2_type_vlan": {"network_vlan_ranges": "physnet1:100:999"},
                "keystone_authtoken": self._authtoken("neutron"),
                "nova": self._client("nova"),
                "placement": self._client("placement"),
                **self._bus(),
            },
        )

    def _common(self, vhost: str) -> dict[str, object]:
        return {"transport_url": self.rabbitmq.transport_url(vhost)}

    def _bus(self) -> dict[str, dict[str, object]]:
        return {
            "oslo_messaging_notifications": {
                "driver": "messagingv2",
                "topics": "notifications,stackmend",
            },
            "oslo_messaging_rabbit": {"heartbeat_in_pthread": False},
            "oslo_concurrency": {"lock_path": self.state / "lock"},
        }

    def _client(self, user: str) -> dict[str, object]:
        return {
            "auth_url": self.auth_url,
            "auth_type": "password",
            "project_domain_id": "default",
            "user_domain_id": "default",
            "project_name": "service",
            "username": user,
            "password": PASSWORD,
            "region_name": "RegionOne",
            "valid_interfaces": "public",
        }

    def _authtoken(self, user: str) -> dict[str, object]:
        options = self._client(user) | {
            "www_authenticate_uri": self.auth_url,
            "service_token_roles_required": True,
        }
        del options["valid_interfaces"]
        return options

    def _copy(self, service: str, name: str) -> None:
        """Take a file as the package ships it."""
        target = self.path(service, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.venv / "etc" / service / name, target)


def merge(*layers: Options) -> dict[str, dict[str, object]]:
    """Later layers win, option by option."""
    merged: dict[str, dict[str, object]] = {}
    for layer in layers:
        for section, options in layer.items():
            merged.setdefault(section, {}).update(options)
    return merged


def _write(path: Path, sections: Options) -> Path:
    lines = []
    for section, options in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {value}" for name, value in options.items()]
        lines.append("")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return path
