"""The syntax of the commands of other programs that our texts name.

Sources: ``--help`` of python-openstackclient 10.5.0, osc-placement 4.9.1 and python-cyborgclient 3.0.0;
``nova/cmd/manage.py`` of Nova 34. Output options such as ``-f`` are left out where no text uses them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

USAGE = """
nova-manage cell_v2 delete_host --cell_uuid CELL --host HOST
nova-manage cell_v2 discover_hosts [--cell_uuid CELL] [--verbose] [--strict] [--by-service]
nova-manage cell_v2 list_cells [--verbose]
nova-manage cell_v2 list_hosts [--cell_uuid CELL]
nova-manage cell_v2 map_instances --cell_uuid CELL [--max-count COUNT] [--reset]
nova-manage cell_v2 update_cell --cell_uuid CELL [--name NAME] [--transport-url URL] [--database_connection URL] [--disable]
nova-manage cell_v2 verify_instance --uuid INSTANCE [--quiet]
nova-manage db archive_deleted_rows [--max_rows ROWS] [--before DATE] [--verbose] [--until-complete] [--purge] [--all-cells]
nova-manage db purge [--before DATE] [--all] [--verbose] [--all-cells]
nova-manage placement audit [--verbose] [--resource_provider PROVIDER] [--delete]
nova-manage placement heal_allocations [--max-count N] [--verbose] [--dry-run] [--instance UUID] [--cell CELL] [--force]
nova-manage placement sync_aggregates [--verbose]
nova-manage volume_attachment get_connector [--json]
nova-manage volume_attachment refresh INSTANCE VOLUME CONNECTOR
openstack accelerator arq delete REQUEST
openstack aggregate remove host AGGREGATE HOST
openstack aggregate show AGGREGATE
openstack compute service delete SERVICE
openstack compute service list [--host HOST] [--service BINARY] [--long]
openstack compute service set [--enable] [--disable] [--disable-reason REASON] HOST BINARY
openstack image delete IMAGE
openstack image set [--protected] [--unprotected] [--property PROPERTY] [--tag TAG] IMAGE
openstack port create --network NETWORK [--mac-address MAC] [--fixed-ip IP] [--device ID] [--device-owner OWNER] NAME
openstack port delete PORT
openstack loadbalancer set [--tag TAG] LOADBALANCER
openstack port list [--server SERVER] [--device-id DEVICE] [--device-owner OWNER]
openstack port set [--device ID] [--device-owner OWNER] [--host HOST] [--binding-profile X] [--dns-name X] [--enable] PORT
openstack port show PORT
openstack port unset [--binding-profile KEY] [--device] [--device-owner] [--host] PORT
openstack project show [-f FORMAT] [-c COLUMN] PROJECT
openstack resource provider aggregate set [--aggregate AGGREGATE] [--generation GENERATION] PROVIDER
openstack resource provider allocation delete CONSUMER
openstack resource provider allocation set [--allocation HELD] [--project-id ID] [--user-id ID] [--consumer-type X] CONSUMER
openstack resource provider allocation show CONSUMER
openstack resource provider create [--parent-provider PROVIDER] [--uuid UUID] NAME
openstack resource provider delete PROVIDER
openstack resource provider inventory set [--resource X] [--aggregate] [--amend] [--dry-run] PROVIDER
openstack resource provider list [--name NAME] [--uuid UUID] [--in-tree PROVIDER]
openstack resource provider set --name NAME [--parent-provider PROVIDER] PROVIDER
openstack resource provider show [--allocations] PROVIDER
openstack role add [--user USER] [--user-domain DOMAIN] [--project PROJECT] ROLE
openstack role create [--or-show] NAME
openstack server add port SERVER PORT
openstack server delete [--force] [--all-projects] [--wait] SERVER
openstack server list [--all-projects] [--project PROJECT] [--long]
openstack server set [--tag TAG] [--property PROPERTY] SERVER
openstack server show SERVER
openstack server start SERVER
openstack server unlock SERVER
openstack server unset [--tag TAG] SERVER
openstack server unshelve SERVER
openstack user create [--domain DOMAIN] [--password-prompt] NAME
"""
#: options of ``openstack`` itself, before the words of a command
GLOBAL = frozenset({"--os-placement-api-version"})
_PROGRAM = re.compile(r"(?<![\w./\[-])(?:nova-manage|openstack)(?=\s+[a-z-])")
_ENDS = ";:,.)"


class WrongCommand(AssertionError):
    """The program does not know this command, or lacks a word of it."""


@dataclass(frozen=True)
class Usage:
    """One line of :data:`USAGE`.

    :param options: whether an option has a value
    """

    name: str
    options: Mapping[str, bool]
    required: frozenset[str]
    arguments: int


@dataclass(frozen=True)
class Command:
    """A command as an operator types it. A flag has no values."""

    name: str
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def option(self, name: str) -> str:
        """Return the value of an option that stands once."""
        [value] = self.options[name]
        return value


def _usage(line: str) -> Usage:
    words = line.split()
    start = next((n for n, word in enumerate(words) if word.strip("[")[:1] == "-" or word.isupper()), len(words))
    options: dict[str, bool] = {}
    required, arguments, number = set(), 0, start
    while number < len(words):
        word = words[number]
        name = word.strip("[]")
        if not name.startswith("-"):
            arguments += 1
        else:
            options[name] = not word.endswith("]") and number + 1 < len(words)
            required |= set() if word.startswith("[") else {name}
            number += options[name]
        number += 1
    return Usage(" ".join(words[:start]), options, frozenset(required), arguments)


USAGES = {usage.name: usage for usage in map(_usage, USAGE.strip().splitlines())}


def commands(text: str) -> Iterator[Command]:
    """Yield the commands of a text in their order.

    :raises WrongCommand: when a program does not know a command, or one of its options
    """
    for match in _PROGRAM.finditer(text):
        yield read(text[match.start() :])


def read(text: str) -> Command:
    """Read the command at the start of a text, and ignore the prose behind the command.

    :raises WrongCommand: when the program does not know the command, or one of its options
    """
    words = _Words(text)
    program = words.take()
    options: dict[str, tuple[str, ...]] = {}
    while words.next in GLOBAL:
        option = words.take()
        options[option] = (words.take(),)
    name = program
    while any(known.startswith(f"{name} {words.next}".rstrip()) for known in USAGES) and words.next:
        if name in USAGES and not any(f"{known} ".startswith(f"{name} {words.next} ") for known in USAGES):
            break
        name = f"{name} {words.take()}"
    if name not in USAGES:
        raise WrongCommand(f"unknown command: {text[:80]}")
    usage = USAGES[name]
    arguments: list[str] = []
    while words.next:
        if words.next.startswith("-"):
            option = words.take()
            if option not in usage.options:
                raise WrongCommand(f"{name} has no option {option}")
            options[option] = (*options.get(option, ()), *((words.take(),) if usage.options[option] else ()))
        elif len(arguments) < usage.arguments:
            arguments.append(words.take())
        else:
            break
    missing = [*sorted(usage.required - options.keys()), *["an argument"] * (usage.arguments - len(arguments))]
    return Command(name, options, tuple(arguments), tuple(missing))


class _Words:
    """The words of a text up to a punctuation mark."""

    def __init__(self, text: str) -> None:
        lexer = shlex.shlex(text.replace("\n", " ; "), posix=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        self._words, self._over = iter(lexer), False
        self.next = ""
        self.take()

    def take(self) -> str:
        """Return the next word, and read one more; there is none behind a punctuation mark."""
        taken, word = self.next, ""
        if not self._over:
            try:
                word = next(self._words, "")
            except ValueError:  # an apostrophe in prose
                word = ""
        self._over = self._over or not word or word[-1] in _ENDS
        self.next = word.rstrip(_ENDS)
        return taken
