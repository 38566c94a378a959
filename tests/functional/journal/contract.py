"""What a journal does, whatever database it is in. Run on SQLite here and on MariaDB and PostgreSQL in ``services``."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Executable, inspect, update

from consumer.conf.tasks import TaskSettings
from consumer.conf.window import Window
from consumer.engine.gates import Request, all_gates, ask_all
from consumer.engine.holds import Board
from consumer.engine.task import Task
from consumer.journal import (
    asks,
    backlog,
    claiming,
    controls,
    dead,
    deliveries,
    exemptions,
    hinting,
    history,
    hours,
    migrations,
    notification_formats,
    replicas,
    schema,
    settling,
    work,
)
from consumer.journal.asks import AlsoAsks
from consumer.journal.asks import Ask as Asked
from consumer.journal.database import Database, now
from consumer.journal.dead import DeadLetter
from consumer.journal.history import Ask, Closing, Deferred, Line, Origin, Outcome, Presumed, Withheld
from consumer.journal.hours import Hour
from consumer.journal.work import Done, Hint, Later, LeaseLost, Parked, Priority, Reported
from handlers.base import Finding, Healed, Key, Mode
from tests.doubles import Mender, World

H = "mender"
ORIGIN = Origin("thing.broken", "replica-1")


def hint(name: str = "a", priority: Priority = Priority.EVENT, after: float = 0.0, handler: str = H) -> Hint:
    source = "sweep" if priority is Priority.SWEEP else "thing.broken"
    return Hint(handler, Key("thing", name), priority, source, after, source_id="m-1", sent_at=12.5)


def line(name: str = "a", outcome: Outcome = Outcome.HEALING, weight: int = 1, undo: str = "") -> Line:
    return Line.of(H, finding(name, weight, undo), outcome, ORIGIN)


def finding(name: str, weight: int = 1, undo: str = "") -> Finding:
    evidence = {"generation": 1}
    return Finding(Key("thing", name), "broken", f"{name} is broken", evidence, weight=weight, undo=undo)


def may(per_hour: int, weight: int = 1) -> Ask:
    """Ask the real gates for a heal of so many objects."""
    task = Task(Mender(World()), TaskSettings(Mode.HEAL, 3600, Window(), per_hour), lambda: datetime.now(UTC))
    request = Request(task, finding("a", weight))
    return lambda connection, clock: ask_all(all_gates(Board()), connection, request, clock)


def tick(journal: Database) -> None:
    """Wait until the clock of the journal shows another time."""
    before = journal.transact(now)
    while journal.transact(now) <= before:
        pass


def age(journal: Database, column: Column[float], seconds: float) -> None:
    """Make a time in all history entries older."""
    statement = update(schema.history).values({column: column - seconds})
    journal.transact(lambda connection: connection.execute(statement))


def take(journal: Database, limit: int = 10, lease: float = 30.0, owner: str = "r1") -> list[work.Claim]:
    return claiming.claim(journal, owner, [H], limit, lease)


def end_leases(journal: Database) -> None:
    """End the leases that are over by the database's clock, as a replica does that watched them."""
    claiming.end(journal, [lease for lease in claiming.leases(journal) if lease.over])


def explained(journal: Database, statement: Executable) -> str:
    """Return the database's plan for a statement that reads due rows."""
    bounds = {"clock": time.time(), "most": 8}
    compiled = statement.compile(journal.engine, compile_kwargs={"render_postcompile": True})  # type: ignore[attr-defined]
    values = {**compiled.params, **bounds}
    text = str(compiled)
    given = tuple(values[name] for name in compiled.positiontup) if compiled.positiontup else values
    prefix = "EXPLAIN QUERY PLAN " if journal.engine.dialect.name == "sqlite" else "EXPLAIN "
    with journal.engine.begin() as connection:
        return "\n".join(str(tuple(row)) for row in connection.exec_driver_sql(prefix + text, given))


