from __future__ import annotations

from collections.abc import Mapping
from configparser import RawConfigParser
from pathlib import Path

from oslo_config import cfg

from handlers.base import Bus, Handler, Resources


def configured(
    handler: type[Handler], options: Mapping[str, Mapping[str, object]], folder: Path, bus: Bus | None = None
) -> Resources:
    """Write options to a configuration file in ``folder``, and return the resources made from this file.

    The first use of a wrong value raises ``cfg.Error``.

    :param options: values by group and name; all other options of the handler keep their defaults
    :param bus: needed if the handler reads a queue
    """
    parser = RawConfigParser()
    parser.read_dict({group: {name: str(value) for name, value in more.items()} for group, more in options.items()})
    file = folder / "stackmend.conf"
    with file.open("w") as opened:
        parser.write(opened)
    conf = cfg.ConfigOpts()
    for group, declared in handler.options().items():
        # a group of its own, because oslo.config keeps values in the group object
        conf.register_opts(declared, group=cfg.OptGroup(group))
    conf([], default_config_files=[str(file)], default_config_dirs=[])
    return Resources(conf, bus)
