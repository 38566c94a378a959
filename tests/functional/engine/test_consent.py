"""Mode ask and exemptions: a heal waits for an operator, and follows only the evidence that the operator saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from consumer.journal import asks, backlog, exemptions, history
from consumer.journal.approvals import State
from consumer.journal.asks import Ask
from consumer.journal.work import SWEEP, Hint, Priority
from handlers.base import Finding, Key, Mode, Refused, Unavailable
from tests.doubles import Mender
from tests.functional.engine.machine import Machine, hint
from tests.waiting import eventually


@pytest.fixture
def asking(machine: Machine) -> Machine:
    machine.mode = Mode.ASK
    machine.world.things = {"a": 1}
    machine.start()
    return machine


def waiting(machine: Machine) -> list[Ask]:
    return [one for one in asks.listing(machine.database) if one.state is State.WAITING]


def asked(machine: Machine) -> Ask:
    machine.enqueue(hint("a"))
    eventually(machine.idle)
    (one,) = waiting(machine)
    return one


def outcomes(machine: Machine) -> list[str]:
    return [entry.outcome for entry in history.listing(machine.database)]


def test_a_proved_finding_waits_with_its_plan_and_changes_nothing(asking: Machine) -> None:
    one = asked(asking)
    assert (one.key, one.problem, one.plan, one.undo) == ("thing:a", "broken", "set a from 1 to 0", "break a")
    assert one.evidence == {"generation": 1}
    assert one.expires_at - one.at == 72 * 3600
    assert asking.world.writes == {}
    assert [row.state for row in backlog.listing(asking.database)] == ["reported"]


def test_the_same_drift_asks_once(asking: Machine) -> None:
    first = asked(asking)
    assert asked(asking) == first
    assert outcomes(asking) == ["asked"]


def test_an_approved_finding_is_proved_again_and_healed(asking: Machine) -> None:
    one = asked(asking)
    assert [approved.id for approved in asks.approve(asking.database, [one.id], "alice")] == [one.id]
    eventually(lambda: asking.world.drifted() == set())
    eventually(asking.idle)
    entry = history.listing(asking.database)[-1]
    assert (entry.outcome, entry.operator, entry.plan) == ("healed", "alice", "set a from 1 to 0")
    assert asks.listing(asking.database) == []


def test_an_approval_serves_one_heal(asking: Machine) -> None:
    asks.approve(asking.database, [asked(asking).id], "alice")
    eventually(lambda: asking.world.drifted() == set())
    eventually(asking.idle)
    asking.world.things["a"] = 1
    asked(asking)
    assert asking.world.drifted() == {"a"}


def test_an_approval_of_other_evidence_heals_nothing(asking: Machine) -> None:
    first = asked(asking)
    asking.world.things["a"] = 2
    asks.approve(asking.database, [first.id], "alice")
    eventually(lambda: [one.evidence for one in waiting(asking)] == [{"generation": 2}])
    eventually(asking.idle)
    assert asking.world.writes == {}
    assert asks.approve(asking.database, [first.id], "alice") == [], "the old id approves nothing"


def test_an_expired_ask_cannot_be_approved_and_asks_again(asking: Machine) -> None:
    asking.stop()
    asking.ask_hours = -1.0
    asking.start()
    one = asked(asking)
    assert one.expired
    assert asks.approve(asking.database, [one.id], "alice") == []
    asking.stop()
    asking.ask_hours = 72.0
    asking.start()
    again = asked(asking)
    assert again.id != one.id
    assert not again.expired


def test_a_denial_is_remembered_until_the_evidence_changes(asking: Machine) -> None:
    one = asked(asking)
    asks.deny(asking.database, [one.id], "bob", "under repair")
    for _ in range(2):
        asking.enqueue(hint("a"))
        eventually(asking.idle)
    entry = history.listing(asking.database)[-1]
    assert (entry.outcome, entry.error) == ("denied", "bob denied it: under repair")
    assert outcomes(asking) == ["asked", "denied"]
    assert asking.world.writes == {}
    asking.world.things["a"] = 2
    assert asked(asking).evidence == {"generation": 2}


def test_a_denied_finding_can_be_approved_later(asking: Machine) -> None:
    one = asked(asking)
    asks.deny(asking.database, [one.id], "bob", "under repair")
    asks.approve(asking.database, [one.id], "alice")
    eventually(lambda: asking.world.drifted() == set())


def test_an_ask_ends_when_its_drift_is_gone(asking: Machine) -> None:
    asked(asking)
    asking.world.things["a"] = 0
    asking.enqueue(Hint("mender", Key(SWEEP, "mender"), Priority.OPERATOR, "start"))
    eventually(lambda: asks.listing(asking.database) == [])


def test_an_approved_heal_that_was_cut_off_goes_on_without_another_approval(asking: Machine) -> None:
    """After a heal without an answer, the same evidence needs no second approval, and other evidence does."""
    failures = [Unavailable("workshop", "no answer")]

    def fail_once(_finding: object) -> None:
        if failures:
            raise failures.pop()

    asking.world.before_heal = fail_once
    asks.approve(asking.database, [asked(asking).id], "alice")
    eventually(lambda: asking.world.drifted() == set())
    eventually(asking.idle)
    assert outcomes(asking) == ["asked", "healed"]


@pytest.mark.parametrize("follows", ["another drift", "a refusal", "an exemption"])
def test_an_approval_serves_no_second_heal_after_one_whose_result_is_unknown(asking: Machine, follows: str) -> None:
    """The first heal writes, and its answer is lost. Then the key's history entry is closed without an answer."""
    world = asking.world

    def lose_answer(_finding: Finding) -> None:
        world.after_heal = lambda _finding: None
        world.things["a"] = 1
        if follows == "another drift":
            world.with_one_witness = frozenset({"a"})
        elif follows == "a refusal":
            world.unhealable = frozenset({"a"})
        else:
            exemptions.add(asking.database, "thing:a", None, "bob", "memory test")
        raise Unavailable("workshop", "no answer")

    world.after_heal = lose_answer
    asks.approve(asking.database, [asked(asking).id], "alice")
    eventually(lambda: "failed" in outcomes(asking))
    eventually(asking.idle)
    world.with_one_witness = world.unhealable = frozenset()
    exemptions.remove(asking.database, [one.id for one in exemptions.listing(asking.database)])
    asking.enqueue(hint("a"))
    eventually(asking.idle)
    assert world.writes == {"a": 1}
    assert "broken" in {one.problem for one in waiting(asking)}


