"""The journal on Galera: replicas that work through different nodes, and a node that is killed and joins again."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from sqlalchemy import text

from consumer.engine.ended_leases import Sightings
from consumer.journal import backlog, claiming, controls, hinting, history, migrations, settling
from consumer.journal.database import Database, open_engine
from consumer.journal.errors import JournalUnavailable
from consumer.journal.history import Deferred, Outcome, Withheld
from consumer.journal.node_clocks import node_clocks
from consumer.journal.work import Done, LeaseLost
from tests.functional.journal.contract import H, JournalContract, hint, line, may
from tests.servers.galera import Galera

LEASE = 4.0


@pytest.fixture
def journals(galera: Galera, database_name: str) -> Iterator[list[Database]]:
    """Yield one journal through each node."""
    made = [Database(open_engine(url)) for url in galera.urls(database_name)]
    migrations.upgrade(made[0])
    controls.ensure(made[0], [H])
    yield made
    for database in made:
        database.close()


def test_the_clocks_of_all_nodes_are_read_through_any_node(galera: Galera, journals: Sequence[Database]) -> None:
    for database in journals:
        clocks = node_clocks(database)
        assert {clock.node for clock in clocks} == {f"127.0.0.1:{node.port}" for node in galera.nodes}
        assert all(clock.ahead is not None and abs(clock.ahead) < 2 for clock in clocks)


class TestGalera(JournalContract):
    """The contract, on one node of a cluster."""

    @pytest.fixture
    def journal(self, galera: Galera, database_name: str) -> Iterator[Database]:
        database = Database(open_engine(galera.nodes[0].url(database_name)))
        migrations.upgrade(database)
        yield database
        database.close()


@dataclass
class Claims:
    """Every claim of every replica: proves that no key has two owners at a time."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _until: dict[str, float] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)
    by_replica: Counter[str] = field(default_factory=Counter)

    def took(self, replica: str, keys: Sequence[str], before: float) -> None:
        """Record claims.

        :param before: the time before the claim began; the leases end at ``before + LEASE`` or later
        """
        now = time.monotonic()
        with self._lock:
            self.by_replica[replica] += len(keys)
            for key in keys:
                if now < self._until.get(key, 0.0):
                    self.doubled.append(key)
                self._until[key] = before + LEASE

    def settles(self, key: str) -> None:
        """Record that the owner ends its claim; this may fail, but may also reach the database."""
        with self._lock:
            self._until.pop(key, None)


@dataclass
class Replica:
    """Claims, heals and settles through one node, and repeats after outages as the engine does."""

    name: str
    journal: Database
    claims: Claims
    ended: threading.Event
    outages: int = 0
    sightings: Sightings = field(default_factory=lambda: Sightings(LEASE))

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                if not self._work():
                    time.sleep(0.05)
            except JournalUnavailable:
                self.outages += 1
                time.sleep(0.2)

    def _end_leases(self) -> None:
        before = time.monotonic()
        leases = claiming.leases(self.journal)
        claiming.end(self.journal, self.sightings.ended(leases, before, time.monotonic()))

    def _work(self) -> bool:
        self._end_leases()
        before = time.monotonic()
        taken = claiming.claim(self.journal, self.name, [H], 4, LEASE)
        self.claims.took(self.name, [claim.key.id for claim in taken], before)
        for claim in taken:
            try:
                line_id = settling.begin_healing(self.journal, claim, line(claim.key.id), may(0))
                assert isinstance(line_id, int)
                self.claims.settles(claim.key.id)
                settling.settle(self.journal, claim, Done(), [history.Closing(line_id, Outcome.HEALED)])
            except LeaseLost:
                continue
        return bool(taken)


def conflicts(galera: Galera) -> int:
    """Return how many transactions lost against a write of another node."""
    names = ("local_cert_failures", "local_bf_aborts")
    return sum(int(node.status(name)) for node in galera.nodes for name in names)


