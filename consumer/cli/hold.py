from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

from consumer.cli.base import Lister
from consumer.cli.exempt import blind
from consumer.text import one_line


class HoldList(Lister):
    """Read the sources of holds now, and list the holds.

    If a source cannot be read, all heals wait. The command reads files of this host; other hosts may have other files.
    """

    example = "example:\n  %(prog)s hold list -f json"
    titles = ("Scope", "Reason", "Source", "Readable")

    def rows(self, parsed_args: argparse.Namespace) -> Iterable[Sequence[Any]]:
        board = self.session.board
        board.refresh()
        standing = board.standing()
        if not board.sources:
            self.remark("no source of holds is configured; see hold_file, hold_hosts_file and hold_query in [engine]")
        elif not standing:
            self.remark("no heal is on hold")
        for kind in sorted({one.hold.scope.partition(":")[0] for one in standing} & {"host", "cell"}):
            if names := blind(kind, self.session.all_classes):
                self.remark(
                    f"these handlers do not know the {kind} of each finding and can still heal: {', '.join(names)}"
                )
        return [(one.hold.scope, one_line(one.hold.reason), one.source, one.readable) for one in standing]
