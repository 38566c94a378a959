# mypy: ignore-errors
"""Nova's fake virt driver, with nodes that keep their identity.

``fake.FakeDriver`` makes up a new UUID for its node at each start of nova-compute, so a restarted
compute service refuses to work. Here the UUID is the one that Nova keeps in the host's state
folder, as with a real hypervisor. As with Ironic, one host may own several nodes. And as with a real
hypervisor, a new host takes a moment to describe itself before it has a row in ``compute_nodes``.

This module runs inside nova-compute, in the environment of the services.
"""

import io
import time
import uuid

from nova import conf
from nova.image import glance
from nova.virt import fake, node
from oslo_config import cfg

conf.CONF.register_opt(cfg.ListOpt("fake_nodes", default=[], help="The nodes of this host; default: its own name."))


class StackmendDriver(fake.FakeDriver):
    """Boots, resizes, migrates, evacuates, shelves and deletes servers that do not exist."""

    def init_host(self, host):
        super().init_host(host)
        self._described = False
        self._identity = node.get_local_node_uuid()
        self._set_nodes(conf.CONF.fake_nodes or [host])

    def get_available_resource(self, nodename):
        if not self._described:
            time.sleep(1)
            self._described = True
        resources = super().get_available_resource(nodename)
        if resources:
            resources["uuid"] = self._uuid(nodename)
        return resources

    def get_nodenames_by_uuid(self, refresh=False):
        return {self._uuid(name): name for name in self.get_available_nodes()}

    def post_live_migration(self, context, instance, block_device_info, migrate_data=None):
        """Forget the server on the source, which ``fake.FakeDriver`` leaves there."""
        self.destroy(context, instance, network_info=None, block_device_info=block_device_info)

    def snapshot(self, context, instance, image_id, update_task_state):
        """Upload an image, which ``fake.FakeDriver`` leaves queued for ever."""
        super().snapshot(context, instance, image_id, update_task_state)
        formats = {"disk_format": "raw", "container_format": "bare"}
        glance.API().update(context, image_id, formats, data=io.BytesIO(instance.uuid.encode()))

    def detach_interface(self, context, instance, vif):
        """Detach what was attached before this service started, too, which ``fake.FakeDriver`` has forgotten."""
        self._interfaces.setdefault(vif["id"], vif)
        super().detach_interface(context, instance, vif)

    def _uuid(self, nodename):
        if len(self.get_available_nodes()) == 1:
            return self._identity
        return str(uuid.uuid5(uuid.UUID(self._identity), nodename))
