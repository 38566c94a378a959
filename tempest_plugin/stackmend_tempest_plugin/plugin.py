"""Makes the tests known to Tempest."""

from __future__ import annotations

from pathlib import Path

from oslo_config import cfg
from tempest.test_discover import plugins


class StackmendTempestPlugin(plugins.TempestPlugin):
    """The plugin; it has no options and no clients."""

    def load_tests(self) -> tuple[str, str]:
        """Return the folder of the tests, and the folder that holds the package."""
        package = Path(__file__).parent
        return str(package / "tests"), str(package.parent)

    def register_opts(self, conf: cfg.ConfigOpts) -> None:
        """Declare no options."""

    def get_opt_lists(self) -> list[tuple[str, list[cfg.Opt]]]:
        """Return no options."""
        return []
