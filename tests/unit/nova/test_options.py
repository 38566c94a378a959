from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import requests
from oslo_config import cfg

from handlers.access import cloud_options
from handlers.access.cloud import Cloud, Denied
from handlers.access.service_files import ConfigError, ServiceFiles
from handlers.base import Resources
from handlers.nova import options
from handlers.nova.attachments import notifications as cinder_options
from handlers.nova.attachments.notifications import cinder_brokers
from handlers.nova.brokers import nova_brokers
from handlers.octavia import options as octavia_options
from handlers.octavia.brokers import octavia_brokers


@pytest.fixture
def nova_conf(tmp_path: Path) -> Path:
    file = tmp_path / "nova.conf"
    file.write_text(
        """
[DEFAULT]
my_ip = 192.0.2.7
some-dashes = x
transport_url = rabbit://nova:verysecret@$my_ip/
osapi_compute_workers = two
dup = 1
dup = 2
[api_database]
connection = mysql+pymysql://nova:verysecret@${database.host}/nova_api
[database]
host = db.example
connection = mysql+pymysql://nova:pa\\$\\$word@db.example/nova
[placement]
auth_type = password
auth_url = http://keystone/v3
username = nova
password = verysecret
region_name = here
valid_interfaces = admin, internal
endpoint_override = http://placement/
[libvirt]
images_type = $nowhere
"""
    )
    return file


def configuration(**groups: dict[str, object]) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    options.register(conf)
    octavia_options.register(conf)
    conf.register_opts(cinder_options.OPTIONS, cinder_options.GROUP)
    conf.register_opts(cloud_options.OPTIONS, cloud_options.GROUP)
    conf(args=[], default_config_files=[], default_config_dirs=[])
    for group, values in groups.items():
        for name, value in values.items():
            conf.set_override(name, value, group)
    return conf


def test_values_come_from_novas_file(nova_conf: Path) -> None:
    conf = configuration(nova={"config_file": [str(nova_conf)]})
    assert options.api_database_url(conf) == "mysql+pymysql://nova:verysecret@db.example/nova_api"
    assert options.cell_database_url(conf) == "mysql+pymysql://nova:pa$$word@db.example/nova"
    assert options.transport_url(conf) == options.notification_url(conf) == "rabbit://nova:verysecret@192.0.2.7/"


def test_our_own_options_win(nova_conf: Path) -> None:
    own = {"api_database_connection": "mysql://a/b", "transport_url": "rabbit://x/"}
    conf = configuration(nova={"config_file": [str(nova_conf)], **own})
    assert options.api_database_url(conf) == "mysql://a/b"
    assert options.notification_url(conf) == "rabbit://x/"


