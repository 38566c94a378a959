"""What all of nova-audit's tasks have in common."""

from __future__ import annotations

from typing import ClassVar

from oslo_config import cfg

from handlers.base import Handler
from handlers.nova import options


class NovaTask(Handler):
    """A handler of Nova's drift: its options stand in ``[audit]``, and it is left out where Nova is not configured."""

    group: ClassVar[str] = "audit"

    @classmethod
    def applies(cls, conf: cfg.ConfigOpts) -> bool:
        """Tell whether the configuration says where Nova's databases are."""
        options.register(conf)
        return bool(conf[options.GROUP].config_file or conf[options.GROUP].api_database_connection)
