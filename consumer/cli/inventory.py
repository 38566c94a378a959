"""The commands about inventories, such as ``amphora preserved list``.

An inventory lists objects that handlers keep in the cloud for an operator. Entry points (``stackmend.inventories``) name the
classes of inventories.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from consumer.cli.base import Command, Lister, ShowOne, add_by, operator
from consumer.cli.errors import ERROR, OK, CommandError
from consumer.engine import trace
from consumer.journal import history, replicas
from consumer.journal.database import now
from consumer.journal.history import Closing, Line, Origin, Outcome
from consumer.text import one_line
from handlers.base import HandlerError, Healed, Inventory, Key


class _AboutInventory(Command):
    def inventory(self) -> Inventory:
        words, _space, _verb = str(self.cmd_name).rpartition(" ")
        return self.session.inventory(words)


class InventoryList(_AboutInventory, Lister):
    """List the objects of this inventory, oldest first."""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        self._inventory = self.inventory()
        self.titles = [column.replace("_", " ").capitalize() for column in self._inventory.columns]
        return super().take_action(parsed_args)

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        columns = self._inventory.columns
        return [[item[column] for column in columns] for item in self._inventory.items()]


class InventoryShow(_AboutInventory, ShowOne):
    """Show one object of this inventory, with all details."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        return _with_id(super().get_parser(prog_name))

    def fields(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        found = _of(self.inventory().show, parsed_args.id)
        return {name.replace("_", " ").capitalize(): value for name, value in found.items()}


class _Act(_AboutInventory):
    problem = ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ids", nargs="+", metavar="ID", help="IDs, from the first column of the list.")
        add_by(parser)
        return parser

    def act(self, inventory: Inventory, identity: str) -> Healed:
        raise NotImplementedError

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        inventory, code = self.inventory(), OK
        for identity in dict.fromkeys(parsed_args.ids):
            try:
                self.write_line(self._recorded(inventory, identity, operator(parsed_args)).action)
            except (CommandError, HandlerError) as error:
                self.app.stderr.write(f"{self.app.NAME}: {one_line(str(error))}\n")
                code = ERROR
        return code

    def _recorded(self, inventory: Inventory, identity: str, who: str) -> Healed:
        shown = _of(inventory.show, identity)
        key = Key(inventory.name.split()[0], identity)
        origin = Origin("operator", replicas.new_id(), operator=who, request_id=trace.begin())
        line = Line(
            inventory.name, key, Outcome.HEALING, self.problem, f"{who} asked to {self.problem} it", origin, shown
        )
        database = self.session.database
        line_id = database.transact(lambda connection: history.write(connection, [line], now(connection)))[0]
        try:
            healed = self.act(inventory, identity)
        except Exception as error:
            history.close(database, Closing(line_id, Outcome.FAILED, error=str(error) or repr(error)))
            raise
        history.close(database, Closing(line_id, Outcome.HEALED, healed))
        return healed


class Release(_Act):
    """Release objects: they stay in the cloud and belong to you. stackmend no longer counts or changes them."""

    problem = "release"

    def act(self, inventory: Inventory, identity: str) -> Healed:
        return inventory.release(identity)


class Delete(_Act):
    """Delete objects from the cloud. There is no undo."""

    problem = "delete"

    def act(self, inventory: Inventory, identity: str) -> Healed:
        return inventory.delete(identity)


def _with_id(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("id", metavar="ID", help="ID, from the first column of the list.")
    return parser


def _of(show: Callable[[str], Mapping[str, Any]], identity: str) -> Mapping[str, Any]:
    try:
        return show(identity)
    except LookupError:
        raise CommandError(f"no object has the id {identity!r}; the first column of the list shows the ids") from None
