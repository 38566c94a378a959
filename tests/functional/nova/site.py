"""One simulated cloud for all tests of a process: a new Placement for each test takes longer than most tests."""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Callable, Hashable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from handlers.nova.simulation import NovaSimulation

Made = TypeVar("Made")
#: what tests change of the simulated Neutron, and of the simulated Cinder
_OF_NEUTRON = ("ports", "_plugged", "network", "extensions", "hidden", "page", "faults", "before")
_OF_CINDER = ("volumes", "attachments", "hidden", "page", "faults", "before")


@dataclass(frozen=True)
class State:
    """A state of the cloud, and what its maker returned."""

    databases: Mapping[str, sqlite3.Connection]
    neutron: Mapping[str, Any]
    cinder: Mapping[str, Any]
    made: Any


class Site:
    """Returns its cloud to the state in which a test begins.

    :param cloud: started, and empty
    """

    def __init__(self, cloud: NovaSimulation) -> None:
        self.cloud = cloud
        engines = {"nova_api": cloud.api, **cloud.cells}
        self._files = {name: Path(str(engine.url.database)) for name, engine in engines.items()}
        self._files["placement"] = cloud.placement.database
        self._empty = self._state(None)
        self._states: dict[Hashable, State] = {}

    def clear(self) -> NovaSimulation:
        """Return the cloud with nothing in it."""
        self._restore(self._empty)
        return self.cloud

    def begin(self, name: Hashable, make: Callable[[NovaSimulation], Made]) -> Made:
        """Bring the cloud into the state that a function makes of an empty one; return what the function returned.

        :param name: of the state; the function runs once for each name, and later tests begin with a copy
        """
        if name not in self._states:
            self._states[name] = self._state(make(self.clear()))
        self._restore(self._states[name])
        made: Made = copy.deepcopy(self._states[name].made)
        return made

    def _state(self, made: Any) -> State:
        databases = {name: sqlite3.connect(":memory:") for name in self._files}
        for name, file in self._files.items():
            with closing(sqlite3.connect(file)) as connection:
                connection.backup(databases[name])
        neutron = {name: vars(self.cloud.neutron)[name] for name in _OF_NEUTRON}
        cinder = {name: vars(self.cloud.cinder)[name] for name in _OF_CINDER}
        return State(databases, copy.deepcopy(neutron), copy.deepcopy(cinder), made)

    def _restore(self, state: State) -> None:
        self.cloud.placement.start()
        for name, file in self._files.items():
            with closing(sqlite3.connect(file, timeout=30)) as connection:
                state.databases[name].backup(connection)
        vars(self.cloud.neutron).update(copy.deepcopy(dict(state.neutron)))
        vars(self.cloud.cinder).update(copy.deepcopy(dict(state.cinder)))
        self.cloud.take()