def test_an_operator_can_be_the_second_witness(asking: Machine) -> None:
    asking.world.with_one_witness = frozenset({"a"})
    one = asked(asking)
    assert (one.problem, one.plan, one.reason) == ("ownerless", "set a from 1 to 0", "look for its owner")
    assert asking.world.writes == {}
    asks.approve(asking.database, [one.id], "alice", "I asked its owner")
    eventually(lambda: asking.world.drifted() == set())
    eventually(asking.idle)
    entry = history.listing(asking.database)[-1]
    assert (entry.outcome, entry.operator, entry.plan) == ("healed", "alice", "set a from 1 to 0")


@pytest.mark.parametrize("mode", [Mode.HEAL, Mode.AUDIT])
def test_other_modes_only_report_a_finding_with_one_witness(machine: Machine, mode: Mode) -> None:
    machine.mode = mode
    machine.world.things = {"a": 1}
    machine.world.with_one_witness = frozenset({"a"})
    machine.start()
    machine.enqueue(hint("a"))
    eventually(machine.idle)
    (entry,) = history.listing(machine.database)
    assert (entry.outcome, entry.error) == ("refused", "look for its owner")
    assert machine.world.writes == {}
    assert asks.listing(machine.database) == []


def test_a_witness_counts_only_for_the_evidence_that_it_saw(asking: Machine) -> None:
    asking.world.with_one_witness = frozenset({"a"})
    one = asked(asking)
    asking.world.things["a"] = 2
    asks.approve(asking.database, [one.id], "alice")
    eventually(lambda: [one.evidence for one in waiting(asking)] == [{"generation": 2}])
    assert asking.world.writes == {}


@pytest.mark.parametrize("scope", ["thing:a", "problem:broken", "host:shelf-a"])
@pytest.mark.parametrize("mode", [Mode.HEAL, Mode.ASK, Mode.AUDIT])
def test_an_exempt_object_is_reported_and_stays_as_it_is(machine: Machine, scope: str, mode: Mode) -> None:
    machine.mode = mode
    machine.world.things = {"a": 1}
    exemptions.add(machine.database, scope, None, "alice", "memory test")
    machine.start()
    for _ in range(2):
        machine.enqueue(hint("a"))
        eventually(machine.idle)
    (entry,) = history.listing(machine.database)
    assert (entry.outcome, entry.error) == ("exempt", f"alice exempted {scope}: memory test")
    assert machine.world.writes == {}
    assert asks.listing(machine.database) == []


@pytest.mark.parametrize("mode", [Mode.HEAL, Mode.ASK, Mode.AUDIT])
def test_an_object_with_an_exempting_tag_is_reported_and_stays_as_it_is(machine: Machine, mode: Mode) -> None:
    machine.mode = mode
    machine.world.things, machine.world.tagged = {"a": 1}, frozenset({"a"})
    machine.start()
    for _ in range(2):
        machine.enqueue(hint("a"))
        eventually(machine.idle)
    (entry,) = history.listing(machine.database)
    assert (entry.outcome, entry.error) == ("exempt", "thing:a has the tag stackmend:exempt")
    assert machine.world.writes == {}
    assert asks.listing(machine.database) == []


