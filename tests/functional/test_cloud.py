"""The region of an endpoint is never a matter of chance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_config import cfg

from handlers.access import cloud_options
from handlers.access.cloud import Cloud, Service
from handlers.base import Resources, Unavailable
from tests.keystone import Keystone

NORTH, SOUTH = ("placement", "north", "http://127.0.0.1:1/"), ("placement", "south", "http://127.0.0.1:2/")
OTHER = ("network", "south", "http://127.0.0.1:3/")


@pytest.fixture
def keystone() -> Iterator[Keystone]:
    with Keystone("token", ["admin"]) as serving:
        yield serving


def placement(keystone: Keystone, folder: Path, more: str = "") -> Service:
    file = folder / "stackmend.conf"
    file.write_text(
        f"[openstack]\nauth_type = v3password\nauth_url = {keystone.url}\nusername = mender\npassword = m\n"
        f"user_domain_name = Default\nproject_name = service\nproject_domain_name = Default\n{more}\n"
    )
    conf = cfg.ConfigOpts()
    conf.register_opts(cloud_options.OPTIONS, cloud_options.GROUP)
    conf([], default_config_files=[str(file)], default_config_dirs=[])
    return Cloud.from_resources(Resources(conf)).service("placement")


def test_several_regions_and_no_option_are_refused(keystone: Keystone, tmp_path: Path) -> None:
    keystone.endpoints = (NORTH, SOUTH)
    service = placement(keystone, tmp_path)
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"in the regions north, south, .* set \[openstack\] region_name"):
            service.read("/")
    with pytest.raises(Unavailable, match="region_name"):
        service.write("PUT", "/allocations/x")


@pytest.mark.parametrize(
    ("endpoints", "option", "port"),
    [
        ((NORTH, OTHER), "", 1),
        ((NORTH, SOUTH), "region_name = south", 2),
        ((NORTH, SOUTH), "placement_endpoint_override = http://127.0.0.1:4/", 4),
    ],
)
def test_one_region_is_called(
    keystone: Keystone, tmp_path: Path, endpoints: tuple[tuple[str, str, str], ...], option: str, port: int
) -> None:
    keystone.endpoints = endpoints
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        placement(keystone, tmp_path, option).write("PUT", "/")