def wait_until_empty(journal: Database, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while rows := backlog.listing(journal):
        assert time.monotonic() < deadline, f"{len(rows)} rows wait: {rows[:3]}"
        time.sleep(0.2)


def assert_healed_once(journal: Database, keys: Sequence[str]) -> None:
    lines = history.listing(journal, limit=100_000)
    assert Counter((line.key, line.outcome) for line in lines) == {(f"thing:{key}", "healed"): 1 for key in keys}


@pytest.fixture
def replicas(journals: Sequence[Database]) -> Iterator[list[Replica]]:
    """Yield three replicas at work, each through another node."""
    ended, claims = threading.Event(), Claims()
    made = [Replica(f"replica-{number}", journal, claims, ended) for number, journal in enumerate(journals)]
    with ThreadPoolExecutor(len(made)) as pool:
        running = [pool.submit(replica.run) for replica in made]
        try:
            yield made
        finally:
            ended.set()
        for future in running:
            future.result()


def test_three_replicas_share_work_through_three_nodes(
    galera: Galera, journals: Sequence[Database], replicas: Sequence[Replica]
) -> None:
    lost_before = conflicts(galera)
    keys = [str(number) for number in range(300)]
    for start in range(0, len(keys), 10):
        hinting.enqueue(random.choice(journals), [hint(key) for key in keys[start : start + 10]])
    wait_until_empty(journals[0], 120)
    assert_healed_once(journals[1], keys)
    claims = replicas[0].claims
    assert claims.doubled == []
    assert sum(claims.by_replica.values()) == len(keys)
    assert len(claims.by_replica) == 3
    assert conflicts(galera) > lost_before, "transactions of the nodes met"


def test_hints_at_every_node_about_one_key_are_one_row(journals: Sequence[Database]) -> None:
    def enqueue(journal: Database) -> None:
        for _ in range(20):
            hinting.enqueue(journal, [hint("a"), hint("b")])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(enqueue, journals))
    with journals[2].engine.begin() as connection:
        rows = connection.execute(text("SELECT `key`, generation FROM work ORDER BY `key`")).all()
    assert [tuple(row) for row in rows] == [("thing:a", 60), ("thing:b", 60)]


def test_the_budget_holds_over_nodes(journals: Sequence[Database]) -> None:
    hinting.enqueue(journals[0], [hint(str(number)) for number in range(30)])
    claims = claiming.claim(journals[1], "r1", [H], 30, 60)

    def heal(number: int) -> int | Deferred | Withheld:
        claim = claims[number]
        return settling.begin_healing(journals[number % 3], claim, line(claim.key.id), may(5))

    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(heal, range(30)))
    assert len([line_id for line_id in opened if isinstance(line_id, int)]) == 5
    assert len(history.listing(journals[2])) == 5


def test_a_write_through_one_node_is_read_through_another_at_once(journals: Sequence[Database]) -> None:
    for number in range(30):
        hinting.enqueue(journals[number % 3], [hint(str(number))])
        (claim,) = claiming.claim(journals[(number + 1) % 3], "r1", [H], 1, 60)
        settling.settle(journals[(number + 2) % 3], claim, Done())


@pytest.mark.timeout(300)
def test_a_node_is_killed_and_joins_again_while_replicas_work(
    galera: Galera, journals: Sequence[Database], replicas: Sequence[Replica]
) -> None:
    keys: list[str] = []
    rejoined = threading.Event()

    def feed() -> None:
        """Enqueue through the nodes that live, until the killed node works again for a while."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            some = [str(len(keys) + number) for number in range(5)]
            hinting.enqueue(journals[len(keys) // 5 % 2], [hint(key) for key in some])
            keys.extend(some)
            if rejoined.is_set() and claimed["replica-2"] > at_rejoin:
                return
            time.sleep(0.1)

    claimed = replicas[0].claims.by_replica
    at_rejoin = 0
    with ThreadPoolExecutor(1) as pool:
        feeding = pool.submit(feed)
        while claimed["replica-2"] < 10:
            time.sleep(0.05)
        galera.nodes[2].kill()
        at_rejoin, others = claimed["replica-2"], claimed["replica-0"] + claimed["replica-1"]
        while claimed["replica-0"] + claimed["replica-1"] < others + 20:
            time.sleep(0.05)
        assert not galera.nodes[2].running
        galera.start()
        rejoined.set()
        feeding.result()
    wait_until_empty(journals[0], 60)
    assert replicas[2].outages > 0
    assert claimed["replica-2"] > at_rejoin, "the replica of the killed node works again"
    assert replicas[0].claims.doubled == []
    assert_healed_once(journals[1], keys)
