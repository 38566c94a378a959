"""Reads single values from the files of other services (``nova.conf``, ``octavia.conf``).

The files can have options of any release, so every value is text. As in oslo.config, a later file overrides an earlier one, and
``$name`` refers to another option in the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from oslo_config import cfg

from handlers.base import irregular

_NOTIFICATIONS, _RABBIT = "oslo_messaging_notifications", "oslo_messaging_rabbit"
#: Former names of options. Sources: ``oslo_messaging`` until 14.9 (notify/notifier.py, _drivers/impl_rabbit.py),
#: ``nova/conf/notifications.py``
FORMER_NAMES: Mapping[tuple[str, str], tuple[tuple[str, str], ...]] = {
    (_NOTIFICATIONS, "driver"): (("DEFAULT", "notification_driver"),),
    (_NOTIFICATIONS, "transport_url"): (("DEFAULT", "notification_transport_url"),),
    (_NOTIFICATIONS, "topics"): (("rpc_notifier2", "topics"), ("DEFAULT", "notification_topics")),
    ("notifications", "notification_format"): (("DEFAULT", "notification_format"),),
    (_RABBIT, "ssl"): ((_RABBIT, "rabbit_use_ssl"),),
    (_RABBIT, "ssl_version"): ((_RABBIT, "kombu_ssl_version"),),
    (_RABBIT, "ssl_ca_file"): ((_RABBIT, "kombu_ssl_ca_certs"),),
    (_RABBIT, "ssl_cert_file"): ((_RABBIT, "kombu_ssl_certfile"),),
    (_RABBIT, "ssl_key_file"): ((_RABBIT, "kombu_ssl_keyfile"),),
}


class ConfigError(cfg.Error):
    """An option is missing or wrong. The message holds no secret."""


class ServiceFiles:
    """The configuration files of one service.

    :param option: stackmend's option that names the files, for error messages: ``[nova] config_file``
    :param paths: files, or directories with ``*.conf`` files
    :raises ConfigError: a file cannot be read
    """

    def __init__(self, option: str, paths: Sequence[str]) -> None:
        self.option = option
        self.files = [file for path in paths for file in _expand(path)]
        self._conf = cfg.ConfigOpts()
        #: for each option, the position of the last file that sets it, and its texts in all files
        self._declared: dict[tuple[str, str], tuple[int, list[str]]] = {}
        try:
            for position, file in enumerate(self.files):
                self._declare(position, file)
            self._conf(args=[], project="stackmend-foreign", default_config_files=self.files, default_config_dirs=[])
        except ConfigError:
            raise
        except cfg.Error as error:
            raise ConfigError(f"{option} names a file that cannot be read: {error}") from error

    def __str__(self) -> str:
        return ", ".join(self.files) or f"no file (set {self.option})"

    def get(self, group: str, name: str) -> str | None:
        """Return the value of an option, under its present or a former name; None if no file gives a value.

        :raises ConfigError: the value refers to an option that the files do not set
        """
        names = self._names(group, name)
        if not names:
            return None
        group, name = max(names, key=lambda one: self._declared[one][0])
        try:
            value = self._conf[name] if group == "DEFAULT" else self._conf[group][name]
        except RecursionError:
            raise ConfigError(f"[{group}] {name} in {self} refers, with a $, to itself") from None
        except (cfg.NoSuchOptError, cfg.NoSuchGroupError, cfg.TemplateSubstitutionError, cfg.ConfigFileValueError):
            raise ConfigError(
                f"[{group}] {name} in {self} refers to another option, with a $, that they do not set; set it there too"
            ) from None
        return value or None

    def texts(self, group: str, name: str) -> list[str]:
        """Return all values of an option that can be set several times; empty if no file sets the option."""
        return [text for one in self._names(group, name) for text in self._declared[one][1]]

    def has(self, group: str, name: str) -> bool:
        return self.get(group, name) is not None

    def has_section(self, group: str) -> bool:
        return any(group == declared for declared, _name in self._declared)

    def _names(self, group: str, name: str) -> list[tuple[str, str]]:
        return [one for one in ((group, name), *FORMER_NAMES.get((group, name), ())) if one in self._declared]

    def _declare(self, position: int, file: str) -> None:
        sections: dict[str, dict[str, list[str]]] = {}
        if reason := irregular(file):
            raise ConfigError(f"{self.option} names {file}: this is {reason}")
        try:
            cfg.ConfigParser(file, sections).parse()
        except OSError as error:
            raise ConfigError(f"{self.option} names {file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            # the text of the error shows bytes, which may belong to a password
            raise ConfigError(f"{self.option} names {file}, which is not in UTF-8 (byte {error.start})") from None
        except cfg.ParseError as error:
            # the text of the error shows the line, which may hold a password
            raise ConfigError(f"{self.option} names {file}, whose line {error.lineno} cannot be understood") from None
        for section, values in sections.items():
            for name, texts in values.items():
                group = None if section == "DEFAULT" else section
                # No service has an option with "-", which oslo.config takes for the one with "_".
                if "-" not in name and self._register(name, group):
                    _, before = self._declared.get((section, name), (position, []))
                    self._declared[section, name] = (position, [*before, *texts])

    def _register(self, name: str, group: str | None) -> bool:
        """Register an option; return False for a name that oslo.config reserves, so that no service has the option."""
        try:
            self._conf.register_opt(cfg.StrOpt(name, secret=True), group=group)
        except ValueError:
            return False
        return True


def database_url(given: str | None, read: Callable[[], ServiceFiles], option: str, section: str, example: str) -> str:
    """Return the URL of a service's database: ``given`` or, if this is empty, the URL in the service's files.

    :param read: reads the service's files
    :raises ConfigError: no URL is in the option or in the files
    """
    if given:
        return given
    files = read()
    url = files.get(section, "connection")
    if url is None:
        name = option.partition("]")[0].lstrip("[")
        have = f"{files} has no [{section}] connection" if files.files else f"{files.option} is not set either"
        raise ConfigError(
            f"{option} is not set and {have}: write, in stackmend's configuration file, "
            f"{files.option} = /etc/{name}/{name}.conf or {option} = {example}"
        )
    return url


def _expand(path: str) -> list[str]:
    place = Path(path)
    if place.is_dir():
        return [str(file) for file in sorted(place.glob("*.conf"))]
    return [path]
