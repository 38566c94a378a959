"""Resources for handlers that work on a simulated cloud."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from oslo_config import cfg

from handlers.base import Handler, Resources
from handlers.nova.simulation import NovaSimulation


@contextmanager
def opened(cloud: NovaSimulation, folder: Path, kinds: Iterable[type[Handler]], **audit: object) -> Iterator[Resources]:
    """Write a configuration file for the cloud, and read it with the options of these handlers.

    :param audit: values of ``[audit]``
    """
    file = folder / "stackmend.conf"
    groups = {**cloud.options(), "audit": audit}
    file.write_text(
        "\n".join(
            line
            for group, values in groups.items()
            for line in (f"[{group}]", *(f"{name} = {value}" for name, value in values.items()))
        )
    )
    conf = cfg.ConfigOpts()
    for kind in kinds:
        for group, options in kind.options().items():
            conf.register_opts(options, group)
    conf(args=[], default_config_files=[str(file)], default_config_dirs=[])
    with closing(Resources(conf)) as resources:
        yield resources