def test_without_the_tag_the_drift_heals_at_the_next_sweep(machine: Machine) -> None:
    machine.world.things, machine.world.tagged = {"a": 1, "b": 1}, frozenset({"a"})
    machine.start()
    machine.enqueue(hint("a"), hint("b"))
    eventually(lambda: machine.idle() and machine.world.drifted() == {"a"})
    machine.world.tagged = frozenset()
    machine.enqueue(Hint("mender", Key(SWEEP, "mender"), Priority.OPERATOR, "start"))
    eventually(lambda: machine.world.drifted() == set())


def test_a_heal_waits_while_the_tags_cannot_be_read(machine: Machine) -> None:
    machine.world.things, machine.world.tagged = {"a": 1}, None
    machine.start()
    machine.enqueue(hint("a"))
    eventually(lambda: "owners: no answer" in [row.error for row in backlog.listing(machine.database)])
    assert machine.world.writes == {}
    machine.world.tagged = frozenset()
    eventually(lambda: machine.world.drifted() == set())


@pytest.mark.parametrize("scope", ["host:Shelf-A", "HOST:shelf-a", "thing:A"])
def test_an_exemption_ignores_letter_case(machine: Machine, scope: str) -> None:
    """MySQL ignores case, so that Nova and an operator can spell one host in two ways."""
    machine.world.things = {"a": 1}
    exemptions.add(machine.database, scope, None, "alice", "memory test")
    machine.start()
    machine.enqueue(hint("a"))
    eventually(machine.idle)
    assert outcomes(machine) == ["exempt"]
    assert machine.world.writes == {}


def test_another_spelling_replaces_an_exemption(machine: Machine) -> None:
    exemptions.add(machine.database, "host:shelf-a", None, "alice", "memory test")
    exemptions.add(machine.database, "host:Shelf-A", None, "bob", "new board")
    assert [(one.scope, one.operator) for one in exemptions.listing(machine.database)] == [("host:Shelf-A", "bob")]


def test_an_exemption_of_one_object_leaves_others_to_heal(machine: Machine) -> None:
    machine.world.things = {"a": 1, "b": 1}
    exemptions.add(machine.database, "host:shelf-a", None, "alice", "memory test")
    machine.start()
    machine.enqueue(hint("a"), hint("b"))
    eventually(lambda: machine.world.drifted() == {"a"})


@pytest.mark.parametrize("ended", [True, False])
def test_after_an_exemption_the_drift_heals_at_the_next_sweep(machine: Machine, ended: bool) -> None:
    machine.world.things = {"a": 1}
    row = exemptions.add(machine.database, "thing:a", None, "alice", "memory test")
    machine.start()
    machine.enqueue(hint("a"))
    eventually(machine.idle)
    assert machine.world.drifted() == {"a"}
    if ended:
        exemptions.add(machine.database, "thing:a", 1.0, "alice", "memory test")
    else:
        exemptions.remove(machine.database, [row])
    machine.enqueue(Hint("mender", Key(SWEEP, "mender"), Priority.OPERATOR, "start"))
    eventually(lambda: machine.world.drifted() == set())


#: PostgreSQL refuses NUL, and no database takes a lone surrogate, as Python makes of a file name that is not UTF-8.
ODD = "disk \udcff\0"


class Odd(Mender):
    def inspect(self, key: Key) -> Iterator[Finding]:
        for one in super().inspect(key):
            yield replace(one, summary=ODD, evidence={**one.evidence, "path": ODD}, undo=ODD, plan=ODD)


def test_text_that_a_database_refuses_is_asked_and_healed_like_other_text(machine: Machine) -> None:
    machine.handlers = lambda: [Odd(machine.world)]  # type: ignore[method-assign]
    machine.mode = Mode.ASK
    machine.world.things = {"a": 1}
    machine.start()
    one = asked(machine)
    assert (one.summary, one.undo, one.plan) == ("disk ??",) * 3
    asks.approve(machine.database, [one.id], "alice", ODD)
    eventually(lambda: machine.world.drifted() == set())
    eventually(machine.idle)
    assert outcomes(machine) == ["asked", "healed"]


def test_an_error_that_a_database_refuses_is_recorded_like_another(machine: Machine) -> None:
    def fail(_key: Key) -> None:
        raise Refused(ODD)

    machine.world.things = {"a": 1}
    machine.world.before_look = fail
    machine.start()
    machine.enqueue(hint("a"))
    eventually(machine.idle)
    assert [(entry.outcome, entry.error) for entry in history.listing(machine.database)] == [("refused", "disk ??")]
    assert [row.state for row in backlog.listing(machine.database)] == ["reported"]


def test_an_exemption_keeps_a_reason_that_a_database_refuses(machine: Machine) -> None:
    exemptions.add(machine.database, "thing:a", None, "alice", ODD)
    assert [one.reason for one in exemptions.listing(machine.database)] == ["disk ??"]
