"""Reading single values out of the configuration files of other services (``nova.conf``, ``octavia.conf``).

The files belong to somebody else: they may hold anything, of any release. So no option is declared; every value that the
files hold is taken as text, later files win, and ``$name`` is filled in from the same files, as oslo.config does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oslo_config import cfg


class ConfigError(cfg.Error):
    """An option is missing or wrong; the text names it and says what to write, and holds no secret."""


class ServiceFiles:
    """The configuration files of one service.

    :param option: which option of ours named them, for the errors' text: ``[nova] config_file``
    :param paths: files, or directories whose ``*.conf`` are read in order
    :raises ConfigError: when one cannot be read
    """

    def __init__(self, option: str, paths: Sequence[str]) -> None:
        self.option = option
        self.files = [file for path in paths for file in _expand(path)]
        self.conf = cfg.ConfigOpts()
        try:
            for file in self.files:
                self._declare(file)
            self.conf(args=[], project="stackmend-foreign", default_config_files=self.files, default_config_dirs=[])
        except cfg.Error as error:
            raise ConfigError(f"{option} names a file that cannot be read: {error}") from error

    def __str__(self) -> str:
        return ", ".join(self.files) or f"no file (set {self.option})"

    def get(self, group: str, name: str) -> str | None:
        """Return a value, or None when no file has it or it is empty.

        :raises ConfigError: when it refers to an option that the files do not set
        """
        try:
            value = self.conf[name] if group == "DEFAULT" else self.conf[group][name]
        except cfg.NoSuchGroupError:
            return None
        except cfg.NoSuchOptError as error:
            if error.opt_name != name:
                raise self._unresolved(group, name, error.opt_name) from None
            return None
        except cfg.ConfigFileValueError:
            raise self._unresolved(group, name, "another option") from None
        return value or None

    def has(self, group: str, name: str) -> bool:
        """Whether a file sets it."""
        return self.get(group, name) is not None

    def _unresolved(self, group: str, name: str, other: str) -> ConfigError:
        return ConfigError(f"[{group}] {name} in {self} refers to ${other}, which they do not set; set it there too")

    def _declare(self, file: str) -> None:
        sections: dict[str, dict[str, list[str]]] = {}
        try:
            cfg.ConfigParser(file, sections).parse()
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from error
        for section, values in sections.items():
            for name in values:
                group = None if section == "DEFAULT" else section
                self.conf.register_opt(cfg.StrOpt(name.replace("-", "_"), secret=True), group=group)


def _expand(path: str) -> list[str]:
    place = Path(path)
    if place.is_dir():
        return [str(file) for file in sorted(place.glob("*.conf"))]
    return [path]
