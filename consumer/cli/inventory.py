"""``<what> list``, ``show``, ``release``, ``delete``: what the work keeps in the cloud for an operator.

Which things there are, and so which words these commands begin with, is found by entry point (``stackmend.inventories``):
``amphora preserved list`` is one of them. What is released or deleted is written to the history, as every heal is: the line
is opened before anything is changed, and closed after.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from consumer.cli.base import Command, Lister, ShowOne
from consumer.cli.errors import ERROR, OK, CommandError
from consumer.journal import history, replicas
from consumer.journal.database import now
from consumer.journal.history import Closing, Line, Origin
from consumer.text import one_line
from handlers.base import HandlerError, Healed, Inventory, Key


class _AboutInventory(Command):
    """A command whose first words name the inventory."""

    def inventory(self) -> Inventory:
        """Return what the command's words name."""
        words, _space, _verb = str(self.cmd_name).rpartition(" ")
        return self.session.inventory(words)


class InventoryList(_AboutInventory, Lister):
    """List what is kept, oldest first."""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Iterable[Any]]:
        """Return columns and rows in the shape of the format that was asked for."""
        self._inventory = self.inventory()
        self.titles = [column.replace("_", " ").capitalize() for column in self._inventory.columns]
        return super().take_action(parsed_args)

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        """Return one row per item."""
        columns = self._inventory.columns
        return [[item[column] for column in columns] for item in self._inventory.items()]


class InventoryShow(_AboutInventory, ShowOne):
    """Show one thing that is kept, with what is needed to look inside it."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        return _with_id(super().get_parser(prog_name))

    def fields(self, parsed_args: argparse.Namespace) -> Mapping[str, Any]:
        """Return all that is known of it."""
        found = _of(self.inventory().show, parsed_args.id)
        return {name.replace("_", " ").capitalize(): value for name, value in found.items()}


class _Act(_AboutInventory):
    """A command that changes what is kept, one thing after the other."""

    problem = ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser."""
        parser = super().get_parser(prog_name)
        parser.add_argument("ids", nargs="+", metavar="ID", help="As in the first column of the list.")
        return parser

    def act(self, inventory: Inventory, identity: str) -> Healed:
        """Change one thing."""
        raise NotImplementedError

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Change each of them; return 1 when one could not be."""
        inventory, code = self.inventory(), OK
        for identity in dict.fromkeys(parsed_args.ids):
            try:
                self.say(self._recorded(inventory, identity).action)
            except (CommandError, HandlerError) as error:
                self.app.stderr.write(f"{self.app.NAME}: {one_line(str(error))}\n")
                code = ERROR
        return code

    def _recorded(self, inventory: Inventory, identity: str) -> Healed:
        shown = _of(inventory.show, identity)
        key = Key(inventory.name.split()[0], identity)
        summary = f"an operator asked to {self.problem} it"
        line = Line(inventory.name, key, "healing", self.problem, summary, Origin("operator", replicas.new_id()), shown)
        database = self.session.database
        line_id = database.transact(lambda connection: history.write(connection, [line], now(connection)))[0]
        try:
            healed = self.act(inventory, identity)
        except Exception as error:
            history.close(database, Closing(line_id, "failed", error=str(error) or repr(error)))
            raise
        history.close(database, Closing(line_id, "healed", healed))
        return healed


class Release(_Act):
    """Take things out of stackmend's hands: they stay in the cloud and are yours; they are no longer counted or touched."""

    problem = "release"

    def act(self, inventory: Inventory, identity: str) -> Healed:
        """Release one thing."""
        return inventory.release(identity)


class Delete(_Act):
    """Delete things that are kept, wholly. This cannot be undone."""

    problem = "delete"

    def act(self, inventory: Inventory, identity: str) -> Healed:
        """Delete one thing."""
        return inventory.delete(identity)


def _with_id(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("id", metavar="ID", help="As in the first column of the list.")
    return parser


def _of(show: Callable[[str], Mapping[str, Any]], identity: str) -> Mapping[str, Any]:
    try:
        return show(identity)
    except LookupError:
        raise CommandError(f"there is none with the id {identity!r}; the list's first column has the ids") from None
