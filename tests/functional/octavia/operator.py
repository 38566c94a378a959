"""An operator who follows the undo of a heal in the simulated cloud, as the real programs do.

Source: ``--help`` of python-openstackclient 10.5.0.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from handlers.octavia.cloud_objects import Server
from tests.functional.octavia.world import House

#: begins the undo of one step of a heal that may take several
_STEP = re.compile(r"(?:^|; )after ([a-z-]+): ")
#: text before a statement that need not be run
_NEEDLESS = "the lease ends by itself, or: "
#: text before a command that needs the id of an image
_LISTING = re.compile(r"^openstack image list --property (\w+)=(\S+), then ")
#: a time that a heal chose when it wrote, and the command that shows it
_TIME = re.compile(
    r"'TIME'(?P<rest>.*), with TIME = (?P<name>\w+) in the properties of: openstack server show (?P<server>\S+)$"
)
#: the same, with a command that shows it in a tag
_TAGGED = re.compile(
    r"'TIME'(?P<rest>.*), with TIME behind (?P<name>\w+) in the last tag of: openstack security group show (?P<group>\S+)$"
)


class Operator:
    """:param house: the cloud in which the operator works"""

    def __init__(self, house: House) -> None:
        self._house = house

    def follow(self, undo: str, taken: str) -> None:
        """Run every part of an undo, in order. A text that is no command, no statement and no "none" fails.

        :param taken: the step that the heal took; the undo of other steps is not run
        """
        first, *steps = _STEP.split(undo)
        parts = dict(zip(steps[::2], steps[1::2], strict=True))
        for part in parts.get(taken, first).removeprefix(_NEEDLESS).split("; "):
            if part.startswith("UPDATE "):
                self.execute(part)
            elif not part.startswith("none"):
                self.run(part)

    def execute(self, statement: str) -> None:
        if found := _TIME.search(statement) or _TAGGED.search(statement):
            at = self._tag(found) if found.re is _TAGGED else self._server(found["server"]).metadata.get(found["name"])
            if at is None:
                return  # the heal has not written
            # as the SQLite of the simulation keeps times
            kept = f"{datetime.fromisoformat(at):%Y-%m-%d %H:%M:%S.%f}"
            statement = f"{statement[: found.start()]}'{kept}'{found['rest']}"
        self._house.database.run(lambda connection: connection.exec_driver_sql(statement))

    def _tag(self, found: re.Match[str]) -> str | None:
        (group,) = (one for one in self._house.cloud.security_groups() if one.id == found["group"])
        times = sorted(tag.removeprefix(found["name"]) for tag in group.tags if tag.startswith(found["name"]))
        return times[-1] if times else None

    def run(self, text: str) -> None:
        if listing := _LISTING.match(text):
            name, value = listing.groups()
            (image,) = [one.id for one in self._house.cloud.images() if one.properties.get(name) == value]
            text = text[listing.end() :].replace("IMAGE", image)
        words = shlex.split(text)
        for command, program in _RUN.items():
            if words[: len(command)] == list(command):
                return program(self, words[len(command) :])
        raise AssertionError(f"no program runs {text!r}")

    def _server(self, identity: str) -> Server:
        return self._house.cloud.present(identity)

    def _set(self, words: list[str]) -> None:
        options = _options("--tag", "--property", "--name").parse_args(words)
        server = self._server(options.object)
        marks = dict(one.split("=", 1) for one in options.property)
        self._house.driver.describe_server(server.id, marks, *options.name)
        for tag in options.tag:
            self._house.driver.tag_server(server.id, tag)

    def _unset(self, words: list[str]) -> None:
        options = _options("--tag").parse_args(words)
        server = self._server(options.object)
        for tag in options.tag:
            self._house.driver.untag_server(server.id, tag)

    def _start(self, words: list[str]) -> None:
        (server,) = words
        self._house.cloud.alter_server(server, status="ACTIVE")

    def _unshelve(self, words: list[str]) -> None:
        (server,) = words
        shown = self._server(server)
        self._house.cloud.alter_server(server, status="SHUTOFF", host="another-host")
        for image in self._house.cloud.images():
            if image.name == f"{shown.name}-shelved":
                self._house.cloud.delete_image(image.id)

    def _lock(self, words: list[str]) -> None:
        (server,) = words
        self._house.driver.lock_server(server, "")

    def _unlock(self, words: list[str]) -> None:
        (server,) = words
        self._house.driver.unlock_server(server)

    def _add_port(self, words: list[str]) -> None:
        server, port = words
        found = next(one for one in self._house.cloud.ports() if one.id == port)
        assert not found.device_id, "Neutron refuses a port that another server uses"
        self._house.cloud.add_port(
            replace(found, device_id=server, device_owner="compute:nova", revision=found.revision + 1)
        )

    def _add_network(self, words: list[str]) -> None:
        server, network = words
        self._house.cloud.plug(server, network, "")

    def _enable_port(self, words: list[str]) -> None:
        (enable, port) = words
        assert enable == "--enable"
        found = next(one for one in self._house.cloud.ports() if one.id == port)
        self._house.cloud.add_port(replace(found, admin_up=True, revision=found.revision + 1))

    def _set_image(self, words: list[str]) -> None:
        parser = _options("--property")
        parser.add_argument("--protected", action="store_true", default=None)
        parser.add_argument("--unprotected", action="store_false", default=None, dest="protected")
        for visibility in ("public", "private", "shared", "community"):
            parser.add_argument(f"--{visibility}", action="store_const", const=visibility, dest="visibility")
        options = parser.parse_args(words)
        image = self._house.cloud.image(options.object)
        assert image is not None
        marks = dict(one.split("=", 1) for one in options.property)
        self._house.cloud.alter_image(
            image.id,
            protected=image.protected if options.protected is None else options.protected,
            visibility=options.visibility or image.visibility,
            properties={**image.properties, **marks},
        )

    def _delete_image(self, words: list[str]) -> None:
        (image,) = words
        self._house.cloud.delete_image(image)


def _options(*names: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    for name in names:
        parser.add_argument(name, action="append", default=[])
    parser.add_argument("object")
    return parser


_TAGS = ("openstack", "--os-compute-api-version", "2.26", "server")
_RUN: Mapping[tuple[str, ...], Callable[[Operator, list[str]], None]] = {
    (*_TAGS, "set"): Operator._set,
    ("openstack", "server", "set"): Operator._set,
    ("openstack", "server", "lock"): Operator._lock,
    ("openstack", "server", "unlock"): Operator._unlock,
    (*_TAGS, "unset"): Operator._unset,
    ("openstack", "server", "start"): Operator._start,
    ("openstack", "server", "unshelve"): Operator._unshelve,
    ("openstack", "server", "add", "port"): Operator._add_port,
    ("openstack", "server", "add", "network"): Operator._add_network,
    ("openstack", "port", "set"): Operator._enable_port,
    ("openstack", "image", "set"): Operator._set_image,
    ("openstack", "image", "delete"): Operator._delete_image,
}
