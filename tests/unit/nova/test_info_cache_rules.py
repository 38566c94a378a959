"""Each row of the tables about network caches, by a case that only this row decides."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from handlers.nova.info_cache.rules import Case, Facts, Problem, Renew, Vif, decide, read, state
from handlers.nova.names import HostNames
from handlers.nova.records import Instance
from handlers.nova.verdicts import Keep, Report, Wait

SHOWN = Vif("fa:16:3e:00:00:01", ("10.0.0.5",), "ovs", "normal")
OLD = replace(SHOWN, addresses=("10.0.0.4",))
OUTDATED = Case(OLD, SHOWN, "a", "a", False, HostNames(True))
HERE = Instance("i", "p", "u", "a", "a", "active", None, False, False, 3600.0)
FACTS = Facts(HERE, (HERE,), False, {"port": OLD})


def at(**values: object) -> Facts:
    row = replace(HERE, **values)  # type: ignore[arg-type]
    return replace(FACTS, here=row, copies=(row,))


@pytest.mark.parametrize(
    "case",
    [
        OUTDATED,
        replace(OUTDATED, cached=None),
        replace(OUTDATED, cached=replace(SHOWN, mac="fa:16:3e:00:00:02")),
        replace(OUTDATED, cached=replace(SHOWN, vif_type="binding_failed")),
        replace(OUTDATED, bound="A", names=HostNames(False)),
    ],
)
def test_an_entry_that_differs_is_renewed(case: Case) -> None:
    assert isinstance(decide(case), Renew)


@pytest.mark.parametrize(
    "case", [replace(OUTDATED, cached=SHOWN), replace(OUTDATED, bound="b"), replace(OUTDATED, bound="A")]
)
def test_an_entry_that_is_right_or_not_ours_stays(case: Case) -> None:
    assert isinstance(decide(case), Keep)


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        (replace(OUTDATED, shown=None), Problem.LOST_PORT),
        (replace(OUTDATED, cached=None, empty=True), Problem.EMPTY),
        (replace(OUTDATED, shown=replace(SHOWN, vif_type="binding_failed")), Problem.OUTDATED),
        (replace(OUTDATED, shown=replace(SHOWN, vif_type="unbound")), Problem.OUTDATED),
        (replace(OUTDATED, shown=replace(SHOWN, vif_type="")), Problem.OUTDATED),
        (replace(OUTDATED, shown=replace(SHOWN, vnic_type="macvtap")), Problem.OUTDATED),
    ],
)
def test_what_the_event_does_not_repair_is_reported(case: Case, problem: Problem) -> None:
    verdict = decide(case)
    assert isinstance(verdict, Report)
    assert verdict.problem == problem


@pytest.mark.parametrize(
    "facts",
    [
        replace(FACTS, building=True),
        replace(FACTS, here=None, copies=()),
        replace(FACTS, cached=None),
        replace(FACTS, copies=(HERE, replace(HERE, hidden=True))),
        at(deleted=True),
        at(host=None),
        at(vm_state="building"),
    ],
)
def test_a_state_without_a_verdict(facts: Facts) -> None:
    assert isinstance(state(facts), Keep)


@pytest.mark.parametrize("facts", [at(task_state="rebooting"), at(age=10.0)])
def test_a_state_that_passes(facts: Facts) -> None:
    assert isinstance(state(facts), Wait)


def test_an_instance_at_rest_is_judged() -> None:
    assert state(FACTS) is None
    assert state(at(vm_state="resized")) is None


def test_the_entries_of_a_cache_are_read() -> None:
    ips = [{"address": "10.0.0.9"}, {"address": "10.0.0.5", "floating_ips": [{"address": "192.0.2.1"}]}]
    entry = {"id": "p", "address": "m", "type": None, "network": {"subnets": [{"ips": ips}, {"ips": []}]}}
    assert read(json.dumps([entry])) == {"p": Vif("m", ("10.0.0.5", "10.0.0.9"), "", "normal")}
    assert read(None) == read("[]") == {}


@pytest.mark.parametrize("text", ["{", "7", '{"id": 1}', '[{"id": "p"}]', '[{"id": "p", "network": null}]', "[[]]"])
def test_a_cache_that_cannot_be_read(text: str) -> None:
    assert read(text) is None
