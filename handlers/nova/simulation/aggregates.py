from __future__ import annotations

import uuid as uuids

from handlers.nova import tables
from handlers.nova.simulation.world import World


class Aggregates(World):
    def create_aggregate(self, name: str) -> str:
        """Create an aggregate; return its uuid (nova.compute.api.AggregateAPI.create_aggregate)."""
        uuid = str(uuids.uuid4())
        self._store.insert(self.api, tables.aggregates, uuid=uuid, name=name)
        self._publish_aggregate(uuid, "aggregate.create.end")
        return uuid

    def add_host_to_aggregate(self, uuid: str, host: str, placement_ok: bool = True) -> None:
        """Add a host to an aggregate in Nova, then in Placement (nova.compute.api.AggregateAPI.add_host_to_aggregate).

        :param placement_ok: False if Placement does not answer, which Nova only logs
        """
        self._store.insert(self.api, tables.aggregate_hosts, aggregate_id=self._aggregate(uuid).id, host=host)
        if placement_ok:
            self.set_membership(uuid, host, member=True)
        self._publish_aggregate(uuid, "aggregate.add_host.end")

    def remove_host_from_aggregate(self, uuid: str, host: str, placement_ok: bool = True) -> None:
        """Remove a host from an aggregate in Placement, then in Nova
        (nova.compute.api.AggregateAPI.remove_host_from_aggregate).

        :param placement_ok: False if Placement does not find the provider; then only Nova removes the host
        """
        if placement_ok:
            self.set_membership(uuid, host, member=False)
        members = tables.aggregate_hosts
        condition = (members.c.aggregate_id == self._aggregate(uuid).id) & (members.c.host == host)
        self._store.delete(self.api, members, condition)
        self._publish_aggregate(uuid, "aggregate.remove_host.end")

    def set_membership(self, aggregate: str, host: str, member: bool) -> None:
        """Add a host's provider to the aggregate in Placement, or remove it (nova.scheduler.client.report)."""
        self._report.set_member(self.node(host).uuid, aggregate, member)
