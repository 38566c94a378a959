"""Where an instance lives, as its ended migrations prove it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from handlers.access.neutron import HOST, Port
from handlers.nova.allocations import moves
from handlers.nova.allocations.moves import ROLLED_BACK, SUCCEEDED
from handlers.nova.names import HostNames
from handlers.nova.records import TERMINAL, Migration

A, B, C = ("a", "a"), ("b", "b"), ("c", "c")
MOVE = Migration("m", "i", "completed", "live-migration", A, B, deleted=False, age=100.0)


def move(
    uuid: str, status: str, source: moves.Place, dest: moves.Place, age: float, kind: str = "migration"
) -> Migration:
    return Migration(uuid, "i", status, kind, source, dest, deleted=False, age=age)


def test_every_terminal_status_is_a_success_or_a_roll_back() -> None:
    assert SUCCEEDED | ROLLED_BACK == TERMINAL
    assert not SUCCEEDED & ROLLED_BACK


@pytest.mark.parametrize(
    ("changed", "lives_on", "has_left"),
    [
        ({}, B, A),
        ({"status": "done", "kind": "evacuation"}, B, A),
        ({"status": "failed"}, A, B),
        ({"status": "reverted", "kind": "resize"}, A, B),
        ({"status": "error", "kind": "resize"}, A, B),
        ({"status": "error"}, None, None),
        ({"status": "error", "kind": None}, None, None),
        ({"status": "running"}, None, None),
        ({"deleted": True}, None, None),
    ],
)
def test_a_migration_proves_two_places_or_none(
    changed: dict[str, Any], lives_on: moves.Place | None, has_left: moves.Place | None
) -> None:
    one = replace(MOVE, **changed)
    assert (moves.lives_on(one), moves.has_left(one)) == (lives_on, has_left)


def test_only_a_migration_between_both_places_that_led_here_explains() -> None:
    assert moves.moved_between([MOVE], B, A)
    assert not moves.moved_between([MOVE], A, B), "it led away"
    assert not moves.moved_between([MOVE], B, C), "it names another node"
    assert not moves.moved_between([], B, A), "no row proves nothing"
    assert not moves.moved_between([move("n", "done", B, C, 10.0), MOVE], B, A), "the youngest contradicts"
    assert moves.moved_between([move("n", "failed", B, C, 10.0), MOVE], B, A), "the youngest agrees"


def test_the_places_left_are_those_of_all_migrations_that_agree() -> None:
    history = [move("n", "done", B, C, 10.0), MOVE]
    assert moves.left_places(history, C) == {A, B}
    assert moves.left_places(history, B) == frozenset()
    assert moves.left_places([move("n", "failed", A, B, 10.0)], A) == {B}


def test_a_share_is_owed_after_a_roll_back_without_a_younger_success() -> None:
    failed = move("m", "failed", A, B, 100.0)
    assert moves.is_owed(failed, [failed], A)
    assert not moves.is_owed(failed, [failed], B), "the instance lives elsewhere"
    assert not moves.is_owed(move("m", "confirmed", A, B, 100.0), [], A)
    assert not moves.is_owed(move("m", "failed", A, A, 100.0), [], A), "within one node"
    assert not moves.is_owed(failed, [move("n", "done", A, C, 50.0), failed], A)
    assert not moves.is_owed(failed, [failed, move("n", "done", A, C, 50.0)], A), "of another cell, but younger"
    assert moves.is_owed(failed, [failed, move("n", "done", C, A, 500.0)], A), "an older success"


@pytest.mark.parametrize(
    ("vm_state", "migrations", "waits"),
    [
        ("active", [], False),
        ("active", [move("m", "finished", A, B, 9.0)], True),
        ("resized", [], True),
        ("resized", [move("m", "confirmed", A, B, 9.0)], False),
        ("resized", [move("m", "confirmed", B, A, 9.0)], True),
        ("resized", [move("m", "reverted", A, B, 9.0)], True),
    ],
)
def test_a_resize_waits_until_a_confirmed_migration_led_here(
    vm_state: str, migrations: list[Migration], waits: bool
) -> None:
    assert moves.awaits_user(vm_state, migrations, B) is waits


def port(host: str | None, owner: str = "compute:nova") -> Port:
    return Port({"id": "p", "device_owner": owner, HOST: host})


@pytest.mark.parametrize(
    ("ports", "attested"),
    [
        ([], False),
        ([port("a")], True),
        ([port("A"), port("a ")], True),
        ([port("a"), port("b")], False),
        ([port("")], False),
        ([port("a"), port("")], False),  # a shelve offload went half way
        ([port("a"), port(None, "compute:az1")], False),
        ([port("a"), port("", "")], True),  # Nova made it a moment ago, or does not know it
        ([port("a"), port("", "network:dhcp")], True),
        ([port("a"), port("b", "")], False),
    ],
)
def test_every_port_of_nova_must_be_bound_to_the_host(ports: list[Port], attested: bool) -> None:
    bound = moves.bound_hosts(ports, HostNames(exact=False))
    assert moves.is_attested(A, bound) is attested


def test_names_are_compared_as_the_database_compares_them() -> None:
    folding, exact = HostNames(exact=False), HostNames(exact=True)
    assert moves.normal_place(("Node-1", None), folding) == ("node-1", None)
    assert moves.normal_place(("Node-1", "x"), exact) == ("Node-1", "x")
    upper = replace(MOVE, dest=("B", "B"))
    assert moves.moved_between([moves.normal(upper, folding)], B, A)
    assert not moves.moved_between([moves.normal(upper, exact)], B, A)
