"""Deletes console tokens that expired long ago.

nova-compute deletes those of its own host. Of a host that is gone they stay for ever.
"""

from time import time

import sqlalchemy as sa

from handlers.base import Conflict, Finding, Handler, Healed, Key
from handlers.nova import options
from handlers.nova.database import NovaDatabases

TOKENS = sa.table("console_auth_tokens", sa.column("id"), sa.column("host"), sa.column("expires"))


class ExpiredConsoles(Handler):
    name, title, group = "expired_consoles", "Delete console tokens of hosts that are gone", "audit"
    kinds, default_mode, default_interval = ("cell",), "audit", 86400

    def __init__(self, databases):
        self._databases = databases

    @classmethod
    def options(cls):
        return {options.GROUP: options.OPTIONS}

    @classmethod
    def from_resources(cls, resources):
        return cls(resources.get(NovaDatabases.from_resources))

    def sweep(self):
        yield from (Key("cell", cell.uuid) for cell in self._databases.host_cells())

    def population(self):
        return len(self._databases.host_cells())

    def inspect(self, key):
        select = sa.select(TOKENS.c.id).where(TOKENS.c.expires < time() - 86400).order_by(TOKENS.c.id).limit(1000)
        if ids := list(self._cell(key).run(lambda connection: connection.scalars(select).all())):
            yield Finding(key, "tokens-expired", f"{len(ids)} console tokens expired a day ago", {"ids": ids})

    def heal(self, finding):
        self._databases.require_known_schema()
        delete = sa.delete(TOKENS).where(TOKENS.c.id.in_(finding.evidence["ids"]), TOKENS.c.expires < time() - 86400)
        if not (count := self._cell(finding.key).run(lambda connection: connection.execute(delete).rowcount)):
            raise Conflict("they are gone")
        return Healed(
            f"deleted {count} console tokens", before=finding.evidence, undo="none is needed: they had expired"
        )

    def _cell(self, key):
        return next(self._databases.database(cell) for cell in self._databases.cells() if cell.uuid == key.id)