class JournalContract:
    """Subclasses give the fixture ``journal``: an upgraded, empty database."""

    def test_migrations_make_the_schema(self, journal: Database) -> None:
        found = inspect(journal.engine)
        for table in schema.metadata.sorted_tables:
            assert {column["name"] for column in found.get_columns(table.name)} == set(table.c.keys())
        assert migrations.upgrade(journal) == (migrations.head(), migrations.head())
        migrations.check(journal)

    def test_clock_is_the_databases_with_fractions(self, journal: Database) -> None:
        first = journal.transact(now)
        tick(journal)
        second = journal.transact(now)
        assert 0 < second - first < 3600
        assert abs(second - time.time()) < 5

    def test_a_burst_about_one_key_is_one_row(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint() for _ in range(30)])
        hinting.enqueue(journal, [hint(), hint("b")])
        assert sorted(row.key for row in backlog.listing(journal)) == ["thing:a", "thing:b"]

    def test_keys_that_differ_in_case_are_two(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint("Host"), hint("host")])
        assert len(backlog.listing(journal)) == 2

    def test_claims_come_by_priority_then_age(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint("swept", Priority.SWEEP)])
        hinting.enqueue(journal, [hint("first")])
        tick(journal)
        hinting.enqueue(journal, [hint("second"), hint("later", after=60)])
        assert [claim.key.id for claim in take(journal)] == ["first", "second", "swept"]

    def test_a_claim_reads_the_index_in_its_order_and_sorts_nothing_that_waits(self, journal: Database) -> None:
        for priority in Priority:
            hinting.enqueue(journal, [hint(f"{priority}-{number}", priority) for number in range(1000)])
        with journal.engine.begin() as connection:
            connection.exec_driver_sql("ANALYZE TABLE work" if "mysql" in str(journal.engine.url) else "ANALYZE")
        for level in ((Priority.EVENT, Priority.TIMER), (Priority.SWEEP,)):
            assert "work_due_idx" in (plan := explained(journal, claiming.due_rows((H, "other"), level, False)))
            assert not [
                word for word in ("filesort", "TEMP B-TREE", "SCAN work", "Seq Scan", "Sort Key") if word in plan
            ]

    def test_handlers_take_turns(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint(str(number), handler="busy") for number in range(300)])
        tick(journal)
        hinting.enqueue(journal, [hint("lonely")])
        taken = claiming.claim(journal, "r1", ["busy", H], 2, 30.0)
        assert sorted(claim.handler for claim in taken) == ["busy", H]

    def test_suspects_of_a_sweep_do_not_take_turns_with_events(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint("swept", Priority.SWEEP)])
        tick(journal)
        hinting.enqueue(journal, [hint(str(number), handler="busy") for number in range(3)])
        taken = claiming.claim(journal, "r1", ["busy", H], 3, 30.0)
        assert {claim.handler for claim in taken} == {"busy"}

    def test_rows_that_are_not_admitted_wait(self, journal: Database) -> None:
        timers = [Hint(name, Key(work.SWEEP, name), Priority.TIMER, "sweep") for name in ("a", "b", "c")]
        hinting.enqueue(journal, [*timers, hint("key", handler="a")])

        def one_sweep() -> work.Admit:
            admitted: list[work.Kind] = []
            return lambda kind: not kind.is_sweep or (not admitted and admitted.append(kind) is None)

        taken = claiming.claim(journal, "r1", ["a", "b", "c"], 10, 30.0, admit=one_sweep)
        assert sorted(claim.key.kind for claim in taken) == ["sweep", "thing"]

    def test_other_events_come_before_periodic_events(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint(str(number), Priority.PERIODIC, handler="periodic") for number in range(50)])
        tick(journal)
        hinting.enqueue(journal, [hint("host"), hint("late", handler="periodic")])
        taken = claiming.claim(journal, "r1", ["periodic", H], 2, 30.0)
        assert {claim.key.id for claim in taken} == {"host", "late"}

    def test_what_has_arrived_is_known_by_broker_and_format(self, journal: Database) -> None:
        for broker, written in (("a", "versioned"), ("b", ""), ("a", "unversioned"), ("a", "versioned")):
            notification_formats.record(journal, broker, written)
            tick(journal)
        found = notification_formats.listing(journal)
        assert [(one.broker, one.format) for one in found] == [("a", "versioned"), ("a", "unversioned"), ("b", "")]
        assert 0 <= found[0].ago <= found[1].ago <= found[2].ago

    def test_a_claimed_row_is_not_claimed_twice(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint()])
        assert len(take(journal)) == 1
        assert take(journal, owner="r2") == []

    def test_many_claimers_share_without_overlap(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint(str(number)) for number in range(60)])
        taken: Counter[str] = Counter()
        lock = threading.Lock()

        def claim_all() -> None:
            idle = 0
            while idle < 3:
                claims = take(journal, limit=4)
                idle = 0 if claims else idle + 1
                with lock:
                    taken.update(claim.key.id for claim in claims)
                for claim in claims:
                    settling.settle(journal, claim, Done())

        threads = [threading.Thread(target=claim_all) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert taken == Counter({str(number): 1 for number in range(60)})
        assert backlog.listing(journal) == []

    def test_a_lease_that_ended_is_taken_over_and_fences_the_first_owner(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint()])
        (old,) = take(journal, lease=0.0)
        tick(journal)
        assert take(journal, owner="r2") == [], "the end of a lease makes no row free"
        end_leases(journal)
        (new,) = take(journal, owner="r2")
        with pytest.raises(LeaseLost):
            settling.settle(journal, old, Done(), [line(outcome=Outcome.FOUND)])
        with pytest.raises(LeaseLost):
            settling.begin_healing(journal, old, line(), may(0))
        assert history.listing(journal) == []
        settling.settle(journal, new, Done())
        assert backlog.listing(journal) == []

    def test_an_extended_lease_holds(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint()])
        (claim,) = take(journal, lease=0.0)
        tick(journal)
        seen = claiming.leases(journal)
        assert [lease.over for lease in seen] == [True]
        claiming.extend(journal, [replace(claim, lease=60.0)])
        assert [lease.over for lease in claiming.leases(journal)] == [False]
        assert claiming.end(journal, seen) == 0, "the lease was extended after it was read"
        assert take(journal, owner="r2") == []

    def test_a_heal_begins_with_a_whole_lease(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint()])
        (claim,) = take(journal, lease=0.0)
        tick(journal)
        seen = claiming.leases(journal)
        settling.begin_healing(journal, replace(claim, lease=60.0), line(), may(0))
        assert claiming.end(journal, seen) == 0

    def test_the_next_step_of_a_heal_needs_the_lease(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint()])
        (claim,) = take(journal)
        assert journal.transact(lambda connection: claiming.renew(connection, claim))
        claiming.end(journal, claiming.leases(journal))
        assert not journal.transact(lambda connection: claiming.renew(connection, claim))

    def test_the_leases_are_read_by_their_index(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint(str(number)) for number in range(3000)])
        take(journal, limit=3)
        with journal.engine.begin() as connection:
            connection.exec_driver_sql("ANALYZE TABLE work" if "mysql" in str(journal.engine.url) else "ANALYZE")
        assert "work_token_idx" in explained(journal, claiming.LEASES)

    def test_a_hint_during_work_makes_it_run_once_more(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint()])
        (claim,) = take(journal)
        hinting.enqueue(journal, [hint()])
        settling.settle(journal, claim, Done())
        (again,) = take(journal)
        settling.settle(journal, again, Done())
        assert backlog.listing(journal) == []

    def test_a_later_look_waits_and_keeps_what_it_knows(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint()])
        (claim,) = take(journal)
        settling.settle(journal, claim, Later(3600, attempts=2, waits=3, fingerprint="f", fresh=True))
        assert take(journal) == []
        an_hour_passes = update(schema.work).values(
            not_before=schema.work.c.not_before - 3600, seen_at=schema.work.c.seen_at - 3600
        )
        journal.transact(lambda connection: connection.execute(an_hour_passes))
        (again,) = take(journal)
        assert (again.attempts, again.waits, again.fingerprint) == (2, 3, "f")
        assert again.seen_at is not None
        assert again.now - again.seen_at >= 3600

    def test_an_event_ends_back_off_and_a_sweep_does_not(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint()])
        (claim,) = take(journal)
        settling.settle(journal, claim, Later(60, attempts=5))
        hinting.enqueue(journal, [hint(priority=Priority.SWEEP)])
        assert take(journal) == []
        hinting.enqueue(journal, [hint()])
        (again,) = take(journal)
        assert again.attempts == 0
        assert again.hint == "thing.broken"

    @pytest.mark.parametrize("end", [Reported("f"), Parked("no way", 8, "f")])
    def test_what_rests_is_woken_by_a_sweep_and_remembers(self, journal: Database, end: Reported | Parked) -> None:
        hinting.enqueue(journal, [hint()])
        (claim,) = take(journal)
        settling.settle(journal, claim, end)
        assert take(journal) == []
        hinting.enqueue(journal, [hint(priority=Priority.SWEEP)])
        (again,) = take(journal)
        assert again.fingerprint == "f"
        assert again.attempts == (8 if isinstance(end, Parked) else 0)
        assert again.reported == (None if isinstance(end, Parked) else "f")

    def test_a_sweep_does_not_shorten_the_pause_of_a_refused_heal_and_an_event_ends_it(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint()])
        (claim,) = take(journal)
        settling.settle(journal, claim, Reported("f", "the node is full", after=3600, waits=2))
        began = journal.transact(now)
        assert hinting.revisit_reported(journal, H, began + 1) == 1
        hinting.enqueue(journal, [hint(priority=Priority.SWEEP)])
        assert take(journal) == []
        (row,) = backlog.listing(journal)
        assert row.error == "the node is full"
        hinting.enqueue(journal, [hint()])
        (again,) = take(journal)
        assert again.waits == 0

    def test_reported_rows_that_a_sweep_missed_are_looked_at_again(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint(), hint("b")])
        for claim in take(journal):
            settling.settle(journal, claim, Reported("f"))
        began = journal.transact(now)
        hinting.enqueue(journal, [hint("b", Priority.SWEEP)])
        assert hinting.revisit_reported(journal, H, began) == 1
        assert {claim.key.id for claim in take(journal)} == {"a", "b"}

    def test_heal_line_is_opened_before_and_closed_once(self, journal: Database) -> None:
        controls.ensure(journal, [H])
        hinting.enqueue(journal, [hint()])
        (claim,) = take(journal)
        line_id = settling.begin_healing(journal, claim, line(), may(0))
        assert isinstance(line_id, int)
        (entry,) = history.listing(journal)
        assert (entry.outcome, entry.evidence) == ("healing", {"generation": 1})
        healed = Healed("mended a", {"generation": 1}, {"generation": 0}, "break a")
        settling.settle(journal, claim, Done(), [Closing(line_id, Outcome.HEALED, healed)])
        history.close(journal, Presumed(line_id, Outcome.FAILED, error="too late"))
        (entry,) = history.listing(journal)
        assert (entry.outcome, entry.action, entry.undo) == ("healed", "mended a", "break a")
        assert (entry.before, entry.after) == ({"generation": 1}, {"generation": 0})
        assert entry.lag is None
        assert history.orphans(journal, -1) == []

    def test_an_interrupted_heal_is_remembered_by_the_row(self, journal: Database) -> None:
        controls.ensure(journal, [H])
        hinting.enqueue(journal, [hint()])
        (claim,) = take(journal, lease=0.0)
        line_id = settling.begin_healing(journal, claim, line(), may(0))
        tick(journal)
        end_leases(journal)
        (again,) = take(journal)
        assert again.healing_id == line_id

    def test_an_interrupted_heal_uses_its_entry_again_for_the_same_drift(self, journal: Database) -> None:
        controls.ensure(journal, [H])
        hinting.enqueue(journal, [hint()])
        (claim,) = take(journal, lease=0.0)
        line_id = settling.begin_healing(journal, claim, line(undo="break a"), may(0))
        tick(journal)
        end_leases(journal)
        (again,) = take(journal)
        assert settling.begin_healing(journal, again, line(undo="break a"), may(0)) == line_id

    @pytest.mark.parametrize(
        ("change", "outcome"),
        [({"problem": "bent"}, "healed"), ({"evidence": {"generation": 2}}, "failed")],
        ids=["problem", "evidence"],
    )
    def test_an_interrupted_heal_keeps_its_undo_when_another_drift_follows(
        self, journal: Database, change: dict[str, Any], outcome: str
    ) -> None:
        """Each entry has the undo of its own writes, and has it before them, however often the process dies."""
        controls.ensure(journal, [H])
        hinting.enqueue(journal, [hint()])
        (claim,) = take(journal, lease=0.0)
        first = settling.begin_healing(journal, claim, line(undo="break a"), may(0))
        tick(journal)
        end_leases(journal)
        (again,) = take(journal, lease=0.0)
        following = replace(line(undo="bend a"), **change)
        second = settling.begin_healing(journal, again, following, may(0))
        assert second != first
        tick(journal)
        end_leases(journal)
        (third,) = take(journal)
        assert third.healing_id == second
        entries = [(entry.id, entry.outcome, entry.problem, entry.undo) for entry in history.listing(journal)]
        assert sorted(entries) == [
            (first, outcome, "broken", "break a"),
            (second, "healing", following.problem, "bend a"),
        ]

    def test_budget_counts_over_threads(self, journal: Database) -> None:
        controls.ensure(journal, [H])
        hinting.enqueue(journal, [hint(str(number)) for number in range(12)])
        opened: list[int | Deferred | Withheld] = []

        def heal(claim: work.Claim) -> None:
            opened.append(settling.begin_healing(journal, claim, line(claim.key.id), may(5)))

        threads = [threading.Thread(target=heal, args=(claim,)) for claim in take(journal, limit=12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(opened) == 12
        assert len([line_id for line_id in opened if isinstance(line_id, int)]) == 5
        assert len(history.listing(journal)) == 5
        assert history.budget_left(journal, H, 5) == 0

    def test_the_budget_counts_objects_and_not_lines(self, journal: Database) -> None:
        controls.ensure(journal, [H])
        assert isinstance(history.open_line(journal, line(weight=4), may(10, weight=4)), int)
        assert isinstance(history.open_line(journal, line(weight=7), may(10, weight=7)), Deferred)
        assert isinstance(history.open_line(journal, line(weight=6), may(10, weight=6)), int)
        assert history.budget_left(journal, H, 10) == 0

    def test_heals_that_wrote_nothing_spend_nothing(self, journal: Database) -> None:
        controls.ensure(journal, [H])
        for outcome in (Outcome.CONFLICT, Outcome.REFUSED):
            line_id = history.open_line(journal, line(), may(1))
            assert isinstance(line_id, int)
            history.close(journal, Closing(line_id, outcome))
        assert history.budget_left(journal, H, 1) == 1

    def test_the_undo_is_recorded_before_the_heal(self, journal: Database) -> None:
        controls.ensure(journal, [H])
        line_id = history.open_line(journal, line(undo="break a"), may(0))
        assert isinstance(line_id, int)
        (entry,) = history.listing(journal)
        assert (entry.outcome, entry.undo) == ("healing", "break a")
        history.close(journal, Closing(line_id, Outcome.HEALED, Healed("mended a")))
        (entry,) = history.listing(journal)
        assert (entry.outcome, entry.undo) == ("healed", "break a")

    def test_a_row_whose_key_cannot_be_read_is_parked_and_others_are_claimed(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint("a"), hint("b")])
        broken = update(schema.work).where(schema.work.c.key == "thing:a").values(key="thing:")
        journal.transact(lambda connection: connection.execute(broken))
        assert [claim.key.id for claim in take(journal)] == ["b"]
        assert {row.key: row.state for row in backlog.listing(journal)}["thing:"] == "parked"

    @pytest.mark.parametrize("stop", ["pause", "breaker"])
    def test_a_stopped_handler_begins_no_heal(self, journal: Database, stop: str) -> None:
        controls.ensure(journal, [H])
        hinting.enqueue(journal, [hint()])
        (claim,) = take(journal)
        if stop == "pause":
            controls.pause(journal, [H], "maintenance")
        else:
            journal.transact(lambda connection: controls.break_off(connection, [H], "too many"))
        for opened in (
            settling.begin_healing(journal, claim, line(), may(0)),
            history.open_line(journal, line(), may(0)),
        ):
            assert isinstance(opened, Deferred)
            assert "stopped" in opened.reason
        assert history.listing(journal) == []

    def test_abandoned_line_is_adopted(self, journal: Database) -> None:
        line_id = history.open_line(journal, line(), may(0))
        assert isinstance(line_id, int)
        (orphan,) = history.orphans(journal, -1)
        hinting.adopt(journal, hint(), orphan.line_id)
        assert history.orphans(journal, -1) == []
        (claim,) = take(journal)
        assert claim.healing_id == line_id

    def test_a_line_that_is_renewed_is_not_abandoned(self, journal: Database) -> None:
        line_id = history.open_line(journal, line(), may(0))
        assert isinstance(line_id, int)
        age(journal, schema.history.c.at, 1000)
        (orphan,) = history.orphans(journal, 500)
        assert orphan.line_id == line_id
        history.renew(journal, [line_id])
        assert history.orphans(journal, 500) == []
        (entry,) = history.listing(journal)
        assert (entry.outcome, entry.closed_at) == ("healing", None)
        age(journal, schema.history.c.closed_at, 1000)
        assert history.orphans(journal, 500) == [orphan], "its command has died"

    def test_the_result_of_a_heal_is_kept_though_another_closed_its_line(self, journal: Database) -> None:
        deliveries.subscribe(journal, {"chat": ["healed"]})
        line_id = history.open_line(journal, line(undo="break a"), may(0))
        assert isinstance(line_id, int)
        history.close(journal, Presumed(line_id, Outcome.FAILED, error="interrupted"))
        history.renew(journal, [line_id])
        history.close(
            journal, Closing(line_id, Outcome.HEALED, Healed("mended a", {"generation": 1}, {"generation": 0}))
        )
        first, second = history.listing(journal)
        assert (first.outcome, first.error) == ("failed", "interrupted")
        assert (second.outcome, second.action, second.error) == ("healed", "mended a", "")
        assert (second.at, second.key, second.undo, second.evidence) == (first.at, first.key, "break a", first.evidence)
        assert [(one.sink, one.messages) for one in deliveries.waiting(journal)] == [("chat", 1)]

    def test_a_result_that_is_written_twice_has_one_line(self, journal: Database) -> None:
        """As after a commit whose answer was lost."""
        line_id = history.open_line(journal, line(), may(0))
        assert isinstance(line_id, int)
        for _ in range(2):
            history.close(journal, Closing(line_id, Outcome.HEALED, Healed("mended a")))
        (entry,) = history.listing(journal)
        assert entry.outcome == "healed"

    def test_a_heal_that_goes_on_needs_an_open_line(self, journal: Database) -> None:
        controls.ensure(journal, [H])
        first = history.open_line(journal, line(), may(0))
        assert isinstance(first, int)
        assert history.open_line(journal, line(), may(0), first) == first
        history.close(journal, Presumed(first, Outcome.FAILED, error="interrupted"))
        second = history.open_line(journal, line(), may(0), first)
        assert [entry.outcome for entry in history.listing(journal)] == ["failed", "healing"]
        hinting.enqueue(journal, [hint()])
        hinting.adopt(journal, hint(), first)
        (claim,) = take(journal)
        third = settling.begin_healing(journal, claim, line(), may(0))
        assert len({first, second, third}) == 3

    def test_dead_letters_are_stored_with_their_batch_and_bounded(self, journal: Database) -> None:
        bodies = [bytes([number]) * 10 for number in range(20)]
        letters = [DeadLetter("nova", "nova", "stackmend.info", "not JSON", 10, body) for body in bodies]
        hinting.enqueue(journal, [hint()], letters)
        ids = dead.ids(journal)
        assert [event.body for event in dead.find(journal, ids)] == bodies
        assert dead.expire(journal, 3600, keep=5, keep_bytes=10**6) == 15
        assert dead.expire(journal, 3600, keep=5, keep_bytes=10**6) == 0
        assert [event.body for event in dead.find(journal, dead.ids(journal))] == bodies[15:]
        assert dead.drop(journal, dead.ids(journal)[:2]) == 2
        assert dead.count(journal) == 3

    @pytest.mark.parametrize("text", ["a\0b", "\ud800", "\U0001f4a5" * 300, "'; DROP TABLE work; --", "%s %(x)s :x"])
    def test_text_of_unknown_origin_does_no_harm(self, journal: Database, text: str) -> None:
        letter = DeadLetter(text, text, text, text, 1, b"\0")
        hinting.enqueue(journal, [Hint(H, Key("thing", "a"), Priority.EVENT, text, source_id=text)], [letter])
        (claim,) = take(journal)
        assert claim.hint
        assert dead.count(journal) == 1

    def test_a_megabyte_is_kept_whole(self, journal: Database) -> None:
        body = bytes(range(256)) * 4096
        hinting.enqueue(journal, [], [DeadLetter("nova", "", "", "why", len(body), body)])
        (event,) = dead.find(journal, dead.ids(journal))
        assert event.body == body
        assert event.whole

    def test_pause_and_resume(self, journal: Database) -> None:
        controls.ensure(journal, [H, "other"])
        controls.ensure(journal, [H])
        assert controls.pause(journal, [H], "maintenance") == 1
        assert controls.read(journal)[H].stopped
        assert not controls.read(journal)["other"].stopped
        journal.transact(lambda connection: controls.break_off(connection, ["other"], "too many"))
        assert controls.read(journal)["other"].broken
        assert controls.resume(journal, [H, "other"]) == 2
        assert not any(control.stopped for control in controls.read(journal).values())

    def test_operator_retries_and_drops(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint(), hint("b")])
        for claim in take(journal):
            settling.settle(journal, claim, Parked("no way", 8, "f"))
        first, second = backlog.listing(journal, state=backlog.Standing.PARKED)
        assert backlog.retry(journal, [first.id]) == 1
        (claim,) = take(journal)
        assert (claim.key.id, claim.attempts, claim.priority) == (Key.parse(first.key).id, 0, Priority.OPERATOR)
        assert backlog.drop(journal, [first.id, second.id]) == 1  # the first is being worked on
        assert [row.state for row in backlog.listing(journal)] == ["running"]

    def test_an_operator_retries_no_suspect_of_a_sweep(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint(priority=Priority.SWEEP), hint("b", Priority.EVENT)])
        for claim in take(journal):
            settling.settle(journal, claim, Parked("no way", 8, "f"))
        assert backlog.retry(journal, [row.id for row in backlog.listing(journal)]) == 2
        claims = take(journal)
        assert [claim.is_suspect for claim in claims] == [False, False]
        assert {(claim.hint, claim.hint_id, claim.hinted_at) for claim in claims} == {("operator", "", None)}

    def test_history_expires_but_not_what_is_open(self, journal: Database) -> None:
        history.append(journal, [line(outcome=Outcome.FOUND), line("b", Outcome.HEALING)])
        assert history.expire(journal, -1) == 1
        assert [entry.outcome for entry in history.listing(journal)] == ["healing"]

    def test_an_hour_counts_its_entries_by_handler_and_outcome(self, journal: Database) -> None:
        outcomes = [Outcome.HEALED, Outcome.HEALED, Outcome.FOUND, Outcome.ACT, Outcome.FOUND]
        history.append(journal, [line(f"k{number}", outcome) for number, outcome in enumerate(outcomes)])
        # the second of two heals has no notification; the last finding is of the next hour
        times = [(7200.0, 4.0), (7300.0, None), (10799.0, None), (7400.0, None), (10800.0, None)]
        for number, (at, lag) in enumerate(times):
            moved = update(schema.history).where(schema.history.c.key == f"thing:k{number}").values(at=at, lag=lag)
            journal.transact(lambda connection, moved=moved: connection.execute(moved))  # type: ignore[misc]
        found = journal.read(lambda connection: hours.read(connection, 7200.0))
        assert found == Hour(7200.0, {(H, Outcome.HEALED): 2, (H, Outcome.FOUND): 1}, (4.0,))
        assert found.settled
        assert journal.read(lambda connection: hours.read(connection, 3600.0)) == Hour(3600.0, {})

    def test_an_hour_with_too_many_entries_is_counted_in_part(
        self, journal: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hours, "MOST", 3)
        history.append(journal, [line(f"k{number}", Outcome.FOUND) for number in range(5)])
        history.append(journal, [line("open")])
        journal.transact(lambda connection: connection.execute(update(schema.history).values(at=7201.0)))
        found = journal.read(lambda connection: hours.read(connection, 7200.0))
        assert found.entries == {(H, Outcome.FOUND): 3, (H, Outcome.HEALING): 1}
        assert not found.whole
        assert not found.settled

    def test_a_glance_counts_and_reads_no_more_than_its_limits(self, journal: Database) -> None:
        timer = Hint(H, Key(work.SWEEP, H), Priority.TIMER, "timer")
        hinting.enqueue(journal, [*(hint(f"k{number}", Priority.SWEEP) for number in range(6)), hint("urgent"), timer])
        for state, names in (("reported", ("urgent", "k0", "k1", "k2")), ("parked", ("k3",))):
            keys = [f"thing:{name}" for name in names]
            moved = update(schema.work).where(schema.work.c.key.in_(keys)).values(state=state)
            journal.transact(lambda connection, moved=moved: connection.execute(moved))  # type: ignore[misc]
        found = journal.read(lambda connection: backlog.glance(connection, H, 3, 2))
        assert (found.waiting, found.reported, found.parked) == (2, 3, 1)
        assert len(found.reports) == 2
        assert found.reports[0].key == "thing:urgent"
        assert [row.key for row in found.failures] == ["thing:k3"]
        assert journal.read(lambda connection: backlog.glance(connection, "other", 3, 2)) == backlog.Glance()

    def test_asks_that_wait_are_listed_by_their_end(self, journal: Database) -> None:
        def put(connection: Connection) -> None:
            clock = now(connection)
            for name, hours_left in (("late", 9), ("soon", 1), ("over", -1), ("no", 5), ("later", 20)):
                asks.put(connection, H, finding(name), "f", clock + hours_left * 3600, clock)

        journal.transact(put)
        (denied,) = [one.id for one in asks.listing(journal) if one.key == "thing:no"]
        asks.deny(journal, [denied], "alice", "no")
        found, number = journal.read(lambda connection: asks.waiting(connection, 2))
        assert [one.key for one in found] == ["thing:soon", "thing:late"]
        assert number == 3

    @pytest.mark.parametrize("decide", [asks.approve, asks.deny])
    def test_of_two_equal_decisions_at_once_one_counts(
        self, journal: Database, decide: Callable[[Database, Sequence[int], str, str, AlsoAsks], list[Asked]]
    ) -> None:
        journal.transact(lambda connection: asks.put(connection, H, finding("a"), "f", 9e9, now(connection)))
        (one,) = asks.listing(journal)
        second: list[Asked] = []
        bob = threading.Thread(
            target=lambda: second.extend(decide(journal, [one.id], "bob", "no", lambda _connection, _decided: None))
        )

        def let_bob_decide(_connection: Connection, _decided: Sequence[Asked]) -> None:
            if bob.ident is None:
                bob.start()
                bob.join(0.5)  # until he waits for the transaction of alice

        first = decide(journal, [one.id], "alice", "no", let_bob_decide)
        bob.join(60)
        assert ([one.id for one in first], second) == ([one.id], [])
        assert [one.operator for one in asks.listing(journal)] == ["alice"]

    def test_a_denial_outlives_asks_that_expired(self, journal: Database) -> None:
        def put(connection: Connection) -> None:
            clock = now(connection)
            for name in ("no", "unanswered"):
                asks.put(connection, H, finding(name), "f", clock + 3600, clock)

        journal.transact(put)
        (denied,) = [one.id for one in asks.listing(journal) if one.key == "thing:no"]
        asks.deny(journal, [denied], "alice", "no")
        assert asks.expire(journal, -7200.0) == 1
        assert [one.key for one in asks.listing(journal)] == ["thing:no"]

    def test_exemptions_that_last_are_listed_the_newest_first(self, journal: Database) -> None:
        for scope, until in (("host:a", None), ("host:over", 1.0), ("host:b", None), ("host:c", 9e9)):
            exemptions.add(journal, scope, until, "alice", "why")
        found = journal.read(lambda connection: exemptions.lasting(connection, 2))
        assert [one.scope for one in found] == ["host:c", "host:b"]

    def test_history_filters(self, journal: Database) -> None:
        history.append(journal, [line("a", Outcome.FOUND), line("b", Outcome.REFUSED)])
        assert [entry.key for entry in history.listing(journal, key="thing:b")] == ["thing:b"]
        assert [entry.key for entry in history.listing(journal, outcomes=["found"])] == ["thing:a"]
        assert history.listing(journal, since=time.time() + 60) == []
        assert [entry.key for entry in history.listing(journal, limit=1)] == ["thing:b"]

    def test_replicas_beat_and_are_forgotten(self, journal: Database) -> None:
        replicas.register(journal, "r1", "1", "0002")
        replicas.register(journal, "r2", "1", "0002")
        replicas.beat(journal, "r1", 60)
        assert {replica.id for replica in replicas.listing(journal)} == {"r1", "r2"}
        tick(journal)
        replicas.beat(journal, "r1", 0)
        assert {replica.id for replica in replicas.listing(journal)} == {"r1"}
        replicas.unregister(journal, "r1")
        assert replicas.listing(journal) == []

    def test_messages_of_webhooks_leave_in_order_and_one_at_a_time(self, journal: Database) -> None:
        history.append(journal, [line("before", Outcome.FOUND)])
        deliveries.subscribe(journal, {"chat": ["found", "healed"], "pager": ["failed"]})
        opened = [line("a", Outcome.FOUND), line("b")]
        ids = journal.transact(lambda connection: history.write(connection, opened, now(connection)))
        history.close(journal, Closing(ids[1], Outcome.HEALED, Healed("mended b")))
        history.close(journal, Presumed(ids[1], Outcome.FAILED))
        assert [(one.sink, one.messages) for one in deliveries.waiting(journal)] == [("chat", 2)]
        first = deliveries.claim(journal, "chat", 60)
        assert first
        assert first.entry
        assert (first.outcome, first.entry.key, first.attempts) == ("found", "thing:a", 0)
        assert deliveries.claim(journal, "chat", 60) is None
        assert deliveries.claim(journal, "pager", 60) is None
        deliveries.again(journal, first, 0.0, "answered 500")
        again = deliveries.claim(journal, "chat", 60)
        assert again
        assert (again.id, again.attempts) == (first.id, 1)
        deliveries.done(journal, first)
        assert deliveries.claim(journal, "chat", 60) is None, "a sender that lost its lease deletes nothing"
        deliveries.done(journal, again)
        second = deliveries.claim(journal, "chat", 60)
        assert second
        assert second.entry
        assert (second.outcome, second.entry.action) == ("healed", "mended b")
        [lease] = deliveries.leases(journal, "chat")
        assert (lease.id, lease.token, lease.over) == (second.id, second.token, False)
        assert deliveries.leases(journal, "pager") == []
        assert deliveries.end(journal, [replace(lease, token="another claim")]) == 0
        assert deliveries.claim(journal, "chat", 60) is None
        assert deliveries.end(journal, [lease]) == 1
        taken_over = deliveries.claim(journal, "chat", -60)
        assert taken_over
        assert taken_over.id == second.id
        assert deliveries.leases(journal, "chat")[0].over
        assert deliveries.claim(journal, "chat", 60) is None, "another node's clock can be behind"
        deliveries.again(journal, taken_over, 0.0, "answered 500")
        abandoned = deliveries.claim(journal, "chat", -4000)
        assert abandoned
        taken_over = deliveries.claim(journal, "chat", 60)
        assert taken_over, "a process without a daemon beside it died an hour ago"
        assert taken_over.id == second.id
        assert deliveries.expire(journal, "chat", 3600, 10) == 0
        assert deliveries.expire(journal, "chat", 3600, 0) == 1
        deliveries.subscribe(journal, {})
        history.append(journal, [line("c", Outcome.FOUND)])
        assert deliveries.waiting(journal) == []

    def test_a_rolled_back_line_sends_no_message(self, journal: Database) -> None:
        deliveries.subscribe(journal, {"chat": ["found"]})

        def fail(connection: Connection) -> None:
            history.write(connection, [line("a", Outcome.FOUND)], now(connection))
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            journal.transact(fail)
        assert deliveries.waiting(journal) == []

    def test_rows_with_an_error_become_due(self, journal: Database) -> None:
        hinting.enqueue(journal, [hint("a"), hint("b")])
        for claim in take(journal):
            error = "on hold: 100% of it" if claim.key.id == "a" else "on holiday"
            settling.settle(journal, claim, Later(600.0, error=error))
        assert hinting.make_due(journal, "on hold: 100%") == 1
        [claim] = take(journal)
        assert (claim.key.id, claim.error) == ("a", "on hold: 100% of it")