def test_a_later_file_wins_and_a_folder_is_its_files(nova_conf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nova.conf.d"
    folder.mkdir()
    (folder / "1.conf").write_text("[api_database]\nconnection = mysql://one/\n")
    (folder / "2.conf").write_text("[oslo_messaging_notifications]\ntransport_url = rabbit://shared/\n")
    conf = configuration(nova={"config_file": [str(nova_conf), str(folder)]})
    assert options.api_database_url(conf) == "mysql://one/"
    assert options.notification_url(conf) == "rabbit://shared/"
    assert options.transport_url(conf) == "rabbit://nova:verysecret@192.0.2.7/"


def test_the_error_for_a_missing_value_gives_the_line_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[nova\] config_file is not set either: write"):
        options.api_database_url(configuration())
    file = tmp_path / "nova.conf"
    file.write_text("[DEFAULT]\n")
    with pytest.raises(ConfigError, match=rf"{file} has no \[api_database\] connection: write"):
        options.api_database_url(configuration(nova={"config_file": [str(file)]}))
    with pytest.raises(ConfigError, match=r"\[octavia\] database_connection is not set"):
        octavia_options.database_url(configuration())


def test_a_reference_that_leads_nowhere_is_named(nova_conf: Path) -> None:
    files = ServiceFiles("[nova] config_file", [str(nova_conf)])
    with pytest.raises(ConfigError, match=r"\[libvirt\] images_type .* refers to another option"):
        files.get("libvirt", "images_type")


@pytest.mark.parametrize("content", [None, "[database]\nverysecret\n", "[DEFAULT]\n= verysecret\n"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "nova.conf"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=r"\[nova\] config_file") as caught:
        ServiceFiles("[nova] config_file", [str(file)])
    assert str(file) in str(caught.value)
    assert "verysecret" not in str(caught.value)


def auth_url(cloud: Cloud) -> object:
    return getattr(cloud.session.auth, "auth_url", None)


def test_credentials_come_from_novas_file(nova_conf: Path) -> None:
    conf = configuration(nova={"config_file": [str(nova_conf)]})
    cloud = Cloud.from_resources(Resources(conf))
    assert auth_url(cloud) == "http://keystone/v3"
    assert cloud.session.timeout == (2.0, 60.0)  # type: ignore[comparison-overlap]
    client = cloud.service("placement")._client
    assert (client.region_name, client.interface) == ("here", ["admin", "internal"])
    assert client.endpoint_override == "http://placement/"
    assert cloud.service("compute")._client.endpoint_override is None


def test_our_own_region_and_endpoints_win(nova_conf: Path) -> None:
    own: dict[str, object] = {
        "region_name": "there",
        "interface": ["public"],
        "placement_endpoint_override": "http://other/",
    }
    conf = configuration(nova={"config_file": [str(nova_conf)]}, openstack=own)
    client = Cloud.from_resources(Resources(conf)).service("placement")._client
    assert (client.region_name, client.interface, client.endpoint_override) == ("there", ["public"], "http://other/")


@pytest.fixture
def clouds_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write more values of the cloud ``mine`` into clouds.yaml."""
    file = tmp_path / "clouds.yaml"
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))

    def write(more: str) -> None:
        auth = "{auth_url: 'http://k/v3', username: a, password: b, project_name: c}"
        file.write_text(f"clouds: {{mine: {{auth: {auth}, {more}}}}}")

    return write


def test_credentials_from_clouds_yaml(clouds_yaml: Callable[[str], None]) -> None:
    clouds_yaml("region_name: far")
    cloud = Cloud.from_resources(Resources(configuration(openstack={"cloud": "mine"})))
    client = cloud.service("placement")._client
    assert (client.region_name, client.interface, client.endpoint_override) == ("far", ["internal", "public"], None)


@pytest.mark.parametrize("named", ["admin", "[admin]"])
def test_interfaces_and_endpoints_of_clouds_yaml(clouds_yaml: Callable[[str], None], named: str) -> None:
    clouds_yaml(
        f"interface: {named}, compute_endpoint_override: 'http://n', load_balancer_endpoint_override: 'http://o', "
        "block_storage_endpoint_override: 'http://c'"
    )
    own = {"cloud": "mine", "compute_endpoint_override": "http://mine"}
    cloud = Cloud.from_resources(Resources(configuration(openstack={"cloud": "mine"})))
    assert cloud.service("placement")._client.interface == ["admin"]
    services = ("compute", "load-balancer", "block-storage", "network")
    urls = [cloud.service(name)._client.endpoint_override for name in services]
    assert urls == ["http://n", "http://o", "http://c", None]
    cloud = Cloud.from_resources(Resources(configuration(openstack={**own, "interface": ["public"]})))
    assert cloud.service("compute")._client.interface == ["public"]
    assert cloud.service("compute")._client.endpoint_override == "http://mine"


def refusal(cloud: Cloud, service: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the error for an API that refuses a call."""
    api, answer = cloud.service(service), requests.Response()
    answer.status_code = 403
    monkeypatch.setattr(api._client, "request", lambda *_, **__: answer)
    with pytest.raises(Denied) as caught:
        api.write("PUT", "/x")
    return str(caught.value)


def test_a_refusal_names_the_source_of_the_credentials(
    nova_conf: Path, clouds_yaml: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = Cloud.from_resources(Resources(configuration(nova={"config_file": [str(nova_conf)]})))
    assert f"the credentials of [placement] of {nova_conf} need" in refusal(cloud, "placement", monkeypatch)
    clouds_yaml("region_name: far")
    cloud = Cloud.from_resources(Resources(configuration(openstack={"cloud": "mine"})))
    assert "the credentials of the cloud mine in clouds.yaml need" in refusal(cloud, "load-balancer", monkeypatch)
    file = tmp_path / "octavia.conf"
    file.write_text("[service_auth]\nauth_type = password\nauth_url = http://k/v3\nusername = o\npassword = x\n")
    octavia = Cloud.of_service(ServiceFiles("[octavia] config_file", [str(file)]), ["service_auth"])
    assert octavia is not None
    assert f"the credentials of [service_auth] of {file} lack a role" in refusal(octavia, "compute", monkeypatch)


def test_credentials_from_keystone_authtoken_of_octavia(tmp_path: Path) -> None:
    file = tmp_path / "octavia.conf"
    file.write_text("[keystone_authtoken]\nauth_type = password\nauth_url = http://k/v3\nusername = o\npassword = x\n")
    cloud = Cloud.from_resources(Resources(configuration(octavia={"config_file": [str(file)]})))
    assert auth_url(cloud) == "http://k/v3"


def test_the_error_for_missing_credentials_gives_the_lines_to_write() -> None:
    with pytest.raises(ConfigError, match=r"there are no credentials\..* write"):
        Cloud.from_resources(Resources(configuration()))


def test_wrong_credentials_are_named() -> None:
    with pytest.raises(ConfigError, match=r"\[openstack\]"):
        Cloud.from_resources(Resources(configuration(openstack={"auth_type": "no-such-plugin"})))
    with pytest.raises(ConfigError, match=r"\[openstack\] cloud = nowhere"):
        Cloud.from_resources(Resources(configuration(openstack={"cloud": "nowhere"})))


def test_no_brokers_without_options() -> None:
    resources = Resources(configuration())
    assert not list(nova_brokers(resources))
    assert not list(octavia_brokers(resources))


def test_the_brokers_of_novas_file_without_a_database() -> None:
    resources = Resources(configuration(nova={"transport_url": "rabbit://a:verysecret@b/"}))
    [broker] = nova_brokers(resources)
    assert (broker.name, broker.transport_url, broker.exchanges) == ("nova", "rabbit://a:verysecret@b/", ("nova",))
    assert "verysecret" not in repr(broker)


def test_octavias_settings(tmp_path: Path) -> None:
    file = tmp_path / "octavia.conf"
    file.write_text(
        """
[DEFAULT]
transport_url = rabbit://o/
[controller_worker]
amp_image_tag = amphora
amp_flavor_id = 65
amp_boot_network_list = net-1, net-2
[health_manager]
heartbeat_timeout = 30
"""
    )
    conf = configuration(octavia={"config_file": [str(file)]})
    settings = octavia_options.amphora_settings(conf)
    assert (settings.image_tag, settings.flavor, settings.boot_networks) == ("amphora", "65", ("net-1", "net-2"))
    assert (settings.security_groups, settings.heartbeat_timeout) == ((), 30)
    [broker] = octavia_brokers(Resources(conf))
    assert (broker.name, broker.exchanges) == ("octavia", ("octavia",))
    file.write_text("[health_manager]\nheartbeat_timeout = soon\n")
    with pytest.raises(ConfigError, match="heartbeat_timeout"):
        octavia_options.amphora_settings(conf)


def test_the_broker_of_cinders_notifications(tmp_path: Path) -> None:
    assert not list(cinder_brokers(Resources(configuration())))
    file = tmp_path / "cinder.conf"
    file.write_text("[DEFAULT]\ntransport_url = rabbit://c:verysecret@b/\n[oslo_messaging_rabbit]\nssl = True\n")
    [broker] = cinder_brokers(Resources(configuration(cinder={"config_file": [str(file)]})))
    assert (broker.name, broker.exchanges, broker.options) == ("cinder", ("openstack",), (("ssl", "True"),))
    assert "verysecret" not in repr(broker)
    file.write_text(
        "[DEFAULT]\ncontrol_exchange = cinder\n[oslo_messaging_notifications]\ntransport_url = rabbit://n/\n"
    )
    [broker] = cinder_brokers(Resources(configuration(cinder={"config_file": [str(file)]})))
    assert (broker.transport_url, broker.exchanges) == ("rabbit://n/", ("cinder",))


@pytest.mark.parametrize("module", [options, octavia_options, cinder_options])
def test_what_holds_credentials_is_secret(module: ModuleType) -> None:
    for option in module.OPTIONS:
        assert option.help
        assert option.secret == option.name.endswith(("connection", "transport_url"))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A nova.conf with option names of earlier releases."""
    file = tmp_path / "old.conf"
    file.write_text(
        """
[DEFAULT]
transport_url = rabbit://rpc/
notification_transport_url = rabbit://notifications/
notification_driver = messagingv2
notification_driver = log
notification_topics = notifications,stackmend
notification_format = both
control_exchange = openstack
[oslo_messaging_rabbit]
rabbit_use_ssl = true
kombu_ssl_ca_certs = /etc/ca.pem
[placement]
auth_plugin = password
auth_url = http://keystone/v3
username = nova
password = x
[keystone_authtoken]
auth_type = password
auth_url = http://another/v3
username = other
password = x
"""
    )
    return file


def test_former_names_of_options_count(old: Path) -> None:
    conf = configuration(nova={"config_file": [str(old)]})
    [broker] = nova_brokers(Resources(conf))
    assert broker.transport_url == "rabbit://notifications/"
    assert broker.exchanges == ("openstack",)
    assert dict(broker.options) == {"ssl": "true", "ssl_ca_file": "/etc/ca.pem"}
    assert auth_url(Cloud.from_resources(Resources(conf))) == "http://keystone/v3"


def test_a_later_file_wins_whatever_name_it_uses(old: Path, tmp_path: Path) -> None:
    later = tmp_path / "later.conf"
    later.write_text("[oslo_messaging_notifications]\ntransport_url = rabbit://later/\n")
    for order, url in (((old, later), "rabbit://later/"), ((later, old), "rabbit://notifications/")):
        conf = configuration(nova={"config_file": list(map(str, order))})
        assert options.notification_url(conf) == url
