"""The driver for a real cloud: Nova, Neutron, Glance and Octavia through their APIs.

Each service is a module here and a base class of :class:`OpenStackDriver`; :mod:`.api` makes of every failure one of the
specification's exceptions. What must belong to Octavia's project, the spares, is booted with Octavia's own credentials
(``[service_auth]`` of its files): Nova gives a server to the project of whoever asks for it. All else is done as
``[openstack]`` says, by an administrator.
"""

from __future__ import annotations

from typing import Self

from handlers.access.cloud import Cloud
from handlers.access.neutron import Network
from handlers.access.service_files import ConfigError
from handlers.base import Resources
from handlers.octavia import options
from handlers.octavia.database import OctaviaDatabase
from handlers.octavia.drivers.openstack.api import Api, translated
from handlers.octavia.drivers.openstack.compute import MICROVERSION, ComputeCalls
from handlers.octavia.drivers.openstack.image import ImageCalls
from handlers.octavia.drivers.openstack.loadbalancer import OctaviaCalls
from handlers.octavia.drivers.openstack.network import NetworkCalls
from handlers.octavia.housekeeping import AmphoraDriverError, UnauthorizedException
from handlers.octavia.settings import HousekeepingSettings

#: where Octavia's files have the credentials with which it boots amphorae
SECTIONS = ("service_auth", "keystone_authtoken")


class OpenStackDriver(ImageCalls, NetworkCalls, OctaviaCalls, ComputeCalls):
    """A real cloud's amphorae.

    :param cloud: as whom everything is done but booting
    :param octavia: Octavia itself; None when its credentials are not known
    :param project: id of Octavia's project; empty: the one in which ``octavia`` acts
    :param amphora: how Octavia boots amphorae
    """

    def __init__(
        self,
        settings: HousekeepingSettings,
        database: OctaviaDatabase,
        cloud: Cloud,
        octavia: Cloud | None,
        project: str,
        amphora: options.AmphoraSettings,
    ) -> None:
        super().__init__(settings, database)
        self.compute = Api(cloud.service("compute"), MICROVERSION)
        self.network = Api(cloud.service("network"))
        self.neutron = Network(cloud.service("network"))
        self.glance = Api(cloud.service("image"))
        self.load_balancer = Api(cloud.service("load-balancer"))
        self.image_tag = amphora.image_tag
        self.image_owner = amphora.image_owner
        self._flavor = amphora.flavor
        self._cloud = cloud
        self._octavia = octavia
        self._project = project

    @classmethod
    def made(cls, resources: Resources, settings: HousekeepingSettings, database: OctaviaDatabase) -> Self:
        """Make it from the options ``[openstack]`` and ``[octavia]``.

        :raises ConfigError: when they do not tell which project is Octavia's, or what spares are booted from
        """
        conf = resources.conf
        amphora = options.amphora_settings(conf)
        octavia = Cloud.of_service(options.files(conf), SECTIONS)
        project = conf[options.GROUP].project_id or ""
        if octavia is None and not project:
            raise ConfigError(
                "which project has the amphorae is not known: write, in stackmend's configuration file, [octavia] "
                "config_file = an octavia.conf with credentials in [service_auth], or [octavia] project_id"
            )
        if settings.spare_amphora_pool_size and not (amphora.image_tag and amphora.flavor):
            raise ConfigError(
                "[housekeeping] spare_amphora_pool_size is set, but what spares are booted from is not known: write "
                "[octavia] amp_image_tag and amp_flavor_id, or config_file = an octavia.conf that has them"
            )
        return cls(settings, database, resources.get(Cloud.from_resources), octavia, project, amphora)

    def project(self) -> str:
        if not self._project:  # two threads may both ask Keystone; they get the same answer
            octavia = self._octavia
            project = None if octavia is None else translated(octavia.project)
            if project is None:
                raise UnauthorizedException("identity", "Octavia's own credentials are for no project")
            self._project = project
        return self._project

    def builder(self) -> Api:
        for cloud in (self._octavia, self._cloud):
            if cloud is not None and translated(cloud.project) == self.project():
                return Api(cloud.service("compute"), MICROVERSION)
        raise UnauthorizedException(
            "compute", f"nothing can be booted in project {self.project()}: [octavia] config_file gives no credentials"
        )

    def amphora_flavor(self) -> str:
        if not self._flavor:
            raise AmphoraDriverError("flavor: [octavia] amp_flavor_id is not set, nor has config_file it")
        return self._flavor
