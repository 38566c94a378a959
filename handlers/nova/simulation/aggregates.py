"""Aggregates and their hosts, in Nova and mirrored in Placement."""

from __future__ import annotations

import uuid as uuids

from handlers.nova import tables
from handlers.nova.simulation.world import World


class Aggregates(World):
    """Aggregates."""

    def create_aggregate(self, name: str) -> str:
        """An aggregate without hosts: ``aggregate.create.end`` (nova.compute.api.AggregateAPI.create_aggregate).

        :return: its uuid
        """
        uuid = str(uuids.uuid4())
        self._store.insert(self.api, tables.aggregates, uuid=uuid, name=name)
        self._tell_aggregate(uuid, "aggregate.create.end")
        return uuid

    def add_host_to_aggregate(self, uuid: str, host: str, placement_ok: bool = True) -> None:
        """First Nova's row, then Placement, then ``aggregate.add_host.end``
        (nova.compute.api.AggregateAPI.add_host_to_aggregate).

        :param placement_ok: whether Placement takes it; when it does not, Nova writes a line into its log, no more
        """
        self._store.insert(self.api, tables.aggregate_hosts, aggregate_id=self._aggregate(uuid).id, host=host)
        if placement_ok:
            self.set_membership(uuid, host, member=True)
        self._tell_aggregate(uuid, "aggregate.add_host.end")

    def remove_host_from_aggregate(self, uuid: str, host: str, placement_ok: bool = True) -> None:
        """First Placement, then Nova's row, then ``aggregate.remove_host.end``
        (nova.compute.api.AggregateAPI.remove_host_from_aggregate).

        :param placement_ok: False when Placement did not know the provider by its name at that time, which Nova takes
            for "not a member"
        """
        if placement_ok:
            self.set_membership(uuid, host, member=False)
        members = tables.aggregate_hosts
        condition = (members.c.aggregate_id == self._aggregate(uuid).id) & (members.c.host == host)
        self._store.delete(self.api, members, condition)
        self._tell_aggregate(uuid, "aggregate.remove_host.end")

    def set_membership(self, aggregate: str, host: str, member: bool) -> None:
        """Make a host's provider a member of an aggregate in Placement, or not (nova.scheduler.client.report)."""
        self._report.set_member(self.node(host).uuid, aggregate, member)
