"""The driver for a real cloud: Nova, Neutron, Glance and Octavia through their APIs.

compute.py           servers and server groups: Nova
network.py           ports and security groups: Neutron
image.py             images: Glance
loadbalancer.py      failovers and deletions: Octavia
api.py               calls one API; turns failures into exceptions of ``handlers.octavia.housekeeping``
absence.py           decides whether an answer 404 proves that an object does not exist
places.py            the regions and endpoints that Octavia uses

The driver boots spares with Octavia's own credentials (``[service_auth]`` or ``[keystone_authtoken]`` in ``octavia.conf``), so
that Octavia's project owns them. With these credentials, the driver also reads quotas, and lists servers while a cell does not
answer. If they are missing or of another project, the driver uses ``[openstack]``, which must be of Octavia's project. All
other calls use ``[openstack]``, with an administrator's role.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Self

from handlers.access.cloud import Cloud, Place, Write
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
from handlers.octavia.drivers.openstack.places import places
from handlers.octavia.housekeeping import AmphoraDriverError, UnauthorizedException
from handlers.octavia.settings import HousekeepingSettings
from handlers.octavia.work_queue import WorkQueue

#: sections of Octavia's files with the credentials that boot amphorae
SECTIONS = ("service_auth", "keystone_authtoken")


class OpenStackDriver(ImageCalls, NetworkCalls, OctaviaCalls, ComputeCalls):
    """:param cloud: the credentials of ``[openstack]``
    :param octavia: Octavia's own credentials; None when unknown
    :param project: id of Octavia's project; empty for the project of ``octavia``
    :param at: regions and endpoints from Octavia's configuration files, by type of service
    """

    #: in a rehearsal, receives the writes of new connections to Nova
    _recorded: list[Write] | None = None

    def __init__(
        self,
        settings: HousekeepingSettings,
        database: OctaviaDatabase,
        cloud: Cloud,
        octavia: Cloud | None,
        project: str,
        amphora: options.AmphoraSettings,
        queue: WorkQueue,
        at: Mapping[str, Place] | None = None,
    ) -> None:
        super().__init__(settings, database)
        self._at = at or {}
        self.queue = queue
        network = cloud.service("network", self._at.get("network"))
        self.compute = self._nova(cloud)
        self.network = Api(network)
        self.neutron = Network(network)
        self.glance = Api(cloud.service("image", self._at.get("image")))
        self.load_balancer = Api(cloud.service("load-balancer"))
        self.image_tag = amphora.image_tag
        self.image_owner = amphora.image_owner
        self._flavor = amphora.flavor
        self._cloud = cloud
        self._octavia = octavia
        self._project = project

    @classmethod
    def made(cls, resources: Resources, settings: HousekeepingSettings, database: OctaviaDatabase) -> Self:
        """:raises ConfigError: Octavia's project is unknown, or spares are configured without an image or flavor"""
        conf = resources.conf
        amphora = options.amphora_settings(conf)
        files = options.files(conf)
        octavia = Cloud.of_service(files, SECTIONS)
        project = conf[options.GROUP].project_id or ""
        if octavia is None and not project:
            raise ConfigError(
                "the project of the amphorae is unknown: write, in stackmend's configuration file, [octavia] "
                "config_file = an octavia.conf with credentials in [service_auth], or [octavia] project_id"
            )
        flavor = amphora.flavor or settings.spare_amphora_flavors
        if settings.spare_amphora_pool_size and not (amphora.image_tag and flavor):
            raise ConfigError(
                "[housekeeping] spare_amphora_pool_size is set, but the image and flavor of spares are unknown: write "
                "[octavia] amp_image_tag and amp_flavor_id, or config_file = an octavia.conf that has them; "
                "[housekeeping] spare_amphora_flavors replaces amp_flavor_id"
            )
        cloud, queue = resources.get(Cloud.from_resources), resources.get(WorkQueue.from_resources)
        return cls(settings, database, cloud, octavia, project, amphora, queue, places(files))

    def requests(self, name: str, arguments: Sequence[object]) -> list[str]:
        writes: list[Write] = []
        made = copy.copy(self)
        made.compute, made.network = self.compute.rehearsing(writes), self.network.rehearsing(writes)
        made.glance, made.load_balancer = self.glance.rehearsing(writes), self.load_balancer.rehearsing(writes)
        made.neutron = self.neutron.rehearsing(writes)
        made._recorded = writes
        getattr(made, name)(*arguments)
        return [str(write) for write in writes]

    def project(self) -> str:
        if not self._project:  # two threads may both call Keystone; they get the same answer
            octavia = self._octavia
            project = None if octavia is None else translated(octavia.project)
            if project is None:
                raise UnauthorizedException("identity", "Octavia's own credentials are for no project")
            self._project = project
        return self._project

    def image_owners(self) -> frozenset[str]:
        own = translated(self._cloud.project)
        return frozenset({self.project()} | ({own} if own else set()))

    def builder(self) -> Api:
        for cloud in (self._octavia, self._cloud):
            if cloud is not None and translated(cloud.project) == self.project():
                return self._nova(cloud)
        raise UnauthorizedException(
            "compute",
            f"no credentials of [octavia] config_file or [openstack] belong to Octavia's project {self.project()}",
        )

    def _nova(self, cloud: Cloud) -> Api:
        nova = Api(cloud.service("compute", self._at.get("compute")), MICROVERSION)
        return nova if self._recorded is None else nova.rehearsing(self._recorded)

    def amphora_flavor(self) -> str:
        if not self._flavor:
            raise AmphoraDriverError("flavor: neither [octavia] amp_flavor_id nor config_file sets it")
        return self._flavor
